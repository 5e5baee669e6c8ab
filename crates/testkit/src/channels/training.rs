//! A training run that has only the scales and sizes of units.

use bonsai_pruning::channels::{GroupKind, Role};
use bonsai_pruning::{Clock, Engine, EngineState, GateMeans, GroupScales, LayerSpec, Mask};

use super::ChannelContract;
use super::network::{Widths, graph};
use crate::network::{RUN, noise};

/// A training run that knows which of the first units are left and what scale each of them has.
pub(crate) struct Training {
    pub(crate) engine: Engine,
    /// By group: the units of the full network that are left, and their scales.
    left: Vec<(String, Vec<usize>, Vec<f32>)>,
    compact: bool,
    done: u64,
}

impl Training {
    fn start(mut engine: Engine, compact: bool) -> Self {
        let mut left: Vec<(String, Vec<usize>, Vec<f32>)> = engine
            .groups()
            .map(|(group, _)| (group.name.clone(), (0..group.units).collect(), vec![1.0; group.units]))
            .collect();
        for (name, _) in engine.scales() {
            let (_, _, scales) = left.iter_mut().find(|(group, ..)| *group == name).unwrap();
            engine.start_scales(&name, scales);
        }
        engine.begin(&weights(&engine, &left));
        let mut training = Self { engine, left, compact, done: 0 };
        training.check_masks();
        if compact {
            training.cut();
        }
        training
    }

    fn step(&mut self, contract: &ChannelContract) {
        self.done += 1;
        let clock = Clock { iteration: self.done, horizon: RUN, lr: 0.1 };
        let scaled = self.engine.scales().into_iter().map(|(name, _)| {
            let (group, units, scales) = self.left.iter().find(|(group, ..)| *group == name).unwrap();
            let mut group = GroupScales::new(group, scales.clone());
            group.gradient = units.iter().map(|unit| noise(self.done, &name, *unit) / 10.0).collect();
            group
        });
        let mut groups: Vec<GroupScales> = scaled.collect();
        self.engine.penalty(&clock, &mut groups);
        for GroupScales { group: name, gradient, .. } in groups {
            let (_, _, scales) = self.left.iter_mut().find(|(group, ..)| *group == name).unwrap();
            scales.iter_mut().zip(gradient).for_each(|(scale, gradient)| *scale -= 0.1 * gradient);
            self.engine.after_step(&clock, &name, scales);
        }
        if self.engine.masks_units() {
            let by_group = |what: &str, at: f32| -> Vec<Vec<f32>> {
                let value = |name: &String, unit: &usize| at + noise(0, &format!("{what} {name}"), *unit) / 10.0;
                self.left.iter().map(|(name, units, _)| units.iter().map(|unit| value(name, unit)).collect()).collect()
            };
            let (sizes, slopes) = (by_group("size", 1.0), by_group("slope", 0.0));
            let masks = self.engine.mask_units_of(&sizes);
            assert!(masks.iter().all(|mask| mask.kept() > 0));
            self.engine.learn_masks(&clock, &slopes);
        }
        let event = self.engine.due(&clock);
        if event.is_some() && self.engine.has_gates() {
            let units = |name: &str| &self.left.iter().find(|(group, ..)| group == name).unwrap().1;
            let means = |name: &String| {
                let open: Vec<f32> = units(name).iter().map(|unit| noise(0, name, *unit) / 2.0 + 0.5).collect();
                GateMeans::new(open.clone(), open)
            };
            let means: Vec<GateMeans> = self.engine.graph().gates.iter().map(means).collect();
            self.engine.see_gates(&means);
        }
        let promised = contract.promise(self.done, event.as_ref());
        assert_eq!(
            event.map(|event| event.cut.is_some()),
            promised.map(|_| true),
            "{} at {}",
            contract.text,
            self.done
        );
        let (Some(event), Some(macs)) = (event, promised) else { return };
        assert!(event.removes());

        let before: Vec<Mask> = self.engine.groups().map(|(_, kept)| kept.clone()).collect();
        let weights = self.shaped(&clock);
        let change = self.engine.apply(&clock, &event, &weights, None);
        let share = self.engine.macs() as f64 / self.engine.dense_macs() as f64;
        assert!(share <= macs + 1e-12, "{} at {}: {share}", contract.text, self.done);
        for ((group, kept), before) in self.engine.groups().zip(&before) {
            assert!(kept.kept() > 0 && kept.iter().zip(before.iter()).all(|(now, before)| before || !now));
            assert!(group.kind == GroupKind::Inner || contract.text.contains("stream") || kept.kept() == kept.len());
            if contract.text.contains("round_to = 2") {
                assert!(kept.kept().is_multiple_of(2), "{}", group.name);
            }
        }
        let lost: usize = change.groups.iter().map(|group| group.pruned).sum();
        assert_eq!(lost > 0, change.changed);
        self.check_masks();
        if self.compact {
            self.cut();
        }
    }

