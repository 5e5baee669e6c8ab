//! Channels in a network that is being trained: the scales they are ranked by, what they leave, and the step to a smaller
//! network.

use std::collections::{BTreeMap, BTreeSet};

use bonsai_models::Network;
use bonsai_pruning::GroupScales;
use bonsai_pruning::clock::Clock;
use bonsai_pruning::constants::absorb;
use bonsai_pruning::engine::Engine;
use bonsai_pruning::graph::LayerSpec;
use bonsai_pruning::mask::Mask;
use burn::tensor::Tensor;

use crate::cut::cut;
use crate::parameters::{self, Gradients};
use crate::tensors::{HostTensor, Tensors};
use crate::trainee::{Trainee, load_network};

impl Trainee {
    /// Adds the gradients of the scheduler's penalties on the scales of normalisations and on weights.
    pub(crate) fn penalise(&mut self, clock: &Clock, gradients: &mut Gradients) {
        let device = self.device.clone().inner();
        let mut add = |name: String, penalty: Vec<f32>| {
            if let Some(gradient) = gradients.remove(&name) {
                gradients.insert(name, gradient + parameters::to_device(penalty, &device));
            }
        };
        let (paths, mut groups): (Vec<String>, Vec<GroupScales>) =
            (self.scales().into_iter()).map(|(group, path, scales)| (path, GroupScales::new(group, scales))).unzip();
        if !groups.is_empty() {
            self.engine.penalty(clock, &mut groups);
        }
        paths.into_iter().zip(groups).for_each(|(path, group)| add(path, group.gradient));

        let layers = self.engine.shaped_layers(clock);
        for (layer, weights) in layers.iter().zip(parameters::weights(&self.network, &layers)) {
            let mut penalty = vec![0.0; weights.len()];
            self.engine.weight_penalty(clock, layer, &weights, &mut penalty);
            add(layer.name.clone(), parameters::to_storage(layer, &penalty));
        }
    }

    /// Lets the scheduler change the weights that it shapes.
    pub(crate) fn shape_weights(&mut self, clock: &Clock) {
        let layers = self.engine.shaped_layers(clock);
        if layers.is_empty() {
            return;
        }
        let device = self.device.clone().inner();
        let mut changed = BTreeMap::new();
        for (layer, before) in layers.iter().zip(parameters::weights(&self.network, &layers)) {
            let mut after = before.clone();
            self.engine.after_weight_step(clock, layer, &mut after);
            if after != before {
                let stored = parameters::to_storage(layer, &after);
                changed.insert(layer.name.clone(), parameters::to_device(stored, &device));
            }
        }
        self.replace(changed);
    }

    /// Sets the scales of all normalisations where the scheduler says so.
    pub(crate) fn start_all_scales(&mut self) {
        let Some(start) = self.engine.scheduler().initial_scale() else { return };
        let scales: BTreeSet<String> = self.engine.all_scales().into_iter().collect();
        self.network = parameters::map(self.network.clone(), |info, values| {
            scales.contains(&info.name).then(|| values.ones_like() * start)
        });
    }

    /// Reads the scales that the scheduler ranks channels by to the host, in one transfer: groups, paths and values.
    pub(crate) fn scales(&self) -> Vec<(String, String, Vec<f32>)> {
        let named = self.engine.scales();
        if named.is_empty() {
            return Vec::new();
        }
        let mut found = BTreeMap::new();
        parameters::visit(&self.network, |info, values| {
            if named.iter().any(|(_, path)| *path == info.name) {
                found.insert(info.name.clone(), values);
            }
        });
        let parts: Vec<Tensor<1>> = named.iter().map(|(_, path)| found[path].clone()).collect();
        let mut all = parameters::to_host(Tensor::cat(parts, 0)).into_iter();
        let values = |path: &String| all.by_ref().take(found[path].dims()[0]).collect();
        let values: Vec<Vec<f32>> = named.iter().map(|(_, path)| path).map(values).collect();
        named.into_iter().zip(values).map(|((group, path), values)| (group, path, values)).collect()
    }

    /// Lets the scheduler change the scales that it ranks channels by.
    pub(crate) fn change_scales(&mut self, mut change: impl FnMut(&mut Engine, &str, &mut [f32])) {
        let device = self.device.clone().inner();
        let mut changed = BTreeMap::new();
        for (group, path, scales) in self.scales() {
            let mut after = scales.clone();
            change(&mut self.engine, &group, &mut after);
            if after != scales {
                changed.insert(path, parameters::to_device(after, &device));
            }
        }
        self.replace(changed);
    }

