//! AC/DC: alternating compressed and decompressed training.
//!
//! Alexandra Peste, Eugenia Iofinova, Adrian Vladu, Dan Alistarh: "AC/DC: Alternating Compressed/DeCompressed Training of
//! Deep Neural Networks" (NeurIPS 2021), <https://arxiv.org/abs/2106.12379>, Algorithm 1.
//!
//! After a dense warm-up, training alternates between two kinds of phases. At the beginning of a compressed phase, the
//! weights of the smallest magnitude in the whole network are removed, and the others train alone. At the beginning of a
//! decompressed phase, all removed weights return, as zero and without momentum, and all train. The run ends compressed.
//!
//! ```text
//! 0     warmup_epochs                                                      end_epoch     the end
//! dense │ compressed │ dense │ compressed │ dense │ ... │ compressed │ dense │ compressed
//!         phase_epochs each
//! ```
//!
//! The paper's CIFAR-100 and ImageNet runs use a warm-up of 10 epochs, phases of 5 epochs, and a last dense phase before
//! a long compressed one.

use bonsai_pruning::{About, Allocation, Clock, Event, Horizon, Layer, Method, Scheduler, check};
use serde::Deserialize;

/// The configuration of [`AcDcScheduler`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcDc {
    /// The share of weights removed in compressed phases and at the end.
    pub sparsity: f64,
    /// Epochs before the first compressed phase.
    pub warmup_epochs: f64,
    /// Epochs of a phase.
    pub phase_epochs: f64,
    /// The epoch by which the last compressed phase has begun.
    pub end_epoch: f64,
}

impl Method for AcDc {
    const NAME: &'static str = "acdc";
    type Scheduler = AcDcScheduler;

    fn init(self, horizon: Horizon) -> Result<AcDcScheduler, String> {
        check::share("sparsity", self.sparsity)?;
        check::positive("phase_epochs", self.phase_epochs)?;
        let phase = check::iteration(self.phase_epochs, horizon).max(1);
        check::window(self.warmup_epochs, self.end_epoch, phase, horizon)?;
        let start = check::iteration(self.warmup_epochs, horizon).max(1);
        // Phases are counted from 0; the even ones are compressed, and so is the last.
        let last = check::iteration(self.end_epoch, horizon).saturating_sub(start) / phase;
        Ok(AcDcScheduler { sparsity: self.sparsity, start, phase, last: last - last % 2 })
    }
}

/// Removes the smallest weights and brings them back, in turns.
pub struct AcDcScheduler {
    sparsity: f64,
    start: u64,
    phase: u64,
    last: u64,
}

impl Scheduler for AcDcScheduler {
    fn about(&self) -> About {
        About {
            name: AcDc::NAME,
            citation: "Peste, Iofinova, Vladu, Alistarh: AC/DC: Alternating Compressed/DeCompressed Training of Deep \
                       Neural Networks (NeurIPS 2021), https://arxiv.org/abs/2106.12379",
        }
    }

    fn due(&self, clock: &Clock) -> Option<Event> {
        let since = clock.iteration.checked_sub(self.start)?;
        let phase = since / self.phase;
        if !since.is_multiple_of(self.phase) || phase > self.last {
            return None;
        }
        Some(if phase.is_multiple_of(2) { Event::prune(self.sparsity) } else { Event::restore() })
    }

    fn target(&self) -> f64 {
        self.sparsity
    }

    fn allocate(&mut self, _: &[Layer]) -> Allocation {
        Allocation::Global
    }
}
