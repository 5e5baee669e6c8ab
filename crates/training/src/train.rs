//! The training loop: optimizer steps, and between them the scheduler's mask events.
//!
//! It is a plain function that returns a `Result`. New behaviour belongs into a scheduler, a data transform or a
//! recorder; the loop itself stays as short as it is.

use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::diagnose::NonFinite;
use crate::records::Summary;
use crate::run::{Opening, Run};
pub use crate::setup::Setup;

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// It trained to the end.
    Finished(Box<Summary>),
    /// It was asked to stop; everything is saved, and `--resume` goes on.
    Interrupted {
        /// Optimizer steps that are done.
        iteration: u64,
    },
}

/// Trains an experiment to its end, or until it is asked to stop.
///
/// # Errors
///
/// A loss that is not finite is an error that names layer and iteration; the last good checkpoint is kept. Other
/// errors say what could not be read, built or written.
pub fn train(setup: Setup) -> Result<Outcome> {
    let mut opening = if setup.resume { Opening::Resume } else { Opening::Fresh };
    let mut careful_until = if setup.cheap_reads { u64::MAX } else { 0 };
    loop {
        match run(&setup, opening, careful_until) {
            // Between two reads the loss may have been lost at any iteration: replay them, reading each.
            Err(error) if lost_at(&error).is_some_and(|iteration| iteration > careful_until) => {
                opening = Opening::Replay;
                careful_until = lost_at(&error).unwrap_or(u64::MAX);
            }
            ended => return ended,
        }
    }
}

fn lost_at(error: &anyhow::Error) -> Option<u64> {
    error.downcast_ref::<NonFinite>().map(|lost| lost.iteration)
}

/// Trains with the loss read at every iteration up to `careful_until`, later as often as the experiment says.
fn run(setup: &Setup, opening: Opening, careful_until: u64) -> Result<Outcome> {
    let mut run = Run::open(setup, opening)?;
    let read_every = setup.experiment.log_every;
    while !run.is_done() {
        for batch in run.remaining_batches() {
            let clock = run.clock();
            let event = run.trainee().engine.due(&clock);

            let dense = event.as_ref().is_some_and(|event| event.dense_gradients);
            let gradients = run.forward_backward(&batch, dense);
            let careful = event.is_some() || run.is_last_of_epoch() || clock.iteration <= careful_until;
            if careful || clock.iteration.is_multiple_of(read_every) {
                run.read_loss(&gradients)?;
            }
            let dense = dense.then(|| gradients.clone());
            if !event.as_ref().is_some_and(|event| event.skips_step) {
                run.trainee().step(gradients, &clock);
            }
            if let Some(event) = event {
                run.event(&clock, &event, dense.as_ref())?;
            }
            run.advance(batch.labels.len())?;

            if setup.stop.load(Ordering::Relaxed) {
                run.checkpoint()?;
                return Ok(Outcome::Interrupted { iteration: clock.iteration });
            }
            run.checkpoint_if_due()?;
        }
        run.end_epoch()?;
    }
    run.finish().map(|summary| Outcome::Finished(Box::new(summary)))
}
