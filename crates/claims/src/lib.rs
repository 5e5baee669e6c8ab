//! What papers claim, which of our runs answer it and with what verdict; and how sweeps expand into runs.
//!
//! [`Claims`] is a table of a paper, a file under `experiments/claims/`. Each of its cells is linked to an experiment;
//! [`Runs`] are what was trained. A run answers a cell if their resolved configurations have the same [`Identity`], seeds
//! apart. [`answers`] sets the two side by side, [`verdict`] states the rule, and [`Sheet`] is what is shown, as
//! Markdown, CSV, LaTeX or HTML.
//!
//! This crate reads no TOML of an experiment: whoever calls it says, by a [`Resolve`], what an experiment resolves to.

mod answer;
mod claims;
mod identity;
mod present;
pub mod readme;
mod runs;
mod sentence;
mod sheet;
pub mod sweep;
pub mod verdict;

pub use answer::{Answer, Ours, Resolve, Resolved, answers};
pub use claims::{Cell, Claims, Recipe, Row, Selection, Target, Trust};
pub use identity::Identity;
pub use present::{sheet, tally};
pub use runs::{Finished, Runs, UNKNOWN};
pub use sentence::nearest;
pub use sheet::{Format, Sheet};
pub use sweep::Sweep;
pub use verdict::Verdict;
