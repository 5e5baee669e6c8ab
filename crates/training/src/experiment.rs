//! Describes one training as values: what an experiment's TOML says, checked and resolved.
//!
//! An experiment is a short flat file. Every key is a field here; unknown keys are errors that name the line and the
//! nearest key. After [`Experiment::from_toml`] all defaults are filled in, so that [`Experiment::to_toml`] is a
//! complete record of the run.

mod baseline;
mod check;
mod overrides;
mod scale;
mod sentences;
mod settings;

use bonsai_data::{Augmentation, DataSet};
pub use bonsai_models::Precision;
use bonsai_models::{Architecture, Shortcut, Stem};
use bonsai_pruning::clock::Horizon;
use bonsai_pruning::registry::{self, Common};
use bonsai_pruning::scheduler::{Removes, Scheduler};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::lr::{LearningRate, Schedule};
use crate::optimizer::Rule;
pub use baseline::{Baseline, Budget};
pub use sentences::{in_plain_words, nearest};
pub use settings::{
    Augment, CheckpointSettings, Decay, EvaluateSettings, LrSchedule, LrSettings, OptimizerName, OptimizerSettings,
    Protocol,
};

/// A training, resolved: nothing is left to a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The name of the run folder; the name of the file unless the file says otherwise.
    #[serde(default)]
    pub name: String,
    /// The network, for example `resnet20`.
    pub model: String,
    /// The shortcut of a residual network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcut: Option<Shortcut>,
    /// The first layers of a residual network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// Whether a light bypass runs around every convolution inside the blocks of a CIFAR ResNet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypass: bool,
    /// The data set.
    pub data: DataSet,
    /// The first so many training records, counted after the validation split is cut off; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_records: Option<usize>,
    /// Passes over the training records.
    pub epochs: u64,
    /// Records in a batch.
    pub batch_size: usize,
    /// How exactly dense convolutions and linear layers multiply while the network trains, `f32`, `bf16` or, on GPUs, `f16`;
    /// validation and test are f32.
    #[serde(default)]
    pub precision: Precision,
    /// The seed of initial weights, masks, order and augmentation.
    #[serde(default)]
    pub seed: u64,
    /// What is measured beside the training.
    #[serde(default, skip_serializing_if = "Protocol::is_honest")]
    pub protocol: Protocol,
    /// Iterations between two looks at the loss on a GPU.
    #[serde(default = "default_log_every")]
    pub log_every: u64,
    /// How training images are varied.
    #[serde(default)]
    pub augment: Augment,
    /// How weights are updated.
    pub optimizer: OptimizerSettings,
    /// How the learning rate moves.
    pub lr: LrSettings,
    /// Which weights are removed and when; read by [`bonsai_pruning::registry`].
    pub scheduler: Table,
    /// When the state of the run is written to disk.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// How the network is validated and tested.
    #[serde(default, skip_serializing_if = "EvaluateSettings::is_usual")]
    pub evaluate: EvaluateSettings,
    /// Which finished run's shape is trained from scratch; `bonsai train --scratch-e` and `--scratch-b` write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
}

/// The key of a `[scheduler]` that says which multiples widths are cut to.
const ROUND_TO: &str = "round_to";

fn default_log_every() -> u64 {
    50
}

