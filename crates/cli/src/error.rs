//! Tells a user's mistake from a failure.

use std::fmt::Display;

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
    if error.chain().any(|cause| cause.is::<UserError>()) { 2 } else { 1 }
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
    }
}
