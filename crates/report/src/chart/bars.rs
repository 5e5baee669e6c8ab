//! Stacked bars over epochs.

use super::canvas::{Anchor, Canvas, LETTER, Picture};
use super::lines::{HEIGHT, WIDTH, apart};
use super::scale::{Scale, Unit};

/// A part of every bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stack {
    /// Its name.
    pub label: String,
    /// Classes of its colour, and of its shade; its label has the colour alone.
    pub class: String,
    /// Its size in each bar.
    pub values: Vec<f64>,
}

/// Bars of parts that add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars<'a> {
    /// What the bars show, with the unit.
    pub title: &'a str,
    /// What the bars stand for.
    pub across: &'a str,
    /// The parts, lowest first.
    pub parts: Vec<Stack>,
}

impl Bars<'_> {
    /// Draws it; `None` where there is no bar.
    pub fn draw(&self) -> Option<Picture> {
        let bars = self.parts.iter().map(|part| part.values.len()).max().filter(|bars| *bars > 0)?;
        let value = |part: &Stack, bar: usize| {
            part.values.get(bar).copied().filter(|value| value.is_finite()).unwrap_or(0.0).max(0.0)
        };
        let total = |bar: usize| self.parts.iter().map(|part| value(part, bar)).sum::<f64>();
        let up = Scale::over((0..bars).map(total).chain([0.0]), Unit::Number)?.rounded();
        let across = Scale::over([0.5, bars as f64 + 0.5], Unit::Whole)?;
        let longest = self.parts.iter().map(|part| part.label.chars().count()).max().unwrap_or(0);
        let (top, bottom, left) = (26.0, HEIGHT - 36.0, up.label_width().max(26.0));
        let right = WIDTH - LETTER * longest as f64 - 12.0;
        let (up, across) = (up.between(bottom, top), across.between(left, right));
        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        up.draw_beside(&mut canvas, left, right);
        let width = (across.at(2.0) - across.at(1.0)) * if bars > 60 { 1.0 } else { 0.82 };
        for bar in 0..bars {
            let mut below = 0.0;
            for part in &self.parts {
                let above = below + value(part, bar);
                let x = across.at(bar as f64 + 1.0) - width / 2.0;
                let title = format!("{} {}, {}: {:.2}", self.across, bar + 1, part.label, above - below);
                let class = format!("fill {}", part.class);
                canvas.rectangle((x, up.at(above)), (width, up.at(below) - up.at(above)), &class, &title);
                below = above;
            }
        }
        across.draw_below(&mut canvas, bottom, self.across);
        let mut below = 0.0;
        let middles = self.parts.iter().map(|part| {
            let size = value(part, bars - 1);
            below += size;
            up.at(below - size / 2.0)
        });
        let heights = apart(middles.collect(), 12.0, top, bottom);
        for (part, y) in self.parts.iter().zip(heights) {
            let colour = part.class.split(' ').next().unwrap_or_default();
            canvas.text((right + 5.0, y + 3.5), Anchor::Start, &format!("label {colour}"), &part.label);
        }
        Some(canvas.finish(self.title))
    }
}
