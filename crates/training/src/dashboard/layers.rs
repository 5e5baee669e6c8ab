//! Writes the layers of a network as a table of bars: what each keeps, and what the last event brought and took.

use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};

use super::text::{percent, short_count};

/// Eighths of a character, from the left and from below.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters between two columns of layers.
const GAP: usize = 2;
/// A name is cut to no less than this.
const NAME: usize = 8;
/// Percentage, count, births and deaths, each with the space before it.
const PERCENT: usize = 7;
const COUNT: usize = 6;
const CHANGES: usize = 14;
/// Bars are no shorter and no longer than this, with the space before them.
const BAR: std::ops::RangeInclusive<usize> = 7..=25;

/// The state of one layer's mask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerState {
    /// The path of the weight.
    pub name: String,
    /// All weights.
    pub weights: u64,
    /// Weights that are kept.
    pub kept: u64,
    /// Weights that the last event grew.
    pub grown: u64,
    /// Weights that the last event removed.
    pub pruned: u64,
}

impl LayerState {
    fn share(&self) -> f64 {
        self.kept as f64 / self.weights.max(1) as f64
    }
}

/// What a column of layers shows, by what there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    /// A bar, counts, births and deaths.
    Changes,
    /// A bar and counts.
    Counts,
    /// A bar.
    Bar,
    /// A bar of one character.
    Mark,
}

impl Detail {
    const ALL: [Self; 4] = [Self::Changes, Self::Counts, Self::Bar, Self::Mark];

    /// The characters that a layer takes beside its name, with the shortest bar.
    fn width(self) -> usize {
        match self {
            Self::Changes => BAR.start() + PERCENT + COUNT + CHANGES,
            Self::Counts => BAR.start() + PERCENT + COUNT,
            Self::Bar => BAR.start() + PERCENT,
            Self::Mark => 2 + PERCENT,
        }
    }
}

/// Lays layers out in `width` by `height` characters, the first `skip` left out, down the first column before the second;
/// returns the lines and how many layers are shown.
///
/// As few columns are taken as show all layers, with as much about each as these leave room for.
pub fn table(layers: &[LayerState], skip: usize, width: usize, height: usize) -> (Vec<Line<'static>>, usize) {
    let layers = &layers[skip.min(layers.len())..];
    let rows = height.saturating_sub(1).max(1);
    let longest = layers.iter().map(|layer| short_name(&layer.name).chars().count()).max().unwrap_or(0);
    let most = ((width + GAP) / (longest.clamp(NAME, 12) + Detail::Mark.width() + GAP)).max(1);
    let columns = layers.len().div_ceil(rows).clamp(1, most);
    let cell = (width - (GAP * (columns - 1)).min(width)) / columns;
    let fits = |detail: &Detail| longest.clamp(NAME, 20) + detail.width() <= cell;
    let detail = Detail::ALL.into_iter().find(fits).unwrap_or(Detail::Mark);
    let shown = layers.len().min(rows * columns);
    // Filled evenly, so that no column is left short.
    let rows = shown.div_ceil(columns).max(1);
    let name = longest.max(NAME).min(cell.saturating_sub(detail.width()));
    let bar = (cell.saturating_sub(name + detail.width()) + BAR.start()).min(*BAR.end());
    let join = |cells: Vec<Line<'static>>| {
        let mut spans = Vec::new();
        for cell in cells {
            if !spans.is_empty() {
                spans.push(Span::raw(" ".repeat(GAP)));
            }
            spans.extend(cell.spans);
        }
        Line::from(spans)
    };
    let used = shown.div_ceil(rows);
    let mut lines = vec![join((0..used).map(|_| header(detail, name, bar)).collect())];
    lines.extend((0..rows).map(|row| {
        let cells = layers[..shown].iter().skip(row).step_by(rows);
        join(cells.map(|layer| line(layer, detail, name, bar)).collect())
    }));
    (lines, shown)
}

fn header(detail: Detail, name: usize, bar: usize) -> Line<'static> {
    let text = match detail {
        Detail::Changes => format!(
            "{:name$} {:bar$}{:>COUNT$}{:>7}{:>7}",
            "layer",
            "kept",
            "",
            "grown",
            "pruned",
            bar = bar - 1 + PERCENT
        ),
        Detail::Counts => format!("{:name$} {:bar$}{:>COUNT$}", "layer", "kept", "", bar = bar - 1 + PERCENT),
        Detail::Bar => format!("{:name$} {:bar$}", "layer", "kept", bar = bar - 1 + PERCENT),
        Detail::Mark => format!("{:name$} {:>8}", "layer", "kept"),
    };
    Line::from(text.dim())
}

