//! The rigged lottery (RigL).
//!
//! Utku Evci, Trevor Gale, Jacob Menick, Pablo Samuel Castro, Erich Elsen: "Rigging the Lottery: Making All Tickets
//! Winners" (2020), <https://arxiv.org/abs/1911.11134>. Code: <https://github.com/google-research/rigl>.
//!
//! A network is sparse from the first step and keeps its number of weights in every layer. At intervals the smallest
//! weights are dropped and as many are grown where the gradient is largest, at zero; the optimizer step of that
//! iteration is left out.
//!
//! ```text
//! f_t = alpha / 2 (1 + cos(pi t / T_end))    of a layer's weights are replaced, for t in {dt, 2 dt, ...} before T_end
//! ```
//!
//! `alpha` is `drop`, `dt` is `every` and `T_end` is `end_epoch`, three quarters of the training by default.
//!
//! Differs from the paper: `allocation = "uniform"` keeps the first layer dense as in the paper, but makes the other
//! layers a little sparser for it, so that the whole network has exactly `sparsity`; where the total has no room for a
//! dense first layer, it is treated as the others. Counts are rounded to the nearest weight. As in the authors' code, a
//! weight that is dropped and grown in one event keeps its value and momentum.

use serde::{Deserialize, Serialize};

use crate::allocation::Spread;
use crate::clock::{Clock, Horizon};
use crate::scheduler::{About, Event, Scheduler, Start};
use crate::{check, curve};

/// The configuration of [`Rigl`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiglConfig {
    /// The share of weights that is removed throughout.
    pub sparsity: f64,
    /// How the kept weights are shared among the layers.
    #[serde(default)]
    pub allocation: Spread,
    /// Iterations from one event to the next.
    pub every: u64,
    /// The epoch before which the last event happens; three quarters of the training without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_epoch: Option<f64>,
    /// The share of a layer's weights that is replaced, at the start of training.
    #[serde(default = "drop")]
    pub drop: f64,
}

fn drop() -> f64 {
    0.3
}

impl RiglConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Rigl, String> {
        check::share("sparsity", self.sparsity)?;
        check::share("drop", self.drop)?;
        let end_epoch = self.end_epoch.unwrap_or(0.75 * horizon.epochs as f64);
        check::window(0.0, end_epoch, self.every, horizon)?;
        let end = check::iteration(end_epoch, horizon);
        if self.every >= end {
            return Err(format!(
                "`every` is {}, but `end_epoch` {end_epoch} comes at iteration {end}, so nothing would be replaced",
                self.every
            ));
        }
        Ok(Rigl { config: self, end })
    }
}

/// Replaces small weights by those with large gradients.
pub struct Rigl {
    config: RiglConfig,
    end: u64,
}

impl Rigl {
    /// The share of weights replaced at an iteration.
    fn share(&self, iteration: u64) -> f64 {
        curve::cosine(self.config.drop, 0.0, (iteration as f64 / self.end as f64).min(1.0))
    }
}

impl Scheduler for Rigl {
    fn about(&self) -> About {
        About {
            name: "rigl",
            citation: "Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery: Making All Tickets Winners (2020), \
                       https://arxiv.org/abs/1911.11134",
        }
    }

    fn start(&self) -> Start {
        Start::Random { sparsity: self.config.sparsity, allocation: self.config.allocation.into() }
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let t = clock.iteration;
        (t > 0 && t < self.end && t.is_multiple_of(self.config.every)).then(|| Event {
            sparsity: None,
            replace: Some(self.share(t)),
            keep_regrown: true,
            skips_step: true,
            dense_gradients: true,
            ..Event::default()
        })
    }

    fn observe(&self, clock: &Clock) -> Vec<(String, f64)> {
        vec![("drop".to_string(), self.share(clock.iteration))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_falls_along_a_cosine_and_ends_before_the_end() {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 8 };
        let config = RiglConfig { sparsity: 0.9, allocation: Spread::Erk, every: 15, end_epoch: None, drop: 0.3 };
        let rigl = config.init(horizon).unwrap();
        let events: Vec<(u64, f64)> = (1..=80)
            .filter_map(|iteration| Some((iteration, rigl.due(&Clock { iteration, horizon, lr: 0.1 })?.replace?)))
            .collect();
        let expected = [(15, 0.256066017), (30, 0.15), (45, 0.043933983)];
        assert_eq!(events.len(), 3);
        for ((t, p), (expected_t, expected_p)) in events.into_iter().zip(expected) {
            assert!(t == expected_t && (p - expected_p).abs() < 1e-9, "{t}: {p}");
        }
    }

    #[test]
    fn an_interval_as_long_as_the_schedule_is_refused() {
        let config = RiglConfig { sparsity: 0.9, allocation: Spread::Erk, every: 60, end_epoch: None, drop: 0.3 };
        let error = config.init(Horizon { iterations_per_epoch: 10, epochs: 8 }).err().unwrap();
        assert_eq!(error, "`every` is 60, but `end_epoch` 6 comes at iteration 60, so nothing would be replaced");
    }
}
