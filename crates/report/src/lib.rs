//! Pictures and statistics of runs: one HTML page, SVG figures, TensorBoard event files.
//!
//! [`run::Run::read`] reads a run folder, finished or not. Nothing here trains or needs a tensor library.

pub mod run;
