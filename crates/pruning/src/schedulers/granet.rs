//! Gradual pruning with zero-cost neuroregeneration (GraNet).
//!
//! Shiwei Liu, Tianlong Chen, Xiaohan Chen, Zahra Atashgahi, Lu Yin, Huanyu Kou, Li Shen, Mykola Pechenizkiy, Zhangyang
//! Wang, Decebal Constantin Mocanu: "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration" (2021),
//! <https://arxiv.org/abs/2106.10404>. Code: <https://github.com/VITA-Group/GraNet>.
//!
//! A network that is pruned gradually recovers better when it may also regrow. After each pruning step the smallest
//! weights of every layer that are left give their places to those removed ones whose gradient is largest, so the
//! count stays. Training starts dense, or, with `initial_sparsity`, from a random sparse network.
//!
//! ```text
//! s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3                     prune, by |w| of the whole network
//! p_t = p_min + (p_0 - p_min) (1 + cos(pi t / T)) / 2                    replace, per layer: drop by |w|, grow by |g|
//! ```
//!
//! `s_i` is `initial_sparsity`, `s_f` is `sparsity`, `dt` is `every`, `p_0` is `replace`, `p_min` is `replace_min` and
//! `T` the length of the training. Pruning ends at `end_epoch`, replacement goes on at the same interval. A sparse start
//! follows Erdős-Rényi-Kernel.
//!
//! Differs from the paper: nothing is left empty, every layer keeps its floor; a layer with fewer removed weights than
//! `p_t` asks for replaces only as many, so dense layers stay as they are. What grows starts at zero, also where it was
//! dropped a moment before.
//!
//! Differs from the code, which is `compat = "granet-cifar"`: there, events are the multiples of `every`, and the last
//! one to prune misses the target, since step `n` of `n` never comes; pruning to `k` weights keeps those *above* the
//! k-th largest, so k - 1 and no ties; the number of dropped weights is rounded up; a weight that is dropped and grown
//! in one event keeps value and momentum; a sparse start draws every weight on its own, so its count is met only on
//! average; and a layer can be emptied.

use serde::{Deserialize, Serialize};

use crate::allocation::Allocation;
use crate::cadence::Cadence;
use crate::clock::{Clock, Horizon};
use crate::layer::Layer;
use crate::scheduler::{About, Event, Rules, Scheduler, Start};
use crate::{check, curve};

/// The configuration of [`Granet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GranetConfig {
    /// The share of weights removed at the end.
    pub sparsity: f64,
    /// The share of weights removed before training, at random; 0 starts dense.
    #[serde(default)]
    pub initial_sparsity: f64,
    /// The epoch of the first event.
    #[serde(default)]
    pub start_epoch: f64,
    /// The epoch by which the last pruning has happened.
    pub end_epoch: f64,
    /// Iterations from one event to the next.
    pub every: u64,
    /// The share of a layer's kept weights that is replaced, at the start of training.
    #[serde(default = "replace")]
    pub replace: f64,
    /// The share that is replaced at the end of training.
    #[serde(default = "replace_min")]
    pub replace_min: f64,
    /// Follows published code where it differs from the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
}

/// The published code to follow where it differs from the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// `CIFAR/sparselearning/core.py` of the authors' repository.
    GranetCifar,
}

fn replace() -> f64 {
    0.5
}

fn replace_min() -> f64 {
    0.005
}

impl GranetConfig {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<Granet, String> {
        check::share("sparsity", self.sparsity)?;
        check::share("initial_sparsity", self.initial_sparsity)?;
        check::at_most("initial_sparsity", self.initial_sparsity, "sparsity", self.sparsity)?;
        check::share("replace", self.replace)?;
        check::share("replace_min", self.replace_min)?;
        check::at_most("replace_min", self.replace_min, "replace", self.replace)?;
        let cadence = Cadence::new(self.start_epoch, self.end_epoch, self.every, horizon)?;
        let granet = Granet { config: self, cadence, horizon };
        if granet.config.compat.is_some() && granet.steps().0.max(1) >= granet.steps().1 {
            return Err(
                "`every` leaves no event between `start_epoch` and `end_epoch` by the rules of `compat`".to_string()
            );
        }
        Ok(granet)
    }
}

/// Prunes gradually and regrows by gradient after each step.
pub struct Granet {
    config: GranetConfig,
    cadence: Cadence,
    horizon: Horizon,
}

impl Granet {
    /// The share of weights replaced at an iteration.
    fn share(&self, iteration: u64) -> f64 {
        let progress = (iteration as f64 / self.horizon.total() as f64).min(1.0);
        curve::cosine(self.config.replace, self.config.replace_min, progress)
    }

