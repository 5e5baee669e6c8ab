//! Sends what the crates report: everything from info upwards to `run.log`, warnings to stderr.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// The graphics libraries report at info what concerns only their authors.
///
/// CubeCL warns of every choice that its database does not take; that is said once, in a sentence of ours.
const RUN_LOG: &str = "info,wgpu_core=warn,wgpu_hal=warn,naga=warn,cubecl_runtime=warn,cubecl_wgpu=warn,\
                       cubecl_runtime::tune=error,cubecl_environment=error,turso_core=error";
const STDERR: &str = "warn,wgpu_core=error,wgpu_hal=error,naga=error,cubecl_runtime::tune=error,cubecl_environment=error,\
                      turso_core=error";

/// The target of what `run.log` keeps and the command prints in a way of its own, such as the error that ends a run.
pub const RUN_LOG_ONLY: &str = "bonsai::end";

/// Starts logging; `RUST_LOG` replaces both filters. `quiet` keeps stderr free for the dashboard.
pub fn start(run_log: Option<&Path>, quiet: bool) {
    let filter = |default: &str| EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let file =
        run_log.map(|path| fmt::layer().with_ansi(false).with_writer(RunLog::new(path)).with_filter(filter(RUN_LOG)));
    let stderr = (!quiet).then(|| {
        let layer = fmt::layer().without_time().with_target(false).with_ansi(io::stderr().is_terminal());
        let twice = filter_fn(|about| about.target() != RUN_LOG_ONLY);
        layer.with_writer(io::stderr).with_filter(filter(STDERR).and(twice))
    });
    // A second call, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(file).with(stderr).try_init();
}

/// A file that is opened once its folder exists: the folder is made, and locked, by the training itself.
#[derive(Clone, Debug)]
struct RunLog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    /// What was said before the folder existed.
    pending: Vec<u8>,
    file: Option<File>,
}

impl RunLog {
    fn new(path: &Path) -> Self {
        Self(Arc::new(Mutex::new(State { path: path.to_path_buf(), pending: Vec::new(), file: None })))
    }
}

impl<'a> MakeWriter<'a> for RunLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for RunLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.file.is_none() && state.path.parent().is_some_and(Path::is_dir) {
            let mut file = OpenOptions::new().create(true).append(true).open(&state.path)?;
            file.write_all(&state.pending)?;
            state.pending.clear();
            state.file = Some(file);
        }
        match &mut state.file {
            Some(file) => file.write_all(bytes)?,
            None => state.pending.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_until_the_folder_exists() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run");
        let mut log = RunLog::new(&folder.join("run.log"));
        log.write_all(b"one\n").unwrap();
        std::fs::create_dir(&folder).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("run.log")).unwrap(), "one\ntwo\n");
    }
}
