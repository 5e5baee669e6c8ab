//! Downloads a data set from its canonical address.
//!
//! Everything is prepared in a hidden folder beside the final one, which appears by one rename when all is there and
//! checked. What an interrupted download leaves behind is continued by the next.

use crate::files;
use crate::published::{Download, Published};
use crate::{DataSet, Error};
use flate2::read::GzDecoder;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;

/// How often a broken connection is taken up again without a new call.
const RESUMES: usize = 5;

/// Hears how many bytes of the present file have arrived, of how many if the server says so.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Settings of a download.
pub struct FetchOptions<'a> {
    /// The address to ask instead of the canonical ones; the files lie directly below it.
    pub base_url: Option<String>,
    /// Called after each piece that arrives.
    pub progress: Progress<'a>,
}

/// Downloads a data set into its own folder below `to` and returns that folder.
///
/// Published files that are already there are kept, and if none is missing nothing is downloaded.
///
/// # Errors
///
/// Returns [`Error::Fetch`] if the network or the disk fails, if what arrives is not the published file, or if another
/// file is in its place; the final folder is then as it was before.
pub fn fetch(set: DataSet, to: &Path, options: FetchOptions) -> Result<PathBuf, Error> {
    match set.published() {
        Some(published) => fetch_published(published, to, options),
        None => Err(Error::Fetch(format!("{set} is computed and needs no download: use it as it is"))),
    }
}

fn fetch_published(published: &Published, to: &Path, options: FetchOptions) -> Result<PathBuf, Error> {
    let folder = to.join(published.folder);
    if holds_all(&folder, published)? {
        return Ok(folder);
    }
    let work = to.join(format!(".{}.part", published.folder));
    let disk = |error: io::Error| Error::Fetch(format!("{} cannot be written ({error})", work.display()));
    fs::create_dir_all(&work).map_err(disk)?;
    let lock = File::create(work.join("lock")).map_err(disk)?;
    if lock.try_lock().is_err() {
        return Err(Error::Fetch(format!(
            "another process is fetching {} into {}: wait for it",
            published.name,
            to.display()
        )));
    }

    let addresses: Vec<String> = match options.base_url {
        Some(base) => vec![base],
        None => published.addresses.iter().map(|&address| address.to_string()).collect(),
    };
    for download in published.downloads {
        from_any(&addresses, download, &work, &folder, options.progress)?;
    }
    let unpacked = unpack(published.downloads, &work).map_err(disk)?;
    files::check_complete(&unpacked, published)?;
    publish(&unpacked, &folder).map_err(disk)?;
    drop(lock);
    // The set is in its place; what cannot be cleared away does no harm.
    let _ = fs::remove_dir_all(&work);
    Ok(folder)
}

/// Returns whether no file is missing, and refuses to go on where one is not the published one.
fn holds_all(folder: &Path, published: &Published) -> Result<bool, Error> {
    let mut all = true;
    for file in published.files() {
        match files::find(folder, file) {
            Some(path) if files::sums_of(&path, published)?.md5 != file.md5 => {
                let path = path.display();
                return Err(Error::Fetch(format!(
                    "{path} is not the published file and is not replaced: delete or move it, then run `bonsai data fetch {}` again",
                    published.name
                )));
            }
            Some(_) => {}
            None => all = false,
        }
    }
    Ok(all)
}

fn from_any(
    addresses: &[String],
    download: &Download,
    work: &Path,
    folder: &Path,
    progress: Progress,
) -> Result<(), Error> {
    let mut failure = "there is no address".to_string();
    for address in addresses {
        let url = format!("{}/{}", address.trim_end_matches('/'), download.name);
        match checked(&url, download, work, progress) {
            Ok(()) => return Ok(()),
            Err(reason) => failure = format!("{url} {reason}"),
        }
    }
    Err(Error::Fetch(format!("{failure}, or put the files into {} yourself", folder.display())))
}

