//! Sparse group L0: filters are penalised as groups, and their weights follow a sparse copy of themselves.
//!
//! Kevin Bui, Fredrick Park, Shuai Zhang, Yingyong Qi, Jack Xin: "Structured Sparsity of Convolutional Neural Networks via
//! Nonconvex Sparse Group Regularization" (2021), <https://doi.org/10.3389/fams.2020.529564>, by the relaxed variable
//! splitting method (RVSM) of Thu Dinh, Jack Xin (2018), <https://arxiv.org/abs/1812.02877>.
//!
//! ```text
//! min L(w) + λ Σ_g √#g ‖w_g‖₂ + λ Σ φ(u) + β/2 ‖w − u‖²       g: one filter
//! w ← optimizer step on L + group term + β/2 ‖w − u‖²,    u ← prox_{(λ/β) φ}(w),    β ← growth · β every `every` steps
//! ```
//!
//! At `end_epoch` units go whose filter has a mean absolute weight of at most 1e-5 (or, with `macs`, those with the smallest
//! mean, divided by that of their group, of the whole network until the cost is met), the penalty ends, and training goes on.
//!
//! Only filters that make the units of prunable groups are penalised: the first convolution of each block of a residual
//! network, as in the paper. `u` follows from the weights, so it is computed where it is read and kept nowhere: `β (w − u)` is
//! the slope of the Moreau envelope of `λ φ`.
//!
//! Differs from the paper: its λ and β are divided by the number of training records, ours are what multiplies the gradient;
//! `u` starts at the proximal map of the initial weights instead of between 0 and 1 by chance, which is one step's
//! difference. The paper leaves the group term to its subgradient, which sends no filter to zero exactly; `group = "prox"`
//! applies its proximal map after the step instead. Removing single weights, the paper's other aim, is left to other methods.

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Horizon};
use crate::graph::LayerSpec;
use crate::proximal::Penalty;
use crate::scheduler::{About, Cut, Event, Removes, Scheduler};
use crate::units::GroupView;
use crate::{check, score};

/// The mean absolute weight up to which a filter counts as zero.
const ZERO: f32 = 1e-5;

/// The configuration of [`SparseGroupL0`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseGroupL0Config {
    /// The weight λ of both penalties; the paper's for a wide ResNet is 1e-3 over 50,000 records, 2e-8.
    pub lambda: f64,
    /// The weight β that ties weights and copies together at first; the paper's for a wide ResNet is 0.04 over 50,000
    /// records, 8e-7.
    pub beta: f64,
    /// What β grows by.
    #[serde(default = "usual_growth")]
    pub growth: f64,
    /// Iterations from one growth of β to the next; the paper's for a wide ResNet are those of 20 epochs.
    pub every: u64,
    /// The penalty φ on single weights.
    #[serde(default = "usual_penalty")]
    pub penalty: Penalty,
    /// The shape of the penalties that have one.
    #[serde(default)]
    pub a: Option<f64>,
    /// How the penalty on filters is applied.
    #[serde(default)]
    pub group: GroupTerm,
    /// The epoch after which the channels go and the penalty ends.
    pub end_epoch: f64,
    /// The share of the full network's multiply-accumulates that is left; absent: what the penalty reached.
    #[serde(default)]
    pub macs: Option<f64>,
}

fn usual_growth() -> f64 {
    1.25
}

fn usual_penalty() -> Penalty {
    Penalty::L0
}

/// How the penalty on filters is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupTerm {
    /// Its subgradient is added to that of the loss, as in the paper.
    #[default]
    Subgradient,
    /// Its proximal map is applied after the optimizer step, which makes filters exactly zero.
    Prox,
}

