//! Lines over time, each named at its end.

use std::fmt::Write;

use super::canvas::{Anchor, Canvas, LETTER, Picture, round};
use super::scale::{Scale, Unit};

/// Width of a chart, that of a phone's screen.
pub const WIDTH: f64 = 360.0;
/// Height of a chart.
pub const HEIGHT: f64 = 230.0;
/// Points up to which each gets a dot that says its value.
const DOTS: usize = 40;

/// A line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// What stands at its end; nothing where it is empty.
    pub label: String,
    /// Classes of its colour and stroke: `c0 faint dashed`.
    pub class: String,
    /// Where it goes; a gap where a value is not a number.
    pub points: Vec<(f64, f64)>,
    /// Whether a value holds until the next one.
    pub steps: bool,
}

/// A chart of lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines<'a> {
    /// What the vertical axis shows, with its unit.
    pub title: &'a str,
    /// What the horizontal axis shows, with its unit.
    pub across: &'a str,
    /// What the vertical numbers are.
    pub unit: Unit,
    /// What the horizontal numbers are.
    pub across_unit: Unit,
    /// A value that the vertical axis reaches at least.
    pub reaches: Option<f64>,
    /// The lines, later ones above.
    pub series: Vec<Series>,
}

impl Lines<'_> {
    /// Draws it; `None` where no line has a point.
    pub fn draw(&self) -> Option<Picture> {
        let points =
            || self.series.iter().flat_map(|series| &series.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let up = Scale::over(points().map(|(_, y)| *y).chain(self.reaches), self.unit)?.rounded();
        let across = Scale::over(points().map(|(x, _)| *x), self.across_unit)?;

        let longest = self.series.iter().map(|series| series.label.chars().count()).max().unwrap_or(0);
        let (top, bottom) = (26.0, HEIGHT - 36.0);
        let left = up.label_width().max(26.0);
        let right = WIDTH - if longest == 0 { 22.0 } else { LETTER * longest as f64 + 12.0 };
        let (up, across) = (up.between(bottom, top), across.between(left, right));

        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        up.draw_beside(&mut canvas, left, right);
        across.draw_below(&mut canvas, bottom, self.across);

        let mut labels: Vec<(f64, &Series)> = Vec::new();
        for series in &self.series {
            let shown: Vec<(f64, f64)> = (series.points.iter())
                .map(
                    |&(x, y)| {
                        if x.is_finite() && y.is_finite() { (across.at(x), up.at(y)) } else { (f64::NAN, f64::NAN) }
                    },
                )
                .collect();
            canvas.path(&commands(&shown, series.steps), &format!("line {}", series.class), "");
            let few = shown.len() <= DOTS
                && !series.steps
                && !series.class.contains("faint")
                && !series.class.contains("seed");
            for (&(x, y), &(value_x, value)) in shown.iter().zip(&series.points) {
                if few && x.is_finite() {
                    let name = if series.label.is_empty() { "" } else { &format!("{}: ", series.label) };
                    let title = format!("{name}{} at {} {}", figure(value), figure(value_x), self.across);
                    canvas.circle((x, y), 2.2, &format!("fill {}", series.class), &title);
                }
            }
            if let Some(&(_, y)) = shown.iter().rev().find(|(x, _)| x.is_finite())
                && !series.label.is_empty()
            {
                labels.push((y, series));
            }
        }
        let heights = apart(labels.iter().map(|(y, _)| *y).collect(), 12.0, top, bottom);
        for ((_, series), y) in labels.iter().zip(heights) {
            canvas.text((right + 5.0, y + 3.5), Anchor::Start, &format!("label {}", series.class), &series.label);
        }
        Some(canvas.finish(&format!("{}, by {}", self.title, self.across)))
    }
}

/// A value in a title.
fn figure(value: f64) -> String {
    let text = if value.abs() >= 1e5 { crate::format::short(value) } else { format!("{value:.4}") };
    if text.contains('.') && !text.contains(' ') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// The commands of a path through points, with gaps where they are not numbers.
pub fn commands(points: &[(f64, f64)], steps: bool) -> String {
    let mut text = String::new();
    let mut drawing = false;
    for &(x, y) in points {
        if !x.is_finite() || !y.is_finite() {
            drawing = false;
            continue;
        }
        let (x, y) = (round(x), round(y));
        let _ = match (drawing, steps) {
            (false, _) => write!(text, "M{x} {y}"),
            (true, true) => write!(text, "H{x}V{y}"),
            (true, false) => write!(text, "L{x} {y}"),
        };
        drawing = true;
    }
    text
}

/// Moves heights apart by at least `gap`, within `top` and `bottom` as long as there is room, in their own order.
pub fn apart(heights: Vec<f64>, gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|a, b| heights[*a].total_cmp(&heights[*b]));
    let mut moved = heights;
    let mut least = top;
    for &index in &order {
        moved[index] = moved[index].max(least);
        least = moved[index] + gap;
    }
    let mut most = bottom;
    for &index in order.iter().rev() {
        moved[index] = moved[index].min(most);
        most = moved[index] - gap;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_apart_and_keep_their_order() {
        assert_eq!(apart(vec![50.0, 51.0, 10.0], 12.0, 0.0, 100.0), [50.0, 62.0, 10.0]);
        assert_eq!(apart(vec![99.0, 98.0], 12.0, 0.0, 100.0), [100.0, 88.0]);
    }

    #[test]
    fn a_line_has_a_gap_where_a_value_is_no_number() {
        let points = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.04)];
        assert_eq!(commands(&points, false), "M0 1M2 3L3 4");
        assert_eq!(commands(&points[2..], true), "M2 3H3V4");
    }

    #[test]
    fn a_chart_needs_one_point() {
        let series = |points: &[(f64, f64)]| {
            vec![Series { points: points.to_vec(), label: "a < b".into(), ..Series::default() }]
        };
        let chart = |series| Lines {
            title: "loss",
            across: "epochs",
            unit: Unit::Number,
            across_unit: Unit::Whole,
            reaches: None,
            series,
        };
        assert_eq!(chart(vec![]).draw(), None);
        assert_eq!(chart(series(&[(1.0, f64::NAN)])).draw(), None);
        let one = chart(series(&[(1.0, 2.0)])).draw().unwrap().inline();
        assert!(one.contains("a &lt; b") && !one.contains("NaN"), "{one}");
    }
}
