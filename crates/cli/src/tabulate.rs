//! `bonsai table`: sets claims beside what was found.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_claims::{Format, answers, sheet};
use bonsai_training::run_folder::write_atomic;
use clap::ValueEnum;

use crate::error::user;
use crate::{ledger, readme, runs};

const EXAMPLES: &str = "\
Examples:
  bonsai table granet-cifar
  bonsai table granet-cifar --format html --out granet.html
  bonsai table granet-cifar --runs /mnt/shared/runs --format latex
  bonsai table --readme

Every cell of a paper's table with our figures at the target: under the paper's own selection rule, and under the honest
ones (the epoch that validation chose; the last). A verdict takes three seeds of one revision; the rule stands below the
table. --readme writes the generated parts of experiments/README.md anew, from experiments/results/ alone.";

/// Set claims beside what was found
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a file under experiments/claims/ (without .toml), or a path to a TOML file
    #[arg(required_unless_present = "readme")]
    claims: Option<String>,
    /// How the table is written
    #[arg(long, value_enum, default_value_t)]
    format: Written,
    /// File to write instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder that is searched for runs, beside experiments/runs and experiments/results; may be given several times
    #[arg(long, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Write the generated parts of experiments/README.md
    #[arg(long, conflicts_with_all = ["claims", "format", "out", "runs"])]
    readme: bool,
}

/// What `--format` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Written {
    #[default]
    Markdown,
    Csv,
    Latex,
    Html,
}

/// Runs the command.
///
/// # Errors
///
/// A wrong table of claims or experiment, or a folder that is not there, is a user's mistake.
pub fn run(args: Args) -> Result<String> {
    let Some(name) = &args.claims else {
        return readme::write();
    };
    let claims = ledger::read(name)?;
    if let Some(absent) = args.runs.iter().find(|folder| !folder.is_dir()) {
        return Err(user(format!("there is no folder {}: --runs takes one that holds runs", absent.display())));
    }
    let mut folders = vec![Path::new(runs::FOLDER), Path::new(ledger::RESULTS)];
    folders.extend(args.runs.iter().map(PathBuf::as_path));
    let found = ledger::find(&folders);
    let answers = answers(&claims, &found, &|recipe| ledger::resolve_as_found(recipe, &found)).map_err(user)?;
    let text = sheet(&claims, &answers).write(match args.format {
        Written::Markdown => Format::Markdown,
        Written::Csv => Format::Csv,
        Written::Latex => Format::Latex,
        Written::Html => Format::Html,
    });
    match args.out {
        None => Ok(text),
        Some(path) => {
            write_atomic(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
            Ok(format!("{}\n", path.display()))
        }
    }
}
