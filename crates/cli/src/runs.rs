//! `bonsai runs`: lists and shows what was trained.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_pruning::select;
use bonsai_report::baseline::{Dense, dense_of};
use bonsai_report::run::Run;
use bonsai_training::experiment::nearest;
use bonsai_training::records::{self, Summary};
use bonsai_training::run_folder::RunPaths;
use clap::Subcommand;

use crate::beside;
use crate::error::user;
use crate::table::{Table, count, counted, percent};

/// Where runs lie unless `--out` says otherwise.
pub const FOLDER: &str = "experiments/runs";

const EXAMPLES: &str = "\
Examples:
  bonsai runs list
  bonsai runs show shapes10-resnet20-granet/seed-0
  bonsai runs show /mnt/runs/first

Epochs count from 1 here, and from 0 in the files of a run: metrics.csv, layers.csv, events.jsonl and summary.toml.";

/// List and show what was trained.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line a run, finished or not
    List {
        /// Folder that holds the runs
        #[arg(long, value_name = "DIR", default_value = FOLDER)]
        folder: PathBuf,
    },
    /// The epochs and the summary of one run
    Show {
        /// A run as `bonsai runs list` names it, or a run folder
        run: String,
        /// Folder that holds the runs
        #[arg(long, value_name = "DIR", default_value = FOLDER)]
        folder: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
///
/// An unknown run is a user's mistake; damaged records are a failure.
pub fn run(args: Args) -> Result<String> {
    match args.action {
        Action::List { folder } => list(&folder),
        Action::Show { run, folder } => show(&run, &folder),
    }
}

fn list(folder: &Path) -> Result<String> {
    let runs = find(folder)?;
    if runs.is_empty() {
        return Ok(format!(
            "no runs in {}; start one with `bonsai train shapes10-resnet20-granet`\n",
            folder.display()
        ));
    }
    let mut table = Table::new(&["<run", "epochs", "sparsity", "validation", "test", "under dense", "<state"]);
    let dense = beside::dense_runs(folder, &[]);
    for path in &runs {
        let paths = RunPaths::new(path);
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        // A damaged run must not hide the others.
        table.row(line(&paths, &dense).map_or_else(
            |error| {
                let cells = [name.as_str(), "", "", "", "", ""].map(String::from);
                cells.into_iter().chain([format!("damaged: {error}")]).collect()
            },
            |cells| std::iter::once(name.clone()).chain(cells).collect(),
        ));
    }
    let note = "Under dense: points of test accuracy below the dense run of the same recipe, of the same seed where there is one.";
    Ok(format!("{}\n{note}\n", table.render()))
}

/// The cells of a run after its name.
fn line(paths: &RunPaths, dense: &[Run]) -> Result<[String; 6]> {
    if paths.summary().is_file() {
        let summary = records::read_summary(&paths.summary())?;
        let run = Run::outline(paths.path())?;
        let under = dense_of(&run, dense).and_then(Dense::of).filter(|_| !run.is_dense());
        let points = under.and_then(|dense| dense.above(&run)).map(|points| format!("{points:.2}"));
        return Ok([
            summary.epochs.to_string(),
            percent(summary.sparsity),
            percent(summary.final_valid_accuracy),
            percent(summary.final_test_accuracy),
            points.unwrap_or_else(|| if run.is_dense() { String::new() } else { "-".to_string() }),
            "finished".to_string(),
        ]);
    }
    let rows = if paths.metrics().is_file() { records::read_metrics(&paths.metrics())? } else { Vec::new() };
    let last = rows.last();
    Ok([
        rows.len().to_string(),
        last.map_or_else(String::new, |row| percent(row.sparsity)),
        last.map_or_else(String::new, |row| percent(row.valid_accuracy)),
        String::new(),
        String::new(),
        "not finished".to_string(),
    ])
}

fn show(run: &str, folder: &Path) -> Result<String> {
    let root = named(run, folder)?;
    let mut text = format!("{}\n", root.display());
    let paths = RunPaths::new(root);
    let finished = paths.summary().is_file();
    let rows = if paths.metrics().is_file() { records::read_metrics(&paths.metrics()) } else { Ok(Vec::new()) };
    let rows = match rows {
        Ok(rows) if rows.is_empty() && finished => {
            eprintln!("warning: {} holds no epoch of this finished run", paths.metrics().display());
            rows
        }
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("warning: {error}: its epochs are left out");
            Vec::new()
        }
    };
    if !rows.is_empty() {
        let mut table = Table::new(&[
            "epoch",
            "iteration",
            "lr",
            "train loss",
            "train",
            "valid loss",
            "validation",
            "sparsity",
            "nonzero",
            "seconds",
            "images/s",
        ]);
        for row in rows {
            table.row(vec![
                (row.epoch + 1).to_string(),
                row.iteration.to_string(),
                format!("{:.2e}", row.lr),
                format!("{:.4}", row.train_loss),
                percent(row.train_accuracy),
                format!("{:.4}", row.valid_loss),
                percent(row.valid_accuracy),
                percent(row.sparsity),
                count(row.nonzero),
                format!("{:.1}", row.seconds),
                format!("{:.0}", row.images_per_second),
            ]);
        }
        let _ = write!(text, "\n{}", table.render());
    }
    if finished {
        let summary = summarised(&records::read_summary(&paths.summary())?);
        let _ = write!(text, "\n{summary}{}", beside::line(paths.path(), folder));
    } else {
        text += "\nnot finished; `bonsai train EXPERIMENT --resume` goes on\n";
    }
    Ok(text)
}

