//! The dense runs that lie beside others, from which these are measured.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bonsai_report::baseline::{Dense, dense_of, distance};
use bonsai_report::run::Run;

use crate::runs;

/// Finds the dense runs below a folder, and below those in which the experiments of `folders` lie; without their rows.
///
/// A run that cannot be read is none: whoever asks for it is told what is wrong.
pub fn dense_runs(folder: &Path, folders: &[PathBuf]) -> Vec<Run> {
    // A run lies in the folder of its experiment, which lies among the others.
    let among = folders.iter().filter_map(|run| run.parent()?.parent().map(Path::to_path_buf));
    let among = among.filter(|folder| !folder.as_os_str().is_empty());
    let all: BTreeSet<PathBuf> = among.chain([folder.to_path_buf()]).collect();
    let found: BTreeSet<PathBuf> = all.iter().flat_map(|folder| runs::find(folder).unwrap_or_default()).collect();
    found.iter().filter_map(|run| Run::outline(run).ok()).filter(Run::is_dense).collect()
}

/// Says how far the run in a folder ended under its dense one, in a line of a summary; nothing for a dense run.
pub fn line(run: &Path, folder: &Path) -> String {
    let Ok(outline) = Run::outline(run) else { return String::new() };
    let others = dense_runs(folder, &[run.to_path_buf()]);
    let dense = dense_of(&outline, &others).and_then(Dense::of);
    distance(&outline, dense.as_ref()).map_or_else(String::new, |sentence| format!("dense       {sentence}\n"))
}
