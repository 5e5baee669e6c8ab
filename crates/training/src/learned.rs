//! Masks of units that are learned, and gates, in a network that is being trained; the rules are in
//! [`bonsai_pruning::learned`].

use std::collections::BTreeMap;

use bonsai_models::Network;
use bonsai_models::layers::{Gates, is_of_gate};
use bonsai_pruning::Removes;
use bonsai_pruning::channels::{Channels, Role};
use bonsai_pruning::clock::Clock;
use bonsai_pruning::mask::Mask;
use burn::tensor::{Tensor, TensorData};

use crate::parameters::{self, Gradients};
use crate::trainee::{Trainee, load_network};

impl Trainee {
    /// Returns the network that is in use: with a method that masks units while it learns, the one that does not read them.
    pub fn effective(&self) -> Network {
        if self.factors.is_empty() {
            return self.network.clone();
        }
        parameters::map(self.network.clone(), |info, values| {
            self.factors.get(&info.name).map(|factor| values * factor.clone())
        })
    }

    /// Says whether masks or gates are being learned.
    pub fn is_learning(&self) -> bool {
        self.architecture.gates || self.engine.masks_units() || !self.factors.is_empty()
    }

    /// Tells the method what the masks of this step did to the loss, and keeps the gradients of masked weights zero.
    pub(crate) fn learn(&mut self, clock: &Clock, gradients: &mut Gradients) {
        if !self.engine.masks_units() {
            return;
        }
        let columns = parameters::column_slopes(&self.network, gradients, self.engine.layers());
        let mut slopes = self.by_unit(1, &columns, |slopes| slopes.sum());
        let unread: Vec<usize> =
            self.engine.groups().enumerate().filter(|(_, (group, _))| group.mask_axis() == 0).map(|(g, _)| g).collect();
        if !unread.is_empty() {
            let rows = parameters::row_slopes(&self.network, gradients, self.engine.layers());
            let of_rows = self.by_unit(0, &rows, |slopes| slopes.sum());
            unread.into_iter().for_each(|g| slopes[g].clone_from(&of_rows[g]));
        }
        self.engine.learn_masks(clock, &slopes);
        for (name, factor) in &self.factors {
            if let Some(gradient) = gradients.remove(name) {
                gradients.insert(name.clone(), gradient * factor.clone());
            }
        }
    }

    /// Lets the method mask units for the next step.
    pub(crate) fn mask_anew(&mut self) {
        // The masks of the last step stay until the cut that follows it.
        if !self.engine.masks_units() {
            return;
        }
        let sizes = match self.engine.scheduler().removes() {
            Removes::MaskedByScale => {
                let mut scales: BTreeMap<String, Vec<f32>> =
                    self.scales().into_iter().map(|(group, _, scales)| (group, scales)).collect();
                let of_group = |group: &bonsai_pruning::Group| {
                    let scales = scales.remove(&group.name).unwrap_or_else(|| vec![1.0; group.units]);
                    scales.into_iter().map(f32::abs).collect()
                };
                self.engine.groups().map(|(group, _)| group).map(of_group).collect()
            }
            _ => {
                let rows = parameters::row_sizes(&self.network, self.engine.layers());
                self.by_unit(0, &rows, |sizes| {
                    let (sum, count) = sizes.fold((0.0, 0), |(sum, count), size| (sum + size, count + 1));
                    sum / f64::from(count.max(1))
                })
            }
        };
        let masks = self.engine.mask_units_of(&sizes).to_vec();
        self.factors = self.factors_of(masks);
    }

