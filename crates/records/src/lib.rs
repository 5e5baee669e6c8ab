//! What a run folder holds: its files, their rows, and reading them back.
//!
//! `bonsai-training` writes these files while a run goes on; everything that looks at runs reads them with this crate, so that
//! a damaged file is described in the same sentence everywhere.

mod paths;
mod read;
mod rows;
mod steps;

pub use paths::{Growing, RunPaths};
pub use read::{EventLine, read_config, read_events, read_layers, read_metrics, read_steps, read_summary};
pub use rows::*;
pub use steps::StepRow;
