//! Handles the terminal beside burn-train's view: its size, Ctrl-C as a signal, a last line, a way back in emergencies.
//!
//! `stty` is used because the system calls would need unsafe code; where it does not exist nothing is changed.

use std::io::{Write, stdout};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines from top to bottom.
    pub rows: usize,
    /// Characters in a line.
    pub columns: usize,
}

/// The settings to go back to while the terminal view is open; empty where there is no `stty`.
static OPEN: Mutex<Option<String>> = Mutex::new(None);

/// Keeps the settings of the terminal, before the view changes them.
pub fn keep() {
    *open() = Some(stty(&["-g"]).unwrap_or_default());
}

/// Forgets the settings: whoever calls this has given the terminal back, or is about to.
pub fn forget() {
    *open() = None;
}

/// Gives the terminal back with the settings that were kept, if any were: a last resort, besides the view's own way.
pub fn restore() {
    if let Some(settings) = open().take() {
        stty(&[settings.trim()]);
        write("\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h");
    }
}

/// Writes over the last line of the view, if it is open; returns whether it is.
pub fn overlay(text: &str) -> bool {
    let open = open();
    if open.is_some() {
        write(&format!("\x1b7\x1b[999;3H\x1b[7m {text} \x1b[0m\x1b8"));
    }
    open.is_some()
}

/// Returns the size of the terminal at standard input.
pub fn size() -> Option<Size> {
    parse_size(&stty(&["size"])?)
}

/// Waits until the terminal is in raw mode, then has Ctrl-C raise SIGINT in it.
///
/// Raw mode turns Ctrl-C into a key, and burn-train's view has no use for that key. Keys that suspend or abort the
/// process stay switched off, because they would leave the terminal raw.
pub fn let_interrupts_through() {
    for _ in 0..200 {
        match stty(&["-a"]) {
            Some(settings) if settings.split_whitespace().any(|word| word == "-isig") => {
                // `noflsh`: a signal must not discard half of a picture that is being drawn.
                stty(&["isig", "noflsh", "susp", "undef", "quit", "undef"]);
                return;
            }
            Some(_) => sleep(Duration::from_millis(5)),
            None => return,
        }
    }
}

fn open() -> MutexGuard<'static, Option<String>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes control sequences; a terminal that has gone away is nobody's loss.
fn write(text: &str) {
    let mut stdout = stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn stty(arguments: &[&str]) -> Option<String> {
    let output = Command::new("stty").args(arguments).stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_size(text: &str) -> Option<Size> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?.ok()?, numbers.next()?.ok()?) {
        (0, _) | (_, 0) => None,
        (rows, columns) => Some(Size { rows, columns }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_two_numbers_above_zero() {
        assert_eq!(parse_size("50 120\n"), Some(Size { rows: 50, columns: 120 }));
        for text in ["", "50", "0 0", "rows 50"] {
            assert_eq!(parse_size(text), None);
        }
    }
}
