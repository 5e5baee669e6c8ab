//! Removes channels: which units go, the masks that follow, and the step from a masked network to a smaller one.

use std::collections::{BTreeMap, BTreeSet};

use crate::channels::{Group, Places, Role};
use crate::clock::Clock;
use crate::engine::{Engine, GroupChange};
use crate::graph::{Graph, LayerSpec, Node, Op};
use crate::mask::Mask;
use crate::scheduler::{Cut, GroupScales, Removes};
use crate::units::{GroupView, scale};

impl Engine {
    /// Checks that the cost that the method aims at can be reached.
    pub(crate) fn check_cost(&self) -> Result<(), String> {
        let (Some(units), Some(target)) = (&self.units, self.scheduler.target_macs()) else { return Ok(()) };
        let least = units.least_macs(&self.graph) as f64 / self.dense_macs() as f64;
        if least > target {
            return Err(format!(
                "`macs` is {target}, but this network costs {least:.4} of its multiply-accumulates when every group that may \
                 be pruned is at its smallest"
            ));
        }
        Ok(())
    }

    /// Returns the channel groups with the units that are kept; none where the method removes single weights.
    pub fn groups(&self) -> impl Iterator<Item = (&Group, &Mask)> {
        self.units.iter().flat_map(|units| units.channels.groups.iter().zip(&units.kept))
    }

    /// Says whether the tensors are to get smaller now.
    pub fn wants_compaction(&self) -> bool {
        let cut_down = |mask: &Mask| mask.kept() < mask.len();
        self.units.as_ref().is_some_and(|units| units.options.compact && units.kept.iter().any(cut_down))
    }

    /// Returns the network as it is now.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns which places of which parameters stay.
    pub fn places(&self) -> Places {
        self.units.as_ref().map_or_else(Places::new, |units| units.channels.places(&units.kept))
    }

    /// Returns the flags of all parameters but weights that removed units take with them: biases, scales, shifts
    /// and embeddings.
    pub fn vector_masks(&self) -> BTreeMap<String, Mask> {
        let mut places = self.places();
        let members = self.groups().flat_map(|(group, _)| &group.members);
        let vectors =
            members.filter(|member| matches!(member.role, Role::Bias | Role::Scale | Role::Shift | Role::Embedding));
        let flags = vectors.filter_map(|member| {
            let flags = places.remove(&(member.parameter.clone(), member.axis))?;
            let flags = flags.repeat(self.tokens(&member.parameter));
            Some((member.parameter.clone(), Mask::from_bools(flags)))
        });
        flags.filter(|(_, mask)| mask.kept() < mask.len()).collect()
    }

    /// Returns how many tokens a parameter holds a vector for.
    fn tokens(&self, parameter: &str) -> usize {
        let of_node = |node: &Node| match &node.op {
            Op::Embed { positions, tokens, .. } if positions == parameter => Some(*tokens),
            _ => None,
        };
        self.graph.nodes.iter().find_map(of_node).unwrap_or(1)
    }

    /// Returns the features that count in each layer normalisation, by the path of its scale; none where all of them do.
    pub fn normalised(&self) -> BTreeMap<String, Mask> {
        let mut masks = self.vector_masks();
        let scale = |node: &Node| match &node.op {
            Op::LayerNorm { path } => Some(format!("{path}.gamma")),
            _ => None,
        };
        let scales = self.graph.nodes.iter().filter_map(scale);
        scales.filter_map(|scale| masks.remove_entry(&scale)).collect()
    }

    /// Returns the learnable parameters that are kept.
    pub fn parameters(&self) -> u64 {
        let removed = |mask: &Mask| (mask.len() - mask.kept()) as u64;
        let weights: u64 = self.masks.iter().map(removed).sum();
        self.graph.parameters - weights - self.vector_masks().values().map(removed).sum::<u64>()
    }

