//! `bonsai reproduce`: trains what a table of claims still lacks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use bonsai_claims::{Claims, Identity, Recipe, Runs, Selection, answers, tally};

use crate::error::user;
use crate::experiments::whole;
use crate::jobs::{self, Ended, Job, Launch};
use crate::table::{Table, counted};
use crate::{Output, device, ledger};

/// Seeds of each cell unless `--seeds` says otherwise; fewer give no verdict.
const SEEDS: u64 = 3;
/// The same for stand-ins, which never get one.
const SHORT_SEEDS: u64 = 2;

const EXAMPLES: &str = "\
Examples:
  bonsai reproduce granet-cifar --short        Two methods, two seeds, on built-in images: minutes
  bonsai reproduce granet-cifar --list         What is missing
  bonsai reproduce granet-cifar                Everything, three seeds: days on a CPU
  bonsai table granet-cifar                    The claims beside what was found

A table of claims is a TOML file: its name under experiments/claims/, or a path. A run is known by its resolved
configuration and the revision of the code; what is finished is skipped, what was stopped or killed goes on where it was.
Each training is a process of its own: if one fails, the others go on. Ctrl-C stops them after the step under way.";

/// Train what a table of claims still lacks
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a file under experiments/claims/ (without .toml), or a path to a TOML file
    claims: String,
    /// Train seeds 0 to N - 1; 3 if absent, with --short 2
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, 1000))]
    seeds: Option<u64>,
    /// Train the stand-ins that the table names for a quick look: never comparable with the claims
    #[arg(long)]
    short: bool,
    /// Only say what is missing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    launch: Launch,
}

/// A training that a table asks for.
struct Wanted {
    label: String,
    job: Job,
    done: bool,
}

/// Runs the command.
///
/// # Errors
///
/// A wrong table of claims or experiment is a user's mistake; trainings that fail are reported in the text and the code.
pub fn run(args: Args) -> Result<Output> {
    let claims = ledger::read(&args.claims)?;
    let runs = ledger::find(&[&args.launch.runs, Path::new(ledger::RESULTS)]);
    let seeds = args.seeds.unwrap_or(if args.short { SHORT_SEEDS } else { SEEDS });
    let revision = ledger::revision();
    if revision.contains("-dirty") {
        eprintln!(
            "warning: the sources differ from their revision: runs of an earlier state count as runs of this one"
        );
    }
    let on_gpu = device::is_gpu(args.launch.device);
    let wanted = wanted(&claims, &runs, &args, (seeds, on_gpu), &revision)?;
    if wanted.is_empty() {
        let what =
            if args.short { "stand-in: leave out --short" } else { "experiment: every cell says why it is not run" };
        return Err(user(format!("{} names no {what}", claims.name)));
    }
    let missing: Vec<Job> = wanted.iter().filter(|want| !want.done).map(|want| want.job.clone()).collect();
    let done = wanted.len() - missing.len();
    eprintln!(
        "{}: {}, {done} finished before, {} to go",
        claims.name,
        counted(wanted.len() as u64, "run"),
        missing.len()
    );
    if args.list {
        let mut table = Table::new(&["<run", "<state", "<folder"]);
        for Wanted { label, job, done } in &wanted {
            let begun = bonsai_training::run_folder::RunPaths::new(&job.folder).holds_run();
            let state = if *done { "finished" } else { ["missing", "not finished"][usize::from(begun)] };
            table.row(vec![label.clone(), state.to_string(), job.folder.display().to_string()]);
        }
        return Ok(Output::from(table.render()));
    }
    let stop = jobs::stop_on_ctrl_c()?;
    let ended = jobs::run(&missing, &args.launch, &stop)?;
    let mut text = summary(&missing, &ended, done);
    let runs = ledger::find(&[&args.launch.runs, Path::new(ledger::RESULTS)]);
    let answers = answers(&claims, &runs, &|recipe| ledger::resolve(recipe, on_gpu)).map_err(user)?;
    let counts: Vec<String> = tally(&answers).into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    let _ = writeln!(text, "{}: {} ({})", claims.name, counted(answers.len() as u64, "cell"), counts.join(", "));
    let code = jobs::code(&ended, &stop);
    if code == 0 {
        let _ = writeln!(text, "`bonsai table {}` sets them beside the claims", args.claims);
    }
    text += rest(&ended);
    Ok(Output { text, code })
}