/// Downloads one file and compares its checksum; a file that is already there has passed.
fn checked(url: &str, download: &Download, work: &Path, progress: Progress) -> Result<(), String> {
    let done = work.join(download.name);
    if done.is_file() {
        return Ok(());
    }
    let part = work.join(format!("{}.part", download.name));
    transfer(url, &part, progress)?;
    let disk = |error: io::Error| format!("cannot be stored in {} ({error}): make room", part.display());
    let md5 = File::open(&part).and_then(files::sums_in).map_err(disk)?.md5;
    if md5 != download.md5 {
        fs::remove_file(&part).map_err(disk)?;
        return Err(format!("is not the published file (md5 {md5}, expected {}): try again", download.md5));
    }
    fs::rename(&part, &done).map_err(disk)
}

/// Downloads one file, from where an earlier download broke off.
fn transfer(url: &str, part: &Path, progress: Progress) -> Result<(), String> {
    let agent = agent(url);
    let mut resumes = 0;
    loop {
        let before = length(part);
        match request(&agent, url, part, progress) {
            Ok(()) => return Ok(()),
            Err(Failure::Disk(error)) => {
                return Err(format!("cannot be stored in {} ({error}): make room", part.display()));
            }
            Err(Failure::Network(reason)) => {
                resumes += 1;
                // A connection that brought something is worth another one.
                if length(part) == before || resumes > RESUMES {
                    return Err(format!("cannot be fetched ({reason}): check the network and try again"));
                }
            }
        }
    }
}

enum Failure {
    Network(String),
    Disk(io::Error),
}

fn request(agent: &Agent, url: &str, part: &Path, progress: Progress) -> Result<(), Failure> {
    let network = |error: ureq::Error| Failure::Network(error.to_string());
    let have = length(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(network)?;
    let mut done = match response.status().as_u16() {
        200 => 0,
        206 => have,
        // Nothing is left to send: whether what is here is right, the checksum tells.
        416 if have > 0 => return Ok(()),
        _ => return Err(Failure::Network(format!("the server answers {}", response.status()))),
    };
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(Failure::Disk)?;
    file.set_len(done).map_err(Failure::Disk)?;
    let total = response.body().content_length().map(|left| done + left);
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(Failure::Disk)?;
                done += n as u64;
                progress(done, total);
            }
            Err(error) => return Err(Failure::Network(error.to_string())),
        }
    }
    file.sync_all().map_err(Failure::Disk)
}

fn agent(url: &str) -> Agent {
    let config = Agent::config_builder();
    // This machine is never behind a proxy.
    let config = if url.starts_with("http://127.0.0.1") { config.proxy(None) } else { config };
    let config = config
        .timeout_resolve(Some(Duration::from_secs(10)))
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        // The files are gzipped as they are; nothing is to be unpacked on the way.
        .accept_encoding("identity")
        .user_agent(concat!("bonsai/", env!("CARGO_PKG_VERSION")))
        .build();
    config.new_agent()
}

/// Lays out the downloads in a folder of their own and returns it; archives are unpacked without their folders.
fn unpack(downloads: &[Download], work: &Path) -> io::Result<PathBuf> {
    let unpacked = work.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir(&unpacked)?;
    for download in downloads {
        let packed = work.join(download.name);
        if !download.name.ends_with(".tar.gz") {
            fs::copy(&packed, unpacked.join(download.name))?;
            continue;
        }
        for entry in tar::Archive::new(GzDecoder::new(File::open(&packed)?)).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.file_name().map(PathBuf::from);
            if let Some(name) = name.filter(|_| entry.header().entry_type().is_file()) {
                io::copy(&mut entry, &mut File::create(unpacked.join(name))?)?;
            }
        }
    }
    for entry in fs::read_dir(&unpacked)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(unpacked)
}

/// Moves the new files to their final place: the whole folder at once, or what an existing one lacks.
fn publish(unpacked: &Path, folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return fs::rename(unpacked, folder);
    }
    for entry in fs::read_dir(unpacked)? {
        let entry = entry?;
        let place = folder.join(entry.file_name());
        if !place.exists() {
            fs::rename(entry.path(), place)?;
        }
    }
    Ok(())
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests;
