//! What kernels for GPUs are tuned to, kept on disk: a second process finds what the first has measured.
//!
//! CubeCL writes the fastest way of each shape into a database, and reads it back. Compiled kernels go there too where their
//! form can be stored (CUDA's); WGSL is compiled anew by each process. CubeCL tells devices apart by their numbers alone, so
//! that each adapter has a database of its own here, named after it. Whatever is wrong with the folder costs time, but never
//! a run: CubeCL then keeps its choices in memory.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl_environment::environment;
use cubecl_environment::persistence::{Access, Database, Insertion, Origin};
use cubecl_environment::records::RecordLevel;

/// The namespace of what is written to see whether a database takes it.
const PROBE: &str = "bonsai";
/// Bytes that must find a place in the folder before it is relied on.
const ROOM: usize = 1 << 20;

/// Whether the database in use takes what is found.
static KEPT: AtomicBool = AtomicBool::new(false);

/// What the database of the device in use holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Shapes for which the fastest way is known, of burn's kernels and ours.
    pub choices: u64,
    /// Compiled kernels, on devices that store them.
    pub compiled: u64,
}

/// Has CubeCL keep what it finds in the user's cache folder, unless a `cubecl.toml` says where. To be called before the first
/// GPU is used; later calls change nothing.
pub fn keep() {
    let mut config = CubeClRuntimeConfig::from_current_dir();
    if matches!(config.environment.path, CacheConfig::Target) {
        let caches = CacheConfig::Global.root();
        config.environment.path = CacheConfig::Directory(caches.with_file_name("bonsai").join("gpu"));
    }
    // Accounts of how the database came about would outgrow what it is for.
    config.environment.records.level = RecordLevel::Off;
    config.compilation.cache = true;
    CubeClRuntimeConfig::try_set(config.override_from_env());
}

/// Opens the database of a GPU, which becomes the one in use.
///
/// # Errors
///
/// One sentence that says what is wrong with the folder or the database; the device can be used all the same.
pub fn keep_for(device: &Device) -> Result<(), String> {
    let Some(identity) = device.identity() else { return Ok(()) };
    // Our kernels are among the candidates, and change from version to version.
    let name = slug(&format!("{} {} {}", identity.name, identity.fingerprint, env!("CARGO_PKG_VERSION")));
    if *environment::active() == *name {
        return Ok(());
    }
    let (kept, trouble) = open(&environment::root(), &environment::file_name(&name));
    environment::activate(&name);
    KEPT.store(kept, Ordering::Relaxed);
    trouble.map_or(Ok(()), Err)
}

/// Returns what the database of the device in use holds; `None` where nothing is kept.
pub fn kept() -> Option<Kept> {
    if !KEPT.load(Ordering::Relaxed) {
        return None;
    }
    let mut kept = Kept::default();
    for namespace in Database::open_active()?.summary() {
        match namespace.namespace.split('/').next() {
            Some("autotune") => kept.choices += namespace.entries,
            Some("throughput" | "records" | PROBE) | None => (),
            Some(_) => kept.compiled += namespace.entries,
        }
    }
    Some(kept)
}

/// Returns a file beside the database of the device in use, for figures about the device; `None` where nothing is kept.
pub fn beside(extension: &str) -> Option<PathBuf> {
    KEPT.load(Ordering::Relaxed).then(|| environment::path().with_extension(extension))
}

/// Sees to it that the database `file` in `folder` can be written; says whether it can, and what is to be told.
fn open(folder: &Path, file: &str) -> (bool, Option<String>) {
    let path = folder.join(file);
    let forgotten = "what kernels are tuned to is forgotten when this process ends";
    if let Err(error) = has_room(folder) {
        return (false, Some(format!("{} cannot be written ({error}): {forgotten}", folder.display())));
    }
    let Err(error) = takes_entries(&path) else { return (true, None) };
    // Another process may hold it; everything else is damage.
    let held = ["busy", "lock"].iter().any(|word| error.to_lowercase().contains(word));
    if !held && set_aside(folder, file).is_ok() && takes_entries(&path).is_ok() {
        let sentence = format!("{} was damaged ({error}) and is begun anew: kernels are tuned again", path.display());
        return (true, Some(sentence));
    }
    (false, Some(format!("{} cannot be used ({error}): {forgotten}", path.display())))
}

/// Checks that files find a place in a folder.
fn has_room(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join(format!("room-{}", std::process::id()));
    let written = fs::write(&file, vec![0; ROOM]);
    written.and(fs::remove_file(&file))
}

/// Writes an entry into a database and reads it.
fn takes_entries(path: &Path) -> Result<(), String> {
    let check = || {
        let database = Database::open_at(path, Access::ReadWrite)?;
        match database.replace(PROBE, b"probe", b"probe", Origin::Local) {
            Insertion::Failed(error) => Err(error),
            Insertion::Stored | Insertion::Conflict(_) if database.get(PROBE, b"probe").is_none() => {
                Err("what is written cannot be read".to_string())
            }
            Insertion::Stored | Insertion::Conflict(_) => Ok(()),
        }
    };
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|_| Err("it cannot be read".to_string()))
}

/// Renames a database, and removes what belongs to it.
fn set_aside(folder: &Path, file: &str) -> io::Result<()> {
    fs::rename(folder.join(file), folder.join(format!("{file}.damaged")))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{file}-"))) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Spells a name in letters, digits and single dashes.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_gives_its_database_a_plain_name() {
        assert_eq!(
            slug("llvmpipe (LLVM 15.0.6, 256 bits) spirv_65541_0"),
            "llvmpipe-llvm-15-0-6-256-bits-spirv-65541-0"
        );
    }

    #[test]
    fn a_database_is_opened_begun_anew_or_done_without() {
        let place = std::env::temp_dir().join(format!("bonsai-tuned-{}", std::process::id()));
        let folder = place.join("gpu");
        assert_eq!(open(&folder, "a.db"), (true, None));
        assert_eq!(open(&folder, "a.db"), (true, None));
        fs::write(folder.join("b.db"), "no database ".repeat(1000)).unwrap();
        let (kept, sentence) = open(&folder, "b.db");
        assert!(
            kept && sentence.as_ref().is_some_and(|sentence| sentence.contains("b.db was damaged")),
            "{sentence:?}"
        );
        assert!(folder.join("b.db.damaged").is_file());
        assert_eq!(open(&folder, "b.db"), (true, None));
        // A file stands where the folder should be, which stops root too.
        fs::write(place.join("file"), "").unwrap();
        let (kept, sentence) = open(&place.join("file/gpu"), "a.db");
        assert!(
            !kept && sentence.as_ref().is_some_and(|sentence| sentence.contains("cannot be written")),
            "{sentence:?}"
        );
        fs::remove_dir_all(&place).unwrap();
    }
}
