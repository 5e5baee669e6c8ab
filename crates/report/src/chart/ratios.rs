//! How much faster sparse kernels are than dense ones, layer by layer.

use crate::format::tail;

use super::canvas::{Anchor, Canvas, Picture};
use super::lines::WIDTH;
use super::scale::{Scale, Unit};

const ROW: f64 = 17.0;

/// The times of a layer in milliseconds, dense and sparse.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timed {
    /// Its name.
    pub name: String,
    /// Forward, weight gradient and data gradient.
    pub times: [(f64, f64); 3],
}

/// One row a layer, one mark a direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratios<'a> {
    /// What it shows.
    pub title: &'a str,
    /// One a layer.
    pub layers: Vec<Timed>,
}

/// Names and classes of the directions.
const DIRECTIONS: [(&str, &str); 3] = [("forward", "c0"), ("weight gradient", "c1"), ("data gradient", "c2")];

impl Ratios<'_> {
    /// Draws it; `None` where nothing was measured.
    pub fn draw(&self) -> Option<Picture> {
        let ratio = |&(dense, sparse): &(f64, f64)| (dense > 0.0 && sparse > 0.0).then(|| dense / sparse);
        let all = self.layers.iter().flat_map(|layer| &layer.times).filter_map(ratio);
        let across = Scale::over(all.collect::<Vec<_>>(), Unit::Number)?;
        let across = Scale::over(
            [0.0, 1.2]
                .into_iter()
                .chain(across.ticks())
                .chain(self.layers.iter().flat_map(|layer| &layer.times).filter_map(ratio)),
            Unit::Number,
        )?;
        let (left, right, top) = (118.0, WIDTH - 22.0, 40.0);
        let across = across.between(left, right);
        let bottom = top + ROW * self.layers.len() as f64;
        let mut canvas = Canvas::new(WIDTH, bottom + 36.0);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        let mut x = 6.0;
        for (name, class) in DIRECTIONS {
            canvas.circle((x, 26.0), 3.5, &format!("fill {class}"), "");
            canvas.text((x + 7.0, 29.5), Anchor::Start, "label", name);
            x += 6.0 * name.len() as f64 + 22.0;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let y = top + ROW * (index as f64 + 0.5);
            canvas.line((left, y), (right, y), "grid");
            canvas.text((left - 6.0, y + 3.5), Anchor::End, "label", &tail(&layer.name, 19));
            for (times, (name, class)) in layer.times.iter().zip(DIRECTIONS) {
                if let Some(ratio) = ratio(times) {
                    let title = format!("{}, {name}: dense {:.2} ms, sparse {:.2} ms", layer.name, times.0, times.1);
                    canvas.circle((across.at(ratio), y), 3.5, &format!("fill {class}"), &title);
                }
            }
        }
        canvas.line((across.at(1.0), top), (across.at(1.0), bottom), "axis");
        across.draw_below(&mut canvas, bottom, "times as fast as dense kernels");
        Some(canvas.finish(self.title))
    }
}
