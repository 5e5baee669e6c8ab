//! Writes the sparsity of every layer as a block of text, for a pane that offers wrapped words only.
//!
//! burn-train's text pane drops line breaks and wraps at spaces. A row of the block is therefore one word, made with
//! no-break spaces and one character narrower than the pane, so that each row wraps onto a line of its own.

use super::text::{percent, plural, short_count};

const SPACE: char = '\u{a0}';
const BAR: usize = 10;
const GAP: usize = 2;
/// Percentage ("100.0%") and the space before it.
const PERCENT: usize = 7;
/// Bar and short count, each with the space before it.
const BAR_AND_COUNT: usize = BAR + 1 + 6;
/// A name is cut to no less than this.
const NAME: usize = 11;
/// What the pane writes before the first row: " Train ".
const PREFIX: usize = 7;

/// The state of one layer's mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerState {
    /// The path of the weight.
    pub name: String,
    /// All weights.
    pub weights: u64,
    /// Weights that are kept.
    pub kept: u64,
}

impl LayerState {
    fn sparsity(&self) -> f64 {
        1.0 - self.kept as f64 / self.weights.max(1) as f64
    }
}

/// Writes `layers`, below what happened to them last, for a pane of `width` characters and about `height` lines.
///
/// Bars and counts are left out where only that makes all layers fit; layers that still do not fit are counted.
pub fn block(layers: &[LayerState], event: Option<&str>, width: usize, height: usize) -> String {
    let width = width.saturating_sub(1).max(PREFIX + 1);
    let (kept, weights) = layers.iter().fold((0, 0), |sum, layer| (sum.0 + layer.kept, sum.1 + layer.weights));
    let total = format!("{} of {} weights kept", short_count(kept), short_count(weights));
    let mut rows = vec![sentence(&total, width - PREFIX)];
    rows.extend(event.map(|event| sentence(event, width)));

    let lines = height.saturating_sub(rows.len());
    let roomy = table(layers, width, true);
    let table = if roomy.len() <= lines { roomy } else { table(layers, width, false) };
    if table.len() <= lines {
        rows.extend(table);
    } else {
        let shown = lines.saturating_sub(1);
        let columns = layers.len().div_ceil(table.len());
        rows.extend(table.into_iter().take(shown));
        let hidden = (layers.len() - (shown * columns).min(layers.len())) as u64;
        rows.push(sentence(&format!("and {}: see layers.csv", plural(hidden, "layer more", "layers more")), width));
    }
    rows.join(" ")
}

/// Lays the layers out in as many columns as `width` allows, down the first column before the second.
fn table(layers: &[LayerState], width: usize, bars: bool) -> Vec<String> {
    let least = NAME + PERCENT + if bars { BAR_AND_COUNT } else { 0 };
    let columns = ((width + GAP) / (least + GAP)).max(1);
    let cell_width = (width - GAP * (columns - 1)) / columns;
    let height = layers.len().div_ceil(columns);
    (0..height)
        .map(|row| {
            let cells: Vec<String> =
                layers.iter().skip(row).step_by(height).map(|layer| cell(layer, cell_width, bars)).collect();
            pad(&cells.join(&" ".repeat(GAP)), width)
        })
        .collect()
}

fn cell(layer: &LayerState, width: usize, bars: bool) -> String {
    let percentage = format!("{}%", percent(layer.sparsity()));
    let name = short_name(&layer.name);
    if !bars {
        return format!("{} {percentage:>6}", pad(&name, width.saturating_sub(PERCENT)));
    }
    let filled = (layer.sparsity() * BAR as f64).round() as usize;
    let bar: String = (0..BAR).map(|index| if index < filled { '█' } else { '░' }).collect();
    let name = pad(&name, width.saturating_sub(PERCENT + BAR_AND_COUNT));
    format!("{name} {bar} {percentage:>6} {:>5}", short_count(layer.kept))
}

/// Shortens a path: `blocks.0.conv1.weight` to `b0.conv1`.
fn short_name(path: &str) -> String {
    let parts: Vec<&str> = path.strip_suffix(".weight").unwrap_or(path).split('.').collect();
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut name = String::new();
    for (index, part) in parts.iter().enumerate() {
        let numbered = parts.get(index + 1).is_some_and(|next| is_number(next));
        if index > 0 && !is_number(part) {
            name.push('.');
        }
        match part.chars().next() {
            Some(first) if numbered && !is_number(part) => name.push(first),
            _ => name.push_str(part),
        }
    }
    name
}

/// Brings a name or a row to `width` characters: padded at its end, or cut at its start, where names differ least.
fn pad(text: &str, width: usize) -> String {
    let length = text.chars().count();
    let text: String = if length <= width {
        format!("{text:width$}")
    } else {
        "…".chars().chain(text.chars().skip(length + 1 - width)).take(width).collect()
    };
    unbroken(&text)
}

/// Brings a sentence to `width` characters: padded or cut at its end.
fn sentence(text: &str, width: usize) -> String {
    unbroken(&format!("{text:width$.width$}"))
}

fn unbroken(text: &str) -> String {
    text.replace(' ', &SPACE.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(number: usize) -> Vec<LayerState> {
        (0..number)
            .map(|index| LayerState {
                name: format!("blocks.{index}.conv1.weight"),
                weights: 2304,
                kept: 2304 - 230 * index as u64,
            })
            .collect()
    }

    fn lines(block: &str) -> Vec<String> {
        block.split(' ').map(|row| row.replace(SPACE, " ").trim_end().to_owned()).collect()
    }

    #[test]
    fn a_wide_pane_shows_names_bars_shares_and_counts() {
        assert_eq!(
            lines(&block(&layers(3), None, 43, 20)),
            [
                "6.22k of 6.91k weights kept",
                "b0.conv1           ░░░░░░░░░░   0.0% 2.30k",
                "b1.conv1           █░░░░░░░░░  10.0% 2.07k",
                "b2.conv1           ██░░░░░░░░  20.0% 1.84k",
            ]
        );
    }

    #[test]
    fn bars_give_way_where_the_layers_would_not_fit() {
        assert_eq!(
            lines(&block(&layers(5), Some("at 440: 230 pruned"), 43, 5)),
            [
                "9.22k of 11.5k weights kept",
                "at 440: 230 pruned",
                "b0.conv1        0.0%  b3.conv1       29.9%",
                "b1.conv1       10.0%  b4.conv1       39.9%",
                "b2.conv1       20.0%",
            ]
        );
    }

    #[test]
    fn layers_without_room_are_counted() {
        let text = block(&layers(9), None, 43, 4);
        assert_eq!(lines(&text)[3], "and 5 layers more: see layers.csv");
        assert_eq!(lines(&text).len(), 4);
    }

    #[test]
    fn every_row_is_one_character_narrower_than_the_pane() {
        for width in [28, 43, 74, 120] {
            for row in block(&layers(9), Some("event"), width, 30).split(' ').skip(1) {
                assert_eq!(row.chars().count(), width - 1, "{row}");
            }
        }
        for width in 0..20 {
            let _ = block(&layers(9), Some("event"), width, width);
        }
        let _ = block(&[], None, 43, 20);
    }

    #[test]
    fn names_keep_what_tells_layers_apart() {
        let names = ["conv.weight", "stages.1.blocks.0.conv1.weight", "fc", "0.weight", "features.3.weight"];
        assert_eq!(names.map(short_name), ["conv", "s1.b0.conv1", "fc", "0", "f3"]);
    }
}
