//! Finds an experiment by name or path and reads it with the changes of the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonsai_claims::Sweep;
use bonsai_training::experiment::{Experiment, nearest};

use crate::error::user;

/// The folder in which experiments are looked for by name.
pub const FOLDER: &str = "experiments";
/// An experiment is about a page; anything above this is another file.
const LARGEST: u64 = 1 << 20;

/// Which experiment, and what is changed about it.
#[derive(Clone, Debug, clap::Args)]
pub struct Selection {
    /// Name of a file under experiments/ (without .toml), or a path to a TOML file
    pub experiment: String,
    /// What is changed about it.
    #[command(flatten)]
    pub changes: Changes,
}

/// What is changed about an experiment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Changes {
    /// Seed of initial weights, masks, order and augmentation; if absent the experiment's, which is 0 unless it says otherwise
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(0, i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Train for N epochs; warm-up, milestones and mask events keep their proportion
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, 100_000))]
    pub epochs: Option<u64>,
    /// Train on the first N records only; mask events keep their proportion
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, u64::MAX))]
    pub limit_train: Option<u64>,
    /// Bring the network to this share of its multiply-accumulates, the weakest channels by the method's own score first:
    /// for methods that remove channels (as --set scheduler.macs=X)
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = share)]
    pub macs: Option<f64>,
    /// Replace one value of the experiment, as in --set optimizer.lr=0.05; may be given several times
    #[arg(long = "set", value_name = "PATH.TO.KEY=VALUE")]
    pub set: Vec<String>,
}

impl Selection {
    /// Reads the experiment and applies the changes.
    ///
    /// # Errors
    ///
    /// A user's mistake: no such experiment, or something in it or in a change is wrong.
    pub fn read(&self) -> Result<Experiment> {
        let path = find(&self.experiment)?;
        self.changed(&path, &self.changes.assignments())
    }

    /// Returns the experiment that stands in for `experiment` where its data set is absent.
    ///
    /// It is the file `shapes10-<rest>.toml` beside its own if there is one, else derived from it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn sibling(&self, experiment: &Experiment) -> Result<Experiment> {
        let file = find(&self.experiment)?.with_file_name(format!("{}.toml", experiment.sibling_name()));
        let sibling = if file.is_file() {
            // The sibling's own name and data set are the point of it.
            let own = |set: &&String| !["name", "data"].contains(&set.split('=').next().unwrap_or("").trim());
            self.changed(&file, &self.changes.assignments().iter().filter(own).cloned().collect::<Vec<_>>())?
        } else {
            experiment.sibling()
        };
        sibling.check().map_err(|message| user(format!("the shapes10 sibling of {}: {message}", experiment.name)))?;
        Ok(sibling)
    }

    fn changed(&self, path: &Path, set: &[String]) -> Result<Experiment> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = read(path)?;
        if Sweep::is_one(&text) {
            return Err(user(format!("{name}.toml is a sweep: start it with `bonsai sweep {}`", path.display())));
        }
        self.changes.apply(Experiment::with_overrides(&text, &name, set).map_err(|why| self.changes.refused(&why))?)
    }
}

impl Changes {
    /// Returns whether anything is changed.
    pub fn any(&self) -> bool {
        self.seed.is_some() || self.epochs.is_some() || self.limit_train.is_some() || !self.assignments().is_empty()
    }

    /// Returns all changes of single values.
    fn assignments(&self) -> Vec<String> {
        let macs = self.macs.map(|macs| format!("scheduler.macs={macs:?}"));
        self.set.iter().cloned().chain(macs).collect()
    }

    /// Returns an experiment that no file holds with all changes, those of `--set` first.
    ///
    /// # Errors
    ///
    /// A user's mistake: something in a change is wrong.
    pub fn of(&self, experiment: &Experiment) -> Result<Experiment> {
        let text = experiment.to_toml();
        let changed = Experiment::with_overrides(&text, &experiment.name, &self.assignments());
        self.apply(changed.map_err(|why| self.refused(&why))?)
    }

    /// Names the flag that stands for a key which the method lacks.
    fn refused(&self, why: &str) -> anyhow::Error {
        match self.macs {
            Some(macs) if why.contains("has no key `macs`") => user(format!("--macs {macs}: {why}")),
            _ => user(why),
        }
    }

    fn apply(&self, mut experiment: Experiment) -> Result<Experiment> {
        if let Some(epochs) = self.epochs {
            experiment = experiment.with_epochs(epochs);
        }
        if let Some(records) = self.limit_train {
            experiment = experiment.with_records(usize::try_from(records).unwrap_or(usize::MAX));
        }
        experiment.seed = self.seed.unwrap_or(experiment.seed);
        experiment.check().map_err(user)?;
        Ok(experiment)
    }
}

/// Returns a reader of whole numbers that says which it takes.
pub fn whole(low: u64, high: u64) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    let range = if high == u64::MAX { format!("of at least {low}") } else { format!("from {low} to {high}") };
    move |text| {
        let number = text.parse().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| format!("give a whole number {range}"))
    }
}

/// Reads a share that leaves something.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "give a number above 0 and at most 1".to_string())
}

/// Lists the names of all experiments, sorted.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
    let toml = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> = toml.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect();
    names.sort();
    names
}

/// Finds the file of an experiment.
pub(crate) fn find(experiment: &str) -> Result<PathBuf> {
    let named = Path::new(FOLDER).join(format!("{experiment}.toml"));
    let path = Path::new(experiment);
    if named.is_file() {
        return Ok(named);
    }
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if path.is_dir() {
        return Err(user(format!("{experiment} is a folder, not an experiment: give the path of a TOML file")));
    }
    if experiment.ends_with(".toml") || experiment.contains(['/', '\\']) {
        return Err(user(format!(
            "there is no file {experiment}: give the path of a TOML file or a name under {FOLDER}/"
        )));
    }
    let names = names();
    if names.is_empty() {
        return Err(user(format!(
            "there is no folder {FOLDER}/ with TOML files here: change to the project's folder or give a path"
        )));
    }
    let about = nearest(experiment, names.iter().map(String::as_str))
        .map_or_else(|| format!("there are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    Err(user(format!("unknown experiment `{experiment}`; {about}")))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    let reading = || format!("reading {}", path.display());
    let size = std::fs::metadata(path).with_context(reading)?.len();
    if size > LARGEST {
        return Err(user(format!(
            "{} holds {size} bytes, far more than an experiment: give the path of a TOML file",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).with_context(reading)?;
    String::from_utf8(bytes)
        .map_err(|_| user(format!("{} is no text file: give the path of a TOML file", path.display())))
}
