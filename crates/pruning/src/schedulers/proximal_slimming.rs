//! Proximal network slimming: scales of batch normalisation follow a copy of themselves that becomes exactly zero.
//!
//! Kevin Bui, Fanghui Xue, Fredrick Park, Yingyong Qi, Jack Xin: "A Proximal Algorithm for Network Slimming" (2023),
//! <https://arxiv.org/abs/2307.00684>.
//!
//! ```text
//! min L(W, γ) + λ Σ φ(ξ) + β/2 ‖γ − ξ‖²       after each optimizer step, with α = 1 / lr:
//! γ ← (α γ + β ξ) / (α + β)
//! ξ ← prox_{λφ / (α + β)} ((α ξ + β γ) / (α + β))
//! ```
//!
//! A channel whose `ξ` has been zero for `patience` iterations is final: it goes at the next event, every `every`
//! iterations, and the tensors get smaller. At `end_epoch` all channels with `ξ = 0` go (or as many as `macs` says, by
//! `|γ|`), and training goes on without the penalty.
//!
//! Differs from the paper: it prunes after training, the scales that are exactly zero, which the official code gets by
//! letting dead channels decay to underflow; here the support of `ξ` decides, during training. The paper has the absolute
//! value for φ; the others are of its authors' earlier work (see [`super::slimming`]). Residual networks lose channels
//! inside blocks only.

use std::collections::BTreeMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::slimming::INITIAL_SCALE;
use crate::clock::{Clock, Horizon};
use crate::mask::Mask;
use crate::proximal::Penalty;
use crate::scheduler::{About, Cut, Event, Removes, Scheduler};
use crate::units::GroupView;
use crate::{Random, check};

/// Where the copies start: evenly between these.
const INITIAL_COPIES: std::ops::Range<f32> = 0.47..0.53;

/// The configuration of [`ProximalSlimming`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProximalSlimmingConfig {
    /// The weight λ of the penalty; the official code has 0.0045 for VGG-19 on CIFAR-10.
    pub lambda: f64,
    /// The weight β that ties scales and copies together; 100 for VGG-19, 0.25 for a pre-activation ResNet-164.
    pub beta: f64,
    /// The penalty φ.
    #[serde(default)]
    pub penalty: Penalty,
    /// The shape of the penalties that have one.
    #[serde(default)]
    pub a: Option<f64>,
    /// Iterations for which a copy must have been zero before its channel goes.
    pub patience: u32,
    /// Iterations from one event to the next.
    pub every: u64,
    /// The epoch after which the last channels go and the penalty ends.
    pub end_epoch: f64,
    /// The share of the full network's multiply-accumulates that is left at the end; absent: what the penalty reached.
    #[serde(default)]
    pub macs: Option<f64>,
}

impl ProximalSlimmingConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<ProximalSlimming, String> {
        check::positive("lambda", self.lambda)?;
        check::positive("beta", self.beta)?;
        let a = self.penalty.shape(self.a)?;
        self.macs.map_or(Ok(()), |macs| check::part("macs", macs))?;
        check::window(0.0, self.end_epoch, self.every, horizon)?;
        let end = check::iteration(self.end_epoch, horizon);
        Ok(ProximalSlimming { a, end, config: self, copies: BTreeMap::new(), scales: BTreeMap::new(), ended: false })
    }
}

/// The copies of one group's scales.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Copies {
    /// ξ, one for each unit.
    xi: Vec<f32>,
    /// For how many iterations in a row each has been zero.
    zero_for: Vec<u32>,
}

/// Removes the channels whose copied scale is zero.
pub struct ProximalSlimming {
    config: ProximalSlimmingConfig,
    a: f64,
    end: u64,
    copies: BTreeMap<String, Copies>,
    /// The scales of every group after the last step.
    scales: BTreeMap<String, Vec<f32>>,
    ended: bool,
}

impl ProximalSlimming {
    /// Takes one proximal step of a scale and its copy.
    pub fn step(&self, scale: f64, copy: f64, lr: f64) -> (f64, f64) {
        // Everything times the learning rate, so that one of zero changes nothing.
        let tie = self.config.beta * lr;
        let scale = (scale + tie * copy) / (1.0 + tie);
        let copy = (copy + tie * scale) / (1.0 + tie);
        (scale, self.config.penalty.prox(copy, self.config.lambda * lr / (1.0 + tie), self.a))
    }
}