    /// The sparsity that an iteration prunes to.
    fn sparsity(&self, iteration: u64) -> Option<f64> {
        let (s_i, s_f) = (self.config.initial_sparsity, self.config.sparsity);
        if self.config.compat.is_none() {
            return self.cadence.progress(iteration).map(|progress| curve::cubic(s_i, s_f, progress));
        }
        let (first, last) = self.steps();
        let step = iteration / self.config.every;
        let progress = step.checked_sub(first)? as f64 / last.checked_sub(first)? as f64;
        // As the code writes it: its step `last` never prunes.
        (step < last).then(|| s_i + ((1.0 - s_i) - (1.0 - s_f)) * (1.0 - (1.0 - progress).powi(3)))
    }

    /// The first and the last step of the code's schedule, in intervals of `every` since the start of training.
    fn steps(&self) -> (u64, u64) {
        let step = |epoch: f64| (epoch * self.horizon.iterations_per_epoch as f64 / self.config.every as f64) as u64;
        (step(self.config.start_epoch), step(self.config.end_epoch))
    }

    /// Says whether an iteration prunes or replaces.
    fn acts(&self, iteration: u64) -> bool {
        match self.config.compat {
            None => self.cadence.continues(iteration),
            Some(Compat::GranetCifar) => {
                iteration.is_multiple_of(self.config.every) && iteration >= self.cadence.start()
            }
        }
    }
}

impl Scheduler for Granet {
    fn about(&self) -> About {
        About {
            name: "granet",
            citation: "Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang, Mocanu: Sparse Training via \
                       Boosting Pruning Plasticity with Neuroregeneration (2021), https://arxiv.org/abs/2106.10404",
        }
    }

    fn start(&self) -> Start {
        match self.config.initial_sparsity {
            0.0 => Start::Dense,
            sparsity => Start::Random { sparsity, allocation: Allocation::Erk },
        }
    }

    fn target(&self) -> f64 {
        self.config.sparsity
    }

    fn rules(&self) -> Rules {
        match self.config.compat {
            None => Rules::Exact,
            Some(Compat::GranetCifar) => Rules::GranetCifar,
        }
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let t = clock.iteration;
        self.acts(t).then(|| Event {
            sparsity: self.sparsity(t),
            replace: Some(self.share(t)),
            keep_regrown: self.config.compat.is_some(),
            skips_step: false,
            dense_gradients: true,
            ..Event::default()
        })
    }

    fn allocate(&mut self, _: &[Layer]) -> Allocation {
        Allocation::Global
    }

    fn observe(&self, clock: &Clock) -> Vec<(String, f64)> {
        vec![("replace".to_string(), self.share(clock.iteration))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 8 };

    fn granet(compat: Option<Compat>) -> GranetConfig {
        GranetConfig {
            sparsity: 0.9,
            initial_sparsity: 0.5,
            start_epoch: 0.0,
            end_epoch: 4.0,
            every: 10,
            replace: 0.5,
            replace_min: 0.005,
            compat,
        }
    }

    fn events(config: GranetConfig) -> Vec<(u64, Option<f64>, f64)> {
        let granet = config.init(RUN).unwrap();
        let rounded = |x: f64| (x * 1e6).round() / 1e6;
        let event = |iteration| Some((iteration, granet.due(&Clock { iteration, horizon: RUN, lr: 0.1 })?));
        (1..=80)
            .filter_map(event)
            .map(|(t, event)| (t, event.sparsity.map(rounded), rounded(event.replace.unwrap())))
            .collect()
    }

    #[test]
    fn pruning_reaches_its_target_and_replacement_goes_on() {
        let events = events(granet(None));
        assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [10, 20, 30, 40, 50, 60, 70, 80]);
        assert_eq!(
            events[..5].iter().map(|event| event.1).collect::<Vec<_>>(),
            [Some(0.73125), Some(0.85), Some(0.89375), Some(0.9), None]
        );
        assert_eq!((events[3].2, events[7].2), (0.2525, 0.005));
    }

    #[test]
    fn the_code_misses_its_target_by_one_step() {
        let events = events(granet(Some(Compat::GranetCifar)));
        assert_eq!(
            events[..4].iter().map(|event| event.1).collect::<Vec<_>>(),
            [Some(0.73125), Some(0.85), Some(0.89375), None]
        );
        let short = GranetConfig { end_epoch: 1.0, ..granet(Some(Compat::GranetCifar)) };
        assert!(short.init(RUN).is_err());
    }

    #[test]
    fn a_later_start_keeps_pruning_and_replacement_in_step() {
        let events = events(GranetConfig { start_epoch: 0.5, ..granet(None) });
        assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [5, 15, 25, 35, 45, 55, 65, 75]);
        assert_eq!((events[0].1, events[3].1, events[4].1), (Some(0.5), Some(0.9), None));
    }
}
