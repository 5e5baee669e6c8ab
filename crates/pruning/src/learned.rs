//! Masks of units that are learned while they are used: from the loss and from what the network costs.
//!
//! Two ways. A method that *masks* decides before every step which units the forward pass leaves out; a masked unit keeps its
//! weights and may come back. A method that *gates* leaves the decision to small modules of the network, one for each image.
//! Either ends with a cut, which makes the decision final.
//!
//! A mask `m` multiplies what the readers of a channel get: the weights of the next layer, column by column. With
//! `W' = W m` the slope of the loss is that of the weights the network ran with,
//!
//! ```text
//! dL/dm_i = Σ W_i · dL/dW'_i        over all weights that read unit i
//! ```
//!
//! which any backend gives without another operation in the forward pass. It is there for masked units too, since they are
//! computed as before and only not read. Where a bypass fills the place of missing channels, no weight reads a unit alone, and
//! the mask multiplies the rows that make it; the slope is the same sum over those. A mask before the rectifier would give the same network, but the slope of a masked
//! unit would vanish with the rectifier's.

use crate::channels::Role;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::mask::Mask;
use crate::select;
use crate::units::Units;

/// A channel group after a step with masks.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MaskedGroup<'a> {
    /// The name of the group.
    pub name: &'a str,
    /// The units that the step was taken with.
    pub mask: &'a Mask,
    /// For each unit, the slope of the loss along its mask.
    pub slopes: &'a [f32],
    /// What another unit costs, as a share of the full network's multiply-accumulates.
    pub price: f64,
}

/// A channel group with gates.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GatedGroup<'a> {
    /// The name of the group.
    pub name: &'a str,
    /// For each unit, the share of a batch's images for which its gate is open.
    pub means: &'a [f32],
    /// What a unit costs, as a share of the full network's multiply-accumulates.
    pub price: f64,
}

/// The gates of a group over all training images.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GateMeans {
    /// For each unit, the share of images for which its gate is open.
    pub open: Vec<f32>,
    /// For each unit, the mean probability that the gate is taken to be open with.
    pub probability: Vec<f32>,
}

impl GateMeans {
    /// Takes what was seen of the gates of a group, a value for each unit.
    pub fn new(open: Vec<f32>, probability: Vec<f32>) -> Self {
        Self { open, probability }
    }
}

impl Engine {
    /// Says whether the next forward pass leaves out masked units.
    pub fn masks_units(&self) -> bool {
        self.scheduler.masks_units()
    }

    /// Lets the method mask units for the next step and returns what is left of every group; `sizes` has the mean absolute
    /// weight of each unit's filter, group by group.
    ///
    /// # Panics
    ///
    /// Panics if the method removes no channels or a list has another length than its group.
    pub fn mask_units_of(&mut self, sizes: &[Vec<f32>]) -> &[Mask] {
        let units = self.units.as_mut().expect("a method that masks units has groups");
        let prunable: Vec<usize> = units.prunable().map(|(g, _)| g).collect();
        for g in prunable {
            let mask = self.scheduler.mask_units(&units.channels.groups[g].name, &sizes[g]);
            let all = Mask::dense(sizes[g].len());
            assert_eq!(units.kept[g].len(), mask.len(), "a flag for each unit");
            let least = units.least[g];
            units.heard[g] = if mask.kept() < least { select::top_k(&sizes[g], &all, least) } else { mask };
        }
        &units.heard
    }

    /// Tells the method what came of the masks: the slope of the loss along each of them, group by group.
    ///
    /// # Panics
    ///
    /// Panics if the method removes no channels.
    pub fn learn_masks(&mut self, clock: &Clock, slopes: &[Vec<f32>]) {
        let units = self.units.as_ref().expect("a method that masks units has groups");
        let counts: Vec<usize> = units.heard.iter().map(Mask::kept).collect();
        let (macs, prices) = self.prices(units, &counts);
        let groups: Vec<MaskedGroup> = units
            .prunable()
            .map(|(g, group)| MaskedGroup {
                name: &group.name,
                mask: &units.heard[g],
                slopes: &slopes[g],
                price: prices[g],
            })
            .collect();
        self.scheduler.learn_masks(clock, macs, &groups);
    }

