//! Uniform width: every group keeps the same share of its units from the start, the baseline of every channel method.
//!
//! A network that was never larger, as Zhuang Liu, Mingjie Sun, Tinghui Zhou, Gao Huang, Trevor Darrell: "Rethinking the
//! Value of Network Pruning" (2019), <https://arxiv.org/abs/1810.05270>, hold against pruning: what a method finds must beat
//! the same cost spread evenly.
//!
//! ```text
//! largest p with MACs(p) ≤ m · MACs(1),    each group of C units keeps round(p C)
//! ```
//!
//! Differs from the paper: weights that stay are drawn as those of the full network, whose fan-in is larger; batch
//! normalisation makes up for the factor where there is one.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::clock::{Clock, Horizon};
use crate::scheduler::{About, Cut, Event, Removes, Scheduler, Start};
use crate::score;
use crate::units::GroupView;

/// The configuration of [`UniformWidth`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniformWidthConfig {
    /// The share of the full network's multiply-accumulates that is left.
    pub macs: f64,
    /// Which units stay.
    #[serde(default)]
    pub keep: Keep,
}

/// Which units stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The first of each group.
    #[default]
    First,
    /// Those with the largest initial weights.
    Largest,
}

impl UniformWidthConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, _: Horizon) -> Result<UniformWidth, String> {
        check::part("macs", self.macs)?;
        Ok(UniformWidth { config: self })
    }
}

/// Narrows every group alike before the first step.
pub struct UniformWidth {
    config: UniformWidthConfig,
}

impl Scheduler for UniformWidth {
    fn about(&self) -> About {
        About {
            name: "uniform-width",
            citation: "Liu, Sun, Zhou, Huang, Darrell: Rethinking the Value of Network Pruning (2019), \
                       https://arxiv.org/abs/1810.05270",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Channels
    }

    fn target_macs(&self) -> Option<f64> {
        Some(self.config.macs)
    }

    fn start(&self) -> Start {
        Start::Cut(Cut::Uniform { macs: self.config.macs })
    }

    fn due(&self, _: &Clock) -> Option<Event> {
        None
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        match self.config.keep {
            // Of equal scores the lower index stays.
            Keep::First => vec![1.0; view.group.units],
            Keep::Largest => score::relative(&view.norms(), view.kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_before_the_first_step() {
        let run = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let scheduler = UniformWidthConfig { macs: 0.5, keep: Keep::First }.init(run).unwrap();
        assert_eq!(scheduler.start(), Start::Cut(Cut::Uniform { macs: 0.5 }));
        assert!((0..=40).all(|iteration| scheduler.due(&Clock { iteration, horizon: run, lr: 0.1 }).is_none()));
        let error = UniformWidthConfig { macs: 0.0, keep: Keep::First }.init(run).err().unwrap();
        assert_eq!(error, "`macs` is 0, but must be above 0 and at most 1");
    }
}
