//! Where each file of a run folder lies.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the files of a run lie; needs no lock, so that a run can be looked at while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    root: PathBuf,
}

impl RunPaths {
    /// Speaks of the run in this folder, which need not be there yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The resolved experiment: `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// One row an epoch: `metrics.csv`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join(Growing::Metrics.name())
    }

    /// One row a layer and epoch: `layers.csv`.
    pub fn layers(&self) -> PathBuf {
        self.root.join(Growing::Layers.name())
    }

    /// One line a mask event: `events.jsonl`.
    pub fn events(&self) -> PathBuf {
        self.root.join(Growing::Events.name())
    }

    /// A few rows an epoch, where the time of a step went: `steps.csv`.
    pub fn steps(&self) -> PathBuf {
        self.root.join(Growing::Steps.name())
    }

    /// The result of a finished run: `summary.toml`.
    pub fn summary(&self) -> PathBuf {
        self.root.join("summary.toml")
    }

    /// What the run said: `run.log`.
    pub fn log(&self) -> PathBuf {
        self.root.join("run.log")
    }

    /// The folder of the checkpoints: `checkpoint`.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    /// The trained network: `model.safetensors`.
    pub fn model(&self) -> PathBuf {
        self.root.join("model.safetensors")
    }

    /// What the run's networks cost on a machine: `receipt.csv`.
    pub fn receipt(&self) -> PathBuf {
        self.root.join("receipt.csv")
    }

    /// Tells whether a run has begun here.
    pub fn holds_run(&self) -> bool {
        let exists = [self.config(), self.summary(), self.model(), self.checkpoints()].iter().any(|path| path.exists());
        let has_rows = |file: Growing| fs::metadata(self.root.join(file.name())).is_ok_and(|data| data.len() > 0);
        exists || Growing::ALL.into_iter().any(has_rows)
    }
}

/// The files that grow while a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growing {
    /// `metrics.csv`.
    Metrics,
    /// `layers.csv`.
    Layers,
    /// `events.jsonl`.
    Events,
    /// `steps.csv`.
    Steps,
}

impl Growing {
    /// All of them.
    pub const ALL: [Growing; 4] = [Growing::Metrics, Growing::Layers, Growing::Events, Growing::Steps];

    /// Name of the file in the run folder.
    pub fn name(self) -> &'static str {
        match self {
            Growing::Metrics => "metrics.csv",
            Growing::Layers => "layers.csv",
            Growing::Events => "events.jsonl",
            Growing::Steps => "steps.csv",
        }
    }
}
