//! Which dense run a pruned one is measured against, and how far it ended under it.

use std::collections::BTreeMap;

use crate::run::Run;
use crate::settings::same_recipe;
use crate::statistics::Sample;

/// A run that kept everything, as far as others are measured against it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// Its experiment.
    pub experiment: String,
    /// Its seed.
    pub seed: Option<u64>,
    /// Share of the test split that its last network classified correctly.
    pub test_accuracy: f64,
}

impl Dense {
    /// What others are measured against of a run that is [`dense`](is_dense_baseline).
    pub fn of(run: &Run) -> Option<Self> {
        let test_accuracy = run.summary.as_ref()?.final_test_accuracy;
        Some(Self { experiment: run.experiment(), seed: run.seed(), test_accuracy })
    }

    /// Percentage points by which a run ended under it; `None` where the run's accuracy does not count.
    pub fn above(&self, run: &Run) -> Option<f64> {
        let summary = run.summary.as_ref().filter(|_| run.objection().is_none())?;
        Some(100.0 * (self.test_accuracy - summary.final_test_accuracy)).filter(|points| points.is_finite())
    }
}

/// Says whether `other` is finished, whole, and trained as `run` was but for scheduler and seed.
pub fn is_dense_baseline(other: &Run, run: &Run) -> bool {
    let (Some(a), Some(b)) = (&run.summary, &other.summary) else { return false };
    let configured = !run.config.is_empty() && !other.config.is_empty();
    let whole = other.is_dense() && b.kept == b.prunable && b.macs == b.dense_macs;
    whole
        && (&a.data, a.epochs, a.parameters) == (&b.data, b.epochs, b.parameters)
        && (!configured || same_recipe(&run.config, &other.config))
}

/// Finds the dense run of the same recipe, with the same seed where there is one.
pub fn dense_of<'a>(run: &Run, others: impl IntoIterator<Item = &'a Run>) -> Option<&'a Run> {
    let dense: Vec<&Run> = others.into_iter().filter(|other| is_dense_baseline(other, run)).collect();
    dense.iter().find(|other| other.seed() == run.seed()).or(dense.first()).copied()
}

/// Says how far a run ended under its dense one, as in `0.45 points under shapes10-resnet20-dense, seed 0`; for a dense run
/// nothing.
pub fn distance(run: &Run, dense: Option<&Dense>) -> Option<String> {
    run.summary.as_ref().filter(|_| !run.is_dense())?;
    let Some(dense) = dense else { return Some("no dense run of the same recipe to measure it against".to_string()) };
    let seed = dense.seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
    let name = format!("{}{seed}", dense.experiment);
    Some(match dense.above(run) {
        Some(points) if points < 0.0 => format!("{:.2} points over {name}", -points),
        Some(points) => format!("{points:.2} points under {name}"),
        None => format!("not measured against {name}: {}", run.objection().unwrap_or_default()),
    })
}

/// The distances of several runs from the dense runs of the same recipe and seed, in points; `None` where no seed has both.
pub fn distances<'a>(runs: &[Run], others: impl IntoIterator<Item = &'a Run> + Clone) -> Option<Sample> {
    let of = |run: &Run| {
        let dense = dense_of(run, others.clone()).filter(|dense| dense.seed() == run.seed())?;
        Some((run.seed(), Dense::of(dense)?.above(run)?))
    };
    let by_seed: BTreeMap<_, f64> = runs.iter().filter_map(of).collect();
    Sample::of(&by_seed.into_values().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_records::Summary;

    fn run(scheduler: &str, seed: u64, epochs: u64, accuracy: f64) -> Run {
        let kept = if scheduler == "dense" { 100 } else { 10 };
        let config =
            format!("name = 'x-{scheduler}'\nseed = {seed}\nepochs = {epochs}\n[scheduler]\nname = '{scheduler}'");
        let summary = Summary {
            run: format!("x-{scheduler}"),
            seed,
            epochs,
            prunable: 100,
            kept,
            target_sparsity: Some(1.0 - kept as f64 / 100.0),
            final_test_accuracy: accuracy,
            ..Summary::default()
        };
        Run { config: config.parse().unwrap(), summary: Some(summary), ..Run::default() }
    }

    #[test]
    fn the_dense_run_has_the_recipe_and_if_there_is_one_the_seed() {
        let others = [run("dense", 0, 5, 0.9), run("dense", 1, 5, 0.8), run("dense", 1, 6, 0.7), run("set", 1, 5, 0.6)];
        let found =
            |run: &Run| dense_of(run, &others).and_then(|dense| dense.summary.as_ref()).map(|s| s.final_test_accuracy);
        assert_eq!(found(&run("gmp", 1, 5, 0.5)), Some(0.8));
        assert_eq!(found(&run("gmp", 7, 5, 0.5)), Some(0.9));
        assert_eq!(found(&run("gmp", 1, 7, 0.5)), None);
        // A narrow network that is trained densely has lost something, too.
        let narrow = Run { summary: run("gmp", 1, 5, 0.5).summary, ..run("dense", 1, 5, 0.5) };
        assert_eq!(dense_of(&run("gmp", 1, 5, 0.5), [&narrow]), None);
    }

    #[test]
    fn a_distance_is_said_with_its_sign_or_why_there_is_none() {
        let dense = Dense::of(&run("dense", 0, 5, 0.9)).unwrap();
        let said = |run: &Run| distance(run, Some(&dense));
        assert_eq!(said(&run("gmp", 0, 5, 0.87)).unwrap(), "3.00 points under x-dense, seed 0");
        assert_eq!(said(&run("gmp", 0, 5, 0.905)).unwrap(), "0.50 points over x-dense, seed 0");
        let mut missed = run("gmp", 0, 5, 0.87);
        missed.summary.as_mut().unwrap().kept = 30;
        assert!(said(&missed).unwrap().contains("not measured against x-dense, seed 0: 30 weights stay where 10"));
        assert_eq!(said(&run("dense", 1, 5, 0.87)), None);
        assert_eq!(said(&Run::default()), None);
        assert!(distance(&run("gmp", 0, 5, 0.8), None).unwrap().starts_with("no dense run of the same recipe"));
    }

    #[test]
    fn distances_are_taken_seed_by_seed() {
        let others = [run("dense", 0, 5, 0.9), run("dense", 1, 5, 0.8)];
        let runs = [run("gmp", 0, 5, 0.88), run("gmp", 1, 5, 0.76), run("gmp", 2, 5, 0.1)];
        let sample = distances(&runs, &others).unwrap();
        assert_eq!(sample.n, 2);
        assert!((sample.mean - 3.0).abs() < 1e-9);
        assert!(distances(&runs[2..], &others).is_none());
    }
}
