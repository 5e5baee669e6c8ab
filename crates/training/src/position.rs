//! Says where a run stands between two iterations: everything a resumed run needs besides tensors.

use serde::{Deserialize, Serialize};

use crate::meter::Totals;

/// A point between two iterations of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch to go on with, counted from 0.
    pub epoch: u64,
    /// Batches of that epoch that are done.
    pub batch: usize,
    /// Optimizer steps that are done.
    pub iteration: u64,
    /// Training loss and accuracy of the epoch so far.
    pub totals: Totals,
    /// Seconds of training in the epoch so far.
    pub epoch_seconds: f64,
    /// Weights removed and grown per layer in the epoch so far.
    pub changes: Vec<(usize, usize)>,
    /// Seconds since the run began, checkpoints and validation included, pauses left out.
    pub wall_seconds: f64,
    /// The most memory that a process of the run held, in bytes.
    pub peak_memory: Option<u64>,
    /// Training images seen, and the seconds that took.
    pub trained: (u64, f64),
    /// MACs of the training so far.
    #[serde(default)]
    pub training_macs: u64,
    /// Optimizer steps that were left out because a gradient was too large for f16, as the last epoch's end found.
    #[serde(default)]
    pub skipped_steps: u64,
    /// The best epoch on the validation split at the target sparsity.
    pub best: Option<Best>,
    /// The last validation accuracy.
    pub valid_accuracy: Option<f64>,
    /// How often the run was resumed.
    pub resumes: u32,
}

/// An epoch and its accuracy on the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The share of validation records whose label was predicted.
    pub accuracy: f64,
}
