//! Tells what a user can mend by calling differently from what failed.

/// A sentence about a call that cannot be right, such as resuming with other settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake(pub String);

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}
