//! The folder of a run: where each file lies, the lock that keeps a second run out, and the files that grow by rows.
//!
//! Rows go straight to the operating system, one write a call. A checkpoint records the [`lengths`](RunFolder::lengths) of the
//! growing files; a resume cuts them back to those, since a kill may have come in the middle of a line or long after.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use bonsai_records::RunPaths;
use serde::Serialize;

use crate::Mistake;
use crate::records::{EpochRow, EventRow, Growing, KernelsRow, LayerRow, StepRow, Summary, csv_header, csv_rows};

/// The ending of a file that is still being written.
pub(crate) const PART: &str = ".part";

/// The folder of the run that this process writes; speaks of its files as [`RunPaths`] does.
#[derive(Debug)]
pub struct RunFolder {
    paths: RunPaths,
    files: BTreeMap<Growing, File>,
    lock: File,
}

impl RunFolder {
    /// Takes a folder for a run: for a `fresh` one, or to go on with the one in it.
    ///
    /// # Errors
    /// A sentence where another process writes there, a fresh run would cover another, or there is nothing to go on with.
    pub fn create(path: &Path, fresh: bool) -> Result<Self> {
        let paths = RunPaths::new(path);
        if !fresh && !paths.holds_run() {
            bail!(Mistake(format!("{} holds no run to go on with; leave out --resume to start one", path.display())));
        }
        fs::create_dir_all(path).with_context(|| format!("the run folder {} cannot be made", path.display()))?;
        let lock = lock(path)?;
        if fresh && paths.holds_run() {
            bail!(Mistake(format!(
                "{} already holds a run: --resume continues it; to start anew, give another folder with --out or delete this one",
                path.display()
            )));
        }
        let files =
            Growing::ALL.into_iter().map(|file| Ok((file, open(&path.join(file.name()))?))).collect::<Result<_>>()?;
        Ok(Self { paths, files, lock })
    }

    /// Adds an epoch to `metrics.csv`.
    pub fn append_epoch(&self, row: &EpochRow) -> Result<()> {
        self.append_row(Growing::Metrics, row)
    }

    /// Adds a layer of an epoch to `layers.csv`.
    pub fn append_layer(&self, row: &LayerRow) -> Result<()> {
        self.append_row(Growing::Layers, row)
    }

    /// Adds a step to `steps.csv`.
    pub fn append_step(&self, row: &StepRow) -> Result<()> {
        self.append_row(Growing::Steps, row)
    }

    /// Adds a mask event to `events.jsonl`.
    pub fn append_event(&self, row: &EventRow) -> Result<()> {
        self.append_json(row)
    }

    /// Adds the choice of kernels to `events.jsonl`.
    pub fn append_kernels(&self, row: &KernelsRow) -> Result<()> {
        self.append_json(row)
    }

    fn append_json(&self, row: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(row).context("a mask event cannot be written as JSON")?;
        line.push(b'\n');
        self.append(Growing::Events, &line)
    }

    /// Writes `config.toml`, whole or not at all.
    pub fn write_config(&self, text: &str) -> Result<()> {
        write_atomic(&self.config(), text.as_bytes())
    }

    /// Writes `summary.toml`, whole or not at all.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        let text = toml::to_string(summary).context("the summary cannot be put into TOML")?;
        write_atomic(&self.summary(), text.as_bytes())
    }

    /// Brings all rows to the disk and gives the length of each growing file, in bytes.
    pub fn lengths(&self) -> Result<BTreeMap<String, u64>> {
        let length = |(file, handle): (&Growing, &File)| {
            let length = handle.sync_all().and_then(|()| handle.metadata()).map(|data| data.len());
            let length = length.with_context(|| {
                format!("{} cannot be brought to the disk", self.path().join(file.name()).display())
            })?;
            Ok((file.name().to_string(), length))
        };
        self.files.iter().map(length).collect()
    }

    /// Drops what was written after `lengths` were taken; a file without a length is emptied.
    ///
    /// Returns a sentence for each file that is shorter than it was, or in which something else stands there: it stays as
    /// it is, and the rows to come follow a gap. The weights of the run do not depend on it.
    pub fn truncate_to(&self, lengths: &BTreeMap<String, u64>) -> Result<Vec<String>> {
        let length = |file: Growing| lengths.get(file.name()).copied().unwrap_or(0);
        let mut warnings = Vec::new();
        for (file, handle) in &self.files {
            let path = self.path().join(file.name());
            if let Err(error) = check(*file, handle, length(*file)) {
                warnings.push(format!(
                    "{} does not fit the checkpoint, since {error}: it stays as it is, and new rows follow a gap",
                    path.display()
                ));
                continue;
            }
            let cut = handle.set_len(length(*file)).and_then(|()| handle.sync_all());
            cut.with_context(|| format!("{} cannot be cut back", path.display()))?;
        }
        Ok(warnings)
    }

    fn append_row<Row: Serialize>(&self, file: Growing, row: &Row) -> Result<()> {
        let empty = self.files[&file].metadata().is_ok_and(|data| data.len() == 0);
        let line = csv_rows(&[row], empty).with_context(|| format!("a row of {} cannot be written", file.name()))?;
        self.append(file, &line)
    }

    fn append(&self, file: Growing, bytes: &[u8]) -> Result<()> {
        let written = (&self.files[&file]).write_all(bytes);
        written.with_context(|| {
            format!(
                "{} cannot be written; see to the disk, then go on with --resume",
                self.path().join(file.name()).display()
            )
        })
    }
}

