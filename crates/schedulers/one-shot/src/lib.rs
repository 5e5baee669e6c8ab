//! one-shot: who proposed it, where, and what its rule is.
//!
//! For now it removes the smallest weights of the whole network, once, after some epochs.

use bonsai_pruning::{About, Allocation, Clock, Event, Horizon, Layer, Method, Random, Scheduler, check, score};
use serde::Deserialize;

/// The configuration of [`OneShotScheduler`]: the keys of its `[scheduler]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneShot {
    /// The share of weights that is removed.
    pub sparsity: f64,
    /// The epoch after which they are.
    pub epoch: f64,
}

impl Method for OneShot {
    const NAME: &'static str = "one-shot";
    type Scheduler = OneShotScheduler;

    // Whatever can be wrong with the keys is said here; afterwards a scheduler cannot fail.
    fn init(self, horizon: Horizon) -> Result<OneShotScheduler, String> {
        check::share("sparsity", self.sparsity)?;
        check::window(0.0, self.epoch, 1, horizon)?;
        Ok(OneShotScheduler { sparsity: self.sparsity, at: check::iteration(self.epoch, horizon).max(1) })
    }
}

/// Removes the smallest weights once.
pub struct OneShotScheduler {
    sparsity: f64,
    at: u64,
}

impl Scheduler for OneShotScheduler {
    fn about(&self) -> About {
        About { name: OneShot::NAME, citation: "authors, title, year, link" }
    }

    // What happens at an iteration, from the clock alone, so that a plan can be shown before a run is started.
    fn due(&self, clock: &Clock) -> Option<Event> {
        (clock.iteration == self.at).then(|| Event::prune(self.sparsity))
    }

    // The highest sparsity that `due` asks for.
    fn target(&self) -> f64 {
        self.sparsity
    }

    // How the weights that an event keeps are shared among the layers; by default every layer has the same sparsity.
    fn allocate(&mut self, _: &[Layer]) -> Allocation {
        Allocation::Global
    }

    // The lowest scores go first; the magnitude is the default, too.
    fn score(&mut self, layer: &Layer, _: &mut Random) -> Vec<f32> {
        score::magnitude(layer.weights)
    }
}
