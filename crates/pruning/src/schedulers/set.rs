//! Sparse evolutionary training (SET).
//!
//! Decebal Constantin Mocanu, Elena Mocanu, Peter Stone, Phuong H. Nguyen, Madeleine Gibescu, Antonio Liotta: "Scalable
//! training of artificial neural networks with adaptive sparse connectivity inspired by network science" (2018),
//! <https://arxiv.org/abs/1707.04780>.
//!
//! A network is sparse from the first step. At intervals a share `zeta` of every layer's weights, the smallest, is
//! dropped, and as many are grown at random places, at zero. No dense gradient is ever needed.
//!
//! ```text
//! drop zeta of the weights of each layer by |w|, grow as many at random, at t in {dt, 2 dt, ...} before the last step
//! ```
//!
//! `zeta` is `drop` and `dt` is `every`; the paper's interval is an epoch.
//!
//! Differs from the paper: the smallest weights go by magnitude, as in the comparison of the RigL paper, and not apart
//! by sign; layers start with Erdős-Rényi-Kernel densities, which count the kernel. A weight that is dropped and drawn
//! again in one event keeps its value and momentum.

use serde::{Deserialize, Serialize};

use crate::allocation::Spread;
use crate::clock::{Clock, Horizon};
use crate::layer::Layer;
use crate::scheduler::{About, Event, Scheduler, Start};
use crate::{Random, check, score};

/// The configuration of [`Set`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// The share of weights that is removed throughout.
    pub sparsity: f64,
    /// How the kept weights are shared among the layers.
    #[serde(default)]
    pub allocation: Spread,
    /// Iterations from one event to the next.
    pub every: u64,
    /// The share of a layer's weights that is replaced.
    #[serde(default = "drop")]
    pub drop: f64,
}

fn drop() -> f64 {
    0.3
}

impl SetConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Set, String> {
        check::share("sparsity", self.sparsity)?;
        check::share("drop", self.drop)?;
        check::window(0.0, horizon.epochs as f64, self.every, horizon)?;
        let end = horizon.total();
        if self.every >= end {
            return Err(format!(
                "`every` is {}, but the run has {end} iterations, so nothing would be replaced",
                self.every
            ));
        }
        Ok(Set { config: self, end })
    }
}

/// Replaces small weights by random ones.
pub struct Set {
    config: SetConfig,
    end: u64,
}

impl Scheduler for Set {
    fn about(&self) -> About {
        About {
            name: "set",
            citation: "Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta: Scalable training of artificial neural networks \
                       with adaptive sparse connectivity inspired by network science (2018), \
                       https://arxiv.org/abs/1707.04780",
        }
    }

    fn start(&self) -> Start {
        Start::Random { sparsity: self.config.sparsity, allocation: self.config.allocation.into() }
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let t = clock.iteration;
        let due = t > 0 && t < self.end && t.is_multiple_of(self.config.every);
        due.then(|| Event::replace(self.config.drop).keeping_regrown())
    }

    fn grow_score(&mut self, layer: &Layer, random: &mut Random) -> Vec<f32> {
        score::random(layer.weights.len(), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_happens_at_intervals_but_not_at_the_end() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let set = SetConfig { sparsity: 0.9, allocation: Spread::Erk, every: 10, drop: 0.3 }.init(horizon).unwrap();
        let due = |iteration: &u64| set.due(&Clock { iteration: *iteration, horizon, lr: 0.1 }).is_some();
        assert_eq!((0..=40).filter(due).collect::<Vec<_>>(), [10, 20, 30]);
    }
}
