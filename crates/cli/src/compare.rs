//! `bonsai compare`: means over seeds of two experiments, and their difference seed by seed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonsai_report::compare::Side;
use bonsai_report::page::compared_text;
use bonsai_report::run::Run;

use crate::error::user;
use crate::runs;

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
    let ((mut a, first), (mut b, second)) = (side(&args.a, &args.folder)?, side(&args.b, &args.folder)?);
    // Folders are named only where experiments are not enough to tell the sides apart.
    if first != second {
        (a.name, b.name) = (first, second);
    }
    Ok(compared_text(&a, &b))
}

/// The runs that a name stands for, and the experiment that they are of.
fn side(name: &str, folder: &Path) -> Result<(Side, String)> {
    let runs = runs::all(name, folder)?.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    let experiment = runs.first().map(Run::experiment).unwrap_or_default();
    Ok((Side::new(name.trim_end_matches('/'), runs).map_err(user)?, experiment))
}
