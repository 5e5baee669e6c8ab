//! `bonsai compare`: means over seeds of two experiments, and their difference seed by seed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonsai_report::baseline::distances;
use bonsai_report::compare::{Metric, Side, written};
use bonsai_report::page::compared_text;
use bonsai_report::run::Run;

use crate::error::user;
use crate::{beside, runs};

const EXAMPLES: &str = "\
Examples:
  bonsai compare cifar10-resnet20-granet-short cifar10-resnet20-dense-short
  bonsai compare runs/granet runs/set --folder /mnt

Each side is an experiment: all its runs below the folder, one a seed. Accuracy counts at the target sparsity alone.
`bonsai report A B` shows the same in a page.";

/// Compare two experiments over their seeds.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An experiment under the folder, or a folder of runs
    a: String,
    /// The one to compare it with
    b: String,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = runs::FOLDER)]
    folder: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// An unknown experiment and a seed that comes twice are a user's mistake; damaged records are a failure.
pub fn run(args: Args) -> Result<String> {
    let (left, right) = (read(&args.a, &args.folder)?, read(&args.b, &args.folder)?);
    let ((mut a, first), (mut b, second)) = (side(&args.a, &left)?, side(&args.b, &right)?);
    // Folders are named only where experiments are not enough to tell the sides apart.
    if first != second {
        (a.name, b.name) = (first, second);
    }
    let folders: Vec<PathBuf> = left.iter().chain(&right).map(|run| run.folder.clone()).collect();
    let dense = beside::dense_runs(&args.folder, &folders);
    Ok(compared_text(&a, &b) + &under_dense(&a.name, &left, &dense) + &under_dense(&b.name, &right, &dense))
}

/// The runs that a name stands for.
fn read(name: &str, folder: &Path) -> Result<Vec<Run>> {
    runs::all(name, folder)?.iter().map(|folder| Run::read(folder)).collect()
}

/// These runs as one side, and the experiment that they are of.
fn side(name: &str, runs: &[Run]) -> Result<(Side, String)> {
    let experiment = runs.first().map(Run::experiment).unwrap_or_default();
    Ok((Side::new(name.trim_end_matches('/'), runs.iter().cloned()).map_err(user)?, experiment))
}

/// Says how far the runs of a side ended under dense ones of the same recipe and seed; nothing where they are dense.
fn under_dense(name: &str, runs: &[Run], dense: &[Run]) -> String {
    if runs.iter().all(Run::is_dense) {
        return String::new();
    }
    match distances(runs, dense) {
        Some(sample) => {
            format!(
                "{name}: points under dense, same recipe and seeds: {}\n",
                written(Metric::FinalTest, Some(&sample))
            )
        }
        None => format!("{name}: no dense run of the same recipe and seed to measure it against\n"),
    }
}