impl Experiment {
    /// Reads an experiment; `name` is the name of its file and stands in messages and, by default, in the run folder.
    ///
    /// # Errors
    ///
    /// One sentence with the line, the key and the nearest valid one, or the field, its value and its range.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, String> {
        Self::with_overrides(text, name, &[])
    }

    /// Reads an experiment after replacing values by assignments such as `optimizer.lr=0.05`.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml), and for an assignment that names no known key or has another type.
    pub fn with_overrides(text: &str, name: &str, assignments: &[String]) -> Result<Self, String> {
        let mut experiment: Self = toml::from_str(text).map_err(|e| sentences::of_toml(&e, text, name))?;
        let in_file = |message: String| format!("{name}.toml: {message}");
        if assignments.is_empty() {
            experiment.fill(name).and_then(|()| experiment.check_values()).map_err(in_file)?;
            let horizon = experiment.horizon(experiment.records());
            experiment.build_scheduler(horizon).map_err(|message| sentences::of_scheduler(&message, text, name))?;
            experiment.check().map_err(in_file)?;
            return Ok(experiment);
        }
        // Values are judged after the assignments, which may mend them.
        let mut table = experiment.table();
        let own = experiment.scheduler.clone();
        for assignment in assignments {
            overrides::apply_set(&mut table, assignment)?;
            experiment = Self::deserialize(table.clone())
                .map_err(|e| format!("--set {assignment}: {}", sentences::suggest(e.message())))?;
        }
        experiment.fill(name)?;
        experiment.check().map_err(|message| sentences::of_override(&message, &own, name))?;
        Ok(experiment)
    }

    /// Reads the experiment in the `config.toml` of a run folder, whose section `[environment]` is no part of it.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml).
    pub fn from_config(text: &str) -> Result<Self, String> {
        let mut table: Table = toml::from_str(text).map_err(|e| sentences::of_toml(&e, text, "config"))?;
        table.remove("environment");
        let read = Self::deserialize(table).map_err(|e| sentences::suggest(e.message()));
        let checked = read.and_then(|experiment| experiment.check().map(|()| experiment));
        checked.map_err(|message| format!("config.toml: {message}"))
    }

    /// Writes the experiment as TOML that [`from_toml`](Self::from_toml) reads back unchanged.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("an experiment consists of plain values")
    }

    /// Returns the network that the experiment trains.
    pub fn architecture(&self) -> Architecture {
        let info = self.data.info();
        let mut architecture = Architecture::new(&self.model, info.classes, info.shape);
        if let Some(shortcut) = self.shortcut {
            architecture.shortcut = shortcut;
        }
        if let Some(stem) = self.stem {
            architecture.stem = stem;
        }
        architecture.bypass = self.bypass;
        if let Some(baseline) = &self.baseline {
            architecture.kept.clone_from(&baseline.kept);
        }
        architecture
    }

    /// Returns how training images are varied, or `None` if they are not.
    pub fn augmentation(&self) -> Option<Augmentation> {
        let Augment { crop, padding, flip } = self.augment;
        (crop > 0 || flip).then_some(Augmentation { crop, padding, flip })
    }

    /// Returns how many records an epoch trains on when the data set is whole.
    pub fn records(&self) -> usize {
        let info = self.data.info();
        let available = info.train - info.validation;
        self.train_records.map_or(available, |records| records.min(available))
    }

    /// Returns the length of a training on `train_records` records.
    pub fn horizon(&self, train_records: usize) -> Horizon {
        // The last, partial batch is trained on too.
        let batches = train_records.div_ceil(self.batch_size.max(1)).max(1);
        Horizon { iterations_per_epoch: batches as u64, epochs: self.epochs }
    }

    /// Returns the learning rate of every iteration of a training of length `horizon`.
    pub fn learning_rate(&self, horizon: Horizon) -> LearningRate {
        let iterations = |epochs: f64| (epochs * horizon.iterations_per_epoch as f64).round() as u64;
        let schedule = match self.lr.schedule {
            LrSchedule::Constant => Schedule::Constant,
            LrSchedule::MultiStep => Schedule::MultiStep {
                milestones: self.lr.milestones.iter().map(|&epoch| iterations(epoch)).collect(),
                gamma: self.lr.gamma,
            },
            LrSchedule::Cosine => Schedule::Cosine { last: self.lr.final_lr },
            LrSchedule::OneCycle => Schedule::OneCycle,
        };
        let warmup = iterations(self.lr.warmup_epochs);
        LearningRate { base: self.optimizer.lr, schedule, warmup, total: horizon.total() }
    }

    /// Returns the update rule of the optimizer.
    pub fn rule(&self) -> Rule {
        let settings = &self.optimizer;
        match settings.name {
            OptimizerName::Sgd => Rule::Sgd { momentum: settings.momentum, nesterov: settings.nesterov },
            OptimizerName::AdamW => {
                Rule::AdamW { betas: (settings.betas[0], settings.betas[1]), epsilon: settings.epsilon }
            }
        }
    }

    /// Returns whether every parameter decays, also biases and normalisation.
    pub fn decays_all(&self) -> bool {
        self.optimizer.decay == Decay::All
    }

    /// Builds the scheduler and the settings that every scheduler shares.
    ///
    /// # Errors
    ///
    /// One sentence from the registry: an unknown name or key, or a value out of range.
    pub fn build_scheduler(&self, horizon: Horizon) -> Result<(Box<dyn Scheduler>, Common), String> {
        registry::build(&self.scheduler, horizon)
    }

    /// Has a method that removes channels cut to multiples of 8 on a GPU, or of 4 or 2 where its target needs narrower
    /// layers, unless the experiment says what to round to.
    ///
    /// What is said there is part of the run: of its `config.toml`, and of what makes two runs the same.
    pub fn on_gpu(self) -> Self {
        let scheduler = self.build_scheduler(self.horizon(self.records()));
        let removes = scheduler.map_or(Removes::Weights, |(scheduler, _)| scheduler.removes());
        if removes == Removes::Weights || self.scheduler.contains_key(ROUND_TO) {
            return self;
        }
        let rounded = |multiple: i64| {
            let mut rounded = self.clone();
            rounded.scheduler.insert(ROUND_TO.to_string(), multiple.into());
            rounded.check().is_ok().then_some(rounded)
        };
        [8, 4, 2].into_iter().find_map(rounded).unwrap_or(self)
    }

    /// Takes what a run rounds widths to, unless the experiment says it itself: a run that goes on keeps it on any device.
    pub fn rounded_as(mut self, run: &Experiment) -> Self {
        if let Some(multiple) = run.scheduler.get(ROUND_TO).filter(|_| !self.scheduler.contains_key(ROUND_TO)) {
            self.scheduler.insert(ROUND_TO.to_string(), multiple.clone());
        }
        self
    }

    /// Returns the name of the scheduler.
    pub fn scheduler_name(&self) -> &str {
        self.scheduler.get("name").and_then(toml::Value::as_str).unwrap_or("")
    }

    /// Returns what should be known before the experiment runs on a device of this machine.
    pub fn warning(&self, device: &Device) -> Option<String> {
        let sentence =
            "this processor has no AVX512-BF16: precision = \"bf16\" gives the same results, but slower than \"f32\"";
        (!self.precision.is_fast_on(device)).then(|| sentence.to_string())
    }

    /// Fills in what depends on other values: the name and the variant of the network.
    fn fill(&mut self, name: &str) -> Result<(), String> {
        if self.name.is_empty() {
            self.name = name.to_string();
        }
        let architecture = self.architecture();
        architecture.check()?;
        self.shortcut = Some(architecture.shortcut);
        self.stem = Some(architecture.stem);
        Ok(())
    }

    /// Returns the experiment as a table, as `--set` changes it.
    fn table(&self) -> Table {
        Table::try_from(self).expect("an experiment consists of plain values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_rounded_on_gpus_unless_the_experiment_says_so_itself() {
        let experiment = |more: &str| {
            let text = include_str!("../../../experiments/shapes10-resnet20-group-magnitude.toml");
            Experiment::with_overrides(text, "x", &[more.to_string()]).unwrap()
        };
        let rounded = |experiment: &Experiment| experiment.scheduler.get(ROUND_TO).and_then(toml::Value::as_integer);
        let own = experiment("seed=0");
        assert_eq!((rounded(&own), rounded(&own.clone().on_gpu())), (Some(4), Some(4)));
        let mut open = own.clone();
        open.scheduler.remove(ROUND_TO);
        assert_eq!((rounded(&open), rounded(&open.clone().on_gpu())), (None, Some(8)));
        // A run that began on a CPU stays as it is on a GPU, and the other way round.
        assert_eq!(open.clone().rounded_as(&open), open);
        assert_eq!(open.clone().rounded_as(&own), own);
        // Multiples of 8 leave too much of layers of 16 channels.
        let mut narrow = open.clone();
        narrow.scheduler.insert("macs".to_string(), 0.3.into());
        narrow.check().unwrap();
        assert!(
            rounded(&narrow.clone().on_gpu()).is_none_or(|multiple| multiple < 8),
            "{:?}",
            narrow.on_gpu().scheduler
        );
        let granet = include_str!("../../../experiments/shapes10-resnet20-granet.toml");
        let granet = Experiment::from_toml(granet, "x").unwrap();
        assert_eq!(granet.clone().on_gpu(), granet);
    }
}
