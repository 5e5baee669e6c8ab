//! `bonsai train`: trains and prunes a network.

use std::fs::{File, TryLockError};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use bonsai_data::Source;
use bonsai_training::dashboard::{self, View};
use bonsai_training::experiment::{Budget, Experiment};
use bonsai_training::run_folder::RunPaths;
use bonsai_training::train::{Outcome, Setup, train};

use crate::dataset::{self, Found};
use crate::device::{self, Choice, Chosen};
use crate::error::{self, user};
use crate::experiments::{Changes, Selection, whole};
use crate::table::counted;
use crate::{Output, beside, logging, receipt, runs};

/// The exit code of a process that Ctrl-C, SIGTERM or SIGHUP ended.
pub(crate) const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  bonsai train shapes10-resnet20-granet
  bonsai train cifar10-resnet20-granet --device wgpu --seed 3
  bonsai train cifar10-resnet20-granet-short --epochs 2 --set optimizer.lr=0.05
  bonsai train cifar10-resnet20-granet --resume
  bonsai train --scratch-e cifar10-resnet20-group-magnitude/seed-0

The run folder is experiments/runs/<name>/seed-<n>/. Ctrl-C, SIGTERM and SIGHUP finish the step and save (exit code
130); --resume goes on from there and ends in the same weights, bit by bit on the CPU. A data set that is absent is
fetched. Where that fails, the experiment's shapes10 sibling is trained instead, under its own name.
BONSAI_DATASETS names a folder that is searched for data sets after --data-dir, BONSAI_MIRROR a server to fetch from.
experiments/README.md says where each key of an experiment's TOML is described.";

/// Train and prune a network.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a file under experiments/ (without .toml), or a path to a TOML file
    #[arg(required_unless_present_any = ["scratch_e", "scratch_b"], conflicts_with_all = ["scratch_e", "scratch_b"])]
    experiment: Option<String>,
    /// Train the shape of a finished run from scratch, for as many epochs (Scratch-E of Liu et al. 2019)
    #[arg(long, value_name = "RUN", conflicts_with = "scratch_b")]
    scratch_e: Option<String>,
    /// The same, for as many epochs as cost what dense training of the run's epochs costs (Scratch-B)
    #[arg(long, value_name = "RUN")]
    scratch_b: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Where the network runs
    #[arg(long, value_enum, default_value_t)]
    device: Choice,
    /// Share every batch out over several GPUs of that kind, by number: the first takes the steps
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    devices: Vec<usize>,
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
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, u64::MAX))]
    limit_test: Option<u64>,
    /// Run folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in the folder
    #[arg(long)]
    resume: bool,
    /// Do not measure what the network costs when it is trained
    #[arg(long)]
    no_receipt: bool,
    /// Print plain lines, also on a terminal
    #[arg(long, conflicts_with = "tui")]
    plain: bool,
    /// Show the live view
    #[arg(long)]
    tui: bool,
    /// Threads of the CPU kernels; all cores if absent
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    threads: Option<usize>,
    /// Stop as by Ctrl-C when stdin ends: how `reproduce` and `sweep` stop their runs, however they end themselves
    #[arg(long, hide = true)]
    stop_at_eof: bool,
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
    let wanted = wanted(&args)?;
    let asked = wanted.name.clone();
    device::set_threads(args.threads)?;
    let device = match args.devices.as_slice() {
        [] => device::choose(args.device)?,
        numbers => device::choose_several(args.device, numbers)?,
    };
    let Start { experiment, source, folder, resume } =
        if args.resume { resumed(&args, wanted, &device)? } else { fresh(&args, wanted, &device)? };

    logging::start(Some(&RunPaths::new(&folder).log()), view.resolved() == View::Tui);
    tracing::info!(experiment = experiment.name, device = device.name, "bonsai {}", env!("CARGO_PKG_VERSION"));
    let stop = stop_on_ctrl_c()?;
    if args.stop_at_eof {
        stop_when_stdin_ends(stop.clone());
    }
    if let Some(warning) = &device.warning {
        tracing::warn!("{warning}");
    }
    let size = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    let batch_size = experiment.batch_size;
    if batch_size <= device.others.len() {
        return Err(user(format!(
            "a batch of {batch_size} cannot be shared out over {} devices: raise batch_size, or name fewer",
            1 + device.others.len()
        )));
    }
    let setup = Setup {
        asked,
        limit_test: args.limit_test.map(size),
        workers: workers(args.threads),
        device: device.device.clone(),
        replicas: device.others.clone(),
        device_name: device.name.clone(),
        cheap_reads: device.cheap_reads,
        experiment,
        source,
        folder: folder.clone(),
        resume,
        view,
        stop,
    };
    let outcome = device::guarded(&device, batch_size, ", the last checkpoint is kept", || train(setup)).inspect_err(
        |error| {
            tracing::error!(target: logging::RUN_LOG_ONLY, "{}", error::sentence(error));
        },
    )?;
    match outcome {
        Outcome::Finished(summary) => {
            tracing::info!("finished");
            let receipt = if args.no_receipt { String::new() } else { receipt::of_finished(&folder, &device.device) };
            let dense = beside::line(&folder, Path::new(runs::FOLDER));
            let text = format!("\n{}{dense}run folder  {}\n{receipt}", runs::summarised(&summary), folder.display());
            Ok(Output { text, code: 0 })
        }
        Outcome::Interrupted { iteration } => {
            tracing::info!(iteration, "stopped");
            let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            let again = again(words, std::env::var_os("CARGO").is_some());
            let text = format!("\nstopped after iteration {iteration}, everything is saved; go on with\n  {again}\n");
            Ok(Output { text, code: INTERRUPTED })
        }
    }
}

