//! `bonsai train`: trains and prunes a network.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use bonsai_data::Source;
use bonsai_training::dashboard::{self, View};
use bonsai_training::experiment::Experiment;
use bonsai_training::run_folder::RunPaths;
use bonsai_training::train::{Outcome, Setup, train};

use crate::dataset::{self, Found};
use crate::device::{self, Choice};
use crate::error::user;
use crate::experiments::Selection;
use crate::table::counted;
use crate::{Output, logging, runs};

/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  bonsai train shapes10-resnet20-granet
  bonsai train cifar10-resnet20-granet --device wgpu --seed 3
  bonsai train cifar10-resnet20-granet-short --epochs 2 --set optimizer.lr=0.05
  bonsai train cifar10-resnet20-granet --resume

The run folder is experiments/runs/<name>/seed-<n>/. Ctrl-C finishes the step and saves; --resume goes on from there
and ends in the same weights, bit by bit on the CPU. A data set that is absent is fetched. Where that fails, the
experiment's shapes10 sibling is trained instead, under its own name.";

/// Train and prune a network.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Where the network runs
    #[arg(long, value_enum, default_value_t)]
    device: Choice,
    /// Fetch nothing
    #[arg(long)]
    offline: bool,
    /// Folder that is searched first for the data set
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Stop if the data set is absent, instead of training the shapes10 sibling
    #[arg(long)]
    strict_data: bool,
    /// Validate and test on the first N records only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit_test: Option<u64>,
    /// Run folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in the folder
    #[arg(long)]
    resume: bool,
    /// Print plain lines, also on a terminal
    #[arg(long, conflicts_with = "tui")]
    plain: bool,
    /// Show the live view
    #[arg(long)]
    tui: bool,
    /// Threads of the CPU kernels; all cores if absent
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
}

/// What a run starts from.
struct Start {
    experiment: Experiment,
    source: Source,
    folder: PathBuf,
    resume: bool,
}

/// Runs the command.
///
/// # Errors
///
/// A wrong experiment, an absent device or data set (with `--strict-data`) or an occupied folder is a user's mistake;
/// damaged data, a full disk or a loss that is not finite is a failure.
pub fn run(args: Args) -> Result<Output> {
    let view = view(&args)?;
    let wanted = args.selection.read()?;
    let asked = wanted.name.clone();
    device::set_threads(args.threads)?;
    let device = device::choose(args.device)?;
    let Start { experiment, source, folder, resume } =
        if args.resume { resumed(&args, wanted)? } else { fresh(&args, wanted)? };

    logging::start(Some(&RunPaths::new(&folder).log()), view.resolved() == View::Tui);
    tracing::info!(experiment = experiment.name, device = device.name, "bonsai {}", env!("CARGO_PKG_VERSION"));
    let stop = stop_on_ctrl_c()?;
    let whole = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    let outcome = train(Setup {
        asked,
        limit_test: args.limit_test.map(whole),
        workers: workers(args.threads),
        device: device.device,
        device_name: device.name,
        cheap_reads: device.cheap_reads,
        experiment,
        source,
        folder: folder.clone(),
        resume,
        view,
        stop,
    })?;
    match outcome {
        Outcome::Finished(summary) => {
            let text = format!("\n{}run folder  {}\n", runs::summarised(&summary), folder.display());
            Ok(Output { text, code: 0 })
        }
        Outcome::Interrupted { iteration } => {
            let text =
                format!("\nstopped after iteration {iteration}, everything is saved; go on with\n  {}\n", again());
            Ok(Output { text, code: INTERRUPTED })
        }
    }
}

/// Starts a new run, on the experiment's own data or on its sibling's.
fn fresh(args: &Args, wanted: Experiment) -> Result<Start> {
    let (experiment, source) = match dataset::find(wanted.data, args.data_dir.as_deref(), args.offline)? {
        Found::Here(source) => (wanted, source),
        Found::Absent(why) if args.strict_data => return Err(user(why)),
        Found::Absent(why) => {
            let sibling = args.selection.sibling(&wanted)?;
            banner(&wanted, &sibling, &why);
            let source = dataset::require(sibling.data, args.data_dir.as_deref())?;
            (sibling, source)
        }
    };
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&experiment));
    if RunPaths::new(&folder).holds_run() {
        return Err(user(format!(
            "{} already holds a run: go on with it by --resume, or take another --seed or --out",
            folder.display()
        )));
    }
    Ok(Start { experiment, source, folder, resume: false })
}

