//! `bonsai data`: lists, fetches and checks data sets.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use bonsai_data::{DataSet, Images, locate};
use clap::Subcommand;

use crate::dataset;
use crate::table::{Table, count};

const EXAMPLES: &str = "\
Examples:
  bonsai data list
  bonsai data fetch cifar10
  bonsai data check cifar10 --data-dir /mnt/datasets

Data sets are looked for in --data-dir, then in the folder that BONSAI_DATASETS names, then in datasets/.
BONSAI_MIRROR may name another server than the canonical ones, as --from does.";

/// List, fetch and check data sets.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show every data set, its size and where it lies
    List {
        /// Folder that is searched first
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Download a data set; an interrupted download goes on where it stopped
    Fetch {
        /// Name of the data set, as `bonsai data list` shows it
        name: String,
        /// Folder to put it into
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Address of another server that holds the same files
        #[arg(long, value_name = "URL")]
        from: Option<String>,
    },
    /// Read a data set whole and print its counts and fingerprint
    Check {
        /// Name of the data set, as `bonsai data list` shows it
        name: String,
        /// Folder that is searched first
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
///
/// An unknown or absent set is a user's mistake; a failed download or damaged files are failures.
pub fn run(args: Args) -> Result<String> {
    match args.action {
        Action::List { data_dir } => Ok(list(data_dir.as_deref())),
        Action::Fetch { name, data_dir, from } => fetch(&name, data_dir.as_deref(), from.as_deref()),
        Action::Check { name, data_dir } => check(&name, data_dir.as_deref()),
    }
}

fn list(data_dir: Option<&Path>) -> String {
    let mut table = Table::new(&["<name", "<image", "classes", "train", "validation", "test", "<where"]);
    for set in DataSet::ALL {
        let info = set.info();
        let place = match locate(set, data_dir) {
            Ok(source) => source.folder().map_or_else(|| "built in".to_string(), |folder| folder.display().to_string()),
            Err(_) => format!("absent: bonsai data fetch {set}"),
        };
        let [channels, height, width] = info.shape;
        table.row(vec![
            info.name.to_string(),
            format!("{channels}x{height}x{width}"),
            info.classes.to_string(),
            count((info.train - info.validation) as u64),
            count(info.validation as u64),
            count(info.test as u64),
            place,
        ]);
    }
    table.render()
}

fn fetch(name: &str, data_dir: Option<&Path>, from: Option<&str>) -> Result<String> {
    let set = dataset::named(name)?;
    if let Ok(source) = locate(set, data_dir) {
        let place = source.folder().map_or_else(|| "built in".to_string(), |folder| format!("in {}", folder.display()));
        return Ok(format!("{set} is {place} already: nothing to fetch\n"));
    }
    let folder = dataset::download(set, data_dir, from)?;
    Ok(format!("{set} lies in {}\n{}", folder.display(), check(name, data_dir)?))
}

fn check(name: &str, data_dir: Option<&Path>) -> Result<String> {
    let set = dataset::named(name)?;
    let source = dataset::require(set, data_dir)?;
    let info = set.info();
    let mut text = String::new();
    for (split, images, expected) in [("train", source.train()?, info.train), ("test", source.test()?, info.test)] {
        let records = images.len();
        ensure!(records == expected, "{set} has {records} {split} records instead of {expected}: fetch it again");
        let (least, most) = class_sizes(&images);
        text += &format!("{split}: {} records, {least} to {most} a class\n", count(records as u64));
    }
    for warning in source.warnings() {
        eprintln!("warning: {warning}");
    }
    let place = source.folder().map_or_else(|| "built in".to_string(), |folder| folder.display().to_string());
    Ok(format!("{}\n{place}\n{text}fingerprint: {}\n", info.citation, source.fingerprint()?))
}

/// Returns the sizes of the smallest and the largest class.
fn class_sizes(images: &Images) -> (usize, usize) {
    let mut sizes = vec![0_usize; images.classes];
    for &label in &images.labels {
        sizes[usize::from(label)] += 1;
    }
    (sizes.iter().min().copied().unwrap_or(0), sizes.iter().max().copied().unwrap_or(0))
}
