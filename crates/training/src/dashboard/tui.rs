//! The terminal view: a thread of its own draws it and listens to the keyboard, so that slow steps hold up neither.

use std::io::{self, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};

use super::plain::Mean;
use super::terminal;
use super::view::Shown;
use super::{Plan, Progress};
use crate::records::{EpochRow, EventRow, LayerRow};

/// How often keys are looked for and what is new is drawn; reports that come faster are averaged.
const REFRESH: Duration = Duration::from_millis(100);
/// How long the second `q` may take.
const PATIENCE: Duration = Duration::from_secs(5);

const ASK: &str = "q again stops after this step and saves; --resume goes on";
const STOPPING: &str = "stopping after this step";

/// The open terminal view.
pub struct Tui {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    iterations_per_epoch: u64,
    reported: Option<Instant>,
    loss: Mean,
    accuracy: Mean,
}

/// What the training and the thread that draws both hold.
pub struct Shared {
    shown: Mutex<Shown>,
    /// Whether the picture is older than what is known.
    stale: AtomicBool,
    closing: AtomicBool,
}

impl Shared {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown());
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Says something that must be seen now.
    pub fn say(&self, text: &str) {
        self.change(|shown| shown.message = Some(text.to_string()));
    }

    /// Draws no more, and waits for a picture that is being drawn; not for ever, since its own panic may be the end.
    pub fn end(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let ends = Instant::now() + 2 * REFRESH;
        while matches!(self.shown.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < ends {
            thread::sleep(REFRESH / 20);
        }
    }
}

impl Tui {
    /// Takes the terminal over; whoever looks on may stop the training through `stop`.
    ///
    /// # Errors
    ///
    /// Fails where the terminal cannot be taken over.
    pub fn open(plan: &Plan, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let shown = Mutex::new(Shown::new(plan));
        let shared = Arc::new(Shared { shown, stale: AtomicBool::new(true), closing: AtomicBool::new(false) });
        terminal::open(shared.clone())?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| terminal::restore())?;
        let drawn = shared.clone();
        let thread = thread::spawn(move || watch(terminal, &drawn, &stop));
        Ok(Self {
            shared,
            thread: Some(thread),
            iterations_per_epoch: plan.iterations_per_epoch.max(1),
            reported: None,
            loss: Mean::default(),
            accuracy: Mean::default(),
        })
    }

    /// Shows where the training stands; `left` are the seconds to its end.
    pub fn progress(&mut self, progress: &Progress, left: Option<f64>) {
        self.loss.add(progress.loss);
        self.accuracy.add(progress.accuracy);
        let epoch_ends = progress.iteration.is_multiple_of(self.iterations_per_epoch);
        if !epoch_ends && self.reported.is_some_and(|reported| reported.elapsed() < REFRESH) {
            return;
        }
        self.reported = Some(Instant::now());
        let mean = Progress { loss: self.loss.take(), accuracy: self.accuracy.take(), ..*progress };
        self.shared.change(|shown| shown.progress(&mean, left));
    }

    /// Shows a mask event.
    pub fn event(&mut self, event: &EventRow) {
        self.shared.change(|shown| shown.event(event));
    }

    /// Shows the end of an epoch.
    pub fn epoch(&mut self, epoch: &EpochRow, layers: &[LayerRow]) {
        let kept: Vec<(&str, u64)> = layers.iter().map(|layer| (layer.name.as_str(), layer.kept)).collect();
        let at = (epoch.epoch + 1) as f64;
        self.shared.change(|shown| shown.epoch(at, epoch.valid_loss, epoch.valid_accuracy, &kept));
    }

    /// Shows a note; the last one stays.
    pub fn note(&mut self, text: &str) {
        self.shared.change(|shown| shown.note(text));
    }

    /// Tells whether nothing is drawn any more, since the terminal has gone away.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Gives the terminal back.
    pub fn close(mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        terminal::restore();
    }
}

/// Draws what is new and follows the keys until the view is closed; a terminal that has gone away ends it, not the training.
fn watch(mut terminal: Terminal<CrosstermBackend<io::Stdout>>, shared: &Shared, stop: &AtomicBool) {
    let mut asked: Option<Instant> = None;
    loop {
        if asked.is_some_and(|asked| asked.elapsed() > PATIENCE) {
            asked = None;
            shared.change(|shown| shown.message = None);
        }
        {
            let mut shown = shared.shown();
            if shared.closing.load(Ordering::Relaxed) {
                return;
            }
            if shared.stale.swap(false, Ordering::Relaxed) && terminal.draw(|frame| shown.draw(frame)).is_err() {
                return;
            }
        }
        match event::poll(REFRESH) {
            Ok(false) => continue,
            Ok(true) => (),
            Err(_) => return,
        }
        let key = match event::read() {
            Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => key.code,
            Ok(Event::Resize(..)) => {
                shared.change(|_| ());
                continue;
            }
            Ok(_) => continue,
            Err(_) => return,
        };
        match key {
            KeyCode::Char('q') if asked.take().is_some() => {
                stop.store(true, Ordering::Relaxed);
                shared.say(STOPPING);
            }
            KeyCode::Char('q') if !stop.load(Ordering::Relaxed) => {
                asked = Some(Instant::now());
                shared.say(ASK);
            }
            KeyCode::Tab | KeyCode::Right => shared.change(|shown| shown.plot = shown.plot.next()),
            KeyCode::Char('c') => shared.change(|shown| shown.curves_first = !shown.curves_first),
            KeyCode::Down | KeyCode::PageDown => shared.change(|shown| shown.scroll(true)),
            KeyCode::Up | KeyCode::PageUp => shared.change(|shown| shown.scroll(false)),
            _ => (),
        }
    }
}
