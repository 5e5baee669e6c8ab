//! Says where a training run stands, in whole optimizer steps.

use serde::{Deserialize, Serialize};

/// The length of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    /// Optimizer steps in one epoch.
    pub iterations_per_epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u64,
}

impl Horizon {
    /// Returns the number of optimizer steps of the whole run.
    pub fn total(&self) -> u64 {
        self.iterations_per_epoch.saturating_mul(self.epochs)
    }
}

/// The moment at which a scheduler is asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// The number of the optimizer step being taken, counted from 1; 0 is before training.
    pub iteration: u64,
    /// The length of the run.
    pub horizon: Horizon,
    /// The learning rate of this step.
    pub lr: f64,
}

impl Clock {
    /// Returns the epoch of this step, counted from 0.
    pub fn epoch(&self) -> u64 {
        self.iteration.saturating_sub(1) / self.horizon.iterations_per_epoch.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_of_an_epoch_still_belongs_to_it() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 3 };
        let epoch = |iteration| Clock { iteration, horizon, lr: 0.1 }.epoch();
        assert_eq!([0, 1, 10, 11, 30].map(epoch), [0, 0, 0, 1, 2]);
        assert_eq!(horizon.total(), 30);
    }
}