    /// Returns the groups whose scales the method learns to rank channels by, with the path of each scale.
    pub fn scales(&self) -> Vec<(String, String)> {
        match (&self.units, self.scheduler.removes()) {
            (Some(units), Removes::Scaled | Removes::MaskedByScale) => {
                let named = |(_, group): (usize, &Group)| Some((group.name.clone(), scale(group)?.to_string()));
                units.prunable().filter_map(named).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Sets the scales of a group before training.
    pub fn start_scales(&mut self, group: &str, scales: &mut [f32]) {
        self.scheduler.start_scales(group, scales, &mut bonsai_random::stream(self.seed, "scales", group));
    }

    /// Adds the gradient of the method's penalty on the scales of all groups.
    pub fn penalty(&mut self, clock: &Clock, groups: &mut [GroupScales]) {
        self.scheduler.penalty(clock, groups);
    }

    /// Returns the paths of the scales of every batch normalisation, those of no group included.
    pub fn all_scales(&self) -> Vec<String> {
        let path = |op: &Op| match op {
            Op::BatchNorm { path } => Some(format!("{path}.gamma")),
            _ => None,
        };
        self.graph.nodes.iter().filter_map(|node| path(&node.op)).collect()
    }

    /// Returns the layers whose weights the method shapes at a step; none where it does not.
    pub fn shaped_layers(&self, clock: &Clock) -> Vec<LayerSpec> {
        if !self.scheduler.shapes_weights(clock) {
            return Vec::new();
        }
        let Some(units) = &self.units else { return self.layers.clone() };
        let makers: BTreeSet<&str> = (units.prunable().flat_map(|(_, group)| &group.members))
            .filter(|member| (member.role, member.axis) == (Role::Weight, 0))
            .map(|member| member.parameter.as_str())
            .collect();
        self.layers.iter().filter(|layer| makers.contains(layer.name.as_str())).cloned().collect()
    }

    /// Adds the gradient of the method's penalty on the weights of a layer, one row per unit.
    pub fn weight_penalty(&mut self, clock: &Clock, layer: &LayerSpec, weights: &[f32], gradient: &mut [f32]) {
        self.scheduler.weight_penalty(clock, layer, weights, gradient);
    }

    /// Shows the weights of a layer, one row per unit, to the method after a step; it may change them.
    pub fn after_weight_step(&mut self, clock: &Clock, layer: &LayerSpec, weights: &mut [f32]) {
        self.scheduler.after_weight_step(clock, layer, weights);
    }

    /// Shows the scales of a group to the method after a step; it may change them.
    pub fn after_step(&mut self, clock: &Clock, group: &str, scales: &mut [f32]) {
        self.scheduler.after_step(clock, group, scales);
    }

    /// Takes up the network that only the kept units are left of, and cuts masks and the method's state to it.
    ///
    /// # Panics
    ///
    /// Panics if `graph` is not this network after the cut.
    pub fn compact(&mut self, graph: Graph) {
        let places = self.places();
        self.masks = self.layers.iter().zip(&self.masks).map(|(layer, mask)| cut_mask(layer, mask, &places)).collect();
        let Some(units) = &mut self.units else { return };
        for (group, kept) in units.channels.groups.iter().zip(&units.kept) {
            self.scheduler.keep_units(&group.name, kept);
        }
        units.compact(&graph);
        self.take_up(graph);
    }

    /// Takes up a network that was cut before, as one that a checkpoint holds; its state is still to be loaded.
    pub fn resume_at(&mut self, graph: Graph) {
        match &mut self.units {
            Some(units) => units.compact(&graph),
            None => self.fixed_macs = graph.fixed_macs,
        }
        self.masks = graph.layers.iter().map(|layer| Mask::dense(layer.weights())).collect();
        self.take_up(graph);
    }

    fn take_up(&mut self, graph: Graph) {
        self.layers.clone_from(&graph.layers);
        self.graph = graph;
        assert!(
            self.layers.iter().zip(&self.masks).all(|(layer, mask)| layer.weights() == mask.len()),
            "masks fit the cut"
        );
    }

    /// Cuts units, and masks all weights that go with them.
    pub(crate) fn cut_channels(&mut self, cut: Cut, weights: &[Vec<f32>]) -> Vec<GroupChange> {
        let units = self.units.as_ref().expect("a method that removes channels has groups");
        let mut scores = vec![Vec::new(); units.kept.len()];
        for (g, group) in units.prunable() {
            let view = GroupView { group, kept: &units.kept[g], layers: &self.layers, weights };
            scores[g] = self.scheduler.score_units(&view);
        }
        self.projected = !matches!(cut, Cut::Uniform { .. });
        let after = units.cut(&self.graph, cut, &scores, self.dense_macs());
        let before = std::mem::replace(&mut self.units.as_mut().expect("it was just read").kept, after);
        self.mask_units();
        let groups = self.groups().zip(&before).filter(|((_, after), before)| after != before);
        groups
            .map(|((group, after), before)| GroupChange {
                name: group.name.clone(),
                kept: after.kept(),
                pruned: before.kept() - after.kept(),
            })
            .collect()
    }

    /// Replaces the kept units, one mask for each group, as a test or a user may.
    ///
    /// # Panics
    ///
    /// Panics if there are no groups or a mask does not fit.
    pub fn set_units(&mut self, kept: Vec<Mask>) -> crate::Change {
        let units = self.units.as_mut().expect("the method removes channels");
        assert!(units.kept.iter().map(Mask::len).eq(kept.iter().map(Mask::len)), "one flag for each unit");
        let before = self.masks.clone();
        units.kept = kept;
        self.mask_units();
        self.change(&before, self.masks.clone())
    }

    /// Sets the masks of weights to what the kept units leave.
    pub(crate) fn mask_units(&mut self) {
        let places = self.places();
        self.masks = self.layers.iter().map(|layer| layer_mask(layer, &places)).collect();
    }
}

/// Returns the mask of a layer of which only some places along its axes stay.
pub fn layer_mask(layer: &LayerSpec, places: &Places) -> Mask {
    let (rows, columns) = (flags(layer, 0, places), flags(layer, 1, places));
    let kernel = layer.width() / layer.shape[1];
    let row = |kept: bool| columns.iter().flat_map(move |column| std::iter::repeat_n(kept && *column, kernel));
    Mask::from_bools(rows.iter().flat_map(|kept| row(*kept)).collect())
}

fn flags(layer: &LayerSpec, axis: usize, places: &Places) -> Vec<bool> {
    let mut flags = places.get(&(layer.name.clone(), axis)).cloned().unwrap_or_default();
    flags.resize(layer.shape[axis], true);
    flags
}

/// Cuts the mask of a layer to the places that stay.
fn cut_mask(layer: &LayerSpec, mask: &Mask, places: &Places) -> Mask {
    let (rows, columns) = (flags(layer, 0, places), flags(layer, 1, places));
    let (width, kernel) = (layer.width(), layer.width() / layer.shape[1]);
    let stays = |i: &usize| rows[i / width] && columns[i % width / kernel];
    Mask::from_bools((0..mask.len()).filter(stays).map(|i| mask.get(i)).collect())
}
