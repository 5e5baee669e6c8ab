//! Runs trainings as processes of their own, so that one that fails ends no other.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bonsai_training::records;
use bonsai_training::run_folder::RunPaths;
use clap::ValueEnum;

use crate::device::Choice;
use crate::experiments::whole;
use crate::runs;
use crate::table::percent;
use crate::train::{INTERRUPTED, in_use, threads};

/// How often the processes are looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a folder that another process still writes is waited for: one that lost its parent finishes its step and saves.
const PATIENCE: Duration = Duration::from_secs(60);
/// The end of a console log in which the reason of a failure is looked for.
const TAIL: u64 = 16 << 10;

/// How trainings are started.
#[derive(Clone, Debug, clap::Args)]
pub struct Launch {
    /// Trainings at a time
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = whole(1, 1024))]
    pub jobs: u64,
    /// Where the networks run
    #[arg(long, value_enum, default_value_t)]
    pub device: Choice,
    /// Threads of the CPU kernels of each training; the cores are shared out if absent
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    pub threads: Option<usize>,
    /// Fetch nothing
    #[arg(long)]
    pub offline: bool,
    /// Folder that is searched first for the data sets
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder for the runs
    #[arg(long, value_name = "DIR", default_value = runs::FOLDER)]
    pub runs: PathBuf,
    /// Take finished runs of any revision of the code for done, not only of this one
    #[arg(long)]
    pub any_revision: bool,
}

impl Launch {
    /// The arguments of a training that do not depend on the experiment.
    pub fn arguments(&self) -> Vec<OsString> {
        let device = self.device.to_possible_value().expect("every device has a name");
        let mut words: Vec<OsString> = vec!["--device".into(), device.get_name().into(), "--strict-data".into()];
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = usize::try_from(self.jobs).unwrap_or(1);
        let threads = self.threads.or_else(|| (jobs > 1).then(|| (cores / jobs).max(1)));
        if let Some(threads) = threads {
            words.extend(["--threads".into(), threads.to_string().into()]);
        }
        if self.offline {
            words.push("--offline".into());
        }
        if let Some(folder) = &self.data_dir {
            words.extend(["--data-dir".into(), folder.into()]);
        }
        words
    }
}

/// A training to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is called in messages.
    pub label: String,
    /// The experiment and what is changed about it.
    pub arguments: Vec<OsString>,
    /// The run folder.
    pub folder: PathBuf,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The run is finished.
    Done,
    /// It was stopped, and goes on when it is started again.
    Stopped,
    /// It failed, with this sentence.
    Failed(String),
    /// It was not started any more.
    Left,
}

/// A process at work.
struct Working {
    index: usize,
    began: Instant,
    child: Child,
}

/// Counts the calls to stop: the first ends the trainings after their step, the second at once.
pub type Stop = Arc<AtomicUsize>;

/// Watches for Ctrl-C, SIGTERM and SIGHUP.
///
/// # Errors
///
/// Fails where the system allows no handler.
pub fn stop_on_ctrl_c() -> Result<Stop> {
    let stop = Stop::default();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.fetch_add(1, Ordering::Relaxed) == 0 {
            eprintln!("stopping after the steps under way; Ctrl-C again stops at once");
        }
    })
    .context("watching for Ctrl-C")?;
    Ok(stop)
}

