//! Runs the `bonsai` binary as a user does: help, errors, and small runs from start to end.

mod benchmarks;
mod gpu;
mod help;
mod listings;
mod mistakes;
mod shipped_experiments;
mod training;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a call left.
struct Call {
    code: i32,
    out: String,
    err: String,
}

impl Call {
    /// Asserts the exit code and that stderr is one sentence that contains every fragment.
    fn fails(&self, code: i32, fragments: &[&str]) {
        assert_eq!(self.code, code, "stderr: {}", self.err);
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one sentence: {}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for fragment in fragments {
            assert!(self.err.contains(fragment), "`{fragment}` is not in: {}", self.err);
        }
    }

    fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn bonsai_in(folder: &Path, arguments: &[&str]) -> Call {
    let output = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("BONSAI_DATASETS")
        .env_remove("RUST_LOG")
        .env_remove("CARGO")
        // Nothing listens there, so that no test ever leaves the machine.
        .env("BONSAI_MIRROR", "http://127.0.0.1:9")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Call {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn bonsai(arguments: &[&str]) -> Call {
    bonsai_in(&root(), arguments)
}

/// A project folder of its own, with the shipped experiments and no data.
fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("experiments")).unwrap();
    for name in shipped() {
        let file = format!("experiments/{name}.toml");
        fs::copy(root().join(&file), folder.path().join(&file)).unwrap();
    }
    folder
}

fn shipped() -> Vec<String> {
    let files = fs::read_dir(root().join("experiments")).unwrap().map(|entry| entry.unwrap().path());
    let toml = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> = toml.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    names.sort();
    names
}
