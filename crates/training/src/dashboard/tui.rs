//! Drives burn-train's terminal view directly.
//!
//! The view draws in a thread of its own and takes messages. Three of its habits are met here. It asks for a stop
//! through an [`Interrupter`], which a small thread watches so that a stop does not wait for the next report. Its
//! "kill" panics in its own thread and at the next message: that panic is caught, and means a stop, too. And it
//! wraps the process's panic hook, which is put back after a kill.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use burn::train::Interrupter;
use burn::train::logger::TrainingProgressLogger;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricsRenderer, MetricsRendererTraining};

use super::entries::{self, number, words};
use super::layers::{self, LayerState};
use super::plain::Mean;
use super::terminal::{self, Size};
use super::text::{count, duration, percent, rate, short_count, speed};
use super::{Plan, Progress};
use crate::records::{EpochRow, EventRow, LayerRow};

/// The view draws ten times a second, so more reports than that are averaged.
const REFRESH: Duration = Duration::from_millis(100);
/// How old the block of layers may be after a mask event, and without one: it follows the size of the terminal, too.
const STALE_LAYERS: Duration = Duration::from_secs(1);
const OLD_LAYERS: Duration = Duration::from_secs(5);
const USUAL_SIZE: Size = Size { rows: 50, columns: 120 };

const LOSS: &str = "Loss";
const ACCURACY: &str = "Accuracy %";
const SPARSITY: &str = "Sparsity %";
const LEARNING_RATE: &str = "Learning rate";
const IMAGES: &str = "Images/s";
const LAYERS: &str = "Layers";
const NOTE: &str = "Note";

const STOPPING: &str = "stopping after this step";

type Hook = Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// The open terminal view.
pub struct Tui {
    /// None once the user has killed it.
    renderer: Option<TuiMetricsRendererWrapper>,
    hook: Hook,
    stop: Arc<AtomicBool>,
    interrupter: Interrupter,
    /// Ends the thread that watches the interrupter when it is dropped.
    _watch: Sender<()>,
    plan: Numbers,
    epoch: Option<u64>,
    drawn: Option<Instant>,
    loss: Mean,
    accuracy: Mean,
    layers: Vec<LayerState>,
    last_event: Option<String>,
    layers_drawn: Option<Instant>,
    /// Whether there was a mask event since they were drawn.
    layers_stale: bool,
    /// Lines of the text pane that notes take.
    note_lines: usize,
}

/// What is needed of a plan to draw progress.
struct Numbers {
    iterations_per_epoch: u64,
    batch_size: u64,
    records: u64,
}

static KILLED: AtomicBool = AtomicBool::new(false);

/// Tells whether a view was killed in this process; burn-train opens no other one afterwards.
pub fn was_killed() -> bool {
    KILLED.load(Ordering::Relaxed)
}

