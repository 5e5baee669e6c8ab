//! Two experiments over several seeds: means, intervals and the difference seed by seed.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};
use bonsai_records::Summary;

use crate::entry::{Entry, Extras};
use crate::format::short;
use crate::run::Run;
use crate::statistics::Sample;

/// A figure of a run that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Test accuracy of the network as training left it, in percent.
    FinalTest,
    /// Test accuracy of the epoch that was best on the validation split, in percent.
    BestTest,
    /// Validation accuracy of the network as training left it, in percent.
    FinalValid,
    /// Weights removed, in percent.
    Sparsity,
    /// MACs of an image.
    Macs,
    /// Training images per second.
    ImagesPerSecond,
}

impl Metric {
    /// All, in the order of a table.
    pub const ALL: [Metric; 6] = [
        Metric::FinalTest,
        Metric::BestTest,
        Metric::FinalValid,
        Metric::Sparsity,
        Metric::Macs,
        Metric::ImagesPerSecond,
    ];

    /// What a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::FinalTest => "test accuracy, last network, %",
            Metric::BestTest => "test accuracy, best on validation, %",
            Metric::FinalValid => "validation accuracy, last network, %",
            Metric::Sparsity => "weights removed, %",
            Metric::Macs => "MACs of an image",
            Metric::ImagesPerSecond => "training images per second",
        }
    }

    /// Whether it is an accuracy, which counts at the target sparsity alone.
    pub fn is_accuracy(self) -> bool {
        match self {
            Metric::FinalTest | Metric::BestTest | Metric::FinalValid => true,
            Metric::Sparsity | Metric::Macs | Metric::ImagesPerSecond => false,
        }
    }

    /// Its value in a run; absent where it was not recorded.
    pub fn of(self, summary: &Summary) -> Option<f64> {
        let value = match self {
            Metric::FinalTest => 100.0 * summary.final_test_accuracy,
            Metric::BestTest => 100.0 * summary.best_test_accuracy?,
            Metric::FinalValid => 100.0 * summary.final_valid_accuracy,
            Metric::Sparsity => 100.0 * summary.sparsity,
            Metric::Macs => summary.macs as f64,
            Metric::ImagesPerSecond => summary.images_per_second,
        };
        value.is_finite().then_some(value)
    }

    /// Writes a value of it.
    pub fn write(self, value: f64) -> String {
        match self {
            Metric::FinalTest | Metric::BestTest | Metric::FinalValid | Metric::Sparsity => format!("{value:.2}"),
            Metric::Macs | Metric::ImagesPerSecond => short(value),
        }
    }
}

/// The runs of one experiment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    /// What it is called.
    pub name: String,
    /// Finished runs by seed.
    pub summaries: BTreeMap<u64, Summary>,
    /// Seeds whose accuracy does not count, or that have not finished, each with the reason.
    pub objections: BTreeMap<u64, String>,
}

impl Side {
    /// Puts the runs of an experiment together.
    ///
    /// # Errors
    /// No run, a seed that comes twice, and runs of different experiments.
    pub fn new(name: &str, runs: impl IntoIterator<Item = Run>) -> Result<Self> {
        let mut side = Self { name: name.to_string(), ..Self::default() };
        let mut experiment: Option<String> = None;
        let mut folders: BTreeMap<u64, String> = BTreeMap::new();
        for run in runs {
            let folder = run.folder.display().to_string();
            let own = run.experiment();
            let first = experiment.get_or_insert_with(|| own.clone());
            ensure!(*first == own, "{name} holds runs of {first} and of {own}; name the folder of one experiment");
            let seed = run.seed().unwrap_or(0);
            if let Some(other) = folders.insert(seed, folder.clone()) {
                anyhow::bail!(
                    "{name} holds seed {seed} twice, in {other} and in {folder}; a mean needs each seed once"
                );
            }
            let entry = Entry { run, extras: Extras::default(), ..Entry::default() };
            side.objections.extend(entry.objection().map(|why| (seed, why)));
            side.summaries.extend(entry.run.summary.map(|summary| (seed, summary)));
        }
        ensure!(!folders.is_empty(), "{name} holds no run");
        Ok(side)
    }

    /// The values of a metric by seed, as far as they count.
    pub fn values(&self, metric: Metric) -> BTreeMap<u64, f64> {
        let counts = |seed: &u64| !metric.is_accuracy() || !self.objections.contains_key(seed);
        let values = self.summaries.iter().filter(|(seed, _)| counts(seed));
        values.filter_map(|(seed, summary)| Some((*seed, metric.of(summary)?))).collect()
    }
}

