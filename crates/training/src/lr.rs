//! Gives the learning rate of every iteration: constant, multi-step, cosine and one-cycle, with linear warm-up.
//!
//! Plain functions of the iteration, so that a plan can print them and a resumed run needs no state. Cosine:
//! Loshchilov, Hutter, "SGDR", 2017 (one period). One-cycle: Smith, Topin, "Super-Convergence", 2018, with the
//! constants of `torch.optim.lr_scheduler.OneCycleLR` (30 % up from lr/25, cosine down to lr/250,000).

use bonsai_pruning::curve::cosine;

/// How the learning rate moves over a training.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It is multiplied by `gamma` at each of the iterations.
    MultiStep {
        /// The iterations (0-based) from which a smaller rate holds.
        milestones: Vec<u64>,
        /// The factor at each of them.
        gamma: f64,
    },
    /// It falls to `last` along half a cosine.
    Cosine {
        /// The rate that the end of the training approaches.
        last: f64,
    },
    /// It rises and falls once.
    OneCycle,
}

/// A learning rate for every iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRate {
    /// The base rate; one-cycle's peak.
    pub base: f64,
    /// The shape.
    pub schedule: Schedule,
    /// Iterations over which the rate first rises linearly to the base.
    pub warmup: u64,
    /// All iterations of the training.
    pub total: u64,
}

impl LearningRate {
    /// Returns the rate of an iteration, counted from 0.
    pub fn at(&self, iteration: u64) -> f64 {
        if iteration < self.warmup {
            return self.base * (iteration + 1) as f64 / self.warmup as f64;
        }
        let total = self.total.max(self.warmup + 1) - self.warmup;
        let progress = ((iteration - self.warmup) as f64 / total as f64).min(1.0);
        match &self.schedule {
            Schedule::Constant => self.base,
            Schedule::MultiStep { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&milestone| iteration >= milestone).count();
                self.base * gamma.powi(passed as i32)
            }
            Schedule::Cosine { last } => cosine(self.base, *last, progress),
            Schedule::OneCycle => {
                let (first, last) = (self.base / 25.0, self.base / 25.0 / 1e4);
                let end = (total - 1) as f64;
                let peak = 0.3 * total as f64 - 1.0;
                let now = (iteration - self.warmup) as f64;
                if now <= peak {
                    cosine(first, self.base, now / peak)
                } else {
                    cosine(self.base, last, ((now - peak) / (end - peak)).min(1.0))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_after_a_warm_up_of_two() {
        let lr = LearningRate { base: 1.0, schedule: Schedule::Cosine { last: 0.0 }, warmup: 2, total: 6 };
        let rates: Vec<f64> = (0..6).map(|i| (lr.at(i) * 1e4).round() / 1e4).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]);
    }

    #[test]
    fn multi_step_falls_at_its_milestones() {
        let schedule = Schedule::MultiStep { milestones: vec![2, 3], gamma: 0.1 };
        let lr = LearningRate { base: 1.0, schedule, warmup: 0, total: 5 };
        let rates: Vec<f64> = (0..5).map(|i| (lr.at(i) * 1e6).round() / 1e6).collect();
        assert_eq!(rates, [1.0, 1.0, 0.1, 0.01, 0.01]);
    }

    #[test]
    fn a_warm_up_longer_than_the_training_stays_finite() {
        for schedule in [Schedule::Constant, Schedule::OneCycle, Schedule::Cosine { last: 0.0 }] {
            let lr = LearningRate { base: 1.0, schedule, warmup: 10, total: 5 };
            assert!((0..20).all(|i| lr.at(i).is_finite()));
        }
    }
}