impl Scheduler for ProximalSlimming {
    fn about(&self) -> About {
        About {
            name: "proximal-slimming",
            citation: "Bui, Xue, Park, Qi, Xin: A Proximal Algorithm for Network Slimming (2023), \
                       https://arxiv.org/abs/2307.00684",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Scaled
    }

    fn target_macs(&self) -> Option<f64> {
        self.config.macs
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        if clock.iteration == self.end {
            return Some(Event::cut(self.config.macs.map_or(Cut::Zeros, |macs| Cut::Global { macs })));
        }
        let due = clock.iteration < self.end && clock.iteration.is_multiple_of(self.config.every);
        due.then(|| Event::cut(Cut::Zeros))
    }

    fn start_scales(&mut self, group: &str, scales: &mut [f32], random: &mut Random) {
        scales.fill(INITIAL_SCALE);
        let xi: Vec<f32> = scales.iter().map(|_| random.random_range(INITIAL_COPIES)).collect();
        self.copies.insert(group.to_string(), Copies { zero_for: vec![0; xi.len()], xi });
    }

    fn after_step(&mut self, clock: &Clock, group: &str, scales: &mut [f32]) {
        if clock.iteration > self.end {
            return;
        }
        let mut copies = self.copies.remove(group).expect("every group has copies from the start");
        for ((scale, xi), zero_for) in scales.iter_mut().zip(&mut copies.xi).zip(&mut copies.zero_for) {
            let (new, copy) = self.step(f64::from(*scale), f64::from(*xi), clock.lr);
            (*scale, *xi) = (new as f32, copy as f32);
            *zero_for = if *xi == 0.0 { *zero_for + 1 } else { 0 };
        }
        self.copies.insert(group.to_string(), copies);
        self.scales.insert(group.to_string(), scales.to_vec());
        self.ended = clock.iteration == self.end;
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        let name = &view.group.name;
        // Before training there are no scales yet, and all channels are alike.
        let (Some(copies), Some(scales)) = (self.copies.get(name), self.scales.get(name)) else {
            return vec![1.0; view.group.units];
        };
        let patience = if self.ended { 1 } else { self.config.patience.max(1) };
        let score = |(scale, zero_for): (&f32, &u32)| {
            // Only a score of zero lets a channel go.
            if *zero_for >= patience { 0.0 } else { scale.abs().max(f32::MIN_POSITIVE) }
        };
        scales.iter().zip(&copies.zero_for).map(score).collect()
    }

    fn keep_units(&mut self, group: &str, kept: &Mask) {
        self.scales.remove(group);
        if let Some(Copies { xi, zero_for }) = self.copies.get_mut(group) {
            let mut flags = kept.iter();
            xi.retain(|_| flags.next().expect("a flag for each unit"));
            let mut flags = kept.iter();
            zero_for.retain(|_| flags.next().expect("a flag for each unit"));
        }
    }

    fn observe(&self, _: &Clock) -> Vec<(String, f64)> {
        let all: Vec<f32> = self.copies.values().flat_map(|copies| copies.xi.iter().copied()).collect();
        let zero = all.iter().filter(|xi| **xi == 0.0).count();
        vec![("channels left whose copy is zero".to_string(), zero as f64)]
    }

    fn save(&self) -> Value {
        serde_json::to_value(&self.copies).expect("copies are plain numbers")
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.copies = serde_json::from_value(state.clone())
            .map_err(|error| format!("the state of the scheduler `proximal-slimming` is damaged: {error}"))?;
        self.scales.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn scheduler(table: &str) -> ProximalSlimming {
        toml::from_str::<ProximalSlimmingConfig>(table).unwrap().init(RUN).unwrap()
    }

    #[test]
    fn a_step_is_that_of_the_official_code() {
        let table = "lambda = 0.0045\nbeta = 100\npatience = 1\nevery = 1\nend_epoch = 2";
        let (scale, copy) = scheduler(table).step(0.48, 0.5, 0.1);
        assert!((scale - 0.49818181818181817).abs() < 1e-12 && (copy - 0.49830619834710743).abs() < 1e-12);
        assert_eq!(scheduler(table).step(0.48, 0.25, 0.0), (0.48, 0.25));
    }

    #[test]
    fn a_copy_must_be_zero_for_a_while_and_events_end_with_the_penalty() {
        let mut scheduler = scheduler("lambda = 0.5\nbeta = 1\npatience = 3\nevery = 4\nend_epoch = 1");
        let mut scales = [0.0, 9.0];
        scheduler.start_scales("g", &mut scales, &mut bonsai_random::stream(0, "test", 0));
        let mut history = Vec::new();
        for iteration in 1..=6 {
            scales[1] = 9.0;
            scheduler.after_step(&Clock { iteration, horizon: RUN, lr: 1.0 }, "g", &mut scales);
            history.push(scheduler.copies["g"].zero_for[0]);
        }
        assert!(history.ends_with(&[2, 3, 4]) || history.ends_with(&[4, 5, 6]), "{history:?}");
        assert_eq!(scheduler.copies["g"].zero_for[1], 0);
        let due: Vec<u64> = (1..=40)
            .filter(|&iteration| scheduler.due(&Clock { iteration, horizon: RUN, lr: 1.0 }).is_some())
            .collect();
        assert_eq!(due, [4, 8, 10]);
    }
}
