//! Takes the terminal over and gives it back, from whichever thread and however the process ends.

use std::io::{self, stdout};
use std::panic::{set_hook, take_hook};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

use super::tui::Shared;

/// The view that has the terminal.
static OPEN: Mutex<Option<Arc<Shared>>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Takes the terminal over for a view.
///
/// # Errors
///
/// Fails where the terminal does not allow it; it is then as it was.
pub fn open(view: Arc<Shared>) -> io::Result<()> {
    HOOK.call_once(|| {
        // The message of a panic would be lost with the screen that it is written on.
        let hook = take_hook();
        set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
    });
    enable_raw_mode()?;
    *shared() = Some(view);
    execute!(stdout(), EnterAlternateScreen).inspect_err(|_| restore())?;
    let_interrupts_through();
    Ok(())
}

/// Gives the terminal back, if a view has it.
pub fn restore() {
    // The lock is not held while the picture is waited for: what draws it may want to say something.
    let Some(view) = shared().take() else { return };
    view.end();
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

/// Says something in the view, if one is open; returns whether it is.
pub fn say(text: &str) -> bool {
    let view = shared().clone();
    view.inspect(|view| view.say(text)).is_some()
}

/// Has Ctrl-C raise SIGINT, though raw mode makes it a key.
///
/// Keys that suspend or abort the process stay switched off, because they would leave the terminal raw. `stty` is used because
/// the system calls would need unsafe code; without it Ctrl-C does nothing, and `q` still stops the training.
fn let_interrupts_through() {
    // `noflsh`: a signal must not discard half of a picture that is being drawn.
    let words = ["isig", "noflsh", "susp", "undef", "quit", "undef"];
    let _ = Command::new("stty").args(words).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
}

fn shared() -> MutexGuard<'static, Option<Arc<Shared>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}
