//! A run among others in a report: what it is called there, its colour, and what only the command line can add.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::baseline::Dense;
use crate::format::tail;
use crate::model::Model;
use crate::receipt::Receipt;
use crate::run::Run;

/// Letters up to which a label fits beside a line.
const LONGEST: usize = 18;

/// What a run's folder does not hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extras {
    /// The sparsity that was planned: after each event, iteration and share removed.
    pub plan: Vec<(u64, f64)>,
    /// The initial weights by path, as the model's are stored; without the removed channels where there are some.
    pub initial: BTreeMap<String, Vec<f32>>,
    /// The trained network, where there is one.
    pub model: Model,
    /// What it costs on a machine, where that was measured.
    pub receipt: Receipt,
    /// The dense run of the same recipe, where it lies beside the runs of the report and is none of them.
    pub dense: Option<Dense>,
    /// What could not be found out, in sentences.
    pub notes: Vec<String>,
}

/// A run in a report.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// Its records.
    pub run: Run,
    /// The rest.
    pub extras: Extras,
    /// What its line is called: the part of the experiment's name in which the experiments differ.
    pub label: String,
    /// Which of the experiments of the report it belongs to; runs of several seeds share the number and the colour.
    pub group: usize,
    /// Whether it is the first of its group, which bears the label.
    pub leads: bool,
    /// Whether the report is about this run alone.
    pub alone: bool,
}

impl Entry {
    /// Its name among all runs of the report.
    pub fn name(&self) -> String {
        self.run.seed().map_or_else(|| self.label.clone(), |seed| format!("{}, seed {seed}", self.label))
    }

    /// What stands at its line: nothing where no other line is there to confuse it with.
    pub fn mark(&self) -> String {
        if self.leads && !self.alone { tail(&self.label, LONGEST) } else { String::new() }
    }

    /// The title of a figure about this run.
    pub fn title(&self, what: &str) -> String {
        if self.alone { what.to_string() } else { format!("{}: {what}", tail(&self.label, LONGEST)) }
    }

    /// Optimizer steps in an epoch, as far as is known.
    pub fn iterations_per_epoch(&self) -> Option<f64> {
        let seen = self.run.epochs.last().map(|row| row.iteration as f64 / (row.epoch + 1) as f64);
        let planned = || Some((self.run.number("train_records")? / self.run.number("batch_size")?).ceil());
        seen.or_else(planned).filter(|iterations| *iterations > 0.0)
    }

    /// Training images of an epoch.
    pub fn images_per_epoch(&self) -> Option<f64> {
        let counted = || Some(self.iterations_per_epoch()? * self.run.number("batch_size")?);
        self.run.number("train_records").or_else(counted)
    }

    /// Whether the scheduler prunes nothing.
    pub fn is_dense(&self) -> bool {
        self.run.is_dense()
    }

    /// Says why the accuracy does not count; `None` where it does.
    pub fn objection(&self) -> Option<String> {
        self.run.objection()
    }
}

/// Puts runs side by side, gives each a label, and the seeds of an experiment a common colour.
pub fn entries(runs: Vec<(Run, Extras)>) -> Vec<Entry> {
    let experiments: Vec<String> = runs.iter().map(|(run, _)| run.experiment()).collect();
    // Two runs of one experiment and seed can only be told apart by their folders.
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&String> = (experiments.iter().zip(&runs))
        .filter(|(experiment, (run, _))| !seen.insert((*experiment, run.seed())))
        .map(|(experiment, _)| experiment)
        .collect();
    let short = shortened(&experiments);
    let labels: Vec<String> = (experiments.iter().zip(&short).zip(&runs))
        .map(|((experiment, short), (run, _))| {
            let folder = run.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if twice.contains(experiment) { format!("{short} ({folder})") } else { short.clone() }
        })
        .collect();
    let alone = runs.len() == 1;
    let mut groups: Vec<String> = Vec::new();
    let mut entries: Vec<Entry> = (runs.into_iter().zip(labels))
        .map(|((run, extras), label)| {
            let known = groups.iter().position(|group| *group == label);
            let group = known.unwrap_or_else(|| {
                groups.push(label.clone());
                groups.len() - 1
            });
            Entry { run, extras, label, group, leads: known.is_none(), alone }
        })
        .collect();
    // Seeds of an experiment stand together, in their order.
    entries.sort_by_key(|entry| (entry.group, !entry.leads, entry.run.seed()));
    entries
}

