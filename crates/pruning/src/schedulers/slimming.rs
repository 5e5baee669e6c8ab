//! Network slimming: channels are ranked by the scale of their batch normalisation, which a penalty keeps small.
//!
//! Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang: "Learning Efficient Convolutional
//! Networks through Network Slimming" (2017), <https://arxiv.org/abs/1708.06519>; nonconvex penalties as in Kevin Bui,
//! Fredrick Park, Shuai Zhang, Yingyong Qi, Jack Xin: "Nonconvex Regularization for Network Slimming: Compressing CNNs
//! Even More" (2020), <https://arxiv.org/abs/2010.01242>.
//!
//! ```text
//! L = L_task + λ Σ φ(γ)        by the subgradient: g(γ) += λ φ'(γ), with φ'(0) = 0
//! ```
//!
//! At `end_epoch` the channels with the smallest `|γ|` of the whole network go, the penalty ends, and training goes on,
//! which takes the place of fine-tuning.
//!
//! Differs from the paper: one run instead of training, pruning and fine-tuning; an exact share of channels (or of
//! multiply-accumulates, `macs`) instead of a threshold at a percentile, which takes one channel more; no layer loses
//! its last channel. In residual networks only channels inside blocks are pruned, as the paper's followers do for
//! networks without pre-activation. With `compat = "network-slimming"` the threshold of the official code decides: channels
//! go whose scale is at most the one at the percentile. That code divides 0 by 0 where a nonconvex penalty meets `γ = 0`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Horizon};
use crate::mask::Mask;
use crate::proximal::Penalty;
use crate::scheduler::{About, Cut, Event, GroupScales, Removes, Scheduler};
use crate::units::GroupView;
use crate::{Random, check, score};

/// The scale that both slimming methods start from.
pub(crate) const INITIAL_SCALE: f32 = 0.5;

/// The configuration of [`Slimming`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlimmingConfig {
    /// The weight λ of the penalty; the paper has 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
    pub lambda: f64,
    /// The penalty φ.
    #[serde(default)]
    pub penalty: Penalty,
    /// The shape of the penalties that have one.
    #[serde(default)]
    pub a: Option<f64>,
    /// The share of channels that goes.
    #[serde(default)]
    pub channels: Option<f64>,
    /// Instead of `channels`, the share of the full network's multiply-accumulates that is left.
    #[serde(default)]
    pub macs: Option<f64>,
    /// The epoch after which the channels go and the penalty ends.
    pub end_epoch: f64,
    /// The published code whose count is taken, where `channels` is given.
    #[serde(default)]
    pub compat: Option<Compat>,
}

/// Published code whose count differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// `vggprune.py` of <https://github.com/Eric-mingjie/network-slimming>.
    NetworkSlimming,
}

impl SlimmingConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Slimming, String> {
        check::positive("lambda", self.lambda)?;
        let a = self.penalty.shape(self.a)?;
        if self.penalty == Penalty::L0 {
            return Err("`penalty` is l0, which has no slope for a scale to follow; take another".to_string());
        }
        if self.compat.is_some() && self.channels.is_none() {
            return Err("`compat` counts by `channels`, which is missing".to_string());
        }
        let cut = match (self.channels, self.macs) {
            (Some(share), None) => {
                check::share("channels", share)?;
                if self.compat.is_some() { Cut::Zeros } else { Cut::Share(share) }
            }
            (None, Some(macs)) => check::part("macs", macs).map(|()| Cut::Global { macs })?,
            _ => return Err("one of `channels` and `macs` must say how much goes, and not both".to_string()),
        };
        check::window(0.0, self.end_epoch, 1, horizon)?;
        Ok(Slimming { end: check::iteration(self.end_epoch, horizon), a, cut, config: self, scales: BTreeMap::new() })
    }
}

/// Removes the channels with the smallest scales once.
pub struct Slimming {
    config: SlimmingConfig,
    a: f64,
    cut: Cut,
    end: u64,
    /// The scales of every group after the last step.
    scales: BTreeMap<String, Vec<f32>>,
}