/// A summary in words; `bonsai train` ends with it too.
pub fn summarised(summary: &Summary) -> String {
    // Runs of earlier versions wrote a target that is not a number.
    let target = summary.target_sparsity.filter(|target| !target.is_nan());
    let mut text = format!(
        "{} on {}, seed {}: {}, {} in {}\n\
         sparsity    {} ({} of {} prunable weights stay{})\n\
         MACs        {} of {}{}\n\
         validation  {}\n\
         test        {}\n",
        summary.run,
        summary.data,
        summary.seed,
        counted(summary.epochs, "epoch"),
        counted(summary.iterations, "iteration"),
        duration(summary.wall_seconds),
        percent(summary.sparsity),
        count(summary.kept),
        count(summary.prunable),
        target.map_or_else(String::new, |target| format!("; target {}", percent(target))),
        count(summary.macs),
        count(summary.dense_macs),
        summary.target_macs.map_or_else(String::new, |macs| format!(" (target at most {})", percent(macs))),
        percent(summary.final_valid_accuracy),
        percent(summary.final_test_accuracy),
    );
    if let Some(share) = summary.training_macs_of_dense {
        let _ =
            writeln!(text, "training    {} MACs, {} of dense training", count(summary.training_macs), percent(share));
    }
    if let (Some(first), Some(last)) = (summary.first_epoch_seconds, summary.last_epoch_seconds)
        && summary.epochs > 1
    {
        let _ = writeln!(text, "epoch time  {first:.1} s the first, {last:.1} s the last ({:.2})", last / first);
    }
    if let Some(baseline) = &summary.baseline {
        let _ = writeln!(text, "baseline    {baseline}");
    }
    if !summary.shape.is_empty() {
        let parameters = (count(summary.kept_parameters), count(summary.parameters));
        let _ = writeln!(text, "shape       {} of {} parameters: {}", parameters.0, parameters.1, summary.shape);
    }
    if let Some(sentence) = target.and_then(|target| missed(summary.kept, summary.prunable, target)) {
        let _ = writeln!(text, "target      {sentence}");
    }
    if let (Some(epoch), Some(test)) = (summary.best_epoch, summary.best_test_accuracy) {
        let _ = writeln!(
            text,
            "best        {} test, from epoch {}, chosen on validation at the target sparsity",
            percent(test),
            epoch + 1
        );
    }
    text
}

/// Says by how many weights a network misses its target; only the rules of `compat` ever do.
pub fn missed(kept: u64, prunable: u64, target: f64) -> Option<String> {
    let wanted = select::count(prunable as usize, target) as u64;
    let weights = kept.abs_diff(wanted);
    let side = if kept > wanted { "more" } else { "fewer" };
    (weights > 0)
        .then(|| format!("compat rules miss the target by {}: {side} than asked for stay", counted(weights, "weight")))
}

/// Writes seconds as `1 h 02 min`, `3 min 20 s` or `12.3 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Finds the folders of all runs that a name or path stands for: one run, or those below a folder.
///
/// # Errors
///
/// As [`named`].
pub fn all(name: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    for candidate in [folder.join(name), PathBuf::from(name)] {
        if !RunPaths::new(&candidate).holds_run() {
            let below = find(&candidate)?;
            if !below.is_empty() {
                return Ok(below);
            }
        }
    }
    Ok(vec![named(name, folder)?])
}

/// Finds the folder of a run by name or path.
///
/// # Errors
///
/// A user's mistake that names the nearest run.
pub fn named(run: &str, folder: &Path) -> Result<PathBuf> {
    let candidates = [folder.join(run), PathBuf::from(run)];
    for candidate in &candidates {
        if RunPaths::new(candidate).holds_run() {
            return Ok(candidate.clone());
        }
    }
    let runs = find(folder)?;
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    // `cifar10-resnet20-granet` alone will do where it was trained once.
    let below: Vec<&PathBuf> = runs.iter().filter(|path| path.starts_with(folder.join(run))).collect();
    if let [only] = below[..] {
        return Ok(only.clone());
    }
    let names: Vec<String> =
        if below.is_empty() { runs.iter().map(name).collect() } else { below.into_iter().map(name).collect() };
    let about = match nearest(run, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "there is none yet".to_string(),
        None => format!("there are {}", names.join(", ")),
    };
    Err(user(format!("there is no run `{run}`; {about}")))
}

/// Lists the run folders at any depth below `folder`, sorted.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if folder.is_dir() {
        collect(folder, &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("reading the folder {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        // Links are not followed: one may lead back up.
        if !entry.file_type().with_context(reading)?.is_dir() {
            continue;
        }
        if RunPaths::new(entry.path()).holds_run() {
            found.push(entry.path());
        } else {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_counted_in_weights() {
        assert_eq!(missed(100, 1000, 0.9), None);
        let sentence = missed(112, 1000, 0.9).unwrap();
        assert_eq!(sentence, "compat rules miss the target by 12 weights: more than asked for stay");
    }
}
