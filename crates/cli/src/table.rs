//! Aligns text in columns.

use std::fmt::Write;

/// Rows under a header; the first column is flush left, columns of numbers are flush right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: Vec<bool>,
}

impl Table {
    /// Creates a table; a header that begins with `<` stands over a column of text.
    pub fn new(header: &[&str]) -> Self {
        let left = header.iter().map(|name| name.starts_with('<')).collect();
        let names = header.iter().map(|name| name.trim_start_matches('<').to_string()).collect();
        Self { rows: vec![names], left }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.left.len(), "a row has as many cells as the header");
        self.rows.push(cells);
    }

    /// Returns the lines, each ended.
    pub fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.left.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &left) in row.iter().zip(&widths).zip(&self.left) {
                let space = if line.is_empty() { "" } else { "  " };
                let _ =
                    if left { write!(line, "{space}{cell:<width$}") } else { write!(line, "{space}{cell:>width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes a count in groups of three digits: `11,173,962`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a count with what is counted: `1 epoch`, `2 epochs`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Writes a share of 1 as a percentage with two decimals.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_flush_right() {
        let mut table = Table::new(&["<layer", "weights"]);
        table.row(vec!["conv".to_string(), count(1_234)]);
        table.row(vec!["classifier".to_string(), count(10)]);
        assert_eq!(table.render(), "layer       weights\nconv          1,234\nclassifier       10\n");
    }
}
