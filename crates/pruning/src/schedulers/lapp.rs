//! LAPP: every layer learns a threshold below which its filters are masked, and what is masked in the end goes.
//!
//! Our reading of "LAPP: Layer Adaptive Progressive Pruning for Compressing CNNs from Scratch" (2023),
//! <https://arxiv.org/abs/2309.14157>, of which only the abstract was at hand: a learnable threshold for every layer, updated
//! by the loss and by a constraint on the cost while the importance of filters changes, so that a network is pruned
//! gradually in the first few epochs. All else here is ours.
//!
//! ```text
//! I_i = mean|W_i| / (its mean over the layer)        or |γ_i| / (its mean), with `score = "scale"`
//! m_i = 1[I_i > τ]                     forward
//! dm_i/dτ = −s (1 − s) / T,  s = σ((I_i − τ) / T)      backward, straight through; I itself learns nothing from the mask
//! L = L_task + λ t/t_p max(0, F(m) − r_t)²,  r_t = 1 − (1 − r) t/t_p
//! τ ← max(0, τ − η dL/dτ)
//! ```
//!
//! `F(m)` is the share of the full network's multiply-accumulates that the masks leave, `r` is `macs`, `t_p` is the end of the
//! pruning. How the loss depends on a mask is said in [`crate::learned`]: the mask multiplies what reads a filter's channel, so
//! that a masked filter is the same as a removed one, shift of its normalisation included, and can come back. Filters that can
//! only go together share a threshold.
//!
//! At `end_epoch` the thresholds are multiplied by one number so that the cost meets the target: the filters with the lowest
//! `I_i / τ` go, and those that the thresholds had masked beyond the target come back. The tensors get smaller, and training
//! goes on. A unit of the network is a coarse step of its cost: filters are given back as long as they fit.
//!
//! Thresholds begin one temperature under the lowest score of their layer. At 0, where nothing is masked either, the slope
//! of the mask is so small (4.5e-4 for `T` = 0.1) that no threshold would leave it in the time there is. The bypass around
//! pruned convolutions, of which the abstract speaks too, is a choice of the network (`bypass = true` in the experiment): without
//! it filters go inside residual blocks, whose shortcut is a bypass already; with it, those of every convolution of a block.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::{Clock, Horizon};
use crate::learned::MaskedGroup;
use crate::mask::Mask;
use crate::scheduler::{About, Cut, Event, Removes, Scheduler};
use crate::units::GroupView;
use crate::{check, score};

/// The configuration of [`Lapp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LappConfig {
    /// The share `r` of the full network's multiply-accumulates that is left in the end.
    pub macs: f64,
    /// The epoch after which what is masked goes; absent: a tenth of all.
    #[serde(default)]
    pub end_epoch: Option<f64>,
    /// The weight λ of the cost.
    #[serde(default = "default_lambda")]
    pub lambda: f64,
    /// The learning rate η of the thresholds.
    #[serde(default = "default_threshold_lr")]
    pub threshold_lr: f64,
    /// The temperature `T` of the masks' slopes.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// What the importance of a filter is.
    #[serde(default)]
    pub score: Importance,
}

/// What the importance of a filter is taken from, relative to its mean over the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// The mean absolute weight of the filter.
    #[default]
    Filter,
    /// The absolute scale of the batch normalisation behind it; only filters with one of their own are pruned then.
    Scale,
}

fn default_lambda() -> f64 {
    5.0
}

fn default_threshold_lr() -> f64 {
    0.01
}

fn default_temperature() -> f64 {
    0.1
}

impl LappConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Lapp, String> {
        check::part("macs", self.macs)?;
        check::positive("lambda", self.lambda)?;
        check::positive("threshold_lr", self.threshold_lr)?;
        check::positive("temperature", self.temperature)?;
        let end_epoch = self.end_epoch.unwrap_or(horizon.epochs as f64 / 10.0);
        check::window(0.0, end_epoch, 1, horizon)?;
        // A run of a few iterations has time for one at least.
        let end = check::iteration(end_epoch, horizon).max(1);
        let (thresholds, scores, scales) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Lapp { config: self, end, iteration: 0, macs: 1.0, thresholds, scores, scales })
    }
}

/// Learns thresholds, and removes the filters below them.
pub struct Lapp {
    config: LappConfig,
    end: u64,
    /// The last step that was learned from.
    iteration: u64,
    /// The share of the cost that the masks of that step left.
    macs: f64,
    /// τ by group.
    thresholds: BTreeMap<String, f32>,
    /// The scores of the units for the next step, by group.
    scores: BTreeMap<String, Vec<f32>>,
    /// The absolute scales after the last step, by group, where they are what counts.
    scales: BTreeMap<String, Vec<f32>>,
}

