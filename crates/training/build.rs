//! Puts the git revision of the sources into the binary, so that a run's records name what made it.

use std::process::Command;

fn main() {
    for path in ["../../.git/HEAD", "../../.git/refs", "../../crates", "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).filter(|revision| !revision.is_empty());
    let dirty = git(&["status", "--porcelain", "--", ".."]).is_some_and(|changes| !changes.is_empty());
    if let Some(revision) = revision {
        println!("cargo::rustc-env=BONSAI_REVISION={revision}{}", if dirty { "-dirty" } else { "" });
    }
}
