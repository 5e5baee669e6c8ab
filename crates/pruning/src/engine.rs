//! Does what must be right for every scheduler: exact counts, masks, ties, floors, seeds and the ledger of costs.

use crate::clock::Clock;
use crate::graph::{Graph, LayerSpec};
use crate::mask::Mask;
use crate::scheduler::{Event, Removes, Rules, Scheduler, Start};
use crate::select;
use crate::suggest::suggestion;
use crate::units::{ChannelOptions, Units};

/// What applies to every scheduler alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Exact names of layers that stay dense and do not count.
    pub exclude: Vec<String>,
    /// The share of its weights that every layer keeps at least; one weight is always kept.
    pub floor: f64,
    /// The seed of every random choice.
    pub seed: u64,
    /// How channels are removed, where the method removes channels.
    pub channels: ChannelOptions,
}

/// What an event did to the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// One entry per prunable layer, in graph order.
    pub layers: Vec<LayerChange>,
    /// The channel groups that lost units.
    pub groups: Vec<GroupChange>,
    /// The share of prunable weights that is removed now.
    pub sparsity: f64,
    /// Whether any mask or any weight is different now.
    pub changed: bool,
}

/// What an event did to one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerChange {
    /// The path of the layer's weight.
    pub name: String,
    /// Weights kept now.
    pub kept: usize,
    /// Weights that were kept before and are not now.
    pub pruned: usize,
    /// Weights that were not kept before and are now.
    pub grown: usize,
    /// The weights that keep their value and moments; training multiplies both by it.
    pub retained: Mask,
}

/// What an event did to one channel group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    /// The name of the group.
    pub name: String,
    /// Units kept now.
    pub kept: usize,
    /// Units that were kept before and are not now.
    pub pruned: usize,
}

/// The masks of a network and the scheduler that changes them.
pub struct Engine {
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) masks: Vec<Mask>,
    /// The fewest weights that each layer keeps.
    pub(crate) least: Vec<usize>,
    pub(crate) scheduler: Box<dyn Scheduler>,
    pub(crate) seed: u64,
    /// Whether the network's first layer is among the prunable ones.
    pub(crate) has_first: bool,
    /// Whether the last allocation may have depended on the weights, so that a plan can only project it.
    pub(crate) projected: bool,
    /// The moment of the last event.
    pub(crate) last: Option<Clock>,
    /// Costs that no mask saves: fixed ones and those of excluded layers.
    pub(crate) fixed_macs: u64,
    /// The network as it is now.
    pub(crate) graph: Graph,
    /// Its channel groups, where the method removes channels.
    pub(crate) units: Option<Units>,
    /// The prunable layers as they were before anything was cut away.
    full_layers: Vec<LayerSpec>,
    full_macs: u64,
    /// The weights of each layer that were ever kept; empty where they are not followed.
    pub(crate) explored: Vec<Mask>,
}

