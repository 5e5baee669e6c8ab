//! Gradual magnitude pruning (GMP).
//!
//! Michael Zhu, Suyog Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression"
//! (2017), <https://arxiv.org/abs/1710.01878>.
//!
//! While a network trains, its smallest weights are removed a few at a time: many early, when most are redundant, and
//! ever fewer towards the end. Removed weights never return.
//!
//! ```text
//! s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3    for t in {t_0, t_0 + dt, ..., t_0 + n dt}
//! ```
//!
//! `s_i` is `initial_sparsity`, `s_f` is `sparsity`, `t_0` is `start_epoch`, `dt` is `every`, and `n` is as many
//! intervals as fit before `end_epoch`.
//!
//! Differs from the paper: every layer is pruned, the first and the last included, unless the experiment excludes it;
//! the counts of the layers are rounded together, so that the whole network has exactly `s_t`. `scope = "global"`, which
//! other papers call GMP too, ranks the weights of all layers together; `scope = "lamp"` does so by the score of Lee et
//! al. 2021 ([`score::lamp`]).

use serde::{Deserialize, Serialize};

use crate::allocation::Allocation;
use crate::cadence::Cadence;
use crate::clock::{Clock, Horizon};
use crate::layer::Layer;
use crate::scheduler::{About, Event, Scheduler, Start};
use crate::{Random, check, curve, score};

/// The configuration of [`Gmp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GmpConfig {
    /// The share of weights removed at the end.
    pub sparsity: f64,
    /// The share of weights removed by the first event.
    #[serde(default)]
    pub initial_sparsity: f64,
    /// The epoch of the first event.
    #[serde(default)]
    pub start_epoch: f64,
    /// The epoch by which the last event has happened.
    pub end_epoch: f64,
    /// Iterations from one event to the next.
    pub every: u64,
    /// Which weights compete with each other.
    #[serde(default)]
    pub scope: Scope,
}

/// Which weights compete with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those of a layer; every layer has the same sparsity.
    #[default]
    Layer,
    /// Those of the whole network.
    Global,
    /// Those of the whole network, by their LAMP score, which makes layers comparable.
    Lamp,
}

impl GmpConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Gmp, String> {
        check::share("sparsity", self.sparsity)?;
        check::share("initial_sparsity", self.initial_sparsity)?;
        check::at_most("initial_sparsity", self.initial_sparsity, "sparsity", self.sparsity)?;
        let cadence = Cadence::new(self.start_epoch, self.end_epoch, self.every, horizon)?;
        Ok(Gmp { config: self, cadence })
    }
}

/// Removes the smallest weights along a cubic curve.
pub struct Gmp {
    config: GmpConfig,
    cadence: Cadence,
}

impl Scheduler for Gmp {
    fn about(&self) -> About {
        About {
            name: "gmp",
            citation: "Zhu, Gupta: To prune, or not to prune: exploring the efficacy of pruning for model compression \
                       (2017), https://arxiv.org/abs/1710.01878",
        }
    }

    fn start(&self) -> Start {
        // An event at iteration 0 falls before the first step.
        if self.cadence.start() == 0 && self.config.initial_sparsity > 0.0 {
            Start::Scored { sparsity: self.config.initial_sparsity }
        } else {
            Start::Dense
        }
    }

    fn target(&self) -> f64 {
        self.config.sparsity
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let progress = self.cadence.progress(clock.iteration)?;
        Some(Event::prune(curve::cubic(self.config.initial_sparsity, self.config.sparsity, progress)))
    }

    fn allocate(&mut self, _: &[Layer]) -> Allocation {
        match self.config.scope {
            Scope::Layer => Allocation::Uniform,
            Scope::Global | Scope::Lamp => Allocation::Global,
        }
    }

    fn score(&mut self, layer: &Layer, _: &mut Random) -> Vec<f32> {
        match self.config.scope {
            Scope::Layer | Scope::Global => score::magnitude(layer.weights),
            Scope::Lamp => score::lamp(layer.weights, layer.mask),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparsity_follows_the_papers_formula() {
        let horizon = Horizon { iterations_per_epoch: 100, epochs: 20 };
        let config = GmpConfig {
            sparsity: 0.95,
            initial_sparsity: 0.5,
            start_epoch: 2.5,
            end_epoch: 13.0,
            every: 250,
            scope: Scope::Layer,
        };
        let gmp = config.init(horizon).unwrap();
        let events: Vec<(u64, f64)> = (1..=2000)
            .filter_map(|iteration| Some((iteration, gmp.due(&Clock { iteration, horizon, lr: 0.1 })?.sparsity?)))
            .collect();
        let expected = [(250, 0.5), (500, 0.76015625), (750, 0.89375), (1000, 0.94296875), (1250, 0.95)];
        assert_eq!(events.len(), expected.len());
        for ((t, s), (expected_t, expected_s)) in events.into_iter().zip(expected) {
            assert!(t == expected_t && (s - expected_s).abs() < 1e-12, "{t}: {s}");
        }
    }
}
