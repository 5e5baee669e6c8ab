//! Writes a training as plain lines: one about every ten seconds, and one for every epoch.
//!
//! Lines are returned and time is an argument, so that tests need neither a terminal nor a clock.

use super::text::{count, duration, percent, plural, rate, short_count, speed};
use super::{Plan, Progress};
use crate::records::{EpochRow, EventRow};

/// Seconds between two lines within an epoch, so that an epoch of 40 seconds or more has at least four.
const INTERVAL: f64 = 10.0;

/// What the next lines depend on.
#[derive(Debug)]
pub struct Plain {
    epochs: u64,
    iterations: u64,
    weights: u64,
    due: f64,
    /// Time and iteration of the first report, from which the pace is measured: steps before it may compile kernels.
    first: Option<(f64, u64)>,
    loss: Mean,
    accuracy: Mean,
    sparsity: Option<f64>,
    events: Events,
}

impl Plain {
    /// Starts before the first step.
    pub fn new(plan: &Plan) -> Self {
        Self {
            epochs: plan.epochs,
            iterations: plan.iterations(),
            weights: plan.layers.iter().map(|layer| layer.weights).sum(),
            due: 0.0,
            first: None,
            loss: Mean::default(),
            accuracy: Mean::default(),
            sparsity: (plan.first_iteration == 0).then_some(0.0),
            events: Events::default(),
        }
    }

    /// Takes up a step; a line comes of it if the last one is old enough. Loss and accuracy are means since then.
    pub fn progress(&mut self, progress: &Progress, seconds: f64) -> Option<String> {
        self.first.get_or_insert((seconds, progress.iteration));
        self.loss.add(progress.loss);
        self.accuracy.add(progress.accuracy);
        self.sparsity = Some(progress.sparsity);
        if seconds < self.due {
            return None;
        }
        self.due = seconds + INTERVAL;
        let total = count(self.iterations);
        let left = self.seconds_left(progress.iteration, seconds);
        let line = format!(
            "{}  iteration {:>width$}/{total}  loss {:>7.4}  accuracy {:>5} %  lr {:<8}  sparsity {:>5} %  {:>6} images/s{}",
            self.epoch_of(progress.epoch),
            count(progress.iteration),
            self.loss.take(),
            percent(self.accuracy.take()),
            rate(progress.lr),
            percent(progress.sparsity),
            speed(progress.images_per_second),
            left.map(|left| format!("  {} left", duration(left))).unwrap_or_default(),
            width = total.len(),
        );
        Some(self.with_events(line))
    }

    /// Takes up a mask event, to be told with the next line.
    pub fn event(&mut self, event: &EventRow) {
        self.events.add(self.sparsity, event);
        self.sparsity = Some(event.sparsity);
    }

    /// Writes the line of an epoch.
    pub fn epoch(&mut self, row: &EpochRow) -> String {
        self.sparsity = Some(row.sparsity);
        let line = format!(
            "{}  done  train loss {:>7.4} accuracy {:>5} %  valid loss {:>7.4} accuracy {:>5} %  sparsity {:>5} %  {:>width$} nonzero  {:>5} MACs  {}",
            self.epoch_of(row.epoch),
            row.train_loss,
            percent(row.train_accuracy),
            row.valid_loss,
            percent(row.valid_accuracy),
            percent(row.sparsity),
            count(row.nonzero),
            short_count(row.macs),
            duration(row.seconds),
            width = count(self.weights).len(),
        );
        self.with_events(line)
    }

    /// Tells the mask events that no line has told yet.
    pub fn rest(&mut self) -> Option<String> {
        self.events.take()
    }

    /// Estimates the time to the end of the training, from the pace since the first report.
    pub fn seconds_left(&self, iteration: u64, seconds: f64) -> Option<f64> {
        let (start, first) = self.first?;
        let done = iteration.checked_sub(first).filter(|&done| done > 0)?;
        Some((seconds - start) / done as f64 * self.iterations.saturating_sub(iteration) as f64)
    }

    fn epoch_of(&self, epoch: u64) -> String {
        let total = self.epochs.to_string();
        format!("epoch {:>width$}/{total}", epoch + 1, width = total.len())
    }

    fn with_events(&mut self, line: String) -> String {
        match self.events.take() {
            Some(events) => format!("{line}\n{events}"),
            None => line,
        }
    }
}

/// Writes what is known before the first step.
pub fn header(plan: &Plan) -> String {
    format!(
        "{}\n{}\n{} of {}, batch {}: {} in all",
        plan.title,
        plan.detail,
        plural(plan.epochs, "epoch", "epochs"),
        plural(plan.iterations_per_epoch, "iteration", "iterations"),
        plan.batch_size,
        count(plan.iterations()),
    )
}

/// Mask events since the last line.
#[derive(Debug, Default)]
struct Events {
    number: u64,
    before: Option<f64>,
    after: f64,
    pruned: u64,
    grown: u64,
}

impl Events {
    fn add(&mut self, before: Option<f64>, event: &EventRow) {
        if self.number == 0 {
            self.before = before;
        }
        self.number += 1;
        self.after = event.sparsity;
        self.pruned += event.pruned;
        self.grown += event.grown;
    }