impl Engine {
    /// Prepares dense masks for the layers of a network that are not excluded.
    ///
    /// # Errors
    ///
    /// A sentence when an excluded name is unknown, no layer is left, or the floor leaves no room for the sparsity.
    pub fn new(graph: &Graph, scheduler: Box<dyn Scheduler>, options: Options) -> Result<Self, String> {
        let Options { exclude, floor, seed, channels } = options;
        let names = || graph.layers.iter().map(|layer| layer.name.as_str());
        if let Some(name) = exclude.iter().find(|name| !names().any(|known| known == name.as_str())) {
            return Err(format!(
                "`exclude` names `{name}`, which is no layer of this network{}",
                suggestion(name, names())
            ));
        }
        if !(0.0..1.0).contains(&floor) {
            return Err(format!("`floor` is {floor}, but must be at least 0 and below 1"));
        }
        let units = match scheduler.removes() {
            Removes::Weights => None,
            removes => Some(Units::new(graph, removes, channels, (&exclude, floor))?),
        };
        // An excluded layer keeps its outputs, but may lose inputs: with channels, every layer counts.
        let spared = |layer: &LayerSpec| units.is_none() && exclude.contains(&layer.name);
        let (excluded, layers): (Vec<_>, Vec<_>) = graph.layers.iter().cloned().partition(spared);
        if layers.is_empty() {
            return Err("no layer is left to prune".to_string());
        }
        if let Some(layer) = layers.iter().find(|layer| layer.weights() == 0) {
            return Err(format!("the layer `{}` has no weights", layer.name));
        }
        let least: Vec<usize> =
            layers.iter().map(|layer| ((floor * layer.weights() as f64).ceil() as usize).max(1)).collect();
        let engine = Self {
            masks: layers.iter().map(|layer| Mask::dense(layer.weights())).collect(),
            fixed_macs: graph.fixed_macs + excluded.iter().map(|layer| layer.macs).sum::<u64>(),
            has_first: graph.layers[0].name == layers[0].name,
            least,
            full_layers: layers.clone(),
            layers,
            scheduler,
            seed,
            last: None,
            projected: false,
            full_macs: graph.macs(),
            graph: graph.clone(),
            units,
            explored: Vec::new(),
        };
        engine.check_room(floor)?;
        engine.check_cost()?;
        Ok(engine)
    }

    fn check_room(&self, floor: f64) -> Result<(), String> {
        let (target, total) = (self.scheduler.target(), self.total() as usize);
        if !(0.0..1.0).contains(&target) || !(0.0..=target).contains(&self.scheduler.start().sparsity()) {
            return Err(format!("a sparsity of {target} is asked for, but it must be at least 0 and below 1"));
        }
        let (room, least) = (select::count(total, target), self.least.iter().sum::<usize>());
        if self.scheduler.rules() == Rules::Exact && room < least {
            return Err(format!(
                "a sparsity of {target} leaves {room} of {total} weights, but `floor` {floor} and one weight per layer \
                 keep at least {least}"
            ));
        }
        Ok(())
    }

    /// Returns the prunable layers as they were before anything was cut away.
    pub fn full_layers(&self) -> &[LayerSpec] {
        &self.full_layers
    }

    /// Returns the prunable layers in graph order.
    pub fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    /// Returns the masks of the prunable layers.
    pub fn masks(&self) -> &[Mask] {
        &self.masks
    }

    /// Returns the scheduler.
    pub fn scheduler(&self) -> &dyn Scheduler {
        &*self.scheduler
    }

    /// Sets the masks before the first step.
    pub fn begin(&mut self, weights: &[Vec<f32>]) -> Change {
        self.check_sizes(weights, None);
        let before: Vec<Mask> = self.layers.iter().map(|layer| Mask::dense(layer.weights())).collect();
        self.masks.clone_from(&before);
        let mut groups = Vec::new();
        match self.scheduler.start() {
            Start::Dense => {}
            Start::Scored { sparsity } => self.prune(0, sparsity, weights, None),
            Start::Random { sparsity, allocation } => self.scatter(sparsity, allocation, weights),
            Start::Cut(cut) => groups = self.cut_channels(cut, weights),
        }
        self.begin_exploring();
        Change { groups, ..self.change(&before, self.masks.clone()) }
    }

    /// Replaces the masks, one per prunable layer, as a user may who brings masks from elsewhere.
    ///
    /// # Errors
    ///
    /// A sentence when their number or a length is not that of the layers.
    pub fn set_masks(&mut self, masks: Vec<Mask>) -> Result<Change, String> {
        if masks.len() != self.layers.len() {
            return Err(format!("{} masks are given, but {} layers are prunable", masks.len(), self.layers.len()));
        }
        if let Some((mask, layer)) = masks.iter().zip(&self.layers).find(|(mask, layer)| mask.len() != layer.weights())
        {
            return Err(format!(
                "the mask of {} has {} flags, but the layer {} weights",
                layer.name,
                mask.len(),
                layer.weights()
            ));
        }
        let before = std::mem::replace(&mut self.masks, masks);
        self.explore();
        let retained = before.iter().zip(&self.masks).map(|(before, after)| both(before, after)).collect();
        Ok(self.change(&before, retained))
    }