/// Goes on with the run in the folder; its own `config.toml` says what is trained.
fn resumed(args: &Args, wanted: Experiment) -> Result<Start> {
    let sibling = args.selection.sibling(&wanted).ok();
    let expected = std::iter::once(&wanted).chain(&sibling);
    let folders = match &args.out {
        Some(out) => vec![out.clone()],
        None => expected.clone().map(default_folder).collect(),
    };
    let Some(folder) = folders.into_iter().find(|folder| RunPaths::new(folder).config().is_file()) else {
        // A run that was killed before it had written anything starts again, so that a script need not ask.
        eprintln!("nothing to resume: starting the run");
        return fresh(args, wanted);
    };
    let config = RunPaths::new(&folder).config();
    let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
    let experiment = Experiment::from_config(&text)
        .map_err(|message| anyhow::anyhow!("the run in {} cannot go on: {message}", folder.display()))?;
    if args.selection.changes() {
        let same_data = expected.into_iter().find(|candidate| candidate.data == experiment.data).unwrap_or(&wanted);
        if let Some(difference) = difference(&experiment, same_data) {
            return Err(user(format!(
                "the run in {} cannot go on with other settings: {difference}; leave the change away, or start anew with --out",
                folder.display()
            )));
        }
    }
    let source = match dataset::find(experiment.data, args.data_dir.as_deref(), args.offline)? {
        Found::Here(source) => source,
        Found::Absent(why) => return Err(user(why)),
    };
    Ok(Start { experiment, source, folder, resume: true })
}

/// Names the first value in which two experiments differ.
fn difference(run: &Experiment, call: &Experiment) -> Option<String> {
    let (run, call) = (run.to_toml(), call.to_toml());
    let (old, new) = (run.lines(), call.lines());
    let changed = old.clone().zip(new.clone()).find(|(old, new)| old != new);
    match changed {
        Some((old, new)) => Some(format!("it has `{old}`, the call `{new}`")),
        None if old.count() != new.count() => Some("the call sets other keys".to_string()),
        None => None,
    }
}

fn default_folder(experiment: &Experiment) -> PathBuf {
    Path::new(runs::FOLDER).join(&experiment.name).join(format!("seed-{}", experiment.seed))
}

/// Says loudly that something else is trained than was asked for.
fn banner(wanted: &Experiment, sibling: &Experiment, why: &str) {
    let line = "=".repeat(100);
    eprintln!(
        "{line}\n\
         NOT {wanted}: {why}.\n\
         Training {sibling} instead, {epochs} on the built-in shapes10.\n\
         Its accuracy says nothing about {data}. --strict-data makes an absent data set an error.\n\
         {line}",
        wanted = wanted.name,
        sibling = sibling.name,
        epochs = counted(sibling.epochs, "epoch"),
        data = wanted.data,
    );
}

fn view(args: &Args) -> Result<View> {
    match (args.plain, args.tui) {
        (true, _) => Ok(View::Plain),
        (false, true) if !std::io::stdout().is_terminal() => {
            Err(user("--tui needs a terminal: use --plain, or leave it away"))
        }
        (false, true) => Ok(View::Tui),
        (false, false) => Ok(View::Auto),
    }
}

/// Returns a flag that the first Ctrl-C sets; the second ends the process at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            dashboard::restore_terminal();
            std::process::exit(i32::from(INTERRUPTED));
        }
        dashboard::announce("stopping after this step; Ctrl-C again stops at once");
    })
    .context("watching for Ctrl-C")?;
    Ok(stop)
}

/// The command that goes on with this one.
fn again() -> String {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    format!("bonsai {}", words.join(" "))
}

/// Threads that prepare batches: half of those that compute, which is more than enough.
pub(crate) fn workers(threads: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (threads.unwrap_or(cores) / 2).clamp(1, 8)
}

/// Reads a number of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=1024).contains(threads))
        .ok_or_else(|| "give a number from 1 to 1024".to_string())
}