    /// Replaces parameters, without what is masked of them.
    fn replace(&mut self, mut changed: BTreeMap<String, Tensor<1>>) {
        if changed.is_empty() {
            return;
        }
        let masks = &self.masks;
        self.network = parameters::map(self.network.clone(), |info, _| {
            let values = changed.remove(&info.name)?;
            Some(match masks.get(&info.name) {
                Some(mask) => values * mask.clone(),
                None => values,
            })
        });
    }

    /// Adds the constants that removed channels would have carried on to biases and running means; `weights` are those
    /// from before the removal. Returns the largest change there is, exact or at padded borders only nearly so.
    pub(crate) fn absorb_constants(&mut self, weights: &[Vec<f32>]) -> [f32; 2] {
        let mut vectors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        parameters::visit(&self.network, |info, values| {
            if info.shape.len() == 1 {
                vectors.insert(info.name.clone(), parameters::to_host(values));
            }
        });
        let layers = self.engine.layers();
        let rows = |layer: &LayerSpec| {
            let at = layers.iter().position(|known| known.name == layer.name).expect("channels count every layer");
            &weights[at][..]
        };
        let absorbed = absorb(self.engine.graph(), &self.engine.places(), |name| &vectors[name][..], rows);
        let mut largest = [0.0f32; 2];
        for change in &absorbed {
            let largest = &mut largest[usize::from(!change.exact)];
            *largest = change.shift.iter().fold(*largest, |largest, shift| largest.max(shift.abs()));
        }
        let device = self.device.clone().inner();
        let mut shifts: BTreeMap<String, Tensor<1>> = absorbed
            .into_iter()
            .map(|change| (change.parameter, parameters::to_device(change.shift, &device)))
            .collect();
        self.network =
            parameters::map(self.network.clone(), |info, values| shifts.remove(&info.name).map(|shift| values + shift));
        largest
    }

    /// Masks all but some units of the channel groups, one mask for each group, and zeroes what goes with them; what they
    /// would have carried on is absorbed where it can be.
    ///
    /// Returns the largest absorbed change: where that is exact, and where borders padded with zeros make it nearly so.
    ///
    /// # Panics
    ///
    /// Panics if the scheduler removes no channels or a mask does not fit.
    pub fn set_units(&mut self, kept: Vec<Mask>) -> [f32; 2] {
        let weights = parameters::weights(&self.network, self.engine.layers());
        let change = self.engine.set_units(kept);
        let absorbed = self.absorb_constants(&weights);
        self.apply(&change);
        absorbed
    }

    /// Cuts removed channels out of everything: weights, running statistics, moments, masks and the scheduler's state.
    pub fn compact(&mut self) {
        let (places, layers) = (self.engine.places(), self.engine.layers().to_vec());
        let cut_down = self.engine.groups().filter(|(_, kept)| kept.kept() < kept.len());
        let architecture =
            self.architecture.narrowed(cut_down.map(|(group, kept)| (group.name.as_str(), kept.iter().collect())));
        let graph = architecture.graph().expect("a network without some of its units can be built");

        let device = self.device.clone().inner();
        let (steps, mut moments) = self.optimizer.state();
        let mut weights = Tensors::new();
        parameters::visit(&self.network, |info, values| {
            let cut = |values| cut(&info.name, &layers, &places, &info.shape, &parameters::to_host(values));
            let (shape, values) = cut(values);
            weights.insert(info.name.clone(), HostTensor::f32(shape, values));
            for moment in ["first", "second"] {
                if let Some(values) = moments.get_mut(&format!("{moment}/{}", info.name)) {
                    *values = parameters::to_device(cut(values.clone()).1, &device);
                }
            }
        });
        self.optimizer.restore(steps, moments);
        let network = Network::new(&architecture, 0, &self.device).expect("its graph was built");
        self.network = load_network(network, weights, &device).expect("a cut leaves the shapes of the smaller network");
        self.engine.compact(graph);
        self.architecture = architecture;
        self.rebuild_replicas();
        self.place_masks();
    }

    /// The masks of biases, scales and shifts of removed channels.
    pub(crate) fn vector_masks(&self) -> BTreeMap<String, Tensor<1>> {
        let device = self.device.clone().inner();
        let flag = |kept| if kept { 1.0 } else { 0.0 };
        let tensor = |mask: Mask| parameters::to_device(mask.iter().map(flag).collect(), &device);
        self.engine.vector_masks().into_iter().map(|(name, mask)| (name, tensor(mask))).collect()
    }
}
