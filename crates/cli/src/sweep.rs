//! `bonsai sweep`: trains every combination of some values.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_claims::sweep::{Base, Point, Sweep};
use bonsai_claims::{Finished, Identity, Recipe, Runs};
use bonsai_report::statistics::Sample;
use bonsai_training::run_folder::{RunPaths, write_atomic};
use clap::ValueEnum;

use crate::error::user;
use crate::jobs::{self, Job, Launch};
use crate::table::{Table, count, counted};
use crate::{Output, device, experiments, ledger, reproduce, slurm};

/// The folder in which sweeps are looked for by name.
const FOLDER: &str = "experiments/sweeps";

const EXAMPLES: &str = "\
Examples:
  bonsai sweep granet-sparsity --list
  bonsai sweep granet-sparsity --jobs 2
  bonsai sweep granet-sparsity --emit slurm --runs /shared/runs > array.sh && sbatch array.sh
  bonsai sweep granet-sparsity --list --runs /shared/runs      Collect what the cluster has finished

A sweep is an experiment's TOML with a section [sweep], or one line experiment = \"NAME\" and that section:
  [sweep]
  scheduler.sparsity = [0.8, 0.9, 0.95]
  optimizer.lr = { from = 0.025, to = 0.1, steps = 3, scale = \"log\" }
  seed = { from = 0, to = 2 }
Each training is a process of its own: if one fails, the others go on. Called again, it skips what is finished and resumes
the rest. The table ranks by validation accuracy; choose by that, and read the test accuracy of the choice.";

/// Train every combination of some values
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a file under experiments/sweeps/ (without .toml), or a path to a TOML file
    file: String,
    /// Train nothing: show what is finished and what is missing
    #[arg(long)]
    list: bool,
    /// Print a script for a cluster instead: an array job, one run a task
    #[arg(long, value_enum, conflicts_with_all = ["list", "task"])]
    emit: Option<Cluster>,
    /// Run the K-th of N runs alone, as a task of an array job does; N guards against a file that has changed since
    #[arg(long, value_name = "K/N", value_parser = task, conflicts_with = "list")]
    task: Option<(usize, usize)>,
    #[command(flatten)]
    launch: Launch,
}

/// What `--emit` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cluster {
    Slurm,
}

/// A run of a sweep.
struct Run<'a> {
    point: &'a Point,
    identity: Identity,
    seed: u64,
    job: Job,
}

/// Runs the command.
///
/// # Errors
///
/// A wrong file is a user's mistake; trainings that fail are reported in the text and the code.
pub fn run(args: Args) -> Result<Output> {
    let path = find(&args.file)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let sweep = Sweep::from_toml(&experiments::read(&path)?, &name).map_err(user)?;
    let revision = ledger::revision();
    let recipe = base(&sweep, &args.launch.runs)?;
    let all = expand(&sweep, &recipe, &args.launch, &revision)?;
    if let Some(Cluster::Slurm) = args.emit {
        return slurm::script(&name, &path, all.len(), &args.launch).map(Output::from);
    }
    let chosen: Vec<&Run> = match args.task {
        None => all.iter().collect(),
        Some((_, of)) if of != all.len() => {
            return Err(user(format!(
                "{} expands to {}, but the script was written for {of}: write it again with --emit slurm",
                path.display(),
                counted(all.len() as u64, "run")
            )));
        }
        Some((task, _)) => vec![&all[task - 1]],
    };
    let found = ledger::find(&[&args.launch.runs]);
    let is_done = |run: &Run| finished(run, &found, &revision, args.launch.any_revision).is_some();
    if args.list {
        return Ok(Output::from(table(&sweep, &all, &found, &revision, args.launch.any_revision)));
    }
    let missing: Vec<Job> = chosen.iter().filter(|run| !is_done(run)).map(|run| run.job.clone()).collect();
    let done = chosen.len() - missing.len();
    eprintln!("{name}: {}, {done} finished before, {} to go", counted(chosen.len() as u64, "run"), missing.len());
    let stop = jobs::stop_on_ctrl_c()?;
    let ended = jobs::run(&missing, &args.launch, &stop)?;
    let code = jobs::code(&ended, &stop);
    let mut text = String::new();
    if args.task.is_none() {
        let found = ledger::find(&[&args.launch.runs]);
        text += &table(&sweep, &all, &found, &revision, args.launch.any_revision);
        text.push('\n');
    }
    text += &reproduce::summary(&missing, &ended, done);
    text += reproduce::rest(&ended);
    Ok(Output { text, code })
}

