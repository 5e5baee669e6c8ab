//! Colours and type: for the page, light and dark, and for figures of their own.
//!
//! The colours of runs are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers tell apart,
//! darkened for white paper and lightened for a dark screen.

/// How many runs have a colour of their own before dashes begin.
pub const COLOURS: usize = 7;

/// Light: text, muted text, grid, ground of bars, paper, alarm, and the runs.
const LIGHT: [&str; 6 + COLOURS] = [
    "#1b1b1b", "#5c5c5c", "#e3e3e3", "#efefef", "#ffffff", "#b00020", // then the runs
    "#0064a4", "#c24e00", "#00805c", "#a9407f", "#7a6200", "#2b8cc4", "#555555",
];
/// Dark: the same.
const DARK: [&str; 6 + COLOURS] = [
    "#ececec", "#a6a6a6", "#333333", "#262626", "#141414", "#ff8a80", // then the runs
    "#5fb2ea", "#f08a4b", "#3ec79a", "#e08fc0", "#d9c04a", "#9ad4f5", "#b5b5b5",
];
const NAMES: [&str; 6] = ["text", "muted", "grid", "ground", "paper", "alarm"];

/// Classes of every chart; colours are variables.
const CHART: &str = "\
svg{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-size:11px;fill:var(--text)}
.title{font-size:12px;font-weight:600}
.tick,.name{fill:var(--muted);font-size:10.5px}
.label{font-size:11px;paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.axis{stroke:var(--muted);stroke-width:1;fill:none}
.grid{stroke:var(--grid);stroke-width:1}
.ground{fill:var(--ground)}
.paper{fill:var(--paper)}
.line{stroke:currentColor;stroke-width:1.8;fill:none;stroke-linejoin:round;stroke-linecap:round}
.fill{fill:currentColor}
.open{fill:var(--paper);stroke:currentColor;stroke-width:1.6}
.faint{opacity:.45}
.pale{opacity:.7}
.line.faint{stroke-width:1.1;opacity:.7}
.line.seed{stroke-width:1.4;opacity:.55}
.thin{stroke:var(--muted);stroke-width:1.1}
.dashed{stroke-dasharray:4 3}
.rest{color:var(--muted);opacity:.55}
.label.rest{opacity:1;fill:var(--muted)}
.alarm{fill:var(--alarm);font-weight:600}
";

/// The style of a page; light or dark as the reader's system says, light on paper.
pub fn page() -> String {
    let variables = |colours: &[&str; 6 + COLOURS]| {
        let named = NAMES.iter().zip(colours).map(|(name, colour)| format!("--{name}:{colour};")).collect::<String>();
        let runs = colours[NAMES.len()..].iter().enumerate().map(|(run, colour)| format!("--c{run}:{colour};"));
        named + &runs.collect::<String>()
    };
    let classes: String = (0..COLOURS).map(|run| of_run(run, &format!("var(--c{run})"))).collect();
    format!(
        ":root{{color-scheme:light dark;{light}}}\n\
         @media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{CHART}{classes}\n{}",
        include_str!("page.css"),
        light = variables(&LIGHT),
        dark = variables(&DARK),
    )
}

/// The style of a figure: the light colours, written out for programs that know no variables.
pub fn figure() -> String {
    let mut style = CHART.to_string();
    for (name, colour) in NAMES.iter().zip(LIGHT) {
        style = style.replace(&format!("var(--{name})"), colour);
    }
    let runs = LIGHT[NAMES.len()..].iter().enumerate().map(|(run, colour)| of_run(run, colour));
    style + &runs.collect::<String>()
}

/// The rules of a run's colour; those of labels name each class, since not every program knows selectors by parts of names.
fn of_run(run: usize, colour: &str) -> String {
    format!(".c{run}{{color:{colour}}}.label.c{run}{{fill:currentColor}}\n")
}

/// The classes of the run or experiment with this number; dashes after the last colour.
pub fn class(number: usize) -> String {
    let dashes = if number >= COLOURS { " dashed" } else { "" };
    format!("c{}{dashes}", number % COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance after WCAG 2.1.
    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    #[test]
    fn every_colour_of_text_stands_out_from_its_paper() {
        for colours in [LIGHT, DARK] {
            let paper = luminance(colours[4]);
            for colour in [&colours[..2], &colours[5..]].concat() {
                let (bright, dark) = (luminance(colour).max(paper), luminance(colour).min(paper));
                let contrast = (bright + 0.05) / (dark + 0.05);
                let least = if colours[6..].contains(&colour) { 3.5 } else { 4.5 };
                assert!(contrast >= least, "{colour}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn a_figure_needs_no_variables() {
        assert!(!figure().contains("var("));
        assert!(figure().contains(".c6{color:"));
        assert!(!page().contains("http") && !page().contains("url("));
        assert_eq!([class(0), class(8)], ["c0", "c1 dashed"]);
    }
}
