//! No pruning: the baseline, as a scheduler like any other, so that nothing else needs a special case.

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Horizon};
use crate::scheduler::{About, Event, Scheduler};

/// The configuration of [`Dense`], which has nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseConfig {}

impl DenseConfig {
    /// Returns the scheduler.
    ///
    /// # Errors
    ///
    /// Never; it has the form of the others.
    pub fn init(self, _: Horizon) -> Result<Dense, String> {
        Ok(Dense)
    }
}

/// Keeps every weight.
pub struct Dense;

impl Scheduler for Dense {
    fn about(&self) -> About {
        About { name: "dense", citation: "no pruning, the baseline of every method" }
    }

    fn due(&self, _: &Clock) -> Option<Event> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ever_due() {
        let horizon = Horizon { iterations_per_epoch: 2, epochs: 2 };
        let dense = DenseConfig {}.init(horizon).unwrap();
        assert!((0..=4).all(|iteration| dense.due(&Clock { iteration, horizon, lr: 0.1 }).is_none()));
    }
}
