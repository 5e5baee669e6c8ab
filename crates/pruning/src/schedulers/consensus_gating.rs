//! Consensus gating: small modules open and close channels for each image until they agree, and then they are gone.
//!
//! Our reading of "Learning a Consensus Sub-Network with Polarization Regularization and One Pass Training" (2023),
//! <https://arxiv.org/abs/2302.10798>, of which only the abstract was at hand: binary gates that depend on the input, trained
//! straight through together with the network; a polarization loss under which they take the same decision for all images; a
//! sparsity that the user sets; one training run, and a static network without gates in the end. All else here is ours.
//!
//! ```text
//! p = σ(W_2 ReLU(W_1 mean(x)))        for every channel inside a block; the bias of W_2 begins at 2, open
//! g = 1[p ≥ ½] forward, dg/dp = 1 backward;  ḡ_k = the mean of g_k over a batch
//! L = L_task + λ_p(t) mean_k ḡ_k (1 − ḡ_k) + λ_s (Σ w_k ḡ_k − s)²
//! ```
//!
//! `w_k` is the share of unit k in the cost of all gated units, `s` what may be left of that for the whole network to come to
//! `macs`. `λ_p` rises linearly over the first half of the gating and stays then. Weight decay leaves the gates' parameters
//! alone.
//!
//! At `end_epoch` the gates of all training images are counted. With `exact`, the units that are open least often go until the
//! cost meets `macs`; else those go that are open for at most half of the images. The gates go with them, the tensors get
//! smaller, and training goes on. A unit that is closed for most images leaves no constant behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check;
use crate::clock::{Clock, Horizon};
use crate::learned::{GateMeans, GatedGroup};
use crate::scheduler::{About, Cut, Event, Removes, Scheduler};
use crate::units::GroupView;

/// How much the probability counts beside the share of images: it only orders units that are open equally often.
const TIE: f32 = 1e-5;

/// The configuration of [`ConsensusGating`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusGatingConfig {
    /// The share of the full network's multiply-accumulates that is left in the end.
    pub macs: f64,
    /// The epoch after which the gates are gone.
    pub end_epoch: f64,
    /// The weight λ_p of the polarization.
    #[serde(default = "default_polarization")]
    pub polarization: f64,
    /// The weight λ_s of the cost.
    #[serde(default = "default_cost")]
    pub cost: f64,
    /// Whether the cost is met in the end, whatever the gates have agreed on.
    #[serde(default = "default_exact")]
    pub exact: bool,
}

fn default_polarization() -> f64 {
    3.0
}

fn default_cost() -> f64 {
    30.0
}

fn default_exact() -> bool {
    true
}

impl ConsensusGatingConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<ConsensusGating, String> {
        check::part("macs", self.macs)?;
        check::positive("polarization", self.polarization)?;
        check::positive("cost", self.cost)?;
        check::window(0.0, self.end_epoch, 1, horizon)?;
        let end = check::iteration(self.end_epoch, horizon).max(1);
        Ok(ConsensusGating { config: self, end, seen: BTreeMap::new() })
    }
}

/// Learns gates, and removes the units that they close.
pub struct ConsensusGating {
    config: ConsensusGatingConfig,
    end: u64,
    /// The gates over all training images, once they were counted.
    seen: BTreeMap<String, GateMeans>,
}

impl ConsensusGating {
    /// Returns the polarization loss `mean ḡ (1 − ḡ)` and its gradient.
    pub fn polar(means: &[f32]) -> (f64, Vec<f64>) {
        let count = means.len().max(1) as f64;
        let loss = means.iter().map(|mean| f64::from(*mean) * (1.0 - f64::from(*mean))).sum::<f64>() / count;
        (loss, means.iter().map(|mean| (1.0 - 2.0 * f64::from(*mean)) / count).collect())
    }

    /// Returns λ_p at an iteration.
    fn polarization(&self, iteration: u64) -> f64 {
        self.config.polarization * (2.0 * iteration as f64 / self.end as f64).min(1.0)
    }
}

