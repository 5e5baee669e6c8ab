//! A run as its folder tells it, finished or not.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use bonsai_records::{
    EpochRow, EventLine, EventRow, KernelsRow, LayerRow, RunPaths, StepRow, Summary, read_config, read_events,
    read_layers, read_metrics, read_steps, read_summary,
};
use toml::{Table, Value};

/// All records of a run.
///
/// A file that is absent gives no rows: results that are kept for good may consist of summary and epochs alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// The resolved experiment with `[environment]`; empty where the folder holds none.
    pub config: Table,
    /// One row an epoch.
    pub epochs: Vec<EpochRow>,
    /// One row a prunable layer and epoch.
    pub layers: Vec<LayerRow>,
    /// Changes of the masks, in order.
    pub events: Vec<EventRow>,
    /// Which kernels were found faster, after each change of the masks.
    pub kernels: Vec<KernelsRow>,
    /// Where the time of a few steps of each epoch went.
    pub steps: Vec<StepRow>,
    /// What came out; absent until the run has finished.
    pub summary: Option<Summary>,
}

impl Run {
    /// Reads the run in a folder; lines that are still being written are left out.
    ///
    /// # Errors
    /// A folder without a run, and the first damaged file in a sentence that names the line.
    pub fn read(folder: &Path) -> Result<Self> {
        let paths = RunPaths::new(folder);
        ensure!(folder.is_dir(), "{} is no folder of a run", folder.display());
        let files = [paths.config(), paths.metrics(), paths.summary()];
        ensure!(
            files.iter().any(|file| file.is_file()),
            "{} holds no run: there is no config.toml, metrics.csv or summary.toml",
            folder.display()
        );
        let (mut events, mut kernels) = (Vec::new(), Vec::new());
        for line in present(paths.events(), read_events)? {
            match line {
                EventLine::Masks(row) => events.push(row),
                EventLine::Kernels(row) => kernels.push(row),
            }
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            config: present(paths.config(), read_config)?,
            epochs: present(paths.metrics(), read_metrics)?,
            layers: present(paths.layers(), read_layers)?,
            events,
            kernels,
            steps: present(paths.steps(), read_steps)?,
            summary: present(paths.summary(), |path| read_summary(path).map(Some))?,
        })
    }

    /// Reads of a run what it was and what came out, without its rows.
    ///
    /// # Errors
    /// A configuration or a summary that is damaged.
    pub fn outline(folder: &Path) -> Result<Self> {
        let paths = RunPaths::new(folder);
        Ok(Self {
            folder: folder.to_path_buf(),
            config: present(paths.config(), read_config)?,
            summary: present(paths.summary(), |path| read_summary(path).map(Some))?,
            ..Self::default()
        })
    }

    /// Whether it trained to its end.
    pub fn is_finished(&self) -> bool {
        self.summary.is_some()
    }

    /// Whether its scheduler prunes nothing.
    pub fn is_dense(&self) -> bool {
        match (self.setting("scheduler.name").and_then(Value::as_str), &self.summary) {
            (Some(name), _) => name == "dense",
            (None, Some(summary)) => self.target_sparsity() == Some(0.0) && summary.target_macs.is_none(),
            (None, None) => false,
        }
    }

    /// Says why its accuracy does not count; `None` where it does.
    pub fn objection(&self) -> Option<String> {
        let Some(summary) = &self.summary else { return Some("not finished".to_string()) };
        if let Some(target) = summary.target_macs {
            let share = summary.macs as f64 / summary.dense_macs as f64;
            return (share > target + 1e-9)
                .then(|| format!("{:.2} % of the MACs are left, not {:.2} %", 100.0 * share, 100.0 * target));
        }
        let target = self.target_sparsity()?;
        let wanted = (1.0 - target) * summary.prunable as f64;
        // The exact count is rounded to a whole weight.
        let missed = (summary.kept as f64 - wanted).abs();
        (missed > 1.0).then(|| {
            format!("{} weights stay where {:.0} were asked for ({:.2} %)", summary.kept, wanted, 100.0 * target)
        })
    }

    /// Looks a value of the configuration up, as in `scheduler.name`.
    pub fn setting(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.config.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.get(key))
    }

    /// The same for a number.
    pub fn number(&self, path: &str) -> Option<f64> {
        let value = self.setting(path)?;
        value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
    }

    /// Name of the experiment: what was really run, after the data that were used.
    pub fn experiment(&self) -> String {
        let configured = || self.setting("name").and_then(Value::as_str).map(String::from);
        let folder = || {
            let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let own = name(&self.folder)?;
            if own.starts_with("seed-") { self.folder.parent().and_then(name) } else { Some(own) }
        };
        self.summary.as_ref().map(|summary| summary.run.clone()).or_else(configured).or_else(folder).unwrap_or_default()
    }

    /// Seed of every random choice, where it is recorded.
    pub fn seed(&self) -> Option<u64> {
        let configured = || self.setting("seed").and_then(Value::as_integer).and_then(|seed| u64::try_from(seed).ok());
        self.summary.as_ref().map(|summary| summary.seed).or_else(configured)
    }

    /// Share of the prunable weights that was to be removed in the end; absent where whole channels were, or nothing is
    /// known.
    pub fn target_sparsity(&self) -> Option<f64> {
        match &self.summary {
            Some(summary) => summary.target_sparsity.filter(|target| !target.is_nan()),
            None if self.setting("scheduler.name").and_then(Value::as_str) == Some("dense") => Some(0.0),
            None => self.number("scheduler.sparsity"),
        }
    }
}

/// Reads a file where it is there.
fn present<Content: Default>(path: PathBuf, read: impl FnOnce(&Path) -> Result<Content>) -> Result<Content> {
    if path.is_file() { read(&path) } else { Ok(Content::default()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_unfinished_run_is_read_as_far_as_it_got() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("an-experiment").join("seed-3");
        fs::create_dir_all(&folder).unwrap();
        let sentence = Run::read(&folder).unwrap_err().to_string();
        assert!(sentence.contains("seed-3 holds no run"), "{sentence}");
        assert!(Run::read(&folder.join("absent")).unwrap_err().to_string().contains("is no folder of a run"));

        fs::write(folder.join("metrics.csv"), "").unwrap();
        assert_eq!(Run::read(&folder).unwrap().experiment(), "an-experiment");
        fs::write(folder.join("config.toml"), "name = 'x'\nseed = 7\n[scheduler]\nname = 'gmp'\nsparsity = 0.9\n")
            .unwrap();
        fs::write(folder.join("events.jsonl"), "{\"iteration\":9,\"kernels\":[]}\n{\"itera").unwrap();
        let run = Run::read(&folder).unwrap();
        assert_eq!((run.experiment().as_str(), run.seed(), run.target_sparsity()), ("x", Some(7), Some(0.9)));
        assert_eq!((run.kernels.len(), run.events.len(), run.is_finished()), (1, 0, false));
        assert_eq!(run.setting("scheduler.name").and_then(Value::as_str), Some("gmp"));
        assert_eq!(run.setting("scheduler.absent.deeper"), None);

        fs::write(folder.join("layers.csv"), "epoch,name\n1,2,3\n").unwrap();
        let sentence = format!("{:#}", Run::read(&folder).unwrap_err());
        assert!(sentence.contains("layers.csv is damaged: line 2"), "{sentence}");
    }
}