/// A metric of both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Which.
    pub metric: Metric,
    /// Both experiments by themselves.
    pub sides: [Option<Sample>; 2],
    /// The first less the second, over the seeds that both have.
    pub difference: Option<Sample>,
}

/// Compares two experiments in every metric.
pub fn compare(a: &Side, b: &Side) -> Vec<Compared> {
    let compared = |metric: Metric| {
        let (left, right) = (a.values(metric), b.values(metric));
        let sample = |values: &BTreeMap<u64, f64>| Sample::of(&values.values().copied().collect::<Vec<_>>());
        let pairs: Vec<f64> = left.iter().filter_map(|(seed, value)| Some(value - right.get(seed)?)).collect();
        Compared { metric, sides: [sample(&left), sample(&right)], difference: Sample::of(&pairs) }
    };
    Metric::ALL.into_iter().map(compared).collect()
}

/// Writes a mean as `81.76 ± 0.21 [81.24, 82.28], n = 3`; a single number has no spread.
pub fn written(metric: Metric, sample: Option<&Sample>) -> String {
    let Some(sample) = sample else { return "–".to_string() };
    let mut text = metric.write(sample.mean);
    if let (Some(std), Some((low, high))) = (sample.std, sample.interval()) {
        let _ = write!(text, " ± {} [{}, {}]", metric.write(std), metric.write(low), metric.write(high));
    }
    let _ = write!(text, ", n = {}", sample.n);
    text
}

/// Says which accuracies are left out, and why.
pub fn left_out(side: &Side) -> Vec<String> {
    side.objections.iter().map(|(seed, why)| format!("{}, seed {seed}, does not count: {why}", side.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn results(experiment: &str) -> Side {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/results").join(experiment);
        let runs = (0..3).map(|seed| Run::read(&folder.join(format!("seed-{seed}"))).unwrap());
        Side::new(experiment, runs).unwrap()
    }

    #[test]
    fn two_real_experiments_differ_as_their_seeds_do() {
        let (granet, dense) = (results("cifar10-resnet20-granet-short"), results("cifar10-resnet20-dense-short"));
        let test = &compare(&granet, &dense)[0];
        // SciPy: stats.ttest_rel(granet, dense).confidence_interval() over the test accuracies; numpy: std(ddof=1).
        let difference = test.difference.unwrap();
        assert_eq!(written(Metric::FinalTest, test.sides[1].as_ref()), "86.39 ± 0.26 [85.74, 87.04], n = 3");
        assert_eq!(difference.n, 3);
        assert!((difference.mean - -4.63).abs() < 1e-9, "{difference:?}");
        assert!((difference.std.unwrap() - 0.298_663_7).abs() < 1e-6, "{difference:?}");
        let (low, high) = difference.interval().unwrap();
        assert!((low - -5.371_922).abs() < 1e-5 && (high - -3.888_078).abs() < 1e-5, "{low} {high}");
    }

    #[test]
    fn accuracy_off_the_target_is_left_out_and_said() {
        let run = |seed, kept| Run {
            summary: Some(Summary {
                run: "x".into(),
                seed,
                target_sparsity: Some(0.9),
                prunable: 1000,
                kept,
                final_test_accuracy: 0.5,
                ..Summary::default()
            }),
            ..Run::default()
        };
        let side = Side::new("x", [run(0, 100), run(1, 200), Run { summary: None, ..run(2, 0) }]).unwrap_err();
        assert!(side.to_string().contains("holds runs of x and of "), "{side}");
        let side = Side::new("x", [run(0, 100), run(1, 200)]).unwrap();
        assert_eq!(side.values(Metric::FinalTest).into_keys().collect::<Vec<_>>(), [0]);
        assert_eq!(side.values(Metric::Sparsity).len(), 2);
        assert!(left_out(&side)[0].starts_with("x, seed 1, does not count: 200 weights stay"));
        let alone = &compare(&side, &side)[0];
        assert_eq!(written(Metric::FinalTest, alone.difference.as_ref()), "0.00, n = 1");
    }

    #[test]
    fn a_seed_that_comes_twice_is_refused() {
        let run =
            || Run { summary: Some(Summary { run: "x".into(), seed: 4, ..Summary::default() }), ..Run::default() };
        let sentence = Side::new("both", [run(), run()]).unwrap_err().to_string();
        assert!(sentence.contains("both holds seed 4 twice"), "{sentence}");
        assert!(Side::new("none", []).unwrap_err().to_string().contains("none holds no run"));
    }
}
