//! `bonsai report`: draws runs as one page, as figures, or for TensorBoard.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_report::baseline::{Dense, dense_of};
use bonsai_report::entry::{Entry, Extras, entries};
use bonsai_report::receipt::Receipt;
use bonsai_report::run::Run;
use bonsai_report::{figures, model, page, png, tensorboard};
use bonsai_training::experiment::Experiment;
use bonsai_training::run_folder::{RunPaths, write_atomic};
use bonsai_training::trainee::network_tensors;

use crate::plan::planned;
use crate::table::counted;
use crate::{beside, runs};

const EXAMPLES: &str = "\
Examples:
  bonsai report shapes10-resnet20-granet
  bonsai report cifar10-resnet20-dense-short cifar10-resnet20-granet-short --out compared.html
  bonsai report cifar10-resnet20-granet-short/seed-0 --figures figures
  bonsai report cifar10-resnet20-granet-short --tensorboard events

A name that stands for several runs, such as all seeds of an experiment, takes them all. Runs that have not finished are shown
as far as they got. The page loads nothing from anywhere; its links to the runs hold while it stays where it is.";

/// Draw runs: one page, figures for papers, event files for TensorBoard.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Runs as `bonsai runs list` names them, experiments, or folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// The page to write; report.html unless figures or event files alone are asked for
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Write every figure into this folder, as SVG and as PNG
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// Write event files for TensorBoard into this folder
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = runs::FOLDER)]
    folder: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// An unknown run is a user's mistake; damaged records and a full disk are failures.
pub fn run(args: Args) -> Result<String> {
    let mut folders = Vec::new();
    for name in &args.runs {
        for folder in runs::all(name, &args.folder)? {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    let read = folders.iter().map(|folder| Ok((Run::read(folder)?, Extras::default())));
    let mut entries = entries(read.collect::<Result<_>>()?);
    let dense = beside::dense_runs(&args.folder, &folders);
    for entry in &mut entries {
        entry.extras = extras(entry);
        entry.extras.dense = dense_of(&entry.run, &dense).and_then(Dense::of);
        for note in &entry.extras.notes {
            eprintln!("warning: {}: {note}", entry.run.folder.display());
        }
    }

    let mut text = String::new();
    let alone = args.figures.is_none() && args.tensorboard.is_none();
    if let Some(out) = args.out.or_else(|| alone.then(|| PathBuf::from("report.html"))) {
        let page = page::page(&entries, &out);
        write_atomic(&out, page.as_bytes())?;
        let _ = writeln!(
            text,
            "{}: {}, {:.1} MB",
            out.display(),
            counted(entries.len() as u64, "run"),
            page.len() as f64 / 1e6
        );
    }
    if let Some(folder) = &args.figures {
        let drawn: Vec<_> = figures::sections(&entries).into_iter().flat_map(|section| section.figures).collect();
        make(folder)?;
        for figure in &drawn {
            write_atomic(&folder.join(format!("{}.svg", figure.id)), figure.picture.file().as_bytes())?;
            write_atomic(&folder.join(format!("{}.png", figure.id)), &png::png(&figure.picture)?)?;
        }
        let _ = writeln!(text, "{}: {}", folder.display(), counted(drawn.len() as u64, "figure"));
    }
    if let Some(folder) = &args.tensorboard {
        for entry in &entries {
            let _ = writeln!(text, "{}", tensorboard::write(entry, folder)?.display());
        }
    }
    Ok(text)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))
}

/// Finds out what the records do not hold: the plan, the initial weights and the trained ones.
fn extras(entry: &Entry) -> Extras {
    let mut extras = Extras::default();
    let paths = RunPaths::new(&entry.run.folder);
    if paths.model().is_file() {
        match model::read(&paths.model()) {
            Ok(model) => extras.model = model,
            Err(error) => extras.notes.push(format!("{error:#}")),
        }
    }
    match Receipt::read(&entry.run.folder) {
        Ok(receipt) => extras.receipt = receipt,
        Err(error) => extras.notes.push(format!("{error:#}")),
    }
    // Runs of the same experiment are planned alike but for their seeds.
    if !entry.leads || entry.run.config.is_empty() {
        return extras;
    }
    let experiment = fs::read_to_string(paths.config()).map_err(|error| error.to_string());
    match experiment
        .and_then(|text| Experiment::from_config(&text))
        .and_then(|experiment| planned(&experiment).map_err(|error| format!("{error:#}")))
    {
        Ok((planned, network)) => {
            extras.plan = planned.plan.events.iter().map(|event| (event.iteration, event.sparsity)).collect();
            let tensors = network_tensors(&network).into_iter();
            extras.initial =
                tensors.filter_map(|(name, tensor)| Some((name, tensor.as_f32().ok()?.to_vec()))).collect();
        }
        Err(sentence) => {
            extras.notes.push(format!("neither the plan nor the initial weights can be worked out again: {sentence}"));
        }
    }
    extras
}
