//! Reads the files of a run folder, finished or not.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::rows::{EpochRow, EventRow, KernelsRow, LayerRow, Summary};
use crate::steps::StepRow;

/// A line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq)]
pub enum EventLine {
    /// A change of the masks.
    Masks(EventRow),
    /// The kernels that were found faster since.
    Kernels(KernelsRow),
}

impl EventLine {
    /// Optimizer step of the line.
    pub fn iteration(&self) -> u64 {
        match self {
            EventLine::Masks(row) => row.iteration,
            EventLine::Kernels(row) => row.iteration,
        }
    }
}

/// Reads `config.toml`: the resolved experiment with its section `[environment]`.
///
/// # Errors
/// A damaged file gives a sentence that names it and the line.
pub fn read_config(path: &Path) -> Result<toml::Table> {
    toml_of(path).with_context(|| format!("{} is not the configuration of a run", path.display()))
}

/// Reads `summary.toml`.
///
/// # Errors
/// A damaged file gives a sentence that names it and the line.
pub fn read_summary(path: &Path) -> Result<Summary> {
    let summary: Result<Summary> = toml_of(path);
    summary
        .and_then(|summary| summary.check().map(|()| summary))
        .with_context(|| format!("{} is not the summary of a run", path.display()))
}

/// Reads `metrics.csv`; a last line that is still being written is left out.
///
/// # Errors
/// A damaged row gives a sentence that names the file and the line.
pub fn read_metrics(path: &Path) -> Result<Vec<EpochRow>> {
    let mut before = None;
    csv_of(path, |row: &EpochRow| {
        let after = before.replace(row.epoch);
        ensure!(after.is_none_or(|epoch| epoch < row.epoch), "epoch {} comes twice or too late", row.epoch);
        shares(&[
            ("train_accuracy", row.train_accuracy),
            ("valid_accuracy", row.valid_accuracy),
            ("sparsity", row.sparsity),
        ])
    })
}

/// Reads `layers.csv`; a last line that is still being written is left out.
///
/// # Errors
/// A damaged row gives a sentence that names the file and the line.
pub fn read_layers(path: &Path) -> Result<Vec<LayerRow>> {
    let mut before = 0;
    csv_of(path, |row: &LayerRow| {
        ensure!(before <= row.epoch, "epoch {} comes too late", row.epoch);
        before = row.epoch;
        ensure!(row.kept <= row.weights, "{} weights of {} are kept, but it has {}", row.kept, row.name, row.weights);
        shares(&[("sparsity", row.sparsity)])
    })
}

/// Reads `steps.csv`; a last line that is still being written is left out.
///
/// # Errors
/// A damaged row gives a sentence that names the file and the line.
pub fn read_steps(path: &Path) -> Result<Vec<StepRow>> {
    let mut before = 0;
    csv_of(path, |row: &StepRow| {
        ensure!(before < row.iteration, "iteration {} comes twice or too late", row.iteration);
        before = row.iteration;
        for time in row.parts().into_iter().chain([row.milliseconds]) {
            ensure!(time.is_finite() && time >= 0.0, "{time} is no time in milliseconds");
        }
        Ok(())
    })
}

/// Reads `events.jsonl`; a last line that is still being written is left out.
///
/// # Errors
/// A damaged line gives a sentence that names the file and the line.
pub fn read_events(path: &Path) -> Result<Vec<EventLine>> {
    let text = complete(path)?;
    let mut lines: Vec<EventLine> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let before = lines.last().map_or(0, EventLine::iteration);
        let read = event(line).and_then(|event| {
            ensure!(before <= event.iteration(), "iteration {} comes too late", event.iteration());
            if let EventLine::Masks(row) = &event {
                shares(&[("sparsity", row.sparsity)])?;
            }
            Ok(event)
        });
        lines.push(read.with_context(|| format!("{} is damaged: line {}", path.display(), index + 1))?);
    }
    Ok(lines)
}

/// Tells the two kinds of lines apart by their fields.
fn event(line: &str) -> Result<EventLine> {
    let value: Value = serde_json::from_str(line).map_err(plain)?;
    let kernels = value.get("kernels").is_some();
    Ok(if kernels {
        EventLine::Kernels(serde_json::from_value(value).map_err(plain)?)
    } else {
        EventLine::Masks(serde_json::from_value(value).map_err(plain)?)
    })
}

/// What serde_json says without its own count of lines, which is always 1 here.
fn plain(error: serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    anyhow::Error::msg(text.split(" at line ").next().unwrap_or_default().to_string())
}

