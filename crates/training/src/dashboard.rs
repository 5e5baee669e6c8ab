//! Shows a training while it runs: curves and layers where a person looks on, plain lines elsewhere.
//!
//! Neither view may end a training: what cannot be written is dropped, and every way in which the terminal view can
//! be left (`q` twice, Ctrl-C) only raises the shared flag on which the loop stops after its step.

mod curve;
mod layers;
mod plain;
mod terminal;
mod text;
mod tui;
mod view;

use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::records::{EpochRow, EventRow, LayerRow};
use plain::Plain;
use tui::Tui;

/// The two ways to show a training, and the choice between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The terminal view where standard input and output are terminals, plain lines elsewhere.
    #[default]
    Auto,
    /// Plain lines.
    Plain,
    /// The terminal view; plain lines, with a note, where there is no terminal.
    Tui,
}

impl View {
    /// Decides for this process's terminal: the result is never [`View::Auto`].
    pub fn resolved(self) -> Self {
        let interactive = stdin().is_terminal() && stdout().is_terminal();
        if self != Self::Plain && interactive { Self::Tui } else { Self::Plain }
    }
}

/// What is known of a training before its first step.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The name of the run.
    pub title: &'a str,
    /// One line on what is trained, on what and how.
    pub detail: &'a str,
    /// Epochs of the whole training.
    pub epochs: u64,
    /// Optimizer steps in an epoch.
    pub iterations_per_epoch: u64,
    /// Optimizer steps that a resumed run has behind it.
    pub first_iteration: u64,
    /// Images in a step.
    pub batch_size: usize,
    /// Training images in an epoch.
    pub records: usize,
    /// The prunable layers as they are before the first step of this run.
    pub layers: &'a [LayerRow],
}

impl Plan<'_> {
    fn iterations(&self) -> u64 {
        self.epochs * self.iterations_per_epoch
    }
}

/// Where a training stands after an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch of the step, from 0.
    pub epoch: u64,
    /// The steps taken, over all epochs.
    pub iteration: u64,
    /// The mean training loss since the last call.
    pub loss: f64,
    /// The share of training images classified correctly since the last call.
    pub accuracy: f64,
    /// The learning rate of the step.
    pub lr: f64,
    /// The share of prunable weights removed.
    pub sparsity: f64,
    /// Training images a second.
    pub images_per_second: f64,
}

/// The live view of one training.
///
/// While the terminal view is open, nothing else may write to the terminal. It leaves the signal of Ctrl-C switched on,
/// so the caller must handle SIGINT: by raising the same flag that it hands to [`Dashboard::new`], with [`announce`] if
/// it has something to say, and with [`restore_terminal`] before it ends the process.
pub struct Dashboard {
    plain: Plain,
    tui: Option<Tui>,
    started: Instant,
    /// Lines that are printed when the terminal view closes: the notes, and the last epoch.
    notes: Vec<String>,
    last_epoch: Option<String>,
}

impl Dashboard {
    /// Opens a view of the training that `plan` describes; whoever looks on may stop it through `stop`.
    pub fn new(view: View, plan: &Plan, stop: Arc<AtomicBool>) -> Self {
        let resolved = view.resolved();
        let tui = (resolved == View::Tui).then(|| Tui::open(plan, stop).ok()).flatten();
        let mut dashboard =
            Self { plain: Plain::new(plan), tui, started: Instant::now(), notes: Vec::new(), last_epoch: None };
        if dashboard.tui.is_none() {
            print(&plain::header(plan));
        }
        if view == View::Tui && dashboard.tui.is_none() {
            dashboard.note("The terminal view needs a terminal for input and output: plain lines instead.");
        }
        dashboard
    }

    /// Shows where the training stands; cheap enough for every step, since each view limits what it draws.
    pub fn progress(&mut self, progress: &Progress) {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = self.plain.progress(progress, seconds);
        let left = self.plain.seconds_left(progress.iteration, seconds);
        self.show(|tui| tui.progress(progress, left), line.as_deref());
    }

    /// Shows a mask event: at once in the terminal view, with the next line in the plain one.
    pub fn event(&mut self, event: &EventRow) {
        self.plain.event(event);
        self.show(|tui| tui.event(event), None);
    }

    /// Shows the end of an epoch.
    pub fn epoch(&mut self, epoch: &EpochRow, layers: &[LayerRow]) {
        let line = self.plain.epoch(epoch);
        self.show(|tui| tui.epoch(epoch, layers), Some(&line));
        self.last_epoch = Some(line);
    }

    /// Shows a line that must reach the user, such as a warning.
    pub fn note(&mut self, text: &str) {
        if self.tui.is_some() {
            self.notes.push(text.to_owned());
        }
        self.show(|tui| tui.note(text), Some(text));
    }

    /// Ends the view and gives the terminal back; whatever is shown afterwards is a plain line.
    pub fn finish(&mut self) {
        match self.tui.take() {
            Some(tui) => {
                tui.close();
                self.print_kept();
            }
            None => {
                if let Some(line) = self.plain.rest() {
                    print(&line);
                }
            }
        }
    }

    /// Updates the terminal view if it is open; prints `line` otherwise.
    fn show(&mut self, update: impl FnOnce(&mut Tui), line: Option<&str>) {
        if self.tui.as_ref().is_some_and(Tui::is_over) {
            self.finish();
        }
        match (&mut self.tui, line) {
            (Some(tui), _) => update(tui),
            (None, Some(line)) => print(line),
            (None, None) => (),
        }
    }

    fn print_kept(&mut self) {
        let _ = self.plain.rest();
        for line in self.notes.drain(..).chain(self.last_epoch.take()) {
            print(&line);
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Says something from any thread, such as the handler of Ctrl-C: over the terminal view, on standard error without it.
pub fn announce(text: &str) {
    if !terminal::say(text) {
        let _ = writeln!(stderr(), "{text}");
    }
}

/// Gives the terminal back from any thread, for a process that is about to end without returning from its training.
pub fn restore_terminal() {
    terminal::restore();
}

/// Writes a line; a reader that has gone away must not end the training, so failures are ignored.
fn print(line: &str) {
    let _ = writeln!(stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_view_needs_a_terminal_and_no_view_stays_undecided() {
        let interactive = stdin().is_terminal() && stdout().is_terminal();
        let tui = if interactive { View::Tui } else { View::Plain };
        assert_eq!([View::Auto, View::Plain, View::Tui].map(View::resolved), [tui, View::Plain, tui]);
    }
}
