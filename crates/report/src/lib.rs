//! Pictures and statistics of runs: one HTML page, figures as SVG and PNG, TensorBoard event files.
//!
//! [`run::Run::read`] reads a run folder, finished or not. [`entry::entries`] puts runs side by side; [`page::page`] draws them,
//! [`figures::sections`] are the single figures, [`compare`] holds means over seeds, [`tensorboard`] the event files.
//! Nothing here trains or needs a tensor library.

pub mod baseline;
pub mod chart;
pub mod compare;
pub mod entry;
pub mod figures;
pub mod format;
pub mod model;
pub mod page;
pub mod png;
pub mod receipt;
pub mod run;
pub mod settings;
pub mod statistics;
pub mod tensorboard;
pub mod theme;