    /// The weights after one step of the penalties that the method puts on them.
    fn shaped(&mut self, clock: &Clock) -> Vec<Vec<f32>> {
        let mut all = weights(&self.engine, &self.left);
        for layer in self.engine.shaped_layers(clock) {
            assert!(["a.conv1.weight", "b.conv1.weight"].contains(&layer.name.as_str()), "{}", layer.name);
            let at = self.engine.layers().iter().position(|known| *known == layer).unwrap();
            let mut gradient = vec![0.0; layer.weights()];
            self.engine.weight_penalty(clock, &layer, &all[at], &mut gradient);
            all[at].iter_mut().zip(gradient).for_each(|(weight, gradient)| *weight -= 0.1 * gradient);
            self.engine.after_weight_step(clock, &layer, &mut all[at]);
        }
        all
    }

    /// Holds the masks of weights to those of units, and the counts to a network of the widths that are left.
    fn check_masks(&self) {
        let smaller = graph(self.widths());
        assert_eq!(self.engine.macs(), smaller.macs());
        assert_eq!(self.engine.kept(), smaller.weights() as u64);
        assert_eq!(self.engine.parameters(), smaller.parameters);
    }

    fn widths(&self) -> Widths {
        let kept: Vec<usize> = self.engine.groups().map(|(_, kept)| kept.kept()).collect();
        [kept[0], kept[1], kept[2]]
    }

    fn cut(&mut self) {
        for ((_, units, scales), (_, kept)) in self.left.iter_mut().zip(self.engine.groups()) {
            *units = units.iter().zip(kept.iter()).filter_map(|(unit, kept)| kept.then_some(*unit)).collect();
            *scales = scales.iter().zip(kept.iter()).filter_map(|(scale, kept)| kept.then_some(*scale)).collect();
        }
        self.engine.compact(graph(self.widths()));
        assert!(!self.engine.wants_compaction());
        self.check_masks();
    }

    /// The units of the full network that are left, by group.
    pub(crate) fn survivors(&self) -> Vec<Vec<usize>> {
        let kept = |(units, mask): (&Vec<usize>, &Mask)| -> Vec<usize> {
            units.iter().zip(mask.iter()).filter_map(|(unit, kept)| kept.then_some(*unit)).collect()
        };
        self.left.iter().zip(self.engine.groups()).map(|((_, units, _), (_, mask))| kept((units, mask))).collect()
    }
}

/// Weights whose size depends on the units of the full network that they belong to, so that cutting changes no score.
fn weights(engine: &Engine, left: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<Vec<f32>> {
    let place = |layer: &LayerSpec, axis: usize, at: usize| {
        let member = |(group, mask): (&bonsai_pruning::Group, &Mask)| {
            let member =
                group.members.iter().find(|m| (m.role, m.axis, &m.parameter) == (Role::Weight, axis, &layer.name))?;
            let unit = member.places.iter().position(|places| places.contains(&at))?;
            let units = &left.iter().find(|(name, ..)| *name == group.name)?.1;
            mask.get(unit).then_some(units[unit])
        };
        engine.groups().find_map(member).unwrap_or(at)
    };
    let masked = |layer: &LayerSpec, mask: &Mask| {
        let kernel = layer.width() / layer.shape[1];
        let value = |i: usize| {
            let (row, column) = (place(layer, 0, i / layer.width()), place(layer, 1, i % layer.width() / kernel));
            if mask.get(i) { noise(0, &layer.name, (row * 100 + column) * 9 + i % kernel) } else { 0.0 }
        };
        (0..layer.weights()).map(value).collect()
    };
    engine.layers().iter().zip(engine.masks()).map(|(layer, mask)| masked(layer, mask)).collect()
}

pub(crate) fn train(contract: &ChannelContract, compact: bool, interrupted: &[u64]) -> Training {
    let mut training = Training::start(contract.engine(compact), compact);
    for iteration in 1..=RUN.total() {
        training.step(contract);
        if interrupted.contains(&iteration) {
            let text = serde_json::to_string(&training.engine.save()).unwrap();
            let state: EngineState = serde_json::from_str(&text).unwrap();
            let mut fresh = contract.engine(compact);
            if compact {
                fresh.resume_at(graph(training.widths()));
            }
            fresh.load(state).unwrap();
            assert_eq!((fresh.masks(), fresh.sparsity()), (training.engine.masks(), training.engine.sparsity()));
            training.engine = fresh;
        }
    }
    training
}
