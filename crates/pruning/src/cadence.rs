//! The iterations at which a schedule acts: `t0, t0 + dt, ..., t0 + n dt`.

use crate::check;
use crate::clock::Horizon;

/// Evenly spaced events between two epochs, the first at the start and the last not behind the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    start: u64,
    every: u64,
    steps: u64,
}

impl Cadence {
    /// Converts epochs into iterations.
    ///
    /// # Errors
    ///
    /// A sentence that names the field when an epoch lies outside the run, the end is not after the start, or the
    /// interval between events does not fit in between.
    pub fn new(start_epoch: f64, end_epoch: f64, every: u64, horizon: Horizon) -> Result<Self, String> {
        check::window(start_epoch, end_epoch, every, horizon)?;
        let start = check::iteration(start_epoch, horizon);
        let window = check::iteration(end_epoch, horizon) - start;
        if window < every {
            return Err(format!(
                "`every` is {every}, but `start_epoch` {start_epoch} and `end_epoch` {end_epoch} are only {window} \
                 iterations apart, so the schedule would have no event"
            ));
        }
        Ok(Self { start, every, steps: window / every })
    }

    /// Returns the iteration of the first event; 0 is before training.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the share of the way at an event of the schedule, 0 at the first and 1 at the last.
    pub fn progress(&self, iteration: u64) -> Option<f64> {
        let step = self.step(iteration)?;
        (step <= self.steps).then(|| step as f64 / self.steps as f64)
    }

    /// Says whether the interval meets an iteration, however long after the last event.
    pub fn continues(&self, iteration: u64) -> bool {
        self.step(iteration).is_some()
    }

    fn step(&self, iteration: u64) -> Option<u64> {
        let since = iteration.checked_sub(self.start)?;
        since.is_multiple_of(self.every).then_some(since / self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    #[test]
    fn the_last_event_is_the_end_of_the_way() {
        let cadence = Cadence::new(0.5, 3.0, 10, RUN).unwrap();
        let events: Vec<_> = (0..=40).filter_map(|t| cadence.progress(t).map(|progress| (t, progress))).collect();
        assert_eq!(events, [(5, 0.0), (15, 0.5), (25, 1.0)]);
        assert_eq!((0..=40).filter(|&t| cadence.continues(t)).collect::<Vec<_>>(), [5, 15, 25, 35]);
    }

    #[test]
    fn a_window_without_event_is_refused() {
        assert_eq!(
            Cadence::new(0.0, 1.0, 11, RUN).unwrap_err(),
            "`every` is 11, but `start_epoch` 0 and `end_epoch` 1 are only 10 iterations apart, so the schedule would have no event"
        );
    }
}