/// What a checkpoint holds of the method.
#[derive(Serialize, Deserialize)]
struct State {
    iteration: u64,
    macs: f32,
    thresholds: BTreeMap<String, f32>,
}

impl Lapp {
    /// Returns the slope of a unit's mask along the threshold, `−s (1 − s) / T`.
    pub fn mask_slope(score: f64, threshold: f64, temperature: f64) -> f64 {
        let soft = 1.0 / (1.0 + (-(score - threshold) / temperature).exp());
        -soft * (1.0 - soft) / temperature
    }

    /// Returns the cost that is allowed after some iterations.
    fn allowed(&self, iteration: u64) -> f64 {
        1.0 - (1.0 - self.config.macs) * self.progress(iteration)
    }

    fn progress(&self, iteration: u64) -> f64 {
        (iteration as f64 / self.end as f64).min(1.0)
    }

    /// Returns the threshold that a group begins with.
    fn first(&self, scores: &[f32]) -> f32 {
        let lowest = scores.iter().copied().fold(f32::INFINITY, f32::min);
        (lowest - self.config.temperature as f32).max(0.0)
    }
}

impl Scheduler for Lapp {
    fn about(&self) -> About {
        About {
            name: "lapp",
            citation: "our reading of LAPP: Layer Adaptive Progressive Pruning for Compressing CNNs from Scratch (2023), \
                       https://arxiv.org/abs/2309.14157",
        }
    }

    fn removes(&self) -> Removes {
        match self.config.score {
            Importance::Filter => Removes::Masked,
            Importance::Scale => Removes::MaskedByScale,
        }
    }

    fn target_macs(&self) -> Option<f64> {
        Some(self.config.macs)
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        (clock.iteration == self.end).then(|| Event::cut(Cut::Filled { macs: self.config.macs }))
    }

    fn masks_units(&self) -> bool {
        self.iteration < self.end
    }

    fn after_step(&mut self, _: &Clock, group: &str, scales: &mut [f32]) {
        self.scales.insert(group.to_string(), scales.iter().map(|scale| scale.abs()).collect());
    }

    fn mask_units(&mut self, group: &str, sizes: &[f32]) -> Mask {
        if self.config.score == Importance::Scale {
            self.scales.insert(group.to_string(), sizes.to_vec());
        }
        let scores = score::relative(sizes, &Mask::dense(sizes.len()));
        let first = self.first(&scores);
        let threshold = *self.thresholds.entry(group.to_string()).or_insert(first);
        let mask = Mask::from_bools(scores.iter().map(|score| *score > threshold).collect());
        self.scores.insert(group.to_string(), scores);
        mask
    }

    fn learn_masks(&mut self, clock: &Clock, macs: f64, groups: &[MaskedGroup]) {
        let LappConfig { lambda, threshold_lr, temperature, .. } = self.config;
        let over = (macs - self.allowed(clock.iteration)).max(0.0);
        let along_cost = 2.0 * lambda * self.progress(clock.iteration) * over;
        for group in groups {
            let (Some(scores), Some(threshold)) = (self.scores.get(group.name), self.thresholds.get_mut(group.name))
            else {
                continue;
            };
            let slope = |(score, slope): (&f32, &f32)| {
                let along_mask = f64::from(*slope) + along_cost * group.price;
                along_mask * Lapp::mask_slope(f64::from(*score), f64::from(*threshold), temperature)
            };
            let slope: f64 = scores.iter().zip(group.slopes).map(slope).sum();
            *threshold = (f64::from(*threshold) - threshold_lr * slope).max(0.0) as f32;
        }
        self.iteration = clock.iteration;
        self.macs = macs;
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        // The cut ends the learning, whether or not a step came before it, as in a plan.
        self.iteration = self.end;
        let sizes = match self.config.score {
            Importance::Filter => view.sizes(),
            // Before training all scales are alike, as in a plan.
            Importance::Scale => {
                self.scales.get(&view.group.name).cloned().unwrap_or_else(|| vec![1.0; view.group.units])
            }
        };
        let scores = score::relative(&sizes, view.kept);
        let first = self.first(&scores);
        let threshold = self.thresholds.get(&view.group.name).copied().unwrap_or(first);
        scores.iter().map(|score| score / threshold.max(f32::MIN_POSITIVE.sqrt())).collect()
    }

    fn observe(&self, _: &Clock) -> Vec<(String, f64)> {
        let thresholds = || self.thresholds.values().map(|threshold| f64::from(*threshold));
        vec![
            ("share of MACs that the thresholds left".to_string(), self.macs),
            ("lowest threshold".to_string(), thresholds().fold(f64::INFINITY, f64::min).min(f64::MAX)),
            ("highest threshold".to_string(), thresholds().fold(0.0, f64::max)),
        ]
    }