/// Says which share is not one; no number stands for none.
fn shares(named: &[(&str, f64)]) -> Result<()> {
    for (name, share) in named {
        ensure!(share.is_nan() || (0.0..=1.0).contains(share), "{name} is {share}, and must lie between 0 and 1");
    }
    Ok(())
}

/// Reads a text up to its last line end.
fn complete(path: &Path) -> Result<String> {
    let mut bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    text(bytes).with_context(|| format!("{} is damaged", path.display()))
}

/// Takes bytes for text; says where they are none.
fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        anyhow::anyhow!("line {} is not text", line_of(before))
    })
}

/// The line, counted from 1, that follows these bytes.
fn line_of(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn toml_of<Content: DeserializeOwned>(path: &Path) -> Result<Content> {
    let text = text(fs::read(path)?)?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| line_of(&text.as_bytes()[..span.start.min(text.len())]));
        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
        anyhow::anyhow!("{line}{}", error.message().replace('\n', ", "))
    })
}

fn csv_of<Row: DeserializeOwned>(path: &Path, mut check: impl FnMut(&Row) -> Result<()>) -> Result<Vec<Row>> {
    let text = complete(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => bail!("{} is damaged: {error}", path.display()),
    };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            anyhow::anyhow!("{} is damaged: line {line} has another number of fields than line 1", path.display())
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = record.deserialize(Some(&headers)).map_err(|error| match error.kind() {
            csv::ErrorKind::Deserialize { err, .. } => match err.field().and_then(|at| headers.get(at as usize)) {
                Some(column) => anyhow::anyhow!("{column}: {}", err.kind()),
                None => anyhow::anyhow!("{}", err.kind()),
            },
            _ => anyhow::anyhow!("{error}"),
        });
        let row = row.and_then(|row| check(&row).map(|()| row));
        rows.push(row.with_context(|| format!("{} is damaged: line {line}", path.display()))?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hardware;
    use crate::rows::{TunedKernels, csv_rows};
    use std::path::PathBuf;

    fn file(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn sentence<Content: std::fmt::Debug>(result: Result<Content>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn epochs_come_back_and_a_half_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<EpochRow> = (0..3)
            .map(|epoch| EpochRow {
                epoch,
                lr: 0.1 + 0.2,
                train_loss: 1.0 / 3.0,
                nonzero: u64::MAX,
                ..EpochRow::default()
            })
            .collect();
        let text = csv_rows(&rows, true).unwrap();
        let path = file(&folder, "metrics.csv", &text);
        assert_eq!(read_metrics(&path).unwrap(), rows);
        file(&folder, "metrics.csv", &text[..text.len() - 5]);
        assert_eq!(read_metrics(&path).unwrap(), rows[..2]);
        file(&folder, "metrics.csv", "");
        assert!(read_metrics(&path).unwrap().is_empty());

        let text = String::from_utf8(text).unwrap();
        let damaged = |from: &str, to: &str| {
            file(&folder, "metrics.csv", text.replacen(from, to, 1));
            sentence(read_metrics(&path))
        };
        let said = damaged("\n2,0,", "\ntwo,0,");
        assert!(said.ends_with("metrics.csv is damaged: line 4: epoch: invalid digit found in string"), "{said}");
        let said = damaged("\n2,0,", "\n1,0,");
        assert!(said.ends_with("line 4: epoch 1 comes twice or too late"), "{said}");
        let said = damaged("\n1,0,", "\n1,");
        assert!(said.ends_with("line 3 has another number of fields than line 1"), "{said}");
        let said = damaged("train_loss", "loss");
        assert!(said.contains("line 2: missing field `train_loss`"), "{said}");
        let said = damaged("epoch", "\u{fffd}");
        assert!(said.contains("line 2"), "{said}");
    }

    #[test]
    fn layers_come_back_and_more_kept_than_there_are_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let row = LayerRow { name: "a, \"b\"".into(), weights: 4, kept: 3, sparsity: 0.25, ..LayerRow::default() };
        let text = csv_rows(&[&row], true).unwrap();
        let path = file(&folder, "layers.csv", &text);
        assert_eq!(read_layers(&path).unwrap(), [row]);
        file(&folder, "layers.csv", String::from_utf8(text).unwrap().replace(",4,3,", ",3,4,"));
        let said = sentence(read_layers(&path));
        assert!(said.contains("layers.csv is damaged: line 2: 4 weights of a, \"b\" are kept"), "{said}");
    }

    #[test]
    fn steps_come_back_and_a_time_below_zero_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let row = |iteration| StepRow { iteration, milliseconds: 2.5, data: 0.5, other: 2.0, ..StepRow::default() };
        let text = csv_rows(&[row(3), row(7)], true).unwrap();
        let path = file(&folder, "steps.csv", &text);
        assert_eq!(read_steps(&path).unwrap(), [row(3), row(7)]);
        file(&folder, "steps.csv", &text[..text.len() - 3]);
        assert_eq!(read_steps(&path).unwrap(), [row(3)]);
        let damaged = |from: &str, to: &str| {
            file(&folder, "steps.csv", String::from_utf8(text.clone()).unwrap().replacen(from, to, 1));
            sentence(read_steps(&path))
        };
        assert!(damaged("0,7,", "0,3,").ends_with("line 3: iteration 3 comes twice or too late"));
        assert!(damaged("2.5,", "-2.5,").ends_with("line 2: -2.5 is no time in milliseconds"));
        assert!(damaged("2.5,", "NaN,").ends_with("line 2: NaN is no time in milliseconds"));
    }

    #[test]
    fn both_kinds_of_events_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let masks = EventRow { iteration: 5, sparsity: 0.5, ..EventRow::default() };
        let tuned = Some(TunedKernels { choices: Some(3), compiled: None, seconds: 2.5 });
        let kernels = KernelsRow { iteration: 9, tuned, ..KernelsRow::default() };
        let lines = [serde_json::to_string(&masks).unwrap(), serde_json::to_string(&kernels).unwrap()];
        let path = file(&folder, "events.jsonl", format!("{}\n{}\n{{\"itera", lines[0], lines[1]));
        let read = read_events(&path).unwrap();
        assert_eq!(read, [EventLine::Masks(masks), EventLine::Kernels(kernels)]);
        for (second, about) in [
            (lines[1].replace('9', "4"), "line 2: iteration 4 comes too late"),
            ("{\"iteration\":7}".into(), "line 2: missing field"),
            ("{\"iteration\"".into(), "line 2: EOF while parsing"),
            (lines[0].replace("0.5", "1.5"), "line 2: sparsity is 1.5"),
        ] {
            file(&folder, "events.jsonl", format!("{}\n{second}\n", lines[0]));
            let said = sentence(read_events(&path));
            assert!(said.contains("events.jsonl is damaged") && said.contains(about), "{said}");
        }
        fs::write(&path, [lines[0].as_bytes(), b"\n\xff\n"].concat()).unwrap();
        assert!(sentence(read_events(&path)).ends_with("events.jsonl is damaged: line 2 is not text"));
    }

    #[test]
    fn a_summary_comes_back_and_damage_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let summary = Summary {
            experiment: "cifar10-resnet20-granet".into(),
            data_warnings: vec!["one \"line\"".into()],
            best_epoch: Some(3),
            best_valid_accuracy: Some(0.9),
            sparsity: 0.9,
            kept: 10,
            nonzero: 10,
            prunable: 100,
            hardware: Hardware { cpu: "a cpu".into(), ..Hardware::default() },
            ..Summary::default()
        };
        let text = |summary: &Summary| toml::to_string(summary).unwrap();
        let path = file(&folder, "summary.toml", text(&summary));
        assert_eq!(read_summary(&path).unwrap(), summary);
        let wrong = text(&summary).replace("\nseed = 0\n", "\nseed = \"zero\"\n");
        let line = 1 + wrong.lines().position(|line| line.starts_with("seed")).unwrap();
        file(&folder, "summary.toml", wrong);
        let said = sentence(read_summary(&path));
        assert!(
            said.contains(&format!("summary.toml is not the summary of a run: line {line}: invalid type")),
            "{said}"
        );
        assert!(!said.contains('\n'));
        let largest = Summary { seed: u64::MAX, ..summary.clone() };
        file(&folder, "summary.toml", text(&largest));
        assert_eq!(read_summary(&path).unwrap(), largest);
        file(&folder, "summary.toml", text(&Summary { sparsity: 1.5, ..summary }));
        assert!(sentence(read_summary(&path)).contains("sparsity is 1.5"));
    }

    #[test]
    fn a_damaged_configuration_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "config.toml", "seed = 0\nname = \n");
        let said = sentence(read_config(&path));
        assert!(said.contains("config.toml is not the configuration of a run: line 2: "), "{said}");
        assert!(!said.contains('\n'));
        assert!(
            sentence(read_config(&folder.path().join("absent")))
                .contains("absent is not the configuration of a run: No such file")
        );
    }
}
