//! `bonsai receipt`: what a trained network costs on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonsai_training::receipt::measure;
use bonsai_training::records::ReceiptRow;
use bonsai_training::run_folder::RunPaths;

use crate::device::{self, Choice};
use crate::error::user;
use crate::experiments::whole;
use crate::runs;
use crate::table::{Table, count};
use crate::train::threads;

/// How often every figure is measured.
pub const REPEATS: usize = 5;

const EXAMPLES: &str = "\
Examples:
  bonsai receipt shapes10-resnet20-granet/seed-0
  bonsai receipt cifar10-resnet20-group-magnitude --repeats 20 --threads 1

Training ends with a receipt unless --no-receipt is given. It is receipt.csv in the run folder, and says nothing about other
machines. `dense` has all weights, `masked` multiplies zeros, `sparse` leaves them out, `compact` has lost its channels.";

/// Measure what a trained network costs on this machine: dense, masked, and as it was trained.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A run as `bonsai runs list` names it, or a run folder
    run: String,
    /// How often every figure is measured
    #[arg(long, value_name = "N", default_value_t = REPEATS as u64, allow_negative_numbers = true, value_parser = whole(1, 10_000))]
    repeats: u64,
    /// Where the networks run
    #[arg(long, value_enum, default_value_t)]
    device: Choice,
    /// Threads of the CPU kernels; all cores if absent
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    threads: Option<usize>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = runs::FOLDER)]
    folder: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// An unknown or unfinished run is a user's mistake; damaged files are a failure.
pub fn run(args: Args) -> Result<String> {
    let paths = RunPaths::new(runs::named(&args.run, &args.folder)?);
    if !paths.model().is_file() || !paths.config().is_file() {
        return Err(user(format!(
            "the run in {} has not finished, so there is no network to measure: go on with it by --resume",
            paths.path().display()
        )));
    }
    device::set_threads(args.threads)?;
    let device = device::choose(args.device)?;
    device.warn();
    let rows = measure(&paths, &device.device, args.repeats as usize)?;
    Ok(format!("{}, {}\n{}", paths.path().display(), device.name, written(&rows)))
}

/// Measures a run that has just finished; a failure is told and ends nothing.
pub fn of_finished(folder: &Path, device: &burn::tensor::Device) -> String {
    let paths = RunPaths::new(folder);
    if paths.receipt().is_file() {
        return String::new();
    }
    match measure(&paths, device, REPEATS) {
        Ok(rows) => format!("\n{}", written(&rows)),
        Err(error) => {
            tracing::warn!("no receipt was written: {error:#}");
            String::new()
        }
    }
}

/// Writes a receipt as a table.
fn written(rows: &[ReceiptRow]) -> String {
    let images = rows.first().map_or(0, |row| row.images);
    let mut table =
        Table::new(&["<network", "MACs", "parameters", "bytes", "forward ms", "", "step ms", "", "<why no faster"]);
    for row in rows {
        table.row(vec![
            row.network.clone(),
            count(row.macs),
            count(row.parameters),
            count(row.bytes),
            format!("{:.2}", row.forward_ms),
            format!("{:.2}x", row.forward_speedup),
            format!("{:.2}", row.step_ms),
            format!("{:.2}x", row.step_speedup),
            row.why.clone(),
        ]);
    }
    format!("receipt of this machine, {images} images at a time\n{}", table.render())
}