    fn save(&self) -> Value {
        let state = State { iteration: self.iteration, macs: self.macs as f32, thresholds: self.thresholds.clone() };
        serde_json::to_value(state).expect("thresholds are plain numbers")
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let state: State = serde_json::from_value(state.clone())
            .map_err(|error| format!("the state of the scheduler `lapp` is damaged: {error}"))?;
        self.iteration = state.iteration;
        self.macs = f64::from(state.macs);
        self.thresholds = state.thresholds;
        self.scores.clear();
        self.scales.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::{Group, GroupKind};

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn scheduler(table: &str) -> Lapp {
        toml::from_str::<LappConfig>(table).unwrap().init(RUN).unwrap()
    }

    fn clock(iteration: u64) -> Clock {
        Clock { iteration, horizon: RUN, lr: 0.1 }
    }

    #[test]
    fn what_costs_too_much_raises_a_threshold_and_what_the_loss_needs_lowers_it() {
        let mut lapp = scheduler("macs = 0.5\nend_epoch = 1\nthreshold_lr = 1");
        let sizes = [0.9, 1.0, 1.1];
        assert_eq!(lapp.mask_units("g", &sizes), Mask::dense(3));
        let first = lapp.thresholds["g"];
        assert!((first - 0.8).abs() < 1e-6);
        let mask = Mask::dense(3);
        let step = |lapp: &mut Lapp, iteration, macs, slope| {
            let before = lapp.thresholds["g"];
            let group = MaskedGroup { name: "g", mask: &mask, slopes: &[slope; 3], price: 0.1 };
            lapp.learn_masks(&clock(iteration), macs, &[group]);
            lapp.thresholds["g"] - before
        };
        // Over the allowed 0.75 of iteration 5 by 0.25: 2 · 5 · 0.5 · 0.25 · 0.1 along each mask.
        let expected: f64 = sizes.iter().map(|score| -0.125 * Lapp::mask_slope(f64::from(*score), 0.8, 0.1)).sum();
        assert!((f64::from(step(&mut lapp, 5, 1.0, 0.0)) - expected).abs() < 1e-6);
        assert!(step(&mut lapp, 5, 0.7, -0.1) < 0.0);
        assert_eq!(step(&mut lapp, 5, 0.7, 0.0), 0.0);
    }

    #[test]
    fn scales_rank_filters_where_they_are_asked_for() {
        let mut lapp = scheduler("macs = 0.5\nend_epoch = 1\nscore = 'scale'");
        assert_eq!(lapp.removes(), Removes::MaskedByScale);
        lapp.mask_units("g", &[1.0, 1.0, 1.0]);
        // The scales of the step before the cut count, by their size.
        lapp.after_step(&clock(10), "g", &mut [-0.9, 0.3, 0.6]);
        let group = Group { name: "g".into(), kind: GroupKind::Inner, units: 3, members: Vec::new() };
        let kept = Mask::dense(3);
        let scores = lapp.score_units(&GroupView { group: &group, kept: &kept, layers: &[], weights: &[] });
        // Over their mean of 0.6, and over the threshold, a temperature under the lowest first score.
        let expected = [1.5, 0.5, 1.0].map(|score| score / 0.9);
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{scores:?}");
        let refused = toml::from_str::<LappConfig>("macs = 0.5\nscore = 'gamma'").unwrap_err().to_string();
        assert!(refused.contains("expected `filter` or `scale`"), "{refused}");
    }

    #[test]
    fn it_learns_until_the_cut_and_begins_a_tenth_of_the_run_before_it() {
        let mut lapp = scheduler("macs = 0.4");
        assert_eq!((1..=40).filter(|t| lapp.due(&clock(*t)).is_some()).collect::<Vec<_>>(), [4]);
        lapp.learn_masks(&clock(3), 1.0, &[]);
        assert!(lapp.masks_units());
        lapp.learn_masks(&clock(4), 1.0, &[]);
        assert!(!lapp.masks_units());
    }

    #[test]
    fn bad_values_are_named() {
        let refused = |table: &str| toml::from_str::<LappConfig>(table).unwrap().init(RUN).err().unwrap();
        assert_eq!(refused("macs = 0"), "`macs` is 0, but must be above 0 and at most 1");
        assert_eq!(refused("macs = 0.5\ntemperature = 0"), "`temperature` is 0, but must be above 0 and finite");
        assert_eq!(refused("macs = 0.5\nend_epoch = 5"), "`end_epoch` is 5, but must lie in the 4 epochs of the run");
    }
}