/// Runs jobs, at most `launch.jobs` at a time, in their order; returns how each ended.
///
/// # Errors
///
/// Fails only where no process can be started at all.
pub fn run(jobs: &[Job], launch: &Launch, stop: &Stop) -> Result<Vec<Ended>> {
    let program = std::env::current_exe().context("finding the program itself, which each training is a process of")?;
    let mut ended = vec![Ended::Left; jobs.len()];
    let mut waiting: VecDeque<usize> = (0..jobs.len()).collect();
    let mut working: Vec<Working> = Vec::new();
    let mut told = 0;
    loop {
        let stops = stop.load(Ordering::Relaxed);
        while stops == 0 && (working.len() as u64) < launch.jobs {
            let Some(index) = waiting.pop_front() else { break };
            let job = &jobs[index];
            eprintln!("[{}/{}] {}", index + 1, jobs.len(), job.label);
            wait_for(&job.folder, stop);
            if stop.load(Ordering::Relaxed) > 0 {
                break;
            }
            match start(&program, job, launch) {
                Ok(child) => working.push(Working { index, began: Instant::now(), child }),
                Err(error) => ended[index] = failed(index, jobs, &format!("{error:#}")),
            }
        }
        if stops > told {
            told = stops;
            for work in &mut working {
                // The end of its stdin asks a training to save and to end.
                drop(work.child.stdin.take());
                if stops > 1 {
                    let _ = work.child.kill();
                }
            }
        }
        let mut index = 0;
        while index < working.len() {
            match working[index].child.try_wait() {
                Ok(None) => index += 1,
                status => {
                    let work = working.swap_remove(index);
                    ended[work.index] = judge(&work, status.ok().flatten(), jobs);
                }
            }
        }
        if working.is_empty() && (waiting.is_empty() || stop.load(Ordering::Relaxed) > 0) {
            return Ok(ended);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Says what the command as a whole returns: 0 if all is done, 130 after a signal, 1 if a training failed or was stopped by others.
pub fn code(ended: &[Ended], stop: &Stop) -> u8 {
    match ended.iter().all(|end| *end == Ended::Done) {
        true => 0,
        false if stop.load(Ordering::Relaxed) > 0 => INTERRUPTED,
        false => 1,
    }
}

fn start(program: &Path, job: &Job, launch: &Launch) -> Result<Child> {
    fs::create_dir_all(&job.folder).with_context(|| format!("making the folder {}", job.folder.display()))?;
    let path = console(&job.folder);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("opening {}", path.display()))?;
    let both = log.try_clone().with_context(|| format!("opening {}", path.display()))?;
    let mut command = Command::new(program);
    command
        .args(["train", "--plain", "--resume", "--stop-at-eof"])
        .args(launch.arguments())
        .arg("--out")
        .arg(&job.folder)
        .args(&job.arguments)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(both);
    // Ctrl-C in a terminal reaches every process of a group: this one alone decides what it means.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("starting a training")
}

fn judge(work: &Working, status: Option<ExitStatus>, jobs: &[Job]) -> Ended {
    let Working { index, began, .. } = *work;
    let job = &jobs[index];
    let place = format!("[{}/{}] {}", index + 1, jobs.len(), job.label);
    let code = status.and_then(|status| status.code());
    if code == Some(0) {
        let test = records::read_summary(&RunPaths::new(&job.folder).summary())
            .map_or_else(|_| String::new(), |summary| format!(", test {}", percent(summary.final_test_accuracy)));
        eprintln!("{place}: finished after {}{test}", runs::duration(began.elapsed().as_secs_f64()));
        return Ended::Done;
    }
    if code == Some(i32::from(INTERRUPTED)) {
        eprintln!("{place}: stopped, and saved");
        return Ended::Stopped;
    }
    let reason = reason(&job.folder).unwrap_or_else(|| match (code, status) {
        (Some(code), _) => format!("it ended with exit code {code}; see {}", console(&job.folder).display()),
        (None, Some(_)) => "it was killed".to_string(),
        (None, None) => "it was lost sight of".to_string(),
    });
    failed(index, jobs, &reason)
}

fn failed(index: usize, jobs: &[Job], reason: &str) -> Ended {
    eprintln!("[{}/{}] {}: failed: {reason}", index + 1, jobs.len(), jobs[index].label);
    Ended::Failed(reason.to_string())
}

/// Waits for a process that still writes a folder, such as a training whose parent was just killed.
fn wait_for(folder: &Path, stop: &Stop) {
    let began = Instant::now();
    let mut told = false;
    while in_use(folder) && began.elapsed() < PATIENCE && stop.load(Ordering::Relaxed) == 0 {
        if !told && began.elapsed() > Duration::from_secs(2) {
            eprintln!("waiting for another process that writes {}", folder.display());
            told = true;
        }
        std::thread::sleep(PAUSE);
    }
}

/// What the trainings of a folder print.
fn console(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

/// The last sentence with which a training ended itself.
fn reason(folder: &Path) -> Option<String> {
    let mut file = File::open(console(folder)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // A training that was killed outright wrote nothing: what stands there is from an earlier one.
    let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
    last.strip_prefix("error: ").map(String::from)
}
