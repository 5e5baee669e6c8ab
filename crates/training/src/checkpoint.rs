//! Checkpoints: all that a run needs to go on to the last bit, in one file that is either whole or not there.
//!
//! A checkpoint is `iteration-00001408-<16 hexadecimal digits>.safetensors`; the digits begin the SHA-256 of its bytes. It is
//! written beside its place, flushed to the disk and renamed, and only then do older ones go, so that a kill or a full disk at
//! any instant leaves the ones before as they were.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::run_folder::{PART, sync_folder, write_atomic};
use crate::tensors::{Tensors, decode, encode, sha256};

/// How many checkpoints stay unless the experiment says otherwise.
pub const KEEP: usize = 2;

/// The layout that [`save`] writes and [`load_newest`] reads.
const FORMAT: u64 = 1;
const PREFIX: &str = "iteration-";
const SUFFIX: &str = ".safetensors";
const DIGITS: usize = 16;

/// What a checkpoint held.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Optimizer steps taken when it was written.
    pub iteration: u64,
    /// Weights, moments, statistics, masks.
    pub tensors: Tensors,
    /// Everything else, as the run gave it to [`save`].
    pub state: Value,
    /// A sentence for each newer checkpoint that was skipped.
    pub warnings: Vec<String>,
    /// The file.
    pub path: PathBuf,
}

/// Writes a checkpoint, then removes all but the newest `keep` (at least one), and gives its path.
///
/// Checkpoints of a later iteration go too: the run resumed before them, so they are damaged and belong to a past it left.
///
/// # Errors
/// A disk that is full or fails gives a sentence; the earlier checkpoints are untouched.
pub fn save(folder: &Path, iteration: u64, tensors: &Tensors, state: &Value, keep: usize) -> Result<PathBuf> {
    let bytes = encode(tensors, &json!({ "checkpoint": FORMAT, "iteration": iteration, "state": state }))?;
    let path = folder.join(format!("{PREFIX}{iteration:08}-{}{SUFFIX}", &sha256(&bytes)[..DIGITS]));
    if !folder.is_dir() {
        fs::create_dir_all(folder)
            .and_then(|()| folder.parent().map_or(Ok(()), sync_folder))
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    }
    write_atomic(&path, &bytes).with_context(|| {
        format!(
            "the checkpoint of iteration {iteration} was not written; the earlier ones are untouched: see to the disk, then go on with --resume"
        )
    })?;
    // A file that cannot be removed costs disk space, never a run.
    if let Err(error) = tidy(folder, &path, iteration, keep) {
        tracing::warn!("old checkpoints in {} could not be removed: {error}", folder.display());
    }
    Ok(path)
}

/// Reads the newest checkpoint that is whole; `None` where there is none at all.
///
/// # Errors
/// Says what to do when checkpoints are there and all of them are damaged.
pub fn load_newest(folder: &Path) -> Result<Option<Loaded>> {
    let mut damaged: Vec<(String, String)> = Vec::new();
    for found in list(folder).with_context(|| format!("the folder {} cannot be read", folder.display()))? {
        match load(&found) {
            Ok((tensors, state)) => {
                let warnings = damaged
                    .iter()
                    .map(|(name, why)| {
                        format!("Checkpoint {name} is damaged ({why}); going on from the one before, {}.", found.name)
                    })
                    .collect();
                return Ok(Some(Loaded { iteration: found.iteration, tensors, state, warnings, path: found.path }));
            }
            Err(error) => damaged.push((found.name, format!("{error:#}"))),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let list: Vec<String> = damaged.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    bail!(
        "no checkpoint in {} is whole: {}; put a copy of one back, delete the run's folder to start anew, or start elsewhere with --out",
        folder.display(),
        list.join("; ")
    )
}

/// A file whose name is that of a checkpoint.
struct Found {
    iteration: u64,
    hash: String,
    name: String,
    path: PathBuf,
}

/// Lists the checkpoints of a folder, newest first.
fn list(folder: &Path) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in file_names(folder)? {
        let parts =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)).and_then(|rest| rest.split_once('-'));
        let Some((iteration, hash)) = parts else { continue };
        let Ok(iteration) = iteration.parse::<u64>() else { continue };
        if hash.len() == DIGITS {
            found.push(Found { iteration, hash: hash.to_string(), path: folder.join(&name), name });
        }
    }
    // Two of one iteration: both are whole or the hash tells, and either leads to the same weights.
    found.sort_by(|one, other| (other.iteration, &other.name).cmp(&(one.iteration, &one.name)));
    Ok(found)
}

fn load(found: &Found) -> Result<(Tensors, Value)> {
    // Anything else, such as a device, might never end.
    ensure!(found.path.is_file(), "it is no regular file");
    let bytes = fs::read(&found.path).map_err(|error| anyhow!("it cannot be read: {error}"))?;
    let hash = sha256(&bytes);
    ensure!(hash[..DIGITS] == found.hash, "its bytes do not have the checksum that its name states");
    let (tensors, mut header) = decode(&bytes)?;
    let format = header["checkpoint"].as_u64().context("it is another kind of file under a checkpoint's name")?;
    ensure!(format == FORMAT, "it has layout {format}, and this bonsai reads layout {FORMAT}");
    ensure!(
        header["iteration"].as_u64() == Some(found.iteration),
        "its name states another iteration than its content"
    );
    Ok((tensors, header.get_mut("state").map(Value::take).unwrap_or_default()))
}

