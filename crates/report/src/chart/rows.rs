//! One row a layer: its name, bars over time, and what is left in the end.

use std::fmt::Write;

use crate::format::tail;

use super::canvas::{Anchor, Canvas, Picture, round};
use super::lines::WIDTH;

const ROW: f64 = 17.0;
const BAR: f64 = 13.0;
const LEFT: f64 = 118.0;
const RIGHT: f64 = 256.0;

/// A layer or a group of channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Shares from 0 to 1, one a bar.
    pub shares: Vec<f64>,
    /// What stands behind the bars.
    pub end: String,
    /// Whether something is wrong with it.
    pub alarm: bool,
}

/// Rows of bars under a common time.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<'a> {
    /// What the bars show.
    pub title: &'a str,
    /// What the numbers behind the bars are.
    pub ends: &'a str,
    /// The first and the last moment, as in `epoch 1`.
    pub span: [String; 2],
    /// Class of the bars' colour.
    pub class: String,
    /// One a layer.
    pub rows: Vec<Row>,
}

impl Rows<'_> {
    /// Draws it; `None` where no row has a bar.
    pub fn draw(&self) -> Option<Picture> {
        self.rows.iter().find(|row| !row.shares.is_empty())?;
        let top = 36.0;
        let height = top + ROW * self.rows.len() as f64 + 6.0;
        let mut canvas = Canvas::new(WIDTH, height);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        canvas.text((LEFT, 30.0), Anchor::Start, "tick", &self.span[0]);
        if self.rows[0].shares.len() > 1 {
            canvas.text((RIGHT, 30.0), Anchor::End, "tick", &self.span[1]);
        }
        canvas.text((WIDTH - 2.0, 30.0), Anchor::End, "tick", self.ends);
        for (index, row) in self.rows.iter().enumerate() {
            let y = top + ROW * index as f64;
            let mark = if row.alarm { "label alarm" } else { "label" };
            canvas.text((LEFT - 6.0, y + 10.5), Anchor::End, mark, &tail(&row.name, 19));
            canvas.rectangle((LEFT, y), (RIGHT - LEFT, BAR), "ground", "");
            let title = format!("{}: {}", row.name, row.end);
            canvas.path(&bars(&row.shares, y + BAR), &format!("fill {}", self.class), &title);
            canvas.text((WIDTH - 2.0, y + 10.5), Anchor::End, mark, &row.end);
        }
        Some(canvas.finish(self.title))
    }
}

/// Bars that stand on `floor`, with gaps between them where there is room.
fn bars(shares: &[f64], floor: f64) -> String {
    let width = (RIGHT - LEFT) / shares.len().max(1) as f64;
    let gap = if width > 4.0 { 1.0 } else { 0.0 };
    let mut text = String::new();
    for (index, share) in shares.iter().enumerate() {
        let height = if share.is_finite() { BAR * share.clamp(0.0, 1.0) } else { 0.0 };
        let x = LEFT + width * index as f64;
        let _ =
            write!(text, "M{} {}v{}h{}V{}z", round(x), round(floor), round(-height), round(width - gap), round(floor));
    }
    text
}