/// What a table asks for: every configuration once, all of its seeds together, in the order of the table.
fn wanted(
    claims: &Claims,
    runs: &Runs,
    args: &Args,
    (seeds, on_gpu): (u64, bool),
    revision: &str,
) -> Result<Vec<Wanted>> {
    let mut recipes: Vec<(String, Recipe)> = Vec::new();
    for (row, cell) in claims.cells() {
        let recipe = if args.short { cell.stand_in() } else { row.recipe(cell) };
        let Some(recipe) = recipe else { continue };
        let label = format!("{}, {} on {}, {}", row.method, row.network, row.data, cell.target());
        // A gain needs the network that it is over.
        if let (false, Some(baseline)) = (args.short, &row.baseline) {
            recipes.push((format!("{label}: its dense baseline"), baseline.clone()));
        }
        recipes.push((if args.short { format!("{label}: its stand-in") } else { label }, recipe));
    }
    let paper = claims.selection == Selection::BestTest;
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    for (label, mut recipe) in recipes {
        let resolved =
            ledger::resolve(&recipe, on_gpu).map_err(|message| user(format!("{}.toml: {message}", claims.name)))?;
        let identity = Identity::of(&resolved.config);
        if !seen.insert(identity.clone()) {
            continue;
        }
        if paper {
            recipe.set.push("protocol=paper".to_string());
        }
        // What is measured beside the training is part of the folder, so that no run goes on with another column.
        let id = identity.short(&format!("{revision}{}", if paper { " paper" } else { "" }));
        let stem = Path::new(&recipe.experiment).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for seed in 0..seeds {
            let answers = |run: &bonsai_claims::Finished| {
                run.summary.seed == seed
                    && (args.launch.any_revision || run.revision == revision)
                    && (!paper || run.best_test().is_some())
            };
            let done = runs.of(&identity).any(answers);
            let mut arguments: Vec<OsString> = vec![recipe.experiment.clone().into()];
            arguments.extend(recipe.set.iter().flat_map(|change| ["--set".into(), change.into()]));
            arguments.extend(["--seed".into(), seed.to_string().into()]);
            let label = format!("{label}, seed {seed}");
            let folder = args.launch.runs.join(format!("{stem}-{id}")).join(format!("seed-{seed}"));
            wanted.push(Wanted { label: label.clone(), job: Job { label, arguments, folder }, done });
        }
    }
    Ok(wanted)
}

/// What to do about jobs that are not done; nothing where all are, even if they were told to stop.
pub fn rest(ended: &[Ended]) -> &'static str {
    if ended.iter().all(|end| *end == Ended::Done) { "" } else { "the same command goes on with what is missing\n" }
}

/// How many jobs ended how, with the sentence of each failure.
pub fn summary(jobs: &[Job], ended: &[Ended], before: usize) -> String {
    let count = |end: fn(&Ended) -> bool| ended.iter().filter(|ended| end(ended)).count();
    let mut text = format!(
        "{} finished ({before} of them before), {} stopped, {} failed, {} not started\n",
        before + count(|end| *end == Ended::Done),
        count(|end| *end == Ended::Stopped),
        count(|end| matches!(end, Ended::Failed(_))),
        count(|end| *end == Ended::Left),
    );
    for (job, end) in jobs.iter().zip(ended) {
        if let Ended::Failed(reason) = end {
            let _ = writeln!(text, "  {}: {reason}", job.label);
        }
    }
    text
}