/// Reads `K/N`.
fn task(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(task, of)| Some((task.parse().ok()?, of.parse().ok()?)));
    let valid = numbers.filter(|(task, of)| (1..=*of).contains(task));
    valid.ok_or_else(|| "give the number of a run and of all runs, as in 3/12".to_string())
}

fn find(file: &str) -> Result<PathBuf> {
    let named = Path::new(FOLDER).join(format!("{file}.toml"));
    if named.is_file() {
        return Ok(named);
    }
    // A plain experiment is found too, and then said to be no sweep.
    experiments::find(file).map_err(|_| {
        user(format!(
            "there is no sweep `{file}`: give a name under {FOLDER}/ or the path of a TOML file with a section [sweep]"
        ))
    })
}

/// The experiment that is varied; one that stands in the sweep's own file is written beside its runs.
fn base(sweep: &Sweep, runs: &Path) -> Result<Recipe> {
    match &sweep.base {
        Base::Named { experiment, set } => Ok(Recipe { experiment: experiment.clone(), set: set.clone() }),
        Base::Own(text) => {
            let folder = runs.join(&sweep.name);
            let path = folder.join(format!("{}.toml", sweep.name));
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
                std::fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
                write_atomic(&path, text.as_bytes())?;
            }
            Ok(Recipe { experiment: path.to_string_lossy().into_owned(), set: Vec::new() })
        }
    }
}

/// Every run of a sweep, checked.
fn expand<'a>(sweep: &'a Sweep, recipe: &Recipe, launch: &Launch, revision: &str) -> Result<Vec<Run<'a>>> {
    let (runs, on_gpu) = (&launch.runs, device::is_gpu(launch.device));
    let mut all: Vec<Run<'a>> = Vec::with_capacity(sweep.points.len());
    for point in &sweep.points {
        let mut set = recipe.set.clone();
        set.extend(point.set());
        let resolved = ledger::resolve(&Recipe { experiment: recipe.experiment.clone(), set: set.clone() }, on_gpu)
            .map_err(|message| user(format!("{}.toml, {}: {message}", sweep.name, described(point))))?;
        let identity = Identity::of(&resolved.config);
        let seed = resolved.config.get("seed").and_then(toml::Value::as_integer).unwrap_or(0).unsigned_abs();
        let id = identity.short(revision);
        let label = point.label();
        let folder = if label.is_empty() { id } else { format!("{label}-{id}") };
        let folder = runs.join(&sweep.name).join(folder).join(format!("seed-{seed}"));
        if let Some(twin) = all.iter().find(|run| run.identity == identity && run.seed == seed) {
            return Err(user(format!(
                "{}.toml: {} and {} are the same run: leave one away",
                sweep.name,
                described(twin.point),
                described(point)
            )));
        }
        let mut arguments: Vec<OsString> = vec![recipe.experiment.clone().into()];
        arguments.extend(set.iter().flat_map(|change| ["--set".into(), change.into()]));
        let job = Job { label: described(point), arguments, folder };
        all.push(Run { point, identity, seed, job });
    }
    Ok(all)
}

/// A point in words: `scheduler.sparsity=0.9 seed=1`.
fn described(point: &Point) -> String {
    point.set().join(" ")
}

