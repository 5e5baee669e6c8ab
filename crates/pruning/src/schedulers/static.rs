//! Static sparse training: a random sparse network that stays as it is.
//!
//! The baseline of Utku Evci, Trevor Gale, Jacob Menick, Pablo Samuel Castro, Erich Elsen: "Rigging the Lottery: Making
//! All Tickets Winners" (2020), <https://arxiv.org/abs/1911.11134>.
//!
//! Weights at random places are removed before training, and the masks never change. `allocation` says how many each
//! layer keeps: `"erk"` by its number of inputs and outputs, `"uniform"` the same share everywhere.
//!
//! ```text
//! d_l = eps (n_in + n_out + k_w + k_h) / (n_in n_out k_w k_h)    for "erk", at most 1
//! ```
//!
//! Differs from the paper: under `"uniform"` the first layer is dense as in the paper, and the others are a little
//! sparser for it, so that the whole network has exactly `sparsity`; where the total has no room for a dense first
//! layer, it is treated as the others.

use serde::{Deserialize, Serialize};

use crate::allocation::Spread;
use crate::check;
use crate::clock::{Clock, Horizon};
use crate::scheduler::{About, Event, Scheduler, Start};

/// The configuration of [`Static`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// The share of weights that is removed throughout.
    pub sparsity: f64,
    /// How the kept weights are shared among the layers.
    #[serde(default)]
    pub allocation: Spread,
    /// Whether masks are brought from elsewhere, as those of a finished run, so that none are drawn.
    #[serde(default)]
    pub given: bool,
}

impl StaticConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, _: Horizon) -> Result<Static, String> {
        check::share("sparsity", self.sparsity)?;
        Ok(Static { config: self })
    }
}

/// Keeps the masks of the start.
pub struct Static {
    config: StaticConfig,
}

impl Scheduler for Static {
    fn about(&self) -> About {
        About {
            name: "static",
            citation: "a baseline of Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery: Making All Tickets Winners \
                       (2020), https://arxiv.org/abs/1911.11134",
        }
    }

    fn start(&self) -> Start {
        if self.config.given {
            return Start::Dense;
        }
        Start::Random { sparsity: self.config.sparsity, allocation: self.config.allocation.into() }
    }

    fn target(&self) -> f64 {
        self.config.sparsity
    }

    fn due(&self, _: &Clock) -> Option<Event> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Allocation;

    #[test]
    fn everything_happens_before_training() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let fixed = StaticConfig { sparsity: 0.9, allocation: Spread::Uniform, given: false }.init(horizon).unwrap();
        assert_eq!(fixed.start(), Start::Random { sparsity: 0.9, allocation: Allocation::UniformFirstDense });
        let given = StaticConfig { sparsity: 0.9, allocation: Spread::Erk, given: true }.init(horizon).unwrap();
        assert_eq!((given.start(), given.target()), (Start::Dense, 0.9));
        assert!((0..=40).all(|iteration| fixed.due(&Clock { iteration, horizon, lr: 0.1 }).is_none()));
    }
}