/// Reads the experiment that is asked for, or makes the baseline of a run.
fn wanted(args: &Args) -> Result<Experiment> {
    let (run, budget) = match (&args.scratch_e, &args.scratch_b) {
        (Some(run), _) => (run, Budget::Epochs),
        (None, Some(run)) => (run, Budget::Macs),
        (None, None) => return selection(args).expect("an experiment is required then").read(),
    };
    let folder = runs::named(run, Path::new(runs::FOLDER))?;
    let baseline = args.changes.of(&Experiment::from_scratch(&folder, budget)?)?;
    let config = std::fs::read_to_string(RunPaths::new(&folder).config()).context("reading the run's config.toml")?;
    let original = Experiment::from_config(&config).map_err(anyhow::Error::msg)?;
    if original.seed == baseline.seed {
        return Err(user(format!(
            "--seed {} is the run's own, which would bring back its initial weights: give another",
            baseline.seed
        )));
    }
    Ok(baseline)
}

/// The experiment's file, where one is named, and what is changed about it.
fn selection(args: &Args) -> Option<Selection> {
    args.experiment.clone().map(|experiment| Selection { experiment, changes: args.changes.clone() })
}

/// Starts a new run, on the experiment's own data or on its sibling's.
fn fresh(args: &Args, wanted: Experiment, device: &Chosen) -> Result<Start> {
    let (experiment, source) = match dataset::find(wanted.data, args.data_dir.as_deref(), args.offline)? {
        Found::Here(source) => (wanted, source),
        Found::Absent(why) if args.strict_data => return Err(user(why)),
        Found::Absent(why) => {
            // A baseline stands beside a run, so nothing stands in for it.
            let Some(selection) = selection(args) else { return Err(user(why)) };
            let sibling = selection.sibling(&wanted)?;
            banner(&wanted, &sibling, &why);
            let source = dataset::require(sibling.data, args.data_dir.as_deref())?;
            (sibling, source)
        }
    };
    let experiment = if device.cheap_reads { experiment } else { experiment.on_gpu() };
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&experiment));
    if RunPaths::new(&folder).holds_run() {
        if in_use(&folder) {
            return Err(user(format!("another run is writing {}; wait for it, or use --out", folder.display())));
        }
        return Err(user(format!(
            "{} already holds a run: go on with it by --resume, or take another --seed or --out",
            folder.display()
        )));
    }
    Ok(Start { experiment, source, folder, resume: false })
}

/// Goes on with the run in the folder; its own `config.toml` says what is trained.
fn resumed(args: &Args, wanted: Experiment, device: &Chosen) -> Result<Start> {
    let sibling = selection(args).and_then(|selection| selection.sibling(&wanted).ok());
    let expected = std::iter::once(&wanted).chain(&sibling);
    let folders = match &args.out {
        Some(out) => vec![out.clone()],
        None => expected.clone().map(default_folder).collect(),
    };
    let Some(folder) = folders.iter().find(|folder| RunPaths::new(*folder).config().is_file()).cloned() else {
        if let Some(folder) = folders.iter().find(|folder| RunPaths::new(*folder).holds_run()) {
            return Err(user(format!(
                "{} holds a run, but its config.toml is missing: bring it back, or start anew with --out",
                folder.display()
            )));
        }
        // A run that was killed before it had written anything starts again, so that a script need not ask.
        eprintln!("nothing to resume: starting the run");
        return fresh(args, wanted, device);
    };
    let config = RunPaths::new(&folder).config();
    let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
    let experiment = Experiment::from_config(&text)
        .map_err(|message| anyhow::anyhow!("the run in {} cannot go on: {message}", folder.display()))?;
    if args.changes.any() {
        let same_data = expected.into_iter().find(|candidate| candidate.data == experiment.data).unwrap_or(&wanted);
        if let Some(difference) = difference(&experiment, &same_data.clone().rounded_as(&experiment)) {
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

/// Tells whether another process trains in a folder.
pub(crate) fn in_use(folder: &Path) -> bool {
    File::open(folder.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
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

/// Sets a flag when stdin ends. The system closes a pipe whose other end is gone, so that no run outlives, unseen, a
/// process that was killed.
fn stop_when_stdin_ends(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}

/// The command that goes on with the one of these words, as its user called it.
fn again(mut words: Vec<String>, through_cargo: bool) -> String {
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    let plain = |word: &String| {
        !word.is_empty() && word.chars().all(|letter| letter.is_alphanumeric() || "-_./=,:@%+".contains(letter))
    };
    let program = match (through_cargo, words.iter().all(plain)) {
        (false, _) => "bonsai",
        (true, true) => "just",
        // just hands its arguments on without their quotes.
        (true, false) => "cargo run --release --bin bonsai --",
    };
    let quoted = |word: &String| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) };
    format!("{program} {}", words.iter().map(quoted).collect::<Vec<_>>().join(" "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_goes_on_can_be_pasted() {
        let words = |text: &str| text.split('|').map(String::from).collect::<Vec<_>>();
        assert_eq!(again(words("train|x|--seed|3"), false), "bonsai train x --seed 3 --resume");
        assert_eq!(again(words("train|x|--resume"), true), "just train x --resume");
        assert_eq!(again(words("train|my x.toml"), false), "bonsai train 'my x.toml' --resume");
        assert_eq!(
            again(words("train|it's|--set|lr.milestones=[1, 2]"), true),
            r"cargo run --release --bin bonsai -- train 'it'\''s' --set 'lr.milestones=[1, 2]' --resume"
        );
    }
}