impl Tui {
    /// Takes the terminal over.
    pub fn open(plan: &Plan, stop: Arc<AtomicBool>) -> Self {
        terminal::keep();
        let hook: Hook = Arc::from(take_hook());
        restore(&hook);
        let interrupter = Interrupter::new();
        let first_epoch = (plan.first_iteration / plan.iterations_per_epoch.max(1)).min(plan.epochs.max(1) - 1);
        let renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), Some(first_epoch as usize));
        let mut tui = Self {
            renderer: Some(renderer),
            hook,
            _watch: watch(interrupter.clone(), stop.clone()),
            stop,
            interrupter,
            plan: Numbers {
                iterations_per_epoch: plan.iterations_per_epoch,
                batch_size: plan.batch_size as u64,
                records: plan.records as u64,
            },
            epoch: None,
            drawn: None,
            loss: Mean::default(),
            accuracy: Mean::default(),
            layers: states(plan.layers),
            last_event: None,
            layers_drawn: None,
            layers_stale: false,
            note_lines: 0,
        };
        tui.draw(|renderer| {
            let figures = [(LOSS, false), (ACCURACY, true), (SPARSITY, true), (LEARNING_RATE, true), (IMAGES, true)];
            for (name, higher_is_better) in figures {
                renderer.register_metric(entries::figure(name, higher_is_better));
            }
            for name in [LAYERS, NOTE] {
                renderer.register_metric(entries::text(name));
            }
            // The text pane keeps the order in which its texts first came, and figures belong above notes and layers.
            for (name, _) in figures {
                renderer.update_train(words(name, "waiting for the first step".to_owned()));
            }
            renderer.start(plan.epochs as usize, first_epoch as usize, None, Some(plan.title));
        });
        terminal::let_interrupts_through();
        tui
    }

    /// Tells whether the user has killed the view, so that the terminal is an ordinary one again.
    pub fn is_closed(&self) -> bool {
        self.renderer.is_none()
    }

    /// Shows where the training stands; `left` are the seconds to its end.
    pub fn progress(&mut self, progress: &Progress, left: Option<f64>) {
        self.enter(progress.epoch);
        self.loss.add(progress.loss);
        self.accuracy.add(progress.accuracy);
        let step = progress.iteration.saturating_sub(progress.epoch * self.plan.iterations_per_epoch);
        let epoch_ends = step >= self.plan.iterations_per_epoch;
        if !epoch_ends && self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) {
            return;
        }
        self.drawn = Some(Instant::now());
        let images = (step * self.plan.batch_size).min(self.plan.records) as usize;
        let loss = self.loss.take();
        let accuracy = self.accuracy.take();
        let left = left.map(|left| format!(", {} left", duration(left))).unwrap_or_default();
        let images_text = format!("{}{left}", speed(progress.images_per_second));
        self.draw(|renderer| {
            renderer.update_train(number(LOSS, loss, format!("{loss:.4}")));
            renderer.update_train(number(ACCURACY, 100.0 * accuracy, percent(accuracy)));
            renderer.update_train(number(SPARSITY, 100.0 * progress.sparsity, percent(progress.sparsity)));
            renderer.update_train(number(LEARNING_RATE, progress.lr, rate(progress.lr)));
            renderer.update_train(number(IMAGES, progress.images_per_second, images_text));
            renderer.update_split(images);
        });
        self.draw_layers_older_than(if self.layers_stale { STALE_LAYERS } else { OLD_LAYERS });
    }

    /// Shows a mask event.
    pub fn event(&mut self, event: &EventRow) {
        for changed in &event.layers {
            if let Some(layer) = self.layers.iter_mut().find(|layer| layer.name == changed.name) {
                layer.kept = changed.kept;
            }
        }
        self.last_event = Some(format!(
            "at {}: {} pruned, {} grown",
            count(event.iteration),
            short_count(event.pruned),
            short_count(event.grown),
        ));
        self.layers_stale = true;
        self.draw_layers_older_than(STALE_LAYERS);
    }

    /// Shows the end of an epoch.
    pub fn epoch(&mut self, epoch: &EpochRow, layers: &[LayerRow]) {
        let after = |text: String| format!("{text} (epoch {})", epoch.epoch + 1);
        self.draw(|renderer| {
            let loss = after(format!("{:.4}", epoch.valid_loss));
            renderer.update_valid(number(LOSS, epoch.valid_loss, loss));
            let accuracy = after(percent(epoch.valid_accuracy));
            renderer.update_valid(number(ACCURACY, 100.0 * epoch.valid_accuracy, accuracy));
        });
        if !layers.is_empty() {
            self.layers = states(layers);
        }
        self.draw_layers();
    }

    /// Shows a note; the last one stays.
    pub fn note(&mut self, text: &str) {
        let (width, _) = pane(terminal::size().unwrap_or(USUAL_SIZE));
        self.note_lines = 2 + (text.chars().count() + 7).div_ceil(width);
        self.draw(|renderer| renderer.update_train(words(NOTE, text.to_owned())));
        self.draw_layers();
    }

    /// Gives the terminal back.
    pub fn close(mut self) {
        let Some(mut renderer) = self.renderer.take() else { return };
        terminal::forget();
        if thread::panicking() {
            // The view's panic hook has left the picture, and a message stands on the screen. The view's thread leaves
            // the picture again, which can put the cursor back above that message.
            self.interrupter.stop(None);
            let _ = catch_unwind(AssertUnwindSafe(|| renderer.manual_close()));
            super::print("\x1b[999H");
        } else if catch_unwind(AssertUnwindSafe(move || drop(renderer))).is_err() {
            self.killed();
        }
    }

    fn enter(&mut self, epoch: u64) {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            let records = self.plan.records as usize;
            self.draw(|renderer| {
                renderer.update_epoch(epoch as usize);
                renderer.start_split("train", records);
            });
        }
    }

    fn draw_layers_older_than(&mut self, age: Duration) {
        if self.layers_drawn.is_none_or(|drawn| drawn.elapsed() >= age) {
            self.draw_layers();
        }
    }

    fn draw_layers(&mut self) {
        self.layers_drawn = Some(Instant::now());
        self.layers_stale = false;
        let (width, height) = pane(terminal::size().unwrap_or(USUAL_SIZE));
        // Loss and accuracy take four lines each, the other figures three, the title of the block one.
        let height = height.saturating_sub(2 * 4 + 3 * 3 + 1 + self.note_lines);
        let text = layers::block(&self.layers, self.last_event.as_deref(), width, height);
        self.draw(|renderer| renderer.update_train(words(LAYERS, text)));
    }

    /// Sends messages to the view, and turns the panic that follows its user's "kill" into a stop.
    fn draw(&mut self, messages: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        if let Some(renderer) = &mut self.renderer
            && catch_unwind(AssertUnwindSafe(|| messages(renderer))).is_err()
        {
            // Its destructor sends a message, and would panic like every other message from now on.
            std::mem::forget(self.renderer.take());
            self.killed();
        }
    }

    /// Cleans up behind a view that was killed: its thread has left the picture, and a line that says so untruly.
    fn killed(&self) {
        restore(&self.hook);
        terminal::forget();
        KILLED.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        super::print(&format!("\r\x1b[J{STOPPING}"));
    }
}

/// Sets the panic hook, and with it drops the one that the view has set.
fn restore(hook: &Hook) {
    let hook = hook.clone();
    set_hook(Box::new(move |info| hook(info)));
}

/// Raises `stop` as soon as the view's user asks for it, until the sender is dropped.
fn watch(interrupter: Interrupter, stop: Arc<AtomicBool>) -> Sender<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while receiver.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
            if interrupter.should_stop() {
                stop.store(true, Ordering::Relaxed);
                // Its menu has to be off the screen before a word of confirmation is written over that.
                if receiver.recv_timeout(2 * REFRESH) == Err(RecvTimeoutError::Timeout) {
                    terminal::overlay(STOPPING);
                }
                return;
            }
        }
    });
    sender
}

/// Returns width and height of the view's text pane, from the constraints in burn-train's `renderer/tui/base.rs`.
fn pane(size: Size) -> (usize, usize) {
    let width = (size.columns as f64 * 0.38).round() as usize;
    (width.saturating_sub(2).max(1), size.rows.saturating_sub(18))
}

fn states(rows: &[LayerRow]) -> Vec<LayerState> {
    rows.iter().map(|row| LayerState { name: row.name.clone(), weights: row.weights, kept: row.kept }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_pane_takes_thirty_eight_percent_of_the_width() {
        assert_eq!(pane(Size { rows: 50, columns: 120 }), (44, 32));
        assert_eq!(pane(Size { rows: 5, columns: 3 }), (1, 0));
    }
}
