//! Finds the files of a data set, or fetches them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bonsai_data::fetch::{self, FetchOptions};
use bonsai_data::{DataSet, Error, Source, locate, search_path};
use bonsai_training::experiment::nearest;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::user;

/// The environment variable with the address of a server that holds the published files, for machines without internet.
const MIRROR: &str = "BONSAI_MIRROR";

/// What a search for a data set found.
#[derive(Debug)]
pub enum Found {
    /// Its files.
    Here(Source),
    /// Nothing, and why none could be fetched.
    Absent(String),
}

/// Finds a data set; if it is absent, fetches it unless `offline`.
///
/// # Errors
///
/// Fails if files are there, but damaged.
pub fn find(set: DataSet, data_dir: Option<&Path>, offline: bool) -> Result<Found> {
    match locate(set, data_dir) {
        Ok(source) => Ok(Found::Here(source)),
        Err(missing @ Error::Missing { .. }) if offline => Ok(Found::Absent(missing.to_string())),
        Err(Error::Missing { .. }) => {
            eprintln!("{set} is not here; fetching it into {}", folder(data_dir).display());
            match download(set, data_dir, None) {
                Ok(_) => Ok(Found::Here(locate(set, data_dir)?)),
                Err(error) => Ok(Found::Absent(format!("the data set {set} is absent and cannot be fetched: {error}"))),
            }
        }
        Err(other) => Err(other.into()),
    }
}

/// Finds a data set that must be there.
///
/// # Errors
///
/// A user's mistake if it is absent, a failure if it is damaged.
pub fn require(set: DataSet, data_dir: Option<&Path>) -> Result<Source> {
    match find(set, data_dir, true)? {
        Found::Here(source) => Ok(source),
        Found::Absent(why) => Err(user(why)),
    }
}

/// Downloads a data set with a progress bar and returns its folder.
///
/// # Errors
///
/// Says which address failed and what to do.
pub fn download(set: DataSet, data_dir: Option<&Path>, from: Option<&str>) -> Result<PathBuf, Error> {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0).with_message(set.to_string());
    bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut progress = |done: u64, total: Option<u64>| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    };
    let mirror = || std::env::var(MIRROR).ok().filter(|address| !address.is_empty());
    let base_url = from.map(String::from).or_else(mirror);
    let fetched = fetch::fetch(set, &folder(data_dir), FetchOptions { base_url, progress: &mut progress });
    bar.finish_and_clear();
    fetched
}

/// Reads the name of a data set.
///
/// # Errors
///
/// A user's mistake that names the nearest.
pub fn named(name: &str) -> Result<DataSet> {
    name.parse().map_err(|_| {
        let names = DataSet::ALL.map(|set| set.info().name);
        let hint = nearest(name, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        user(format!("unknown data set `{name}`{hint} (data sets: {})", names.join(", ")))
    })
}

/// Where a fetched data set is put: the first folder that is searched.
fn folder(data_dir: Option<&Path>) -> PathBuf {
    search_path(data_dir).into_iter().next().expect("the search path ends with datasets")
}
