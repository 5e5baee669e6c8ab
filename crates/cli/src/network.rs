//! Finds the file of a trained network.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_training::run_folder::RunPaths;

use crate::error::user;
use crate::runs;

/// Finds the network of a run folder, or takes the file itself.
///
/// # Errors
///
/// A user's mistake: no such run or file, one that has not finished, or another kind of file.
pub fn file(path: &Path) -> Result<PathBuf> {
    let path = candidate(path)?;
    match is_network(&path)? {
        true => Ok(path),
        false => Err(user(format!(
            "{} cannot be used: this is no model.safetensors of bonsai, which a finished training leaves",
            path.display()
        ))),
    }
}

fn candidate(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    let named;
    let path = if path.is_dir() {
        path
    } else {
        named = runs::named(&path.to_string_lossy(), Path::new(runs::FOLDER)).map_err(|error| {
            user(format!("{error:#} (give a run as `bonsai runs list` names it, a run folder or a model.safetensors)"))
        })?;
        &named
    };
    let model = RunPaths::new(path).model();
    if model.is_file() {
        return Ok(model);
    }
    Err(user(format!(
        "{} holds no model.safetensors: it is no run folder, or its training has not finished",
        path.display()
    )))
}

/// Tells whether a file presents itself as a network of bonsai, damaged or not.
fn is_network(path: &Path) -> Result<bool> {
    // Eight bytes of length, then a JSON header, in which bonsai's networks carry an entry of this name.
    const LONGEST: u64 = 1 << 20;
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    file.take(LONGEST).read_to_end(&mut start).with_context(|| format!("reading {}", path.display()))?;
    let entry = b"snapshot";
    Ok(start.get(8) == Some(&b'{') && start.windows(entry.len()).any(|window| window == entry))
}
