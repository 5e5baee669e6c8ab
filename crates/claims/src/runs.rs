//! Finished runs, wherever they lie.

use std::path::{Path, PathBuf};

use bonsai_records::{EpochRow, RunPaths, Summary, read_config, read_metrics, read_summary};
use toml::Table;

use crate::identity::Identity;

/// A run with a summary.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its folder.
    pub folder: PathBuf,
    /// What it shares with the runs of other seeds.
    pub identity: Identity,
    /// Its resolved configuration, completed.
    pub config: Table,
    /// Its summary.
    pub summary: Summary,
    /// Its epochs; none where `metrics.csv` is missing.
    pub epochs: Vec<EpochRow>,
    /// The revision of the code that made it; two, where it was resumed by another.
    pub revision: String,
}

/// What was found in some folders.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The finished runs, by folder.
    pub finished: Vec<Finished>,
    /// A sentence for each folder that cannot be used, such as one with a damaged file.
    pub warnings: Vec<String>,
}

/// What a revision is called that nobody recorded.
pub const UNKNOWN: &str = "unknown";

impl Runs {
    /// Finds the finished runs at any depth below `folders`; those that do not exist are passed over.
    ///
    /// `resolve` fills in what an older revision did not write into `config.toml`; where it cannot, the table is taken as
    /// it stands.
    pub fn find(folders: &[&Path], resolve: &dyn Fn(&Table) -> Option<Table>) -> Self {
        let mut runs = Self::default();
        let mut places = Vec::new();
        for folder in folders {
            collect(folder, &mut places, &mut runs.warnings);
        }
        places.sort();
        places.dedup();
        for place in places {
            match read(&place, resolve) {
                Ok(finished) => runs.finished.push(finished),
                Err(message) => runs.warnings.push(message),
            }
        }
        runs
    }

    /// The finished runs of a configuration, any seed.
    pub fn of<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Finished> {
        self.finished.iter().filter(move |run| run.identity == *identity)
    }
}

impl Finished {
    /// Test accuracy in per cent as training left the network.
    pub fn last(&self) -> Option<f64> {
        per_cent(Some(self.summary.final_test_accuracy))
    }

    /// Test accuracy in per cent of the epoch that validation chose among those at the target.
    pub fn selected(&self) -> Option<f64> {
        per_cent(self.summary.best_test_accuracy)
    }

    /// The best test accuracy in per cent of the epochs at the final sparsity, where the run looked.
    ///
    /// It is chosen on the test set: a figure to set beside papers that do so, and for nothing else.
    pub fn best_test(&self) -> Option<f64> {
        let at_target = |row: &&EpochRow| (row.sparsity - self.summary.sparsity).abs() < 1e-12;
        let figures = self.epochs.iter().filter(at_target).filter_map(|row| per_cent(row.test_accuracy));
        figures.reduce(f64::max)
    }
}

fn per_cent(share: Option<f64>) -> Option<f64> {
    share.filter(|share| share.is_finite()).map(|share| 100.0 * share)
}

fn read(folder: &Path, resolve: &dyn Fn(&Table) -> Option<Table>) -> Result<Finished, String> {
    let paths = RunPaths::new(folder);
    let words = |error: anyhow::Error| format!("{error:#}");
    let summary = read_summary(&paths.summary()).map_err(words)?;
    let config = read_config(&paths.config()).map_err(|error| {
        format!("the run in {} cannot be told apart without its config.toml: {}", folder.display(), words(error))
    })?;
    let epochs = if paths.metrics().is_file() { read_metrics(&paths.metrics()).map_err(words)? } else { Vec::new() };
    let environment = config.get("environment").and_then(|environment| environment.get("git_revision"));
    let began = environment.and_then(|revision| revision.as_str()).unwrap_or(UNKNOWN).to_string();
    let ended = summary.git_revision.clone().unwrap_or_else(|| UNKNOWN.to_string());
    let revision = if began == ended { ended } else { format!("{began} to {ended}") };
    let config = resolve(&config).unwrap_or(config);
    let identity = Identity::of(&config);
    Ok(Finished { folder: folder.to_path_buf(), identity, config, summary, epochs, revision })
}

/// Adds the folders with a summary below `folder`.
fn collect(folder: &Path, found: &mut Vec<PathBuf>, warnings: &mut Vec<String>) {
    if !folder.is_dir() {
        return;
    }
    if RunPaths::new(folder).summary().is_file() {
        found.push(folder.to_path_buf());
        return;
    }
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries.flatten() {
                // Links are not followed: one may lead back up.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    collect(&entry.path(), found, warnings);
                }
            }
        }
        Err(error) => warnings.push(format!("{} cannot be read: {error}", folder.display())),
    }
}
