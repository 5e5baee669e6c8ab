//! Writes a sweep as an array job for Slurm: one run a task.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, absolute};

use anyhow::{Context, Result};

use crate::jobs::Launch;

/// Seconds before the end of its time at which a task is told to save.
const WARNING: u32 = 120;
/// Processors of a task, unless `--threads` says otherwise.
const PROCESSORS: usize = 4;

/// Returns the script of an array job over `count` runs of the sweep in `file`.
///
/// Every task calls this program with `--task`. At the end of its time Slurm signals it, it saves, and the same script
/// submitted again goes on; finished runs end at once.
///
/// # Errors
///
/// Fails if the folder of this process or the path of its program cannot be found, or no folder for the runs can be made.
pub fn script(name: &str, file: &Path, count: usize, launch: &Launch) -> Result<String> {
    let here = std::env::current_dir().context("finding the folder to work in")?;
    let program = std::env::current_exe().context("finding the program for the script")?;
    let runs = absolute(&launch.runs).context("finding the folder of the runs")?;
    let logs = runs.join(name).join("slurm");
    // Slurm drops what a task prints if the folder for it is not there.
    std::fs::create_dir_all(&logs).with_context(|| format!("making the folder {}", logs.display()))?;
    let threads = launch.threads.unwrap_or(PROCESSORS);
    let arguments = Launch { runs: runs.clone(), threads: Some(threads), jobs: 1, ..launch.clone() }.arguments();
    // What is handed on to each training alone is said by this command itself.
    let mut words: Vec<OsString> = arguments.into_iter().filter(|word| word != "--strict-data").collect();
    words.extend(["--runs".into(), runs.into()]);
    if launch.any_revision {
        words.push("--any-revision".into());
    }
    let words: Vec<String> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    let at_a_time = if launch.jobs > 1 { format!("%{}", launch.jobs) } else { String::new() };
    let mut text = String::new();
    let _ = write!(
        text,
        "#!/bin/bash\n\
         # {count} runs of the sweep {name}, one a task; add a partition and a time as your cluster asks for.\n\
         #SBATCH --job-name=bonsai-{job}\n\
         #SBATCH --array=1-{count}{at_a_time}\n\
         #SBATCH --cpus-per-task={threads}\n\
         #SBATCH --signal=B:TERM@{WARNING}\n\
         #SBATCH --open-mode=append\n\
         #SBATCH --output={logs}\n\
         set -eu\n\
         cd {here}\n\
         exec {program} sweep {file} --task \"$SLURM_ARRAY_TASK_ID/{count}\" {words}\n",
        job = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
        logs = quoted(&logs.join("%a.log").to_string_lossy()),
        here = quoted(&here.to_string_lossy()),
        program = quoted(&program.to_string_lossy()),
        file = quoted(&file.to_string_lossy()),
        words = words.join(" "),
    );
    Ok(text)
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=,:@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/mnt/runs"), "/mnt/runs");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$HOME"), "'$HOME'");
    }
}
