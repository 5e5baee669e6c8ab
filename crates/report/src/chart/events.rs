//! Births and deaths: grown weights above the line, removed ones below it.

use crate::format::count;

use super::canvas::{Anchor, Canvas, Picture};
use super::lines::{HEIGHT, WIDTH};
use super::scale::{Scale, Unit};

/// The events of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Turnover<'a> {
    /// What it shows.
    pub title: &'a str,
    /// When, how many were grown, how many were removed.
    pub events: Vec<(f64, u64, u64)>,
    /// How long the run was.
    pub end: f64,
    /// Class of the colour.
    pub class: String,
}

impl Turnover<'_> {
    /// Draws it; `None` where nothing was grown or removed.
    pub fn draw(&self) -> Option<Picture> {
        let moved = self.events.iter().any(|(_, grown, pruned)| grown + pruned > 0);
        let values = self.events.iter().flat_map(|&(_, grown, pruned)| [grown as f64, -(pruned as f64)]).chain([0.0]);
        let up = Scale::over(values, Unit::Short).filter(|_| moved)?.rounded();
        let last = self.events.last().map_or(1.0, |event| event.0).max(self.end);
        let across = Scale::over([0.0, last.max(1.0)], Unit::Whole)?;
        let (top, bottom, left, right) = (26.0, HEIGHT - 36.0, up.label_width().max(26.0), WIDTH - 54.0);
        let (up, across) = (up.between(bottom, top), across.between(left, right));

        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        up.draw_beside(&mut canvas, left, right);
        across.draw_below(&mut canvas, bottom, "epochs");
        let zero = up.at(0.0);
        let gaps = self.events.windows(2).map(|pair| across.at(pair[1].0) - across.at(pair[0].0));
        let width = (0.75 * gaps.fold(12.0, f64::min)).clamp(1.0, 9.0);
        let (mut grown_any, mut pruned_any) = (false, false);
        for &(at, grown, pruned) in &self.events {
            let x = across.at(at) - width / 2.0;
            let title = format!("after {at:.2} epochs: {} grown, {} removed", count(grown), count(pruned));
            let (high, low) = (up.at(grown as f64), up.at(-(pruned as f64)));
            if grown > 0 {
                canvas.rectangle((x, high), (width, zero - high), &format!("fill {}", self.class), &title);
                grown_any = true;
            }
            if pruned > 0 {
                canvas.rectangle((x, zero), (width, low - zero), &format!("fill faint {}", self.class), &title);
                pruned_any = true;
            }
        }
        canvas.line((left, zero), (right, zero), "axis");
        if grown_any {
            canvas.text((right + 5.0, zero - 8.0), Anchor::Start, "label", "grown");
        }
        if pruned_any {
            canvas.text((right + 5.0, zero + 16.0), Anchor::Start, "label", "removed");
        }
        Some(canvas.finish(self.title))
    }
}
