//! Tells a user's mistake from a failure.

use std::fmt::Display;

use bonsai_training::Mistake;
use bonsai_training::experiment::in_plain_words;

/// A mistake that the user mends by calling differently: exit code 2. Every other error is a failure: exit code 1.
#[derive(Debug)]
pub struct UserError(String);

impl Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for UserError {}

/// Returns a user's mistake with its sentence.
pub fn user(sentence: impl Display) -> anyhow::Error {
    anyhow::Error::new(UserError(sentence.to_string()))
}

/// Returns the exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<UserError>() || cause.is::<Mistake>()) { 2 } else { 1 }
}

/// Returns an error and its causes as one line for people.
pub fn sentence(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(in_words).collect();
    one_line(&causes.join(": "))
}

/// Returns a cause in words that need neither Rust nor the block in which TOML's errors come.
fn in_words(cause: &(dyn std::error::Error + 'static)) -> String {
    let text = cause.to_string();
    if let Some(error) = cause.downcast_ref::<toml::de::Error>() {
        let first = text.lines().next().unwrap_or_default();
        let line = first.strip_prefix("TOML parse error at ").and_then(|place| place.split(',').next());
        return line.map(|line| format!("{line}: ")).unwrap_or_default() + &in_plain_words(error.message());
    }
    if text == "stream did not contain valid UTF-8" { "it is no text file".to_string() } else { in_plain_words(&text) }
}

/// Joins lines, and drops what would move a terminal's cursor or change its colours.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn context_keeps_the_blame() {
        let mistake = Err::<(), _>(user("no such model")).context("reading x.toml").unwrap_err();
        assert_eq!(code(&mistake), 2);
        assert_eq!(format!("{mistake:#}"), "reading x.toml: no such model");
        assert_eq!(code(&anyhow::anyhow!("disk full")), 1);
        assert_eq!(code(&anyhow::Error::new(Mistake("other settings".to_string())).context("resuming")), 2);
    }

    #[test]
    fn an_error_is_one_line_without_rusts_words() {
        let damaged = toml::from_str::<std::collections::BTreeMap<String, u64>>("a = 1\nb = 'x'").unwrap_err();
        let damaged = anyhow::Error::new(damaged).context("reading\n  a\u{1b}[31m.toml");
        assert_eq!(sentence(&damaged), "reading a[31m.toml: line 2: expected a whole number of 0 or more, not \"x\"");
    }
}