fn line(layer: &LayerState, detail: Detail, name: usize, bar: usize) -> Line<'static> {
    let ink = if layer.kept == 0 { Color::Red } else { Color::Green };
    let mut spans = vec![Span::raw(pad(&short_name(&layer.name), name)), Span::raw(" ")];
    if detail == Detail::Mark {
        let eighths = ((layer.share() * 8.0).ceil() as usize).clamp(1, 8);
        spans.push(Span::styled(if layer.kept == 0 { ' ' } else { HEIGHTS[eighths - 1] }.to_string(), ink));
    } else {
        spans.extend(filled(layer.share(), bar - 1, ink));
    }
    spans.push(Span::raw(format!("{:>PERCENT$}", format!("{}%", percent(layer.share())))));
    if matches!(detail, Detail::Changes | Detail::Counts) {
        spans.push(Span::raw(format!("{:>COUNT$}", short_count(layer.kept))));
    }
    if detail == Detail::Changes {
        let change = |sign: char, number: u64, color: Color| {
            let text = if number == 0 { String::new() } else { format!("{sign}{}", short_count(number)) };
            Span::styled(format!("{text:>7}"), color)
        };
        spans.extend([change('+', layer.grown, Color::Green), change('−', layer.pruned, Color::Red)]);
    }
    Line::from(spans)
}

/// A bar of which a share is filled, to an eighth of a character.
fn filled(share: f64, width: usize, ink: Color) -> [Span<'static>; 2] {
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * width as f64).round() as usize;
    // What is kept can be seen, however little.
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let mut text = "█".repeat(eighths / 8);
    if eighths % 8 > 0 {
        text.push(EIGHTHS[eighths % 8 - 1]);
    }
    let rest = "·".repeat(width - text.chars().count());
    [Span::styled(text, ink), Span::styled(rest, Style::new().dim())]
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

/// Brings a name to `width` characters: padded at its end, or cut at its start, where names differ least.
fn pad(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text:width$}");
    }
    "…".chars().chain(text.chars().skip(length + 1 - width)).take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(number: usize) -> Vec<LayerState> {
        let layer = |index: usize| LayerState {
            name: format!("blocks.{index}.conv1.weight"),
            weights: 2304,
            kept: 2304 - 230 * index as u64,
            grown: if index == 1 { 12 } else { 0 },
            pruned: 1200 * (index as u64 % 2),
        };
        (0..number).map(layer).collect()
    }

    fn lines(number: usize, width: usize, height: usize) -> Vec<String> {
        let (lines, _) = table(&layers(number), 0, width, height);
        lines.iter().map(|line| line.to_string().trim_end().to_string()).collect()
    }

    #[test]
    fn a_wide_pane_shows_bars_shares_counts_births_and_deaths() {
        assert_eq!(
            lines(3, 50, 20),
            [
                "layer    kept                         grown pruned",
                "b0.conv1 ██████████████ 100.0% 2.30k",
                "b1.conv1 ████████████▋·  90.0% 2.07k    +12 −1.20k",
                "b2.conv1 ███████████▎··  80.0% 1.84k",
            ]
        );
    }

    #[test]
    fn layers_that_do_not_fit_below_each_other_stand_beside_each_other() {
        assert_eq!(
            lines(5, 60, 4),
            [
                "layer    kept                  layer    kept",
                "b0.conv1 ███████ 100.0% 2.30k  b3.conv1 ████▉··  70.1% 1.61k",
                "b1.conv1 ██████▎  90.0% 2.07k  b4.conv1 ████▎··  60.1% 1.38k",
                "b2.conv1 █████▋·  80.0% 1.84k",
            ]
        );
        assert_eq!(
            lines(9, 36, 6),
            [
                "layer        kept  layer        kept",
                "b0.conv1 █ 100.0%  b5.conv1 ▅  50.1%",
                "b1.conv1 █  90.0%  b6.conv1 ▄  40.1%",
                "b2.conv1 ▇  80.0%  b7.conv1 ▃  30.1%",
                "b3.conv1 ▆  70.1%  b8.conv1 ▂  20.1%",
                "b4.conv1 ▅  60.1%",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_at_all_is_counted_and_can_be_skipped_to() {
        let (_, shown) = table(&layers(9), 0, 36, 3);
        assert_eq!(shown, 4);
        let (rest, shown) = table(&layers(9), 7, 36, 3);
        assert_eq!(
            (shown, rest[1].to_string().split_whitespace().next().map(String::from)),
            (2, Some("b7.conv1".into()))
        );
    }

    #[test]
    fn no_size_is_too_small_and_no_line_too_long() {
        for width in 0..90 {
            for height in 0..12 {
                let (lines, _) = table(&layers(9), 0, width, height);
                if width >= NAME + Detail::Mark.width() {
                    assert!(lines.iter().all(|line| line.width() <= width), "{width} by {height}");
                }
            }
        }
        assert_eq!(table(&[], 0, 40, 10).1, 0);
    }

    #[test]
    fn a_layer_that_keeps_nothing_has_no_bar_and_one_that_keeps_little_has_some() {
        let bar = |share| filled(share, 4, Color::Green).map(|span| span.content.into_owned());
        assert_eq!(bar(0.0), ["".to_string(), "····".to_string()]);
        assert_eq!(bar(0.001), ["▏".to_string(), "···".to_string()]);
        assert_eq!(bar(1.0), ["████".to_string(), "".to_string()]);
    }

    #[test]
    fn names_keep_what_tells_layers_apart() {
        let names = ["conv.weight", "stages.1.blocks.0.conv1.weight", "fc", "0.weight", "features.3.weight"];
        assert_eq!(names.map(short_name), ["conv", "s1.b0.conv1", "fc", "0", "f3"]);
        assert_eq!(pad("s1.b0.conv1", 8), "…0.conv1");
    }
}
