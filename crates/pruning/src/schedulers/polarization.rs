//! Polarization: a penalty that sends some scales of batch normalisation to zero and keeps the others away from it.
//!
//! Tao Zhuang, Zhixuan Zhang, Yuheng Huang, Xiaoyi Zeng, Kai Shuang, Xiang Li: "Neuron-level Structured Pruning using
//! Polarization Regularizer" (NeurIPS 2020),
//! <https://proceedings.neurips.cc/paper/2020/hash/703957b6dd9e3a7980e040bee50ded65-Abstract.html>.
//!
//! ```text
//! L = L_task + λ R(γ),    R(γ) = t ‖γ‖₁ − ‖γ − γ̄ 1‖₁,    0 ≤ γ ≤ 1
//! ∂R/∂γ_j = t sgn(γ_j) − sgn(γ_j − γ̄) + (1/n) Σ_i sgn(γ_i − γ̄)
//! ```
//!
//! `γ̄` is the mean over all prunable groups of the network, and the gradient flows through it. Scales start at 0.5; after
//! each step those of every batch normalisation are brought into [0, 1]. At `end_epoch` each group has a histogram of its
//! scales with 100 bins: channels up to its first dip go (or, with `macs`, the smallest scales of the whole network until the
//! cost is met), the penalty and the limits end, and training goes on, which takes the place of fine-tuning. At a minimum of
//! `R` the share 1/2 − t/4 of the scales is 1.
//!
//! In residual networks `groups = ["inner", "expansion"]` penalises and prunes both normalisations of each block: what is left of
//! the second one's channels is put in its places among zeros and added to the stream, which stays whole ("channel expand").
//!
//! Differs from the paper: one run instead of two; a group whose scales are all at or below its threshold keeps the largest, so
//! that no block becomes the identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::slimming::INITIAL_SCALE;
use crate::clock::{Clock, Horizon};
use crate::mask::Mask;
use crate::scheduler::{About, Cut, Event, GroupScales, Removes, Scheduler};
use crate::units::GroupView;
use crate::{Random, check, score};

/// The largest scale, `a` in the paper.
const LARGEST_SCALE: f32 = 1.0;
/// The bins of the histogram between 0 and the largest scale.
const BINS: usize = 100;

/// The configuration of [`Polarization`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolarizationConfig {
    /// The weight λ of the penalty; the paper has 5e-5 for ResNet-56 and 3e-5 for VGG-16 on CIFAR-10.
    pub lambda: f64,
    /// The weight of the absolute values against the polarization, from -2 to 2: the larger, the more scales become zero.
    /// The paper has 1.4 for ResNet-56 and 1.5 for VGG-16.
    pub t: f64,
    /// The epoch after which the channels go and the penalty ends.
    pub end_epoch: f64,
    /// The share of the full network's multiply-accumulates that is left; absent: what the thresholds leave.
    #[serde(default)]
    pub macs: Option<f64>,
}

impl PolarizationConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Polarization, String> {
        check::positive("lambda", self.lambda)?;
        if !(-2.0..=2.0).contains(&self.t) {
            return Err(format!("`t` is {}, but must lie between -2 and 2", self.t));
        }
        self.macs.map_or(Ok(()), |macs| check::part("macs", macs))?;
        check::window(0.0, self.end_epoch, 1, horizon)?;
        let end = check::iteration(self.end_epoch, horizon);
        Ok(Polarization { config: self, end, scales: BTreeMap::new(), found: BTreeMap::new() })
    }
}

/// Removes the channels whose scale lies below the dip in the histogram of its group.
pub struct Polarization {
    config: PolarizationConfig,
    end: u64,
    /// The scales of every group after the last step of the penalty.
    scales: BTreeMap<String, Vec<f32>>,
    /// By group, at the event: its threshold, and how many scales are at most that.
    found: BTreeMap<String, (f64, usize)>,
}

/// Returns `R(γ)`, the penalty before it is weighted by λ.
pub fn regularizer(scales: &[f64], t: f64) -> f64 {
    let mean = mean(scales);
    scales.iter().map(|scale| t * scale.abs() - (scale - mean).abs()).sum()
}

