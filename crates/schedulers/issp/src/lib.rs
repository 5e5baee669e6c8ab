//! ISS-P: iterative soft shrinkage by percentage.
//!
//! Jiamian Wang, Huan Wang, Yulun Zhang, Yun Fu, Zhiqiang Tao: "Iterative Soft Shrinkage Learning for Efficient Image
//! Super-Resolution" (ICCV 2023), <https://arxiv.org/abs/2303.09650>.
//!
//! The network trains with all its weights. After every optimizer step the weights of a layer that are below its magnitude
//! threshold of that moment are not zeroed but multiplied by `1 - shrink`: those that training needs grow back over the
//! threshold, the others fade. At `end_epoch` what is below the threshold is removed, and the rest trains on.
//!
//! Our reading: the paper shrinks by a percentage that it does not fix for other tasks than its own, so `shrink` is a key
//! here; every layer has the same sparsity.

use bonsai_pruning::{About, Clock, Event, Horizon, LayerSpec, Method, Scheduler, check, select};
use serde::Deserialize;

/// The configuration of [`IssPScheduler`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssP {
    /// The share of weights that shrinks, and is removed in the end.
    pub sparsity: f64,
    /// The share of its value that a small weight loses at every step.
    pub shrink: f64,
    /// The epoch after which shrinking begins.
    #[serde(default)]
    pub start_epoch: f64,
    /// The epoch after which the small weights are removed.
    pub end_epoch: f64,
}

impl Method for IssP {
    const NAME: &'static str = "iss-p";
    type Scheduler = IssPScheduler;

    fn init(self, horizon: Horizon) -> Result<IssPScheduler, String> {
        check::share("sparsity", self.sparsity)?;
        check::part("shrink", self.shrink)?;
        check::window(self.start_epoch, self.end_epoch, 1, horizon)?;
        let at = |epoch| check::iteration(epoch, horizon);
        Ok(IssPScheduler { start: at(self.start_epoch), end: at(self.end_epoch).max(1), config: self })
    }
}

/// Shrinks the smallest weights of every layer, and removes them in the end.
pub struct IssPScheduler {
    config: IssP,
    start: u64,
    end: u64,
}

impl Scheduler for IssPScheduler {
    fn about(&self) -> About {
        About {
            name: IssP::NAME,
            citation: "Wang, Wang, Zhang, Fu, Tao: Iterative Soft Shrinkage Learning for Efficient Image \
                       Super-Resolution (ICCV 2023), https://arxiv.org/abs/2303.09650",
        }
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        (clock.iteration == self.end).then(|| Event::prune(self.config.sparsity))
    }

    fn target(&self) -> f64 {
        self.config.sparsity
    }

    fn shapes_weights(&self, clock: &Clock) -> bool {
        clock.iteration > self.start && clock.iteration <= self.end
    }

    fn after_weight_step(&mut self, _: &Clock, _: &LayerSpec, weights: &mut [f32]) {
        let kept = select::count(weights.len(), self.config.sparsity);
        let mut magnitudes: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
        if kept == 0 || kept == magnitudes.len() {
            return;
        }
        let (_, threshold, _) = magnitudes.select_nth_unstable_by(weights.len() - kept, f32::total_cmp);
        let (threshold, rest) = (*threshold, (1.0 - self.config.shrink) as f32);
        weights.iter_mut().filter(|weight| weight.abs() < threshold).for_each(|weight| *weight *= rest);
    }
}