    /// Returns the gradient of the method's penalty with respect to the mean over a batch of every gate; `means` has those of
    /// one group after the other, in the order of the graph's gates.
    ///
    /// # Panics
    ///
    /// Panics if the graph has another number of gates.
    pub fn gate_slopes(&self, iteration: u64, means: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let units = self.units.as_ref().expect("a method with gates has groups");
        let counts: Vec<usize> = units.kept.iter().map(Mask::len).collect();
        let (_, prices) = self.prices(units, &counts);
        assert_eq!(means.len(), self.graph.gates.len(), "means for every gate");
        let price = |name: &String| {
            let at = units.channels.groups.iter().position(|group| group.name == *name);
            prices[at.expect("gates belong to groups")]
        };
        let groups: Vec<GatedGroup> = (self.graph.gates.iter().zip(means))
            .map(|(name, means)| GatedGroup { name, means, price: price(name) })
            .collect();
        self.scheduler.gate_slopes(iteration, &groups)
    }

    /// Shows the method the gates over all training images, in the order of the graph's gates.
    ///
    /// # Panics
    ///
    /// Panics if the graph has another number of gates.
    pub fn see_gates(&mut self, means: &[GateMeans]) {
        assert_eq!(means.len(), self.graph.gates.len(), "means for every gate");
        let units = self.units.as_mut().expect("a method with gates has groups");
        for (name, means) in self.graph.gates.iter().zip(means) {
            self.scheduler.see_gates(name, means);
            let at =
                units.channels.groups.iter().position(|group| group.name == *name).expect("gates belong to groups");
            units.heard[at] = Mask::from_bools(means.open.iter().map(|open| *open > 0.5).collect());
        }
    }

    /// Says whether the network learns with gates.
    pub fn has_gates(&self) -> bool {
        self.scheduler.removes() == crate::Removes::Gated
    }

    /// Zeroes what reads units that were not heard and are removed now, so that nothing is absorbed for them; `weights` are
    /// those of all layers.
    pub fn silence(&self, weights: &mut [Vec<f32>]) {
        let Some(units) = &self.units else { return };
        for ((group, kept), heard) in units.channels.groups.iter().zip(&units.kept).zip(&units.heard) {
            let gone = |unit: &usize| !kept.get(*unit) && !heard.get(*unit);
            let readers = group.members.iter().filter(|member| (member.role, member.axis) == (Role::Weight, 1));
            for member in readers {
                let at = self.layers.iter().position(|layer| layer.name == member.parameter);
                let at = at.expect("channels count every layer");
                let (width, kernel) = (self.layers[at].width(), self.layers[at].width() / self.layers[at].shape[1]);
                for place in (0..group.units).filter(gone).flat_map(|unit| &member.places[unit]) {
                    for row in weights[at].chunks_exact_mut(width) {
                        row[place * kernel..][..kernel].fill(0.0);
                    }
                }
            }
        }
    }

    /// Returns the share of the full network's multiply-accumulates that some numbers of units cost, and what another unit of
    /// each group does.
    fn prices(&self, units: &Units, counts: &[usize]) -> (f64, Vec<f64>) {
        let cost = |counts: &[usize]| units.cost(&self.graph, counts) as f64 / self.dense_macs() as f64;
        let macs = cost(counts);
        let mut prices = vec![0.0; counts.len()];
        for (g, _) in units.prunable() {
            let mut other = counts.to_vec();
            // Costs are straight between two neighbours; of the last unit, the next one's price is the nearest.
            prices[g] = if counts[g] > 1 {
                other[g] -= 1;
                macs - cost(&other)
            } else if counts[g] < units.kept[g].len() {
                other[g] += 1;
                cost(&other) - macs
            } else {
                0.0
            };
        }
        (macs, prices)
    }
}
