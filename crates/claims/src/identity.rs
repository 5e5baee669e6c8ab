//! What makes two runs the same: their resolved configuration, seeds apart.

use std::fmt;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

/// Keys of a configuration on which no figure of a run depends, and the seed, by which runs of one experiment differ.
///
/// `protocol` says only what is measured beside the training.
const APART: [&str; 6] = ["name", "seed", "environment", "log_every", "checkpoint", "protocol"];

/// The resolved configuration of a run without its seed, in one spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(String);

impl Identity {
    /// The identity of a resolved configuration, as `config.toml` holds it.
    pub fn of(config: &Table) -> Self {
        let rest = config.iter().filter(|(key, _)| !APART.contains(&key.as_str()));
        let rest: Table = rest.map(|(key, value)| (key.clone(), plain(value))).collect();
        Self(rest.to_string())
    }

    /// Eight hexadecimal digits that stand for this configuration at a revision of the code.
    pub fn short(&self, revision: &str) -> String {
        let digest = Sha256::digest(format!("{revision}\n{}", self.0));
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.short(""))
    }
}

/// A value in one spelling: `end_epoch = 5` and `end_epoch = 5.0` mean the same.
fn plain(value: &Value) -> Value {
    match value {
        Value::Integer(whole) => Value::Float(*whole as f64),
        Value::Array(values) => Value::Array(values.iter().map(plain).collect()),
        Value::Table(table) => Value::Table(table.iter().map(|(key, value)| (key.clone(), plain(value))).collect()),
        Value::String(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        Identity::of(&toml::from_str(text).unwrap())
    }

    #[test]
    fn seeds_names_and_spelling_change_nothing() {
        let one = identity(
            "name = 'a'\nseed = 0\nepochs = 10\nlr = 1\n[checkpoint]\nkeep = 2\n[scheduler]\nend_epoch = 5\nname = 'gmp'",
        );
        let other = identity(
            "name = 'b'\nseed = 3\nlr = 1.0\nepochs = 10\n[scheduler]\nname = 'gmp'\nend_epoch = 5.0\n[environment]\nburn = 'x'",
        );
        assert_eq!(one, other);
        assert_eq!(one.short("r"), other.short("r"));
        assert_eq!(one.short("r").len(), 8);
    }

    #[test]
    fn settings_and_revisions_do() {
        let one = identity("epochs = 10\n[scheduler]\nname = 'gmp'");
        assert_ne!(one, identity("epochs = 11\n[scheduler]\nname = 'gmp'"));
        // The name of the scheduler is no name of a run.
        assert_ne!(one, identity("epochs = 10\n[scheduler]\nname = 'set'"));
        assert_ne!(one.short("r"), one.short("s"));
    }
}