impl Scheduler for Slimming {
    fn about(&self) -> About {
        About {
            name: "slimming",
            citation: "Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network \
                       Slimming (2017), https://arxiv.org/abs/1708.06519",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Scaled
    }

    fn target_macs(&self) -> Option<f64> {
        self.config.macs
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        (clock.iteration == self.end).then(|| Event::cut(self.cut))
    }

    fn start_scales(&mut self, _: &str, scales: &mut [f32], _: &mut Random) {
        scales.fill(INITIAL_SCALE);
    }

    fn penalty(&mut self, clock: &Clock, groups: &mut [GroupScales]) {
        if clock.iteration > self.end {
            return;
        }
        for (scale, gradient) in groups.iter_mut().flat_map(|group| group.scales.iter().zip(&mut group.gradient)) {
            *gradient += self.config.penalty.slope(f64::from(*scale), self.config.lambda, self.a) as f32;
        }
    }

    fn after_step(&mut self, clock: &Clock, group: &str, scales: &mut [f32]) {
        if clock.iteration == self.end {
            self.scales.insert(group.to_string(), scales.to_vec());
        }
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        // Before training there are no scales yet, and all channels are alike.
        let Some(scales) = self.scales.get(&view.group.name) else { return vec![1.0; view.group.units] };
        match (self.config.compat, self.config.channels) {
            (Some(Compat::NetworkSlimming), Some(share)) => {
                let border = threshold(self.scales.values().flatten(), share);
                scales.iter().map(|scale| scale.abs() - border).collect()
            }
            _ => score::magnitude(scales),
        }
    }

    fn keep_units(&mut self, group: &str, _: &Mask) {
        self.scales.remove(group);
    }
}

/// Returns the scale at a percentile, at and below which the official code removes channels.
pub fn threshold<'a>(scales: impl Iterator<Item = &'a f32>, share: f64) -> f32 {
    let mut sizes: Vec<f32> = scales.map(|scale| scale.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    sizes[((sizes.len() as f64 * share) as usize).min(sizes.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_ends_when_the_channels_go() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let table = "lambda = 0.25\nchannels = 0.5\nend_epoch = 1";
        let mut slimming = toml::from_str::<SlimmingConfig>(table).unwrap().init(horizon).unwrap();
        let mut gradient = |iteration| {
            let scales = GroupScales { group: "g".into(), scales: vec![0.5, 0.0, -2.0], gradient: vec![1.0; 3] };
            let mut groups = [scales];
            slimming.penalty(&Clock { iteration, horizon, lr: 0.1 }, &mut groups);
            let [GroupScales { gradient, .. }] = groups;
            gradient
        };
        assert_eq!((gradient(10), gradient(11)), (vec![1.25, 1.0, 0.75], vec![1.0; 3]));
    }

    #[test]
    fn what_goes_is_said_once() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let refused = |table: &str| toml::from_str::<SlimmingConfig>(table).unwrap().init(horizon).err().unwrap();
        assert!(refused("lambda = 1e-4\nend_epoch = 1").contains("one of `channels` and `macs`"));
        assert!(refused("lambda = 1e-4\nend_epoch = 1\nmacs = 0.5\nchannels = 0.5").contains("not both"));
        assert_eq!(
            refused("lambda = 1\npenalty = 'l0'\nchannels = 0.5\nend_epoch = 1"),
            "`penalty` is l0, which has no slope for a scale to follow; take another"
        );
        assert_eq!(
            refused("lambda = 1\ncompat = 'network-slimming'\nmacs = 0.5\nend_epoch = 1"),
            "`compat` counts by `channels`, which is missing"
        );
        assert_eq!(
            refused("lambda = 1\na = 2\nchannels = 0.5\nend_epoch = 1"),
            "`a` belongs to the penalties `tl1`, `mcp` and `scad`"
        );
    }
}
