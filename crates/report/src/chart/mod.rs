//! Charts as SVG: axes, lines, bars, points, each with its labels beside what they name.
//!
//! Colours and fonts are CSS classes ([`theme`](crate::theme)), so that the same drawing serves a light page, a dark one and paper.

mod bars;
mod canvas;
mod events;
mod histogram;
mod lines;
mod ratios;
mod rows;
mod scale;
mod scatter;

pub use bars::{Bars, Stack};
pub use canvas::Picture;
pub use events::Turnover;
pub use histogram::{Histogram, histograms};
pub use lines::{Lines, Series};
pub use ratios::{Ratios, Timed};
pub use rows::{Row, Rows};
pub use scale::Unit;
pub use scatter::{Point, Scatter};
