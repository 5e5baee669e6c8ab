//! Finds tables of claims, resolves what they name, and finds the runs that may answer.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonsai_claims::{Claims, Identity, Recipe, Resolved, Runs, nearest};
use bonsai_training::experiment::Experiment;
use bonsai_training::hardware;
use toml::Table;

use crate::error::user;
use crate::experiments::{self, Changes, Selection};

/// The folder in which tables of claims are looked for by name.
pub const FOLDER: &str = "experiments/claims";
/// The folder of the results that are part of the project.
pub const RESULTS: &str = "experiments/results";

/// Lists the names of all tables of claims, sorted.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
    let toml = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> = toml.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect();
    names.sort();
    names
}

/// Reads a table of claims by name or path.
///
/// # Errors
///
/// A user's mistake: there is none of this name, or something in it is wrong.
pub fn read(claims: &str) -> Result<Claims> {
    let named = Path::new(FOLDER).join(format!("{claims}.toml"));
    let path = if named.is_file() { named } else { PathBuf::from(claims) };
    if !path.is_file() {
        let names = names();
        let about = nearest(claims, names.iter().map(String::as_str)).map_or_else(
            || {
                if names.is_empty() {
                    format!("there is no folder {FOLDER}/ with TOML files here: change to the project's folder or give a path")
                } else {
                    format!("there are {}", names.join(", "))
                }
            },
            |near| format!("did you mean `{near}`?"),
        );
        return Err(user(format!("unknown table of claims `{claims}`; {about}")));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Claims::from_toml(&experiments::read(&path)?, &name).map_err(user)
}

/// Fills in an experiment with changes, as a run on the CPU or on a GPU does.
///
/// # Errors
///
/// One sentence that says what is wrong with it.
pub fn resolve(recipe: &Recipe, on_gpu: bool) -> Result<Resolved, String> {
    let selection = Selection {
        experiment: recipe.experiment.clone(),
        changes: Changes { set: recipe.set.clone(), ..Changes::default() },
    };
    let experiment = selection.read().map_err(|error| format!("{error:#}"))?;
    let experiment = if on_gpu { experiment.on_gpu() } else { experiment };
    Ok(Resolved { test_records: experiment.data.info().test as u64, config: table(&experiment) })
}

/// The same, as the runs did that are there: on a GPU only where no run on the CPU is.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_as_found(recipe: &Recipe, runs: &Runs) -> Result<Resolved, String> {
    let [cpu, gpu] = [resolve(recipe, false)?, resolve(recipe, true)?];
    let is_there = |resolved: &Resolved| runs.of(&Identity::of(&resolved.config)).next().is_some();
    Ok(if !is_there(&cpu) && is_there(&gpu) { gpu } else { cpu })
}

/// Finds the finished runs in some folders.
pub fn find(folders: &[&Path]) -> Runs {
    // What an older revision did not write down was not there to be set, and has its default.
    let complete = |config: &Table| {
        let text = toml::to_string(config).ok()?;
        Experiment::from_config(&text).ok().map(|experiment| table(&experiment))
    };
    let runs = Runs::find(folders, &complete);
    for warning in &runs.warnings {
        eprintln!("warning: {warning}");
    }
    runs
}

/// The revision that this program was built from.
pub fn revision() -> String {
    hardware::git_revision().unwrap_or_else(|| bonsai_claims::UNKNOWN.to_string())
}

fn table(experiment: &Experiment) -> Table {
    toml::from_str(&experiment.to_toml()).expect("an experiment is written as TOML")
}
