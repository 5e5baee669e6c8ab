//! A table of texts, written as Markdown, CSV, LaTeX or HTML.

use std::fmt::Write;

/// How a sheet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A pipe table, as GitHub shows it.
    Markdown,
    /// Comma-separated values with quotes where needed (RFC 4180).
    Csv,
    /// A `tabular` of the package booktabs.
    Latex,
    /// A page of its own, without anything from elsewhere.
    Html,
}

/// Rows under a header, with sentences above and below.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// What the table is about.
    pub title: String,
    /// Sentences above the table; CSV leaves them away.
    pub above: Vec<String>,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// As many cells a row as there are columns; an empty cell stays empty.
    pub rows: Vec<Vec<String>>,
    /// Sentences below the table; CSV leaves them away.
    pub below: Vec<String>,
}

impl Sheet {
    /// Writes the sheet.
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Markdown => self.markdown(),
            Format::Csv => self.csv(),
            Format::Latex => self.latex(),
            Format::Html => self.html(),
        }
    }

    /// The table alone as Markdown.
    pub fn markdown_table(&self) -> String {
        let line = |cells: &[String]| {
            // An empty cell needs no two spaces.
            let cell = |cell: &String| match cell.replace('|', "\\|").replace('\n', " ") {
                text if text.is_empty() => " |".to_string(),
                text => format!(" {text} |"),
            };
            format!("|{}\n", cells.iter().map(cell).collect::<String>())
        };
        let mut text = line(&self.columns);
        let _ = writeln!(text, "|{}", "---|".repeat(self.columns.len()));
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        for sentence in &self.above {
            let _ = write!(text, "{sentence}\n\n");
        }
        text += &self.markdown_table();
        for sentence in &self.below {
            let _ = write!(text, "\n{sentence}\n");
        }
        text
    }

    fn csv(&self) -> String {
        let cell = |cell: &String| {
            let plain = !cell.contains([',', '"', '\n', '\r']);
            if plain { cell.clone() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
        };
        let line = |cells: &[String]| cells.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.columns).chain(&self.rows).map(|cells| line(cells)).collect()
    }

    fn latex(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| latex_of(cell)).collect();
            format!("  {} \\\\\n", cells.join(" & "))
        };
        let mut text = String::from("% needs \\usepackage{booktabs}\n");
        for sentence in std::iter::once(&self.title).chain(&self.above) {
            let _ = writeln!(text, "% {}", sentence.replace('\n', " "));
        }
        // The last column holds sentences.
        let columns = format!("{}p{{6cm}}", "l".repeat(self.columns.len().saturating_sub(1)));
        let _ = writeln!(text, "\\begin{{tabular}}{{{columns}}}\n  \\toprule");
        text += &line(&self.columns);
        text += "  \\midrule\n";
        text.extend(self.rows.iter().map(|row| line(row)));
        text += "  \\bottomrule\n\\end{tabular}\n";
        for sentence in &self.below {
            let _ = writeln!(text, "% {}", sentence.replace('\n', " "));
        }
        text
    }

    fn html(&self) -> String {
        let line = |cells: &[String], tag: &str| {
            let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", html_of(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let paragraphs = |sentences: &[String]| -> String {
            sentences.iter().map(|sentence| format!("<p>{}</p>\n", html_of(sentence))).collect()
        };
        let rows: String = self.rows.iter().map(|row| line(row, "td")).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{above}<div class=\"wide\">\n<table>\n<thead>\n\
             {head}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n{below}</body>\n</html>\n",
            title = html_of(&self.title),
            above = paragraphs(&self.above),
            head = line(&self.columns, "th"),
            below = paragraphs(&self.below),
        )
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem auto; padding: 0 1rem; }
p { max-width: 75ch; }
h1 { font-size: 1.3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; vertical-align: bottom; }
td { white-space: nowrap; }
td:first-child { position: sticky; left: 0; background: Canvas; white-space: normal; min-width: 8rem; }
td:last-child { white-space: normal; min-width: 22rem; }
@media (min-width: 1100px) { th:last-child, td:last-child { position: sticky; right: 0; background: Canvas; } }
@media print { .wide { overflow: visible; } table { font-size: 6pt; } td { white-space: normal; } td:last-child { min-width: 12rem; } }
";

fn html_of(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn latex_of(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(letter);
            }
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '±' => out.push_str("$\\pm$"),
            '−' => out.push_str("$-$"),
            '→' => out.push_str("$\\to$"),
            '\n' => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            title: "A & B".to_string(),
            above: vec!["First.".to_string()],
            columns: vec!["method".to_string(), "claim, %".to_string()],
            rows: vec![vec!["a|b_1".to_string(), "93.7 ± 0.1".to_string()], vec!["\"c\"".to_string(), String::new()]],
            below: vec!["Last.".to_string()],
        }
    }

    #[test]
    fn markdown_keeps_its_columns() {
        assert_eq!(
            sheet().write(Format::Markdown),
            "# A & B\n\nFirst.\n\n| method | claim, % |\n|---|---|\n| a\\|b_1 | 93.7 ± 0.1 |\n| \"c\" | |\n\nLast.\n"
        );
    }

    #[test]
    fn csv_is_read_back_by_another_crate() {
        let text = sheet().write(Format::Csv);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap(), vec!["method", "claim, %"]);
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows[0], vec!["a|b_1", "93.7 ± 0.1"]);
        assert_eq!(rows[1], vec!["\"c\"", ""]);
    }

    #[test]
    fn latex_and_html_escape_what_they_must() {
        let latex = sheet().write(Format::Latex);
        assert!(latex.contains("  a|b\\_1 & 93.7 $\\pm$ 0.1 \\\\\n") && latex.contains("claim, \\%"), "{latex}");
        assert!(latex.contains("\\begin{tabular}{lp{6cm}}") && latex.contains("% First."), "{latex}");
        let html = sheet().write(Format::Html);
        assert!(html.contains("<td>&quot;c&quot;</td><td></td>") && html.contains("<h1>A &amp; B</h1>"), "{html}");
        assert!(!html.contains("http"), "nothing comes from elsewhere");
    }
}
