//! Shortens or lengthens an experiment so that everything in it keeps its proportion.

use bonsai_data::DataSet;
use toml::{Table, Value};

use super::Experiment;

/// The most epochs of an experiment that stands in for one whose data set is absent.
const SIBLING_EPOCHS: u64 = 5;
/// The most training records of such an experiment: ResNet-20 takes about ten minutes over them on two CPU cores.
const SIBLING_RECORDS: usize = 10_000;

impl Experiment {
    /// Trains for `epochs` epochs; warm-up, milestones and the scheduler's events keep their proportion.
    pub fn with_epochs(&self, epochs: u64) -> Self {
        let mut scaled = self.clone();
        scaled.epochs = epochs;
        let ratio = epochs as f64 / self.epochs as f64;
        scaled.lr.warmup_epochs *= ratio;
        for milestone in &mut scaled.lr.milestones {
            *milestone *= ratio;
        }
        // Whoever wrote the scheduler: keys that end so are counted in epochs.
        let epochs: Vec<String> = scaled.scheduler.keys().filter(|key| is_epochs(key)).cloned().collect();
        for key in epochs {
            scale(&mut scaled.scheduler, &key, |value| value * ratio);
        }
        scaled.keep_events_of(self)
    }

    /// Trains on the first `records` records; the scheduler's events come as much more often as an epoch is shorter.
    pub fn with_records(&self, records: usize) -> Self {
        let mut scaled = self.clone();
        scaled.train_records = Some(records.min(self.records()));
        scaled.keep_events_of(self)
    }

    /// Returns the experiment that stands in for this one where its data set is absent: the same on `shapes10`.
    pub fn sibling(&self) -> Self {
        let mut sibling = self.clone();
        sibling.name = self.sibling_name();
        sibling.data = DataSet::Shapes10;
        let records = sibling.records().min(SIBLING_RECORDS);
        sibling.train_records = Some(records);
        let sibling = sibling.keep_events_of(self);
        if sibling.epochs > SIBLING_EPOCHS { sibling.with_epochs(SIBLING_EPOCHS) } else { sibling }
    }

    /// Returns the name with the data set's part replaced: `cifar10-resnet20-gmp` becomes `shapes10-resnet20-gmp`.
    pub fn sibling_name(&self) -> String {
        let data = self.data.info().name;
        // Fashion-MNIST's experiments are called `fashion-…`.
        let first = data.split('-').next().unwrap_or(data);
        let rest = [data, first].iter().find_map(|part| self.name.strip_prefix(part)?.strip_prefix('-'));
        format!("shapes10-{}", rest.unwrap_or(&self.name))
    }

    /// Scales `every` and `patience` by the ratio of all iterations, so that as many events happen as in `other`.
    fn keep_events_of(mut self, other: &Self) -> Self {
        let total = |experiment: &Self| experiment.horizon(experiment.records()).total() as f64;
        let ratio = total(&self) / total(other);
        for key in ["every", "patience"] {
            scale(&mut self.scheduler, key, |iterations| (iterations * ratio).round().max(1.0));
        }
        self
    }
}

/// Says whether a key of a scheduler is counted in epochs.
fn is_epochs(key: &str) -> bool {
    key.ends_with("epoch") || key.ends_with("epochs")
}

/// Changes a number of `table` if it is there; whole results stay whole.
fn scale(table: &mut Table, key: &str, change: impl Fn(f64) -> f64) {
    let Some(value) = table.get_mut(key) else { return };
    let Some(old) = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)) else { return };
    // Rounded, because 80 · 3/160 should read 1.5.
    let new = (change(old) * 1e9).round() / 1e9;
    *value = if new.fract() == 0.0 && value.is_integer() { Value::Integer(new as i64) } else { Value::Float(new) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_scheduler_counts_in_epochs_or_iterations_keeps_its_proportion() {
        let text = include_str!("../../../../experiments/cifar10-resnet20-gmp-short.toml");
        let mut experiment = Experiment::from_toml(text, "x").unwrap();
        experiment.scheduler.insert("phase_epochs".to_string(), Value::from(2.0));
        let half = experiment.with_epochs(5).scheduler;
        assert_eq!((half["phase_epochs"].as_float(), half["end_epoch"].as_float()), (Some(1.0), Some(2.5)));
        assert_eq!((half["every"].as_integer(), half["sparsity"].as_float()), (Some(50), Some(0.9)));
    }
}
