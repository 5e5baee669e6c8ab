//! Trains a network while it is pruned: the loop, the optimizer, checkpoints and run folders.

pub mod bench;
pub mod checkpoint;
mod compaction;
mod cut;
pub mod dashboard;
pub mod diagnose;
mod ending;
pub mod evaluate;
pub mod experiment;
mod first_steps;
pub mod hardware;
mod learned;
pub mod loss;
pub mod loss_scale;
pub mod lr;
pub mod meter;
mod mistake;
pub mod optimizer;
pub mod parameters;
pub mod position;
pub mod recalibrate;
pub mod receipt;
mod replicas;
pub mod resident;
mod run;
pub mod run_folder;
mod sampling;
pub mod setup;
pub mod snapshot;
mod state;
pub mod tensors;
pub mod trace;
pub mod train;
pub mod trainee;

pub use bonsai_records as records;
pub use mistake::Mistake;
