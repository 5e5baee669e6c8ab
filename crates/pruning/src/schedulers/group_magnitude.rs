//! Gradual channel pruning by magnitude: the baseline of every structured method.
//!
//! Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf: "Pruning Filters for Efficient ConvNets" (2017),
//! <https://arxiv.org/abs/1608.08710>, along the curve of Michael Zhu, Suyog Gupta: "To prune, or not to prune" (2017),
//! <https://arxiv.org/abs/1710.01878>.
//!
//! While a network trains, the channels with the smallest weights go, many early and ever fewer towards the end, and
//! the tensors get smaller with them.
//!
//! ```text
//! m_t = m_f + (1 - m_f) (1 - (t - t_0) / (n dt))^3    for t in {t_0, t_0 + dt, ..., t_0 + n dt}
//! ```
//!
//! `m_t` is the share of the full network's multiply-accumulates that is left, `m_f` is `macs`.
//!
//! Differs from the papers: during training instead of once after it; the score of a channel is the Euclidean norm of all
//! weights that would go with it, those that make it and those that read it (Fang et al. 2023,
//! <https://arxiv.org/abs/2301.12900>), where Li et al. sum the absolute weights of its filter, which `norm = "l1"` does;
//! with `scope = "global"` scores are divided by their mean in the group. The cost is met from below: at most `m_t`.

use serde::{Deserialize, Serialize};

use crate::cadence::Cadence;
use crate::clock::{Clock, Horizon};
use crate::scheduler::{About, Cut, Event, Removes, Scheduler};
use crate::units::GroupView;
use crate::{check, curve, score};

/// The configuration of [`GroupMagnitude`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupMagnitudeConfig {
    /// The share of the full network's multiply-accumulates that is left at the end.
    pub macs: f64,
    /// The epoch of the first event.
    #[serde(default)]
    pub start_epoch: f64,
    /// The epoch by which the last event has happened.
    pub end_epoch: f64,
    /// Iterations from one event to the next.
    pub every: u64,
    /// Which channels compete with each other.
    #[serde(default)]
    pub scope: ChannelScope,
    /// What a channel is scored by.
    #[serde(default)]
    pub norm: Norm,
}

/// What a channel is scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// The Euclidean norm of all weights that would go with it.
    #[default]
    L2,
    /// The sum of the absolute weights of its filter, as Li et al. have it.
    L1,
}

/// Which channels compete with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelScope {
    /// Those of a group; every group loses the same share.
    #[default]
    Uniform,
    /// Those of the whole network.
    Global,
}

impl GroupMagnitudeConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<GroupMagnitude, String> {
        check::part("macs", self.macs)?;
        let cadence = Cadence::new(self.start_epoch, self.end_epoch, self.every, horizon)?;
        Ok(GroupMagnitude { config: self, cadence })
    }
}

/// Removes the channels with the smallest weights along a cubic curve.
pub struct GroupMagnitude {
    config: GroupMagnitudeConfig,
    cadence: Cadence,
}

impl Scheduler for GroupMagnitude {
    fn about(&self) -> About {
        About {
            name: "group-magnitude",
            citation: "Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets (2017), \
                       https://arxiv.org/abs/1608.08710",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Channels
    }

    fn target_macs(&self) -> Option<f64> {
        Some(self.config.macs)
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let progress = self.cadence.progress(clock.iteration)?;
        let macs = curve::cubic(1.0, self.config.macs, progress);
        Some(Event::cut(match self.config.scope {
            ChannelScope::Uniform => Cut::Uniform { macs },
            ChannelScope::Global => Cut::Global { macs },
        }))
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        let scores = match self.config.norm {
            Norm::L2 => view.norms(),
            Norm::L1 => view.filter_sums(),
        };
        score::relative(&scores, view.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_falls_along_the_curve_to_the_target() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let config = GroupMagnitudeConfig {
            macs: 0.5,
            start_epoch: 0.5,
            end_epoch: 2.5,
            every: 10,
            scope: ChannelScope::Global,
            norm: Norm::L1,
        };
        let scheduler = config.init(horizon).unwrap();
        let cuts: Vec<(u64, Cut)> = (1..=40)
            .filter_map(|iteration| Some((iteration, scheduler.due(&Clock { iteration, horizon, lr: 0.1 })?.cut?)))
            .collect();
        let macs = |macs| Cut::Global { macs };
        assert_eq!(cuts, [(5, macs(1.0)), (15, macs(0.5625)), (25, macs(0.5))]);
    }
}