/// Removes what the checkpoint `newest` replaces: all but `keep - 1` earlier ones, and unfinished files.
fn tidy(folder: &Path, newest: &Path, iteration: u64, keep: usize) -> std::io::Result<()> {
    let mut earlier = 0;
    for found in list(folder)?.into_iter().filter(|found| found.path != newest) {
        earlier += usize::from(found.iteration < iteration);
        if found.iteration >= iteration || earlier >= keep.max(1) {
            fs::remove_file(found.path)?;
        }
    }
    for name in file_names(folder)?.iter().filter(|name| name.starts_with(PREFIX) && name.ends_with(PART)) {
        fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

/// Names the entries of a folder; none where the folder is not there.
fn file_names(folder: &Path) -> std::io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::HostTensor;

    fn tensors(value: f32) -> Tensors {
        Tensors::from([("w".to_string(), HostTensor::f32(vec![2], vec![value, 0.0]))])
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names = file_names(folder).unwrap();
        names.sort();
        names
    }

    #[test]
    fn the_newest_ones_are_kept_and_the_newest_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("checkpoint");
        assert_eq!(load_newest(&folder).unwrap(), None);
        for iteration in [704, 1408, 2112] {
            let path = save(&folder, iteration, &tensors(iteration as f32), &json!({ "lr": 0.1 }), KEEP).unwrap();
            assert!(path.file_name().unwrap().to_str().unwrap().starts_with(&format!("iteration-0000{iteration:04}-")));
        }
        assert_eq!(names(&folder).len(), 2);
        let loaded = load_newest(&folder).unwrap().unwrap();
        assert_eq!((loaded.iteration, &loaded.tensors, &loaded.state), (2112, &tensors(2112.0), &json!({ "lr": 0.1 })));
        assert!(loaded.warnings.is_empty());
        save(&folder, 2816, &tensors(0.0), &json!({}), 1).unwrap();
        assert_eq!(names(&folder).len(), 1);
    }

    #[test]
    fn a_damaged_one_falls_back_to_the_one_before_with_a_warning_that_names_both() {
        let folder = tempfile::tempdir().unwrap();
        let older = save(folder.path(), 10, &tensors(1.0), &json!({}), KEEP).unwrap();
        let newer = save(folder.path(), 20, &tensors(2.0), &json!({}), KEEP).unwrap();
        let intact = fs::read(&newer).unwrap();
        fs::write(&newer, &intact[..intact.len() - 1]).unwrap();
        let loaded = load_newest(folder.path()).unwrap().unwrap();
        assert_eq!(loaded.iteration, 10);
        let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
        for path in [&older, &newer] {
            assert!(warning.contains(path.file_name().unwrap().to_str().unwrap()), "{warning}");
        }

        fs::write(&older, b"").unwrap();
        let sentence = load_newest(folder.path()).unwrap_err().to_string();
        assert!(sentence.contains("--out") && sentence.contains("start anew"), "{sentence}");
    }

    #[test]
    fn a_damaged_future_goes_once_the_run_has_written_its_own() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 10, &tensors(1.0), &json!({}), KEEP).unwrap();
        let future = save(folder.path(), 20, &tensors(2.0), &json!({}), KEEP).unwrap();
        fs::write(&future, b"damaged").unwrap();
        save(folder.path(), 15, &tensors(3.0), &json!({}), KEEP).unwrap();
        assert!(!future.exists());
        assert_eq!(names(folder.path()).len(), 2);
        assert_eq!(load_newest(folder.path()).unwrap().unwrap().iteration, 15);
    }

    #[test]
    fn a_second_one_of_the_same_iteration_replaces_the_first() {
        let folder = tempfile::tempdir().unwrap();
        for seconds in [1, 2, 2] {
            save(folder.path(), 10, &tensors(1.0), &json!({ "seconds": seconds }), KEEP).unwrap();
        }
        assert_eq!(names(folder.path()).len(), 1);
        assert_eq!(load_newest(folder.path()).unwrap().unwrap().state["seconds"], 2);
    }

    #[test]
    fn another_kind_of_file_is_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        for header in [json!(null), json!([1]), json!({ "snapshot": {} }), json!({ "checkpoint": 2 })] {
            let bytes = encode(&Tensors::new(), &header).unwrap();
            let path = folder.path().join(format!("iteration-00000010-{}.safetensors", &sha256(&bytes)[..DIGITS]));
            fs::write(&path, bytes).unwrap();
            let sentence = load_newest(folder.path()).unwrap_err().to_string();
            assert!(sentence.contains("another kind") || sentence.contains("layout 2"), "{sentence}");
        }
    }

    #[test]
    fn the_name_must_fit_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = save(folder.path(), 10, &tensors(1.0), &json!({}), KEEP).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().replace("00000010", "00000099");
        fs::rename(&path, folder.path().join(name)).unwrap();
        assert!(load_newest(folder.path()).unwrap_err().to_string().contains("another iteration"));
    }
}
