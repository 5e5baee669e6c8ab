//! `bonsai eval`: measures a trained network on the test split.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use bonsai_training::evaluate::evaluate_snapshot;
use bonsai_training::snapshot;

use crate::dataset;
use crate::device::{self, Choice};
use crate::experiments::whole;
use crate::network;
use crate::table::{count, percent};
use crate::train::{threads, workers};

const EXAMPLES: &str = "\
Examples:
  bonsai eval shapes10-resnet20-granet/seed-0
  bonsai eval /mnt/runs/first
  bonsai eval model.safetensors --data-dir /mnt/datasets
  bonsai eval shapes10-resnet20-granet/seed-0 --recalibrate 20

The file alone is enough: architecture, data set and masks are stored in it.";

/// Measure a trained network on the test split.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A run as `bonsai runs list` names it, a run folder or a model.safetensors
    #[arg(value_name = "RUN_OR_SAFETENSORS")]
    run: PathBuf,
    /// Where the network runs
    #[arg(long, value_enum, default_value_t)]
    device: Choice,
    /// Folder that is searched first for the data set
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use the first N test records only
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, u64::MAX))]
    limit_test: Option<u64>,
    /// Recompute the statistics of batch normalisation over N batches of 250 training images first; weights stay as they are
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, 100_000))]
    recalibrate: Option<u64>,
    /// Threads of the CPU kernels; all cores if absent
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    threads: Option<usize>,
}

/// Runs the command.
///
/// # Errors
///
/// A path without a network, another kind of file or an absent data set is a user's mistake; a damaged file is a failure.
pub fn run(args: Args) -> Result<String> {
    let path = network::file(&args.run)?;
    device::set_threads(args.threads)?;
    let header = snapshot::read(&path)?.header;
    let source = dataset::require(dataset::named(&header.data)?, args.data_dir.as_deref())?;
    for warning in source.warnings() {
        eprintln!("warning: {warning}");
    }
    let device = device::choose(args.device)?;
    device.warn();
    let limit = args.limit_test.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let recalibrate = args.recalibrate.map(|batches| usize::try_from(batches).unwrap_or(usize::MAX));
    let found = evaluate_snapshot(&path, &source, &device.device, limit, recalibrate, workers(args.threads))?;
    ensure!(
        found.loss.is_finite(),
        "the loss of {} on the test split is not finite: the network cannot be used",
        path.display()
    );
    Ok(format!(
        "{} on {} ({} test records), {}\naccuracy {}  loss {:.4}  sparsity {}\n",
        header.architecture.name,
        header.data,
        count(found.records),
        device.name,
        percent(found.accuracy),
        found.loss,
        percent(found.sparsity),
    ))
}