impl SparseGroupL0Config {
    /// Checks the configuration and returns the scheduler.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn init(self, horizon: Horizon) -> Result<SparseGroupL0, String> {
        check::positive("lambda", self.lambda)?;
        check::positive("beta", self.beta)?;
        if !(1.0..=1e3).contains(&self.growth) {
            return Err(format!("`growth` is {}, but must lie between 1 and 1000", self.growth));
        }
        let a = self.penalty.shape(self.a)?;
        self.macs.map_or(Ok(()), |macs| check::part("macs", macs))?;
        check::window(0.0, self.end_epoch, self.every, horizon)?;
        let end = check::iteration(self.end_epoch, horizon);
        // Times the largest learning rate there is, β must stay a number that f32 holds.
        let growths = (end / self.every).min(i32::MAX as u64) as i32;
        let last = self.beta * self.growth.powi(growths);
        if last.is_nan() || last > 1e30 {
            return Err(format!("`beta` grows to {last:e} by `end_epoch`, but must stay below 1e30: raise `every`"));
        }
        Ok(SparseGroupL0 { a, end, config: self })
    }
}

/// Removes the filters that a penalty on groups of weights has emptied.
pub struct SparseGroupL0 {
    config: SparseGroupL0Config,
    a: f64,
    end: u64,
}

impl SparseGroupL0 {
    /// Returns β at an iteration, counted from 1.
    fn beta(&self, iteration: u64) -> f64 {
        let growths = iteration.saturating_sub(1) / self.config.every;
        self.config.beta * self.config.growth.powi(growths.min(i32::MAX as u64) as i32)
    }

    /// Returns `u`, the sparse copy of a weight, where the weight β ties the two.
    pub fn copy(&self, weight: f64, beta: f64) -> f64 {
        self.config.penalty.prox(weight, self.config.lambda / beta, self.a)
    }
}

/// Applies the proximal map of `μ ‖w‖₂` to a filter, which gets shorter by `μ` or becomes zero.
pub fn group_prox(filter: &mut [f32], mu: f64) {
    let norm = norm(filter);
    let factor = if norm > mu { 1.0 - mu / norm } else { 0.0 };
    filter.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
}

fn norm(filter: &[f32]) -> f64 {
    filter.iter().map(|weight| f64::from(*weight).powi(2)).sum::<f64>().sqrt()
}

impl Scheduler for SparseGroupL0 {
    fn about(&self) -> About {
        About {
            name: "sparse-group-l0",
            citation: "Bui, Park, Zhang, Qi, Xin: Structured Sparsity of Convolutional Neural Networks via Nonconvex \
                       Sparse Group Regularization (2021), https://doi.org/10.3389/fams.2020.529564",
        }
    }

    fn removes(&self) -> Removes {
        Removes::Channels
    }

    fn target_macs(&self) -> Option<f64> {
        self.config.macs
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let cut = self.config.macs.map_or(Cut::Zeros, |macs| Cut::Global { macs });
        (clock.iteration == self.end).then(|| Event::cut(cut))
    }

    fn shapes_weights(&self, clock: &Clock) -> bool {
        clock.iteration <= self.end
    }

    fn weight_penalty(&mut self, clock: &Clock, layer: &LayerSpec, weights: &[f32], gradient: &mut [f32]) {
        // The copies are those of the last step, when β may have been smaller.
        let (before, beta) = (self.beta(clock.iteration.saturating_sub(1)), self.beta(clock.iteration));
        let group = self.config.lambda * (layer.width() as f64).sqrt();
        for (filter, gradient) in weights.chunks(layer.width()).zip(gradient.chunks_mut(layer.width())) {
            let norm = norm(filter);
            let slope = match self.config.group {
                GroupTerm::Subgradient if norm > 0.0 => group / norm,
                _ => 0.0,
            };
            for (gradient, weight) in gradient.iter_mut().zip(filter) {
                let weight = f64::from(*weight);
                *gradient += (beta * (weight - self.copy(weight, before)) + slope * weight) as f32;
            }
        }
    }

    fn after_weight_step(&mut self, clock: &Clock, layer: &LayerSpec, weights: &mut [f32]) {
        if self.config.group == GroupTerm::Prox {
            let mu = clock.lr * self.config.lambda * (layer.width() as f64).sqrt();
            weights.chunks_mut(layer.width()).for_each(|filter| group_prox(filter, mu));
        }
    }