    /// Puts figures of rows or columns, layer by layer, together to those of units, group by group.
    fn by_unit(
        &self,
        axis: usize,
        figures: &[Vec<f32>],
        combine: impl Fn(&mut dyn Iterator<Item = f64>) -> f64,
    ) -> Vec<Vec<f32>> {
        let layers = self.engine.layers();
        let at = |parameter: &String| layers.iter().position(|layer| layer.name == *parameter);
        let of_group = |group: &bonsai_pruning::Group| {
            let members = group.members.iter().filter(|member| (member.role, member.axis) == (Role::Weight, axis));
            let members: Vec<(usize, _)> =
                members.map(|member| (at(&member.parameter).expect("members are layers"), &member.places)).collect();
            let of_unit = |unit: usize| {
                let places = members.iter().flat_map(|(layer, places)| {
                    places[unit].iter().map(move |&place| f64::from(figures[*layer][place]))
                });
                combine(&mut { places }) as f32
            };
            (0..group.units).map(of_unit).collect()
        };
        self.engine.groups().map(|(group, _)| of_group(group)).collect()
    }

    /// Returns what the weights are multiplied by that read masked units, or make those that nobody reads; others are left out.
    fn factors_of(&self, masks: Vec<Mask>) -> BTreeMap<String, Tensor<1>> {
        let channels = Channels { groups: self.engine.groups().map(|(group, _)| group.clone()).collect() };
        let places = channels.places(&masks);
        let unread: Vec<String> = (self.engine.groups())
            .filter(|(group, _)| group.mask_axis() == 0)
            .flat_map(|(group, _)| group.members.iter().map(|member| member.parameter.clone()))
            .collect();
        let device = self.device.clone().inner();
        let factor = |layer: &bonsai_pruning::LayerSpec| {
            let [of_rows, of_columns] = [0, 1].map(|axis| places.get(&(layer.name.clone(), axis)));
            // Where units are read, their own rows stay.
            let of_rows = of_rows.filter(|_| unread.contains(&layer.name));
            if ![of_rows, of_columns].into_iter().flatten().any(|flags| flags.contains(&false)) {
                return None;
            }
            let kernel = layer.width() / layer.shape[1];
            let stays =
                |flags: Option<&Vec<bool>>, at: usize| flags.and_then(|flags| flags.get(at)).is_none_or(|kept| *kept);
            let value = |row, column| if stays(of_rows, row) && stays(of_columns, column) { 1.0 } else { 0.0 };
            let row = |row| (0..layer.shape[1]).flat_map(move |column| std::iter::repeat_n(value(row, column), kernel));
            let rows: Vec<f32> = (0..layer.units()).flat_map(row).collect();
            Some((layer.name.clone(), parameters::to_device(parameters::to_storage(layer, &rows), &device)))
        };
        self.engine.layers().iter().filter_map(factor).collect()
    }

    /// Returns the term of the loss whose gradient is that of the method's penalty on the gates; none without gates.
    ///
    /// Its value means nothing: it is the means of the gates, each times the slope of the penalty along it.
    pub(crate) fn pull(&self, gates: Vec<Gates>) -> Option<Tensor<1>> {
        if gates.is_empty() {
            return None;
        }
        let widths: Vec<usize> = gates.iter().map(|gates| gates.open.dims()[1]).collect();
        let count: usize = widths.iter().sum();
        let means = gates.into_iter().map(|gates| gates.open.mean_dim(0)).collect();
        let means: Tensor<1> = Tensor::cat(means, 1).reshape([count]);
        let device = means.device();
        let mut values = parameters::to_host(means.clone().inner()).into_iter();
        let by_group: Vec<Vec<f32>> = widths.iter().map(|width| values.by_ref().take(*width).collect()).collect();
        let slopes = self.engine.gate_slopes(self.optimizer.steps() + 1, &by_group).concat();
        Some((means * Tensor::from_data(TensorData::new(slopes, [count]), &device)).sum())
    }

    /// Takes masks that were learned, and gates, away: the cut has made them final.
    pub(crate) fn end_learning(&mut self) {
        self.factors.clear();
        if !self.architecture.gates {
            return;
        }
        self.architecture = self.architecture.clone().with_gates(false);
        let mut weights = self.weights();
        weights.retain(|name, _| !is_of_gate(name));
        self.optimizer.forget(is_of_gate);
        let network = Network::new(&self.architecture, 0, &self.device).expect("it was built with gates");
        let device = self.device.clone().inner();
        self.network = load_network(network, weights, &device).expect("only gates are gone");
        self.rebuild_replicas();
        self.place_masks();
    }
}