impl Deref for RunFolder {
    type Target = RunPaths;

    fn deref(&self) -> &RunPaths {
        &self.paths
    }
}

impl Drop for RunFolder {
    /// Frees the lock by name: a child process that is just starting still shares the handle, and would hold it a moment longer.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// Writes a whole file so that its place holds either the old content or the new one, never a part.
///
/// # Errors
/// A disk that is full or fails gives a sentence; the old file is untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part: OsString = path.into();
    part.push(PART);
    let part = PathBuf::from(part);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&part, path));
    if placed.is_err() {
        // What remains of it helps nobody; where even this fails, the next write covers it.
        let _ = fs::remove_file(&part);
    }
    placed
        .and_then(|()| path.parent().map_or(Ok(()), sync_folder))
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// Brings the names in a folder to the disk.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // Only Unix opens folders as files; elsewhere the system looks after names itself.
    if !cfg!(unix) {
        return Ok(());
    }
    let here = folder.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { folder })?.sync_all()
}

/// The first lines that a growing file can have; one is empty where there is none.
fn headers(file: Growing) -> Vec<Vec<u8>> {
    match file {
        // Under `protocol = "paper"` there is a column more.
        Growing::Metrics => {
            let honest = csv_header::<EpochRow>();
            let paper = [honest.trim_ascii_end(), b",test_accuracy\n"].concat();
            vec![honest, paper]
        }
        Growing::Layers => vec![csv_header::<LayerRow>()],
        Growing::Events => vec![Vec::new()],
        Growing::Steps => vec![csv_header::<StepRow>()],
    }
}

/// How long a lock that is held is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Takes the lock of a run folder; the operating system frees it when the process ends, however it ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("the lock {} cannot be opened", path.display()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that was just killed holds its lock until the system has taken it down.
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_PATIENCE / 20),
            Err(TryLockError::WouldBlock) => {
                bail!(Mistake(format!("another run is writing {}; wait for it, or use --out", folder.display())))
            }
            Err(TryLockError::Error(error)) => {
                bail!("{} cannot be locked ({error}); choose a folder on a local disk with --out", path.display())
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).read(true).append(true).open(path);
    file.with_context(|| format!("{} cannot be opened", path.display()))
}

/// Checks that the first `length` bytes of a growing file can be what was once written.
fn check(file: Growing, mut handle: &File, length: u64) -> Result<()> {
    let now = handle.metadata()?.len();
    ensure!(now >= length, "it has {now} bytes, fewer than the {length} that the checkpoint recorded");
    if length == 0 {
        return Ok(());
    }
    let headers = headers(file);
    let longest = headers.iter().map(Vec::len).max().unwrap_or(0);
    let mut start = Vec::new();
    handle.seek(SeekFrom::Start(0))?;
    handle.take(longest as u64).read_to_end(&mut start)?;
    ensure!(
        headers.iter().any(|header| start.starts_with(header)),
        "its first line does not name the columns of this version"
    );
    let mut last = [0];
    handle.seek(SeekFrom::Start(length - 1))?;
    handle.read_exact(&mut last)?;
    ensure!(last == *b"\n", "no line ends at byte {length}, where the checkpoint recorded its end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_file_follow_one_header() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path(), true).unwrap();
        for epoch in 0..2 {
            run.append_epoch(&EpochRow { epoch, lr: 0.1, ..EpochRow::default() }).unwrap();
            run.append_layer(&LayerRow { epoch, name: "a, \"b\"".into(), ..LayerRow::default() }).unwrap();
        }
        let metrics = fs::read_to_string(run.metrics()).unwrap();
        assert_eq!(metrics.lines().count(), 3);
        assert!(metrics.starts_with("epoch,iteration,lr,train_loss,"));
        assert_eq!(fs::read_to_string(run.layers()).unwrap().lines().nth(1), Some("0,\"a, \"\"b\"\"\",0,0,0.0,0,0"));
    }

    #[test]
    fn a_fresh_run_never_covers_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed-0");
        let sentence = RunFolder::create(&path, false).unwrap_err().to_string();
        assert!(sentence.contains("no run") && !path.exists(), "{sentence}");
        // A run that was killed before its first file was whole does not bar the way.
        drop(RunFolder::create(&path, true).unwrap());
        let run = RunFolder::create(&path, true).unwrap();
        run.write_config("seed = 0\n").unwrap();
        drop(run);
        let sentence = RunFolder::create(&path, true).unwrap_err().to_string();
        assert!(sentence.contains("--resume") && sentence.contains("--out"), "{sentence}");
        RunFolder::create(&path, false).unwrap();
    }

    #[test]
    fn a_whole_file_is_replaced_or_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.toml");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(
            write_atomic(&folder.path().join("absent/file"), b"x")
                .unwrap_err()
                .to_string()
                .contains("cannot be written")
        );
        // A full disk, where the system offers one to try.
        #[cfg(target_os = "linux")]
        {
            std::os::unix::fs::symlink("/dev/full", folder.path().join("summary.toml.part")).unwrap();
            let sentence = format!("{:#}", write_atomic(&path, b"three").unwrap_err());
            assert!(sentence.contains("summary.toml cannot be written: No space left"), "{sentence}");
            assert_eq!(fs::read(&path).unwrap(), b"two");
            assert!(!folder.path().join("summary.toml.part").is_symlink());
        }
    }
}
