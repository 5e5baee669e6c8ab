//! What can go wrong between a data set's name and its pixels.

use crate::DataSet;
use std::path::PathBuf;
use thiserror::Error;

/// Why a data set cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No folder that was searched holds a file of the set.
    #[error(
        "the data set {set} was not found in {}: run `bonsai data fetch {set}`, or name its folder with --data-dir or $BONSAI_DATASETS",
        list(.searched)
    )]
    Missing {
        /// The set that was looked for.
        set: DataSet,
        /// The folders that were searched, in order.
        searched: Vec<PathBuf>,
    },
    /// A file is there, but it is not what it should be; the sentence names file, record and remedy.
    #[error("{0}")]
    Damaged(String),
    /// A download did not succeed; the sentence names the address and the remedy.
    #[error("{0}")]
    Fetch(String),
}

fn list(folders: &[PathBuf]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_set_says_where_it_was_looked_for_and_what_to_do() {
        let error = Error::Missing { set: DataSet::Cifar10, searched: vec!["a".into(), "b/c".into()] };
        assert_eq!(
            error.to_string(),
            "the data set cifar10 was not found in a, b/c: run `bonsai data fetch cifar10`, \
             or name its folder with --data-dir or $BONSAI_DATASETS"
        );
    }
}