    /// Says what happens at an iteration; before the first one, only [`begin`](Engine::begin) acts.
    pub fn due(&self, clock: &Clock) -> Option<Event> {
        if clock.iteration == 0 { None } else { self.scheduler.due(clock) }
    }

    /// Restores, prunes and replaces, as an event says.
    ///
    /// # Panics
    ///
    /// When weights or gradients do not match the layers, or the event needs gradients and there are none.
    pub fn apply(
        &mut self,
        clock: &Clock,
        event: &Event,
        weights: &[Vec<f32>],
        gradients: Option<&[Vec<f32>]>,
    ) -> Change {
        self.check_sizes(weights, gradients);
        let before = self.masks.clone();
        if event.restore {
            self.masks = before.iter().map(|mask| Mask::dense(mask.len())).collect();
        }
        if let Some(sparsity) = event.sparsity {
            self.prune(clock.iteration, sparsity, weights, gradients);
        }
        let mut retained: Vec<Mask> = before.iter().zip(&self.masks).map(|(a, b)| both(a, b)).collect();
        if let Some(share) = event.replace {
            let stayed = self.replace(clock.iteration, share, event.keep_regrown, weights, gradients);
            let kept = if event.keep_regrown { &self.masks } else { &stayed };
            retained = retained.iter().zip(kept).map(|(a, b)| both(a, b)).collect();
        }
        let mut groups = Vec::new();
        if let Some(cut) = event.cut {
            groups = self.cut_channels(cut, weights);
            retained.clone_from(&self.masks);
        }
        self.explore();
        self.last = Some(*clock);
        Change { groups, ..self.change(&before, retained) }
    }

    /// Returns the number of prunable weights that are kept.
    pub fn kept(&self) -> u64 {
        self.masks.iter().map(|mask| mask.kept() as u64).sum()
    }

    /// Returns the number of prunable weights.
    pub fn total(&self) -> u64 {
        self.full_layers.iter().map(|layer| layer.weights() as u64).sum()
    }

    /// Returns the share of prunable weights that is removed.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.kept() as f64 / self.total() as f64
    }

    /// Returns the multiply-accumulates for one image with the weights that are kept.
    pub fn macs(&self) -> u64 {
        let cost = |(layer, mask): (&LayerSpec, &Mask)| {
            (u128::from(layer.macs) * mask.kept() as u128 / layer.weights() as u128) as u64
        };
        match &self.units {
            // Attention costs less with every head, so what is fixed for weights is not for channels.
            Some(units) => units.channels.macs(&self.graph, &units.kept),
            None => self.fixed_macs + self.layers.iter().zip(&self.masks).map(cost).sum::<u64>(),
        }
    }

    /// Returns the multiply-accumulates for one image of the dense network.
    pub fn dense_macs(&self) -> u64 {
        self.full_macs
    }

    /// Returns the scheduler's figures for the dashboard, as of the last event.
    pub fn observe(&self) -> Vec<(String, f64)> {
        self.last.map_or_else(Vec::new, |clock| self.scheduler.observe(&clock))
    }

    pub(crate) fn change(&self, before: &[Mask], retained: Vec<Mask>) -> Change {
        let mut changed = false;
        let mut layers = Vec::new();
        for (((layer, before), after), retained) in self.layers.iter().zip(before).zip(&self.masks).zip(retained) {
            let pruned = before.iter().zip(after.iter()).filter(|(before, after)| *before && !after).count();
            let grown = before.iter().zip(after.iter()).filter(|(before, after)| !before && *after).count();
            changed |= pruned + grown > 0 || retained != *after;
            layers.push(LayerChange { name: layer.name.clone(), kept: after.kept(), pruned, grown, retained });
        }
        Change { layers, groups: Vec::new(), sparsity: self.sparsity(), changed }
    }

    fn check_sizes(&self, weights: &[Vec<f32>], gradients: Option<&[Vec<f32>]>) {
        for values in [Some(weights), gradients].into_iter().flatten() {
            let same = values.len() == self.layers.len()
                && values.iter().zip(&self.layers).all(|(values, layer)| values.len() == layer.weights());
            assert!(same, "weights and gradients must match the prunable layers");
        }
    }
}