/// Leaves out the words that all names have.
fn shortened(names: &[String]) -> Vec<String> {
    let words = |name: &String| name.split('-').map(String::from).collect::<BTreeSet<_>>();
    let distinct: BTreeSet<&String> = names.iter().collect();
    if distinct.len() < 2 {
        return names.to_vec();
    }
    let common = distinct.iter().map(|name| words(name)).reduce(|a, b| &a & &b).unwrap_or_default();
    let short = |name: &String| {
        let own: Vec<&str> = name.split('-').filter(|word| !common.contains(*word)).collect();
        if own.is_empty() { name.clone() } else { own.join("-") }
    };
    let short: Vec<String> = names.iter().map(short).collect();
    // Names that differ in the order of their words alone stay as they are.
    let still: BTreeSet<&String> = short.iter().collect();
    if still.len() == distinct.len() { short } else { names.to_vec() }
}

/// The way from the folder of one file to another file, for links that survive when both move together; `None` where they would not.
pub fn relative(page: &Path, file: &Path) -> Option<String> {
    let folder = page.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (folder, file) = (folder.canonicalize().ok()?, file.canonicalize().ok()?);
    let common = folder.components().zip(file.components()).take_while(|(a, b)| a == b).count();
    // Nothing that shares only the root with the page moves together with it.
    if common < 2 {
        return None;
    }
    let up = folder.components().skip(common).map(|_| "..".to_string());
    let down = file.components().skip(common).map(|part| part.as_os_str().to_string_lossy().into_owned());
    Some(up.chain(down).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_records::Summary;

    fn run(experiment: &str, seed: u64, folder: &str) -> (Run, Extras) {
        let summary = Summary { run: experiment.into(), seed, ..Summary::default() };
        (Run { folder: folder.into(), summary: Some(summary), ..Run::default() }, Extras::default())
    }

    #[test]
    fn labels_say_where_experiments_differ() {
        let all = vec![
            run("cifar10-resnet20-dense-short", 0, "a"),
            run("cifar10-resnet20-group-magnitude-short", 0, "b"),
            run("cifar10-resnet20-dense-short", 1, "c"),
        ];
        let entries = entries(all);
        let labels: Vec<(&str, usize, bool)> =
            entries.iter().map(|entry| (entry.label.as_str(), entry.group, entry.leads)).collect();
        assert_eq!(labels, [("dense", 0, true), ("dense", 0, false), ("group-magnitude", 1, true)]);
        assert_eq!(shortened(&["a-b".into(), "a".into()]), ["b", "a"]);
        assert_eq!(shortened(&["a-b".into(), "b-a".into()]), ["a-b", "b-a"]);
        assert_eq!(shortened(&["x-y".into(), "x-y".into()]), ["x-y", "x-y"]);
    }

    #[test]
    fn runs_that_only_their_folders_tell_apart_are_named_after_them() {
        let entries = entries(vec![run("x", 0, "runs/first"), run("x", 0, "runs/second")]);
        assert_eq!([&entries[0].label, &entries[1].label], ["x (first)", "x (second)"]);
    }

    #[test]
    fn accuracy_counts_at_the_target_alone() {
        let entry = |summary| Entry { run: Run { summary, ..Run::default() }, ..Entry::default() };
        assert_eq!(entry(None).objection().unwrap(), "not finished");
        let summary = Summary { target_sparsity: Some(0.9), prunable: 1005, kept: 100, ..Summary::default() };
        assert_eq!(entry(Some(summary.clone())).objection(), None);
        let missed = entry(Some(Summary { kept: 112, ..summary })).objection().unwrap();
        assert!(missed.starts_with("112 weights stay where 100"), "{missed}");
        let channels =
            Summary { target_sparsity: None, target_macs: Some(0.5), dense_macs: 100, macs: 50, ..Summary::default() };
        assert_eq!(entry(Some(channels.clone())).objection(), None);
        assert!(entry(Some(Summary { macs: 51, ..channels })).objection().unwrap().contains("51.00 % of the MACs"));
    }

    #[test]
    fn links_lead_from_the_page_to_the_run() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("runs").join("seed-0");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::create_dir_all(home.path().join("pages")).unwrap();
        std::fs::write(run.join("model.safetensors"), "").unwrap();
        let link = relative(&home.path().join("pages").join("x.html"), &run.join("model.safetensors"));
        assert_eq!(link.as_deref(), Some("../runs/seed-0/model.safetensors"));
    }
}