    fn score_units(&mut self, view: &GroupView) -> Vec<f32> {
        let means = view.filter_means();
        match self.config.macs {
            // Layers differ in the size of their weights from the start.
            Some(_) => score::relative(&means, view.kept),
            None => means.into_iter().map(|mean| mean - ZERO).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn scheduler(table: &str) -> Result<SparseGroupL0, String> {
        toml::from_str::<SparseGroupL0Config>(table).unwrap().init(RUN)
    }

    fn layer() -> LayerSpec {
        LayerSpec { name: "conv.weight".into(), kind: Kind::Conv, shape: vec![2, 2, 1, 2], macs: 8 }
    }

    fn clock(iteration: u64) -> Clock {
        Clock { iteration, horizon: RUN, lr: 0.5 }
    }

    #[test]
    fn the_gradient_is_the_slope_of_what_is_minimised() {
        let mut scheduler = scheduler("lambda = 0.125\nbeta = 2\npenalty = 'l1'\nevery = 10\nend_epoch = 2").unwrap();
        let weights = [0.5f32, -0.05, 0.01, 0.9, -0.3, 0.02, -0.04, 0.7];
        let mut gradient = vec![0.0; 8];
        scheduler.weight_penalty(&clock(5), &layer(), &weights, &mut gradient);
        // Half a square where a weight is within λ / β of zero, else a line: the envelope of λ |u|, found by hand.
        let objective = |weights: &[f64]| {
            let envelope = |w: &f64| if w.abs() <= 0.0625 { w * w } else { 0.125 * w.abs() - 0.125 * 0.0625 / 2.0 };
            let single: f64 = weights.iter().map(envelope).sum();
            let group = |filter: &[f64]| 2.0 * filter.iter().map(|w| w * w).sum::<f64>().sqrt();
            single + 0.125 * weights.chunks(4).map(group).sum::<f64>()
        };
        for (i, slope) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = weights.map(f64::from);
                moved[i] += step;
                objective(&moved)
            };
            assert!(((at(1e-6) - at(-1e-6)) / 2e-6 - f64::from(*slope)).abs() < 1e-6, "{i}");
        }
    }

    #[test]
    fn the_tie_gets_stronger() {
        let scheduler = scheduler("lambda = 0.1\nbeta = 2.5\nevery = 10\nend_epoch = 3").unwrap();
        assert_eq!([1, 10, 11, 20, 21].map(|iteration| scheduler.beta(iteration)), [2.5, 2.5, 3.125, 3.125, 3.90625]);
        assert!(scheduler.shapes_weights(&clock(30)) && !scheduler.shapes_weights(&clock(31)));
    }

    #[test]
    fn a_short_filter_becomes_zero_by_the_proximal_map() {
        let table = "lambda = 0.5\nbeta = 1\nevery = 10\nend_epoch = 2\ngroup = 'prox'";
        let mut scheduler = scheduler(table).unwrap();
        // Half of λ times the root of four: filters get shorter by 0.5.
        let mut weights = [0.6, 0.0, 0.8, 0.0, 0.2, -0.2, 0.2, 0.2];
        scheduler.after_weight_step(&clock(1), &layer(), &mut weights);
        assert_eq!(weights, [0.3, 0.0, 0.4, 0.0, 0.0, -0.0, 0.0, 0.0]);
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |table: &str| scheduler(table).err().unwrap();
        assert_eq!(
            refused("lambda = 1\nbeta = 1\ngrowth = 0.5\nevery = 1\nend_epoch = 1"),
            "`growth` is 0.5, but must lie between 1 and 1000"
        );
        assert_eq!(
            refused("lambda = 1\nbeta = 1\ngrowth = 1000\nevery = 1\nend_epoch = 4"),
            "`beta` grows to 1e120 by `end_epoch`, but must stay below 1e30: raise `every`"
        );
        assert_eq!(
            refused("lambda = 1\nbeta = 0\nevery = 1\nend_epoch = 1"),
            "`beta` is 0, but must be above 0 and finite"
        );
    }
}