fn both(a: &Mask, b: &Mask) -> Mask {
    Mask::from_bools(a.iter().zip(b.iter()).map(|(a, b)| a && b).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Kind;
    use crate::scheduler::About;
    use crate::{Horizon, Layer, Random};

    const CLOCK: Clock = Clock { iteration: 1, horizon: Horizon { iterations_per_epoch: 1, epochs: 1 }, lr: 0.1 };

    struct Plain {
        target: f64,
    }

    impl Scheduler for Plain {
        fn about(&self) -> About {
            About { name: "plain", citation: "a test" }
        }

        fn due(&self, _: &Clock) -> Option<Event> {
            None
        }

        fn target(&self) -> f64 {
            self.target
        }

        fn grow_score(&mut self, layer: &Layer, _: &mut Random) -> Vec<f32> {
            layer.gradient.unwrap().to_vec()
        }
    }

    fn graph() -> Graph {
        let layer =
            |name: &str, out, macs| LayerSpec { name: name.into(), kind: Kind::Linear, shape: vec![out, 2], macs };
        Graph { layers: vec![layer("a", 2, 40), layer("b", 4, 80)], parameters: 12, fixed_macs: 5, ..Graph::default() }
    }

    fn engine(exclude: &[&str], target: f64, floor: f64) -> Result<Engine, String> {
        let exclude = exclude.iter().map(|name| name.to_string()).collect();
        Engine::new(&graph(), Box::new(Plain { target }), Options { exclude, floor, ..Options::default() })
    }

    fn bits(mask: &Mask) -> Vec<u8> {
        mask.iter().map(u8::from).collect()
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_sentence() {
        let refused = |exclude: &[&str], target, floor| engine(exclude, target, floor).err().unwrap();
        assert_eq!(
            refused(&["c"], 0.5, 0.0),
            "`exclude` names `c`, which is no layer of this network; there are `a`, `b`"
        );
        assert_eq!(refused(&["a", "b"], 0.5, 0.0), "no layer is left to prune");
        assert_eq!(refused(&[], 0.5, 1.0), "`floor` is 1, but must be at least 0 and below 1");
        assert_eq!(refused(&[], 1.0, 0.0), "a sparsity of 1 is asked for, but it must be at least 0 and below 1");
        assert_eq!(
            refused(&[], 0.75, 0.5),
            "a sparsity of 0.75 leaves 3 of 12 weights, but `floor` 0.5 and one weight per layer keep at least 6"
        );
    }

    #[test]
    fn costs_of_excluded_layers_are_never_saved() {
        let mut engine = engine(&["a"], 0.5, 0.0).unwrap();
        let change = engine.apply(&CLOCK, &Event::prune(0.5), &[vec![8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], None);
        assert_eq!((engine.kept(), engine.total(), engine.sparsity()), (4, 8, 0.5));
        assert_eq!((engine.macs(), engine.dense_macs()), (5 + 40 + 40, 125));
        assert_eq!((change.layers[0].kept, change.layers[0].pruned, change.layers[0].grown), (4, 4, 0));
    }

    #[test]
    fn masks_from_elsewhere_must_fit_the_layers() {
        let mut engine = engine(&["a"], 0.5, 0.0).unwrap();
        assert!(engine.set_masks(Vec::new()).unwrap_err().contains("0 masks are given, but 1 layers"));
        assert!(engine.set_masks(vec![Mask::dense(3)]).unwrap_err().contains("3 flags"));
        let mask = Mask::from_bools([true, false].repeat(4));
        let change = engine.set_masks(vec![mask.clone()]).unwrap();
        assert_eq!((engine.kept(), change.layers[0].pruned, change.layers[0].retained == mask), (4, 4, true));
    }

    #[test]
    fn a_weight_that_is_pruned_and_grown_in_one_event_starts_at_zero() {
        let mut engine = engine(&["b"], 0.5, 0.0).unwrap();
        let event = Event { sparsity: Some(0.5), replace: Some(0.5), keep_regrown: true, ..Event::default() };
        // Pruning removes 0.1 and 0.2; the replacement drops 0.3 and grows the weight with the largest gradient.
        let change = engine.apply(&CLOCK, &event, &[vec![0.1, 0.4, 0.2, 0.3]], Some(&[vec![9.0, 1.0, 1.0, 1.0]]));
        assert_eq!(bits(&engine.masks()[0]), [1, 1, 0, 0]);
        assert_eq!(bits(&change.layers[0].retained), [0, 1, 0, 0]);
        assert_eq!((change.layers[0].pruned, change.layers[0].grown, change.changed), (2, 0, true));
    }

    #[test]
    fn a_weight_dropped_and_grown_again_keeps_its_value_only_where_the_event_says_so() {
        for (keep_regrown, retained) in [(true, [1, 1, 0, 0]), (false, [1, 0, 0, 0])] {
            let mut engine = engine(&["b"], 0.5, 0.0).unwrap();
            engine.masks[0] = Mask::from_bools(vec![true, true, false, false]);
            let event = Event { keep_regrown, ..Event::replace(0.5) };
            let change = engine.apply(&CLOCK, &event, &[vec![0.4, 0.3, 0.0, 0.0]], Some(&[vec![0.0, 9.0, 1.0, 1.0]]));
            assert_eq!(bits(&engine.masks()[0]), [1, 1, 0, 0]);
            assert_eq!(bits(&change.layers[0].retained), retained);
        }
    }

    #[test]
    fn what_a_layer_no_longer_has_is_kept_elsewhere() {
        let mut engine = engine(&[], 0.5, 0.0).unwrap();
        engine.masks[0] = Mask::from_bools(vec![true, false, false, false]);
        // Uniform budgets would be 2 and 4, but pruning brings no weight back.
        engine.apply(&CLOCK, &Event::prune(0.5), &[vec![1.0; 4], vec![1.0; 8]], None);
        assert_eq!(engine.masks().iter().map(Mask::kept).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn every_event_and_every_layer_draws_anew() {
        let run = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let table = "name = 'set'\nsparsity = 0.5\nevery = 1\ndrop = 0.5".parse().unwrap();
        let layer = |name: &str| LayerSpec { name: name.into(), kind: Kind::Linear, shape: vec![8, 8], macs: 64 };
        let graph = Graph { layers: vec![layer("a"), layer("b")], parameters: 128, fixed_macs: 0, ..Graph::default() };
        let after = |iteration| {
            let scheduler = crate::build(&table, run).unwrap().0;
            let mut engine = Engine::new(&graph, scheduler, Options::default()).unwrap();
            let half = Mask::from_bools((0..64).map(|i| i % 2 == 0).collect());
            engine.masks = vec![half.clone(), half];
            let event = engine.due(&Clock { iteration, horizon: run, lr: 0.1 }).unwrap();
            engine.apply(&Clock { iteration, horizon: run, lr: 0.1 }, &event, &[vec![1.0; 64], vec![1.0; 64]], None);
            engine.masks
        };
        assert_eq!(after(1), after(1));
        assert_ne!(after(1), after(2));
        assert_ne!(after(1)[0], after(1)[1]);
    }

    #[test]
    fn a_dense_layer_has_nothing_to_replace() {
        let mut engine = engine(&["b"], 0.5, 0.0).unwrap();
        let change = engine.apply(&CLOCK, &Event::replace(0.5), &[vec![0.4, 0.3, 0.2, 0.1]], Some(&[vec![1.0; 4]]));
        assert!(!change.changed);
    }
}
