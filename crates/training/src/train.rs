//! The training loop: optimizer steps, and between them the scheduler's mask events.
//!
//! It is a plain function that returns a `Result`. New behaviour belongs into a scheduler, a data transform or a
//! recorder; the loop itself stays as short as it is.

use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::diagnose::NonFinite;
use crate::records::Summary;
use crate::run::Run;
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
    let read_every = if setup.cheap_reads { 1 } else { setup.experiment.log_every };
    match run(&setup, setup.resume, read_every) {
        // Between two reads the loss may have been lost at any iteration: replay from the checkpoint, reading each.
        Err(error) if read_every > 1 && error.is::<NonFinite>() => run(&setup, true, 1),
        ended => ended,
    }
}

fn run(setup: &Setup, resume: bool, read_every: u64) -> Result<Outcome> {
    let mut run = Run::open(setup, resume)?;
    while !run.is_done() {
        for batch in run.remaining_batches() {
            let clock = run.clock();
            let event = run.trainee().engine.due(&clock);

            let gradients = run.forward_backward(&batch);
            if event.is_some() || run.is_last_of_epoch() || clock.iteration.is_multiple_of(read_every) {
                run.read_loss(&gradients)?;
            }
            let dense = event.as_ref().filter(|event| event.dense_gradients).map(|_| gradients.clone());
            if !event.as_ref().is_some_and(|event| event.skips_step) {
                run.trainee().step(gradients, clock.lr);
            }
            if let Some(event) = event {
                let change = run.trainee().event(&clock, &event, dense.as_ref());
                run.record_event(&event, &change)?;
            }
            run.advance(batch.labels.len());

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