/// The finished run of a configuration and seed, of this revision or of any.
fn finished<'r>(run: &Run, found: &'r Runs, revision: &str, any: bool) -> Option<&'r Finished> {
    let fits = |done: &&Finished| {
        done.identity == run.identity && done.summary.seed == run.seed && (any || done.revision == revision)
    };
    found.finished.iter().find(fits)
}

/// One line a combination, its seeds taken together, and the best by validation.
fn table(sweep: &Sweep, all: &[Run], found: &Runs, revision: &str, any: bool) -> String {
    let keys: Vec<&str> = sweep.points.first().map_or_else(Vec::new, |point| {
        point.values.iter().map(|(path, _)| path.as_str()).filter(|path| *path != "seed").collect()
    });
    let mut header: Vec<String> = keys.iter().map(|key| (*key).to_string()).collect();
    if keys.is_empty() {
        header.push("<".to_string());
    }
    header.extend(["validation, %", "test, %", "sparsity", "MACs", "seeds", "<state"].map(String::from));
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut best: Option<(f64, String)> = None;
    let mut groups: Vec<(&Identity, Vec<&Run>)> = Vec::new();
    for run in all {
        match groups.iter_mut().find(|(identity, _)| **identity == run.identity) {
            Some((_, group)) => group.push(run),
            None => groups.push((&run.identity, vec![run])),
        }
    }
    for (_, group) in &groups {
        let done: Vec<&Finished> = group.iter().filter_map(|run| finished(run, found, revision, any)).collect();
        let begun = group.iter().filter(|run| RunPaths::new(&run.job.folder).holds_run()).count();
        let figure = |pick: fn(&Finished) -> f64| {
            let figures: Vec<f64> =
                done.iter().map(|run| 100.0 * pick(run)).filter(|share| share.is_finite()).collect();
            Sample::of(&figures)
        };
        let valid = figure(|run| run.summary.final_valid_accuracy);
        let first = done.first().map(|run| &run.summary);
        let label = group[0].point.label();
        if let Some(sample) = valid.filter(|_| done.len() == group.len())
            && best.as_ref().is_none_or(|(mean, _)| sample.mean > *mean)
        {
            best = Some((sample.mean, label.clone()));
        }
        let mut cells: Vec<String> = group[0]
            .point
            .values
            .iter()
            .filter(|(path, _)| path != "seed")
            .map(|(_, value)| value.as_str().map_or_else(|| value.to_string(), String::from))
            .collect();
        if keys.is_empty() {
            cells.push(sweep.name.clone());
        }
        cells.extend([
            spread(valid),
            spread(figure(|run| run.summary.final_test_accuracy)),
            first.map_or_else(String::new, |summary| format!("{:.2} %", 100.0 * summary.sparsity)),
            first.map_or_else(String::new, |summary| count(summary.macs)),
            format!("{} of {}", done.len(), group.len()),
            match (done.len(), begun) {
                (done, _) if done == group.len() => "finished",
                (0, 0) => "missing",
                _ => "not finished",
            }
            .to_string(),
        ]);
        table.row(cells);
    }
    let mut text = table.render();
    if let Some((mean, label)) = best.filter(|_| groups.len() > 1) {
        let _ = writeln!(text, "best by validation: {label} ({mean:.2} %), of the combinations that are finished");
    }
    text
}

fn spread(sample: Option<Sample>) -> String {
    match sample {
        None => String::new(),
        Some(Sample { mean, std: Some(std), .. }) => format!("{mean:.2} ± {std:.2}"),
        Some(Sample { mean, std: None, .. }) => format!("{mean:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_one_of_all() {
        assert_eq!(task("3/12"), Ok((3, 12)));
        for text in ["0/3", "4/3", "3", "a/b", "/", "-1/3", "1/0"] {
            assert!(task(text).unwrap_err().contains("3/12"), "{text}");
        }
    }
}
