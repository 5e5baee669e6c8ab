//! How weights are spread, before training and after it.

use std::fmt::Write;

use crate::format::tail;

use super::canvas::{Anchor, Canvas, Picture, round};
use super::lines::WIDTH;

const BINS: usize = 61;
const COLUMNS: usize = 3;

/// Weights of a layer, counted in bins of equal width around zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Name of the layer.
    pub name: String,
    /// The bins reach from minus this to this; what lies beyond counts to the outermost.
    pub reach: f64,
    /// Initial weights by bin; empty where they are not known.
    pub before: Vec<u32>,
    /// Kept weights by bin.
    pub after: Vec<u32>,
    /// Share of the layer's weights that is kept.
    pub kept: f64,
}

impl Histogram {
    /// Counts weights; removed ones belong neither to `before` nor to `after`.
    pub fn new(name: &str, before: &[f32], after: &[f32], kept: f64) -> Self {
        let reach = reach(before).max(reach(after)).max(1e-6);
        let counted = |weights: &[f32]| {
            let mut bins = vec![0; if weights.is_empty() { 0 } else { BINS }];
            for weight in weights.iter().map(|weight| f64::from(*weight)).filter(|weight| weight.is_finite()) {
                let place = ((weight / reach + 1.0) / 2.0 * BINS as f64).floor().clamp(0.0, BINS as f64 - 1.0);
                bins[place as usize] += 1;
            }
            bins
        };
        Self { name: name.to_string(), reach, before: counted(before), after: counted(after), kept }
    }
}

/// The size that one weight in five hundred exceeds, so that a stray one does not flatten all others.
fn reach(weights: &[f32]) -> f64 {
    let mut sizes: Vec<f32> = weights.iter().map(|weight| weight.abs()).filter(|size| size.is_finite()).collect();
    sizes.sort_by(f32::total_cmp);
    let place = (sizes.len() * 499 / 500).min(sizes.len().saturating_sub(1));
    sizes.get(place).map_or(0.0, |size| f64::from(*size))
}

/// Draws the histograms of all layers, three beside each other; `None` where there is none.
pub fn histograms(title: &str, class: &str, layers: &[Histogram]) -> Option<Picture> {
    layers.iter().find(|layer| !layer.after.is_empty())?;
    let (width, height, top) = (WIDTH / COLUMNS as f64, 74.0, 24.0);
    let mut canvas = Canvas::new(WIDTH, top + height * layers.len().div_ceil(COLUMNS) as f64);
    canvas.text((2.0, 12.0), Anchor::Start, "title", title);
    for (index, layer) in layers.iter().enumerate() {
        let (x, y) = (width * (index % COLUMNS) as f64 + 3.0, top + height * (index / COLUMNS) as f64);
        let (inner, floor) = (width - 8.0, y + 54.0);
        canvas.text((x, y + 8.0), Anchor::Start, "tick", &tail(&layer.name, 14));
        if layer.kept < 0.9995 {
            let share = format!("{:.0} %", 100.0 * layer.kept);
            canvas.text((x + inner, y + 8.0), Anchor::End, "tick", &share);
        }
        // Shapes are compared, so that both reach the same height; a tenth of the weights would be a flat line else.
        let peak = |bins: &[u32]| f64::from(bins.iter().copied().max().unwrap_or(0).max(1));
        let place = |bin: usize, weights: u32, peak: f64| {
            (x + inner * bin as f64 / BINS as f64, floor - 40.0 * f64::from(weights) / peak)
        };
        if !layer.after.is_empty() {
            let peak = peak(&layer.after);
            let mut area = format!("M{} {}", round(x), round(floor));
            for (bin, weights) in layer.after.iter().enumerate() {
                let _ = write!(area, "V{}H{}", round(place(bin, *weights, peak).1), round(place(bin + 1, 0, peak).0));
            }
            let _ = write!(area, "V{}z", round(floor));
            canvas.path(&area, &format!("fill {class}"), &layer.name);
        }
        if !layer.before.is_empty() {
            let peak = peak(&layer.before);
            let mut outline = String::new();
            for (bin, weights) in layer.before.iter().enumerate() {
                let (left, height) = place(bin, *weights, peak);
                let command = if bin == 0 { "M" } else { "L" };
                let _ = write!(outline, "{command}{} {}", round(left + inner / BINS as f64 / 2.0), round(height));
            }
            canvas.path(&outline, "line thin", "");
        }
        canvas.line((x, floor), (x + inner, floor), "axis");
        let reach = if layer.reach < 0.01 { format!("{:.0e}", layer.reach) } else { format!("{:.2}", layer.reach) };
        canvas.text((x, floor + 11.0), Anchor::Start, "tick", &format!("−{reach}"));
        canvas.text((x + inner, floor + 11.0), Anchor::End, "tick", &reach);
    }
    Some(canvas.finish(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fall_into_their_bins() {
        let histogram = Histogram::new("fc", &[-1.0, 0.0, 0.0, 1.0, f32::NAN], &[0.5], 0.25);
        assert_eq!(histogram.reach, 1.0);
        assert_eq!((histogram.before[0], histogram.before[30], histogram.before[60]), (1, 2, 1));
        assert_eq!(histogram.before.iter().sum::<u32>(), 4);
        assert_eq!(histogram.after.iter().position(|weights| *weights == 1), Some(45));
        assert!(histograms("w", "c0", &[Histogram::new("none", &[], &[], 0.0)]).is_none());
        assert!(histograms("w", "c0", &[Histogram::new("zeros", &[], &[0.0; 9], 1.0)]).is_some());
    }
}