impl Scheduler for ConsensusGating {
    fn about(&self) -> About {
        About {
            name: "consensus-gating",
            citation: "our reading of Learning a Consensus Sub-Network with Polarization Regularization and One Pass \
                       Training (2023), https://arxiv.org/abs/2302.10798",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Gated
    }

    fn target_macs(&self) -> Option<f64> {
        self.config.exact.then_some(self.config.macs)
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let cut = if self.config.exact { Cut::Filled { macs: self.config.macs } } else { Cut::Zeros };
        (clock.iteration == self.end).then(|| Event::cut(cut))
    }

    fn gate_slopes(&self, iteration: u64, groups: &[GatedGroup]) -> Vec<Vec<f32>> {
        let all: Vec<f32> = groups.iter().flat_map(|group| group.means.iter().copied()).collect();
        let (_, polar) = Self::polar(&all);
        let cost: f64 = groups.iter().map(|group| group.price * group.means.len() as f64).sum();
        let left = |group: &GatedGroup| group.price * group.means.iter().map(|mean| f64::from(*mean)).sum::<f64>();
        let left = groups.iter().map(left).sum::<f64>() / cost;
        // What is left of the gated part when the whole comes to its target.
        let target = 1.0 - (1.0 - self.config.macs) / cost;
        let (polarization, along_cost) = (self.polarization(iteration), 2.0 * self.config.cost * (left - target));
        let mut polar = polar.into_iter();
        let slopes = |group: &GatedGroup| {
            let along_cost = along_cost * group.price / cost;
            let slopes = polar.by_ref().take(group.means.len());
            slopes.map(|slope| (polarization * slope + along_cost) as f32).collect()
        };
        groups.iter().map(slopes).collect()
    }

    fn see_gates(&mut self, group: &str, means: &GateMeans) {
        self.seen.insert(group.to_string(), means.clone());
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        // Before training there are no gates to count, and all channels are alike.
        let Some(means) = self.seen.get(&view.group.name) else { return vec![1.0; view.group.units] };
        let score = |(open, probability): (&f32, &f32)| {
            if !self.config.exact && *open <= 0.5 { 0.0 } else { open + TIE * probability }
        };
        means.open.iter().zip(&means.probability).map(score).collect()
    }

    fn observe(&self, _: &Clock) -> Vec<(String, f64)> {
        let open: Vec<f32> = self.seen.values().flat_map(|means| means.open.iter().copied()).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let margin = open.iter().map(|open| (f64::from(*open) - 0.5).abs()).fold(0.5, f64::min);
        let agreed = open.iter().filter(|open| **open == 0.0 || **open == 1.0).count();
        vec![
            ("polarization of the gates over all training images".to_string(), Self::polar(&open).0),
            ("smallest distance of a gate's mean from one half".to_string(), margin),
            ("share of gates that are the same for all images".to_string(), agreed as f64 / open.len() as f64),
            (
                "share of gates that are open for most images".to_string(),
                open.iter().filter(|open| **open > 0.5).count() as f64 / open.len() as f64,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn scheduler(table: &str) -> ConsensusGating {
        toml::from_str::<ConsensusGatingConfig>(table).unwrap().init(RUN).unwrap()
    }

    /// The whole penalty, written apart from its gradient.
    fn penalty(gating: &ConsensusGating, iteration: u64, groups: &[(&[f32], f64)]) -> f64 {
        let all: Vec<f64> = groups.iter().flat_map(|(means, _)| means.iter().map(|mean| f64::from(*mean))).collect();
        let polar = all.iter().map(|mean| mean * (1.0 - mean)).sum::<f64>() / all.len() as f64;
        let cost = |open: &dyn Fn(f64) -> f64| -> f64 {
            let of_group =
                |(means, price): &(&[f32], f64)| means.iter().map(|m| price * open(f64::from(*m))).sum::<f64>();
            groups.iter().map(of_group).sum()
        };
        let (full, left) = (cost(&|_| 1.0), cost(&|mean| mean));
        let target = (full - (1.0 - gating.config.macs)) / full;
        gating.polarization(iteration) * polar + gating.config.cost * (left / full - target).powi(2)
    }

    #[test]
    fn slopes_are_those_of_the_penalty() {
        let gating = scheduler("macs = 0.6\nend_epoch = 2\npolarization = 2\ncost = 3");
        let (first, second) = ([0.9f32, 0.25, 0.5], [1.0f32, 0.0]);
        let prices = [0.1, 0.2];
        let slopes = |first: &[f32], second: &[f32]| {
            let groups = [("a", first, prices[0]), ("b", second, prices[1])];
            gating.gate_slopes(5, &groups.map(|(name, means, price)| GatedGroup { name, means, price }))
        };
        let exact = slopes(&first, &second);
        for k in 0..3 {
            let at = |step: f32| {
                let mut moved = first;
                moved[k] += step;
                penalty(&gating, 5, &[(&moved, prices[0]), (&second, prices[1])])
            };
            let step = 1.0 / 1024.0;
            let numeric = (at(step) - at(-step)) / (2.0 * f64::from(step));
            assert!((numeric - f64::from(exact[0][k])).abs() < 1e-5, "{numeric} and {}", exact[0][k]);
        }
        assert_eq!((exact[0].len(), exact[1].len()), (3, 2));
    }

    #[test]
    fn polarization_rises_over_the_first_half() {
        let gating = scheduler("macs = 0.6\nend_epoch = 2\npolarization = 2");
        assert_eq!([0, 5, 10, 20].map(|t| gating.polarization(t)), [0.0, 1.0, 2.0, 2.0]);
        let due = |t: &u64| gating.due(&Clock { iteration: *t, horizon: RUN, lr: 0.1 }).is_some();
        assert_eq!((1..=40).filter(due).collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn bad_values_are_named() {
        let refused = |table: &str| toml::from_str::<ConsensusGatingConfig>(table).unwrap().init(RUN).err().unwrap();
        assert_eq!(refused("macs = 2\nend_epoch = 1"), "`macs` is 2, but must be above 0 and at most 1");
        assert_eq!(refused("macs = 0.5\nend_epoch = 1\ncost = -1"), "`cost` is -1, but must be above 0 and finite");
        assert_eq!(refused("macs = 0.5\nend_epoch = 9"), "`end_epoch` is 9, but must lie in the 4 epochs of the run");
    }
}