/// Returns the gradient of [`regularizer`], through the mean too; where it has a kink, the sign of zero is zero.
pub fn gradient(scales: &[f64], t: f64) -> Vec<f64> {
    let mean = mean(scales);
    let through_mean = scales.iter().map(|scale| sign(scale - mean)).sum::<f64>() / scales.len().max(1) as f64;
    scales.iter().map(|scale| t * sign(*scale) - sign(scale - mean) + through_mean).collect()
}

/// Returns the left edge of the first bin in which a histogram of `|γ|` stops falling, and 0 if it has no such dip.
///
/// Scales above 1 are in no bin. With `d` the differences between neighbouring counts, bin `i + 1` is the first with
/// `d[i] ≤ 0 ≤ d[i + 1]`.
pub fn threshold(scales: &[f32]) -> f64 {
    let mut counts = [0i64; BINS];
    for scale in scales.iter().map(|scale| f64::from(scale.abs())) {
        if scale <= f64::from(LARGEST_SCALE) {
            // The last bin holds its right edge too.
            counts[((scale * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
    }
    let dip = (1..BINS - 1).find(|&bin| counts[bin] <= counts[bin - 1] && counts[bin] <= counts[bin + 1]);
    dip.map_or(0.0, |bin| bin as f64 / BINS as f64)
}

fn mean(scales: &[f64]) -> f64 {
    scales.iter().sum::<f64>() / scales.len().max(1) as f64
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

impl Scheduler for Polarization {
    fn about(&self) -> About {
        About {
            name: "polarization",
            citation: "Zhuang, Zhang, Huang, Zeng, Shuang, Li: Neuron-level Structured Pruning using Polarization \
                       Regularizer (2020), \
                       https://proceedings.neurips.cc/paper/2020/hash/703957b6dd9e3a7980e040bee50ded65-Abstract.html",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Scaled
    }

    fn target_macs(&self) -> Option<f64> {
        self.config.macs
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let cut = self.config.macs.map_or(Cut::Zeros, |macs| Cut::Global { macs });
        (clock.iteration == self.end).then(|| Event::cut(cut))
    }

    fn initial_scale(&self) -> Option<f32> {
        Some(INITIAL_SCALE)
    }

    fn start_scales(&mut self, _: &str, scales: &mut [f32], _: &mut Random) {
        scales.fill(INITIAL_SCALE);
    }

    fn penalty(&mut self, clock: &Clock, groups: &mut [GroupScales]) {
        if clock.iteration > self.end {
            return;
        }
        let all: Vec<f64> = groups.iter().flat_map(|group| &group.scales).map(|scale| f64::from(*scale)).collect();
        let slopes = gradient(&all, self.config.t);
        for (gradient, slope) in groups.iter_mut().flat_map(|group| &mut group.gradient).zip(slopes) {
            *gradient += (self.config.lambda * slope) as f32;
        }
    }

    fn scale_range(&self, clock: &Clock) -> Option<[f32; 2]> {
        (clock.iteration <= self.end).then_some([0.0, LARGEST_SCALE])
    }

    fn after_step(&mut self, clock: &Clock, group: &str, scales: &mut [f32]) {
        if clock.iteration <= self.end {
            scales.iter_mut().for_each(|scale| *scale = scale.clamp(0.0, LARGEST_SCALE));
        }
        if clock.iteration == self.end {
            self.scales.insert(group.to_string(), scales.to_vec());
        }
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        let name = &view.group.name;
        // Before training there are no scales yet, and all channels are alike.
        let Some(scales) = self.scales.get(name) else { return vec![1.0; view.group.units] };
        let border = threshold(scales);
        let below = scales.iter().filter(|scale| f64::from(scale.abs()) <= border).count();
        self.found.insert(name.clone(), (border, below));
        if self.config.macs.is_some() {
            return score::magnitude(scales);
        }
        scales.iter().map(|scale| (f64::from(scale.abs()) - border) as f32).collect()
    }

    fn keep_units(&mut self, group: &str, _: &Mask) {
        self.scales.remove(group);
    }

    fn observe(&self, _: &Clock) -> Vec<(String, f64)> {
        let largest = self.found.values().map(|(border, _)| *border).fold(0.0, f64::max);
        let below: usize = self.found.values().map(|(_, below)| below).sum();
        vec![
            ("channels up to the threshold of their group".to_string(), below as f64),
            ("largest threshold of a group".to_string(), largest),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn scheduler(table: &str) -> Result<Polarization, String> {
        toml::from_str::<PolarizationConfig>(table).unwrap().init(RUN)
    }

    fn group(name: &str, scales: &[f32]) -> GroupScales {
        GroupScales { group: name.into(), scales: scales.to_vec(), gradient: vec![1.0; scales.len()] }
    }

    #[test]
    fn the_mean_is_that_of_all_groups() {
        let mut scheduler = scheduler("lambda = 0.5\nt = 1\nend_epoch = 1").unwrap();
        // The mean is 0.5: two scales lie below and two above, which cancel in the gradient through the mean.
        let mut groups = [group("a", &[0.25, 0.375]), group("b", &[0.625, 0.75])];
        scheduler.penalty(&Clock { iteration: 10, horizon: RUN, lr: 0.1 }, &mut groups);
        assert_eq!((&groups[0].gradient[..], &groups[1].gradient[..]), (&[2.0, 2.0][..], &[1.0, 1.0][..]));
        scheduler.penalty(&Clock { iteration: 11, horizon: RUN, lr: 0.1 }, &mut groups);
        assert_eq!(groups[0].gradient, [2.0, 2.0]);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_penalty() {
        let scales = [0.05, 0.07, 0.5, 0.55, 0.45, 0.9, 0.02];
        for (j, slope) in gradient(&scales, 1.2).into_iter().enumerate() {
            let at = |step: f64| {
                let mut moved = scales;
                moved[j] += step;
                regularizer(&moved, 1.2)
            };
            assert!(((at(1e-6) - at(-1e-6)) / 2e-6 - slope).abs() < 1e-6, "{j}");
        }
    }

    #[test]
    fn a_histogram_without_a_dip_has_no_threshold() {
        // Ever more scales from bin to bin.
        let rising: Vec<f32> = (0..BINS).flat_map(|bin| vec![(bin as f32 + 0.5) / 100.0; bin + 1]).collect();
        assert_eq!(threshold(&rising), 0.0);
        assert_eq!(threshold(&[0.005, 0.5]), 0.01);
        // Two empty bins at the start are a dip already: nothing small is there to go.
        assert_eq!(threshold(&[0.7, 0.8]), 0.01);
        assert_eq!(threshold(&[]), 0.01);
        assert_eq!(threshold(&[1.0, 2.0, f32::NAN]), 0.01);
    }

    #[test]
    fn scales_are_held_in_range_until_the_channels_go() {
        let mut scheduler = scheduler("lambda = 0.5\nt = 1\nend_epoch = 1").unwrap();
        let mut scales = [-0.5, 0.25, 1.5];
        let clock = |iteration| Clock { iteration, horizon: RUN, lr: 0.1 };
        scheduler.after_step(&clock(10), "a", &mut scales);
        assert_eq!((scales, scheduler.scale_range(&clock(10))), ([0.0, 0.25, 1.0], Some([0.0, 1.0])));
        let mut scales = [-0.5, 1.5];
        scheduler.after_step(&clock(11), "a", &mut scales);
        assert_eq!((scales, scheduler.scale_range(&clock(11))), ([-0.5, 1.5], None));
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |table: &str| scheduler(table).err().unwrap();
        assert_eq!(refused("lambda = 1e-4\nt = 3\nend_epoch = 1"), "`t` is 3, but must lie between -2 and 2");
        assert_eq!(refused("lambda = 0\nt = 1\nend_epoch = 1"), "`lambda` is 0, but must be above 0 and finite");
        assert_eq!(
            refused("lambda = 1\nt = 1\nmacs = 2\nend_epoch = 1"),
            "`macs` is 2, but must be above 0 and at most 1"
        );
        assert_eq!(
            refused("lambda = 1\nt = 1\nend_epoch = 5"),
            "`end_epoch` is 5, but must lie in the 4 epochs of the run"
        );
    }
}