    fn take(&mut self) -> Option<String> {
        let events = std::mem::take(self);
        if events.number == 0 {
            return None;
        }
        let after = percent(events.after);
        let sparsity = match events.before.map(percent) {
            Some(before) if before != after => format!("{before} → {after}"),
            _ => after,
        };
        let grown = if events.grown > 0 { format!(", {} grown", count(events.grown)) } else { String::new() };
        Some(format!(
            "  {}: sparsity {sparsity} %, {} pruned{grown}",
            plural(events.number, "mask event", "mask events"),
            plural(events.pruned, "weight", "weights"),
        ))
    }
}

/// A running mean.
#[derive(Clone, Debug, Default)]
pub struct Mean {
    sum: f64,
    number: f64,
}

impl Mean {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.number += 1.0;
    }

    /// Returns the mean and starts afresh; NaN if there was no value.
    pub fn take(&mut self) -> f64 {
        let mean = self.sum / self.number;
        *self = Self::default();
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        title: "shapes10-resnet20-granet, seed 0",
        detail: "resnet20 on shapes10, granet to 90 %, cpu",
        epochs: 10,
        iterations_per_epoch: 352,
        first_iteration: 0,
        batch_size: 128,
        records: 45_000,
        layers: &[],
    };

    fn step(iteration: u64, loss: f64) -> Progress {
        Progress {
            epoch: (iteration - 1) / 352,
            iteration,
            loss,
            accuracy: 0.481,
            lr: 0.034_12,
            sparsity: 0.5,
            images_per_second: 1612.3,
        }
    }

    fn mask_event(sparsity: f64, grown: u64) -> EventRow {
        EventRow { sparsity, pruned: 700, grown, ..EventRow::default() }
    }

    #[test]
    fn the_header_says_what_will_be_done() {
        assert_eq!(
            header(&PLAN),
            "shapes10-resnet20-granet, seed 0\n\
             resnet20 on shapes10, granet to 90 %, cpu\n\
             10 epochs of 352 iterations, batch 128: 3,520 in all"
        );
    }

    #[test]
    fn the_first_step_and_then_every_ten_seconds_make_a_line() {
        let mut plain = Plain::new(&PLAN);
        assert_eq!(
            plain.progress(&step(1, 2.312_585), 1.0).unwrap(),
            "epoch  1/10  iteration     1/3,520  loss  2.3126  accuracy  48.1 %  lr 0.03412   sparsity  50.0 %   1,612 images/s"
        );
        assert_eq!(plain.progress(&step(2, 1.0), 1.5), None);
        assert_eq!(plain.progress(&step(20, 2.0), 10.9), None);
        assert_eq!(
            plain.progress(&step(21, 3.0), 11.0).unwrap(),
            "epoch  1/10  iteration    21/3,520  loss  2.0000  accuracy  48.1 %  lr 0.03412   sparsity  50.0 %   1,612 images/s  29 min 10 s left"
        );
    }

    #[test]
    fn mask_events_are_told_together_with_the_next_line() {
        let mut plain = Plain::new(&PLAN);
        plain.event(&mask_event(0.5, 0));
        let line = plain.progress(&step(1, 1.0), 0.0).unwrap();
        assert_eq!(line.lines().nth(1), Some("  1 mask event: sparsity 0.0 → 50.0 %, 700 weights pruned"));
        plain.event(&mask_event(0.6, 600));
        plain.event(&mask_event(0.748, 604));
        assert_eq!(plain.progress(&step(2, 1.0), 5.0), None);
        assert_eq!(
            plain.rest().as_deref(),
            Some("  2 mask events: sparsity 50.0 → 74.8 %, 1,400 weights pruned, 1,204 grown")
        );
        assert_eq!(plain.rest(), None);
    }

    #[test]
    fn an_epoch_is_one_line() {
        let row = EpochRow {
            epoch: 9,
            train_loss: 1.234_56,
            train_accuracy: 0.553,
            valid_loss: 1.1,
            valid_accuracy: 0.6,
            sparsity: 0.9,
            nonzero: 27_012,
            macs: 5_620_000,
            seconds: 73.2,
            ..EpochRow::default()
        };
        assert_eq!(
            Plain::new(&PLAN).epoch(&row),
            "epoch 10/10  done  train loss  1.2346 accuracy  55.3 %  valid loss  1.1000 accuracy  60.0 %  sparsity  90.0 %  27,012 nonzero  5.62M MACs  1 min 13 s"
        );
    }

    #[test]
    fn time_left_follows_the_pace_of_this_run_when_resumed() {
        let mut plain = Plain::new(&Plan { first_iteration: 1000, ..PLAN });
        plain.progress(&step(1001, 1.0), 30.0);
        assert_eq!(plain.seconds_left(1001, 30.0), None);
        assert_eq!(plain.seconds_left(1011, 40.0), Some(2509.0));
        assert_eq!(plain.seconds_left(3520, 2600.0), Some(0.0));
    }
}
