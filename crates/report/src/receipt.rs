//! What the forms of a run's network cost on a machine, as `receipt.csv` in its folder says.
//!
//! The table is read as it stands, so that columns that are added to it show without a change here.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A receipt: a table of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Receipt {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One row a form of the network.
    pub rows: Vec<Vec<String>>,
}

impl Receipt {
    /// Reads it; a folder without one gives an empty table.
    ///
    /// # Errors
    /// A damaged file gives a sentence that names it and the line.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("receipt.csv");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let damaged = || format!("{} is damaged", path.display());
        let mut reader = csv::Reader::from_path(&path).with_context(damaged)?;
        let texts = |record: &csv::StringRecord| record.iter().map(String::from).collect::<Vec<_>>();
        let columns = texts(reader.headers().with_context(damaged)?);
        let rows = reader.records().map(|record| record.map(|record| texts(&record)));
        let rows: Vec<Vec<String>> = rows.collect::<Result<_, _>>().with_context(damaged)?;
        let receipt = Self { columns, rows };
        for (row, texts) in receipt.rows.iter().enumerate() {
            for (column, text) in receipt.columns.iter().zip(texts) {
                let numeric = column.ends_with("_ms") || column == "images";
                ensure!(
                    !numeric || text.parse::<f64>().is_ok(),
                    "{}: line {}: {column} is no number",
                    damaged(),
                    row + 2
                );
            }
        }
        Ok(receipt)
    }

    /// The shortest forward pass of an image among all forms, in milliseconds.
    pub fn forward_ms(&self) -> Option<f64> {
        let number = |row: &Vec<String>, name: &str| {
            let column = self.columns.iter().position(|column| column == name)?;
            row.get(column)?.parse::<f64>().ok().filter(|number| *number > 0.0)
        };
        let times = self.rows.iter().filter_map(|row| Some(number(row, "forward_ms")? / number(row, "images")?));
        times.reduce(f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_as_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Receipt::read(folder.path()).unwrap(), Receipt::default());
        let path = folder.path().join("receipt.csv");
        std::fs::write(&path, "network,images,forward_ms,why\ndense,16,8.0,\nsparse,16,4.0,\"few, and far\"\n")
            .unwrap();
        let receipt = Receipt::read(folder.path()).unwrap();
        assert_eq!(
            (receipt.rows.len(), receipt.rows[1][3].as_str(), receipt.forward_ms()),
            (2, "few, and far", Some(0.25))
        );
        std::fs::write(&path, "network,images,forward_ms\ndense,16,8.0\nsparse,16,fast\n").unwrap();
        let sentence = format!("{:#}", Receipt::read(folder.path()).unwrap_err());
        assert!(sentence.contains("receipt.csv is damaged: line 3: forward_ms is no number"), "{sentence}");
    }
}
