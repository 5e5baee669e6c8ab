//! Describes one training as values: what an experiment's TOML says, checked and resolved.
//!
//! An experiment is a short flat file. Every key is a field here; unknown keys are errors that name the line and the
//! nearest key. After [`Experiment::from_toml`] all defaults are filled in, so that [`Experiment::to_toml`] is a
//! complete record of the run.

mod check;
mod overrides;
mod scale;
mod sentences;

use bonsai_data::{Augmentation, DataSet, Padding};
use bonsai_models::{Architecture, Shortcut, Stem};
use bonsai_pruning::clock::Horizon;
use bonsai_pruning::registry::{self, Common};
use bonsai_pruning::scheduler::Scheduler;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::lr::{LearningRate, Schedule};
use crate::optimizer::Rule;
pub use sentences::nearest;

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
    /// The data set.
    pub data: DataSet,
    /// The first so many training records, counted after the validation split is cut off; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_records: Option<usize>,
    /// Passes over the training records.
    pub epochs: u64,
    /// Records in a batch.
    pub batch_size: usize,
    /// The seed of initial weights, masks, order and augmentation.
    #[serde(default)]
    pub seed: u64,
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
}

/// The section `[augment]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Pixels added on every side before a random crop; 0: no crop.
    pub crop: usize,
    /// What the added pixels hold.
    pub padding: Padding,
    /// Whether half of the images are mirrored.
    pub flip: bool,
}

/// The section `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSettings {
    /// The update rule.
    pub name: OptimizerName,
    /// The base learning rate; one-cycle's peak.
    pub lr: f64,
    /// SGD's momentum.
    #[serde(default)]
    pub momentum: f64,
    /// Whether SGD looks ahead.
    #[serde(default)]
    pub nesterov: bool,
    /// The weight decay: coupled with SGD, decoupled with AdamW.
    #[serde(default)]
    pub weight_decay: f64,
    /// Which parameters decay.
    #[serde(default)]
    pub decay: Decay,
    /// AdamW's decay of the first and second moment.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// The term that keeps AdamW's division finite.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// The largest global gradient norm; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Pieces into which a batch is split to save memory; their gradients are averaged into one step.
    #[serde(default = "default_accumulate")]
    pub accumulate: usize,
    /// The share of the target that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
}

/// The name of an update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Stochastic gradient descent.
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// Which parameters the weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Every parameter.
    #[default]
    All,
    /// Weights of convolutions and linear layers, but no bias and no normalisation.
    Weights,
}

/// The section `[lr]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrSettings {
    /// The shape of the curve.
    pub schedule: LrSchedule,
    /// Epochs of linear rise at the start; may be fractional.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Multi-step: the epochs at which the rate falls; may be fractional.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub milestones: Vec<f64>,
    /// Multi-step: the factor at each milestone.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
    /// Cosine: the rate at the end.
    #[serde(default)]
    pub final_lr: f64,
}

/// The name of a learning-rate curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// The rate stays.
    Constant,
    /// The rate falls at milestones.
    MultiStep,
    /// The rate falls along half a cosine.
    Cosine,
    /// The rate rises and falls once.
    OneCycle,
}

/// The section `[checkpoint]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Minutes between two checkpoints inside an epoch; every epoch ends with one anyway.
    pub minutes: f64,
    /// How many checkpoints stay.
    pub keep: usize,
}

impl Default for Augment {
    fn default() -> Self {
        Self { crop: 0, padding: Padding::Zero, flip: false }
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { minutes: 10.0, keep: 2 }
    }
}

fn default_log_every() -> u64 {
    50
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_accumulate() -> usize {
    1
}

fn default_gamma() -> f64 {
    0.1
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
        experiment.fill(name)?;
        if let Err(message) = experiment.build_scheduler(experiment.horizon(experiment.records())) {
            // A table that is complete only with the assignments is judged below.
            if assignments.is_empty() {
                return Err(sentences::of_scheduler(&message, text, name));
            }
        }
        if !assignments.is_empty() {
            let mut table = experiment.table();
            for assignment in assignments {
                overrides::apply_set(&mut table, assignment)?;
                experiment = Self::deserialize(table.clone())
                    .map_err(|e| format!("--set {assignment}: {}", sentences::suggest(e.message(), "")))?;
            }
            experiment.fill(name)?;
        }
        experiment.check().map_err(|message| sentences::suggest(&message, ""))?;
        Ok(experiment)
    }

    /// Reads the `config.toml` of a run folder: an experiment and, apart, what the run recorded under `[run]`.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml).
    pub fn from_config(text: &str) -> Result<(Self, Table), String> {
        let mut table: Table = toml::from_str(text).map_err(|e| sentences::of_toml(&e, text, "config.toml"))?;
        let run = match table.remove("run") {
            Some(toml::Value::Table(run)) => run,
            _ => Table::new(),
        };
        let mut experiment =
            Self::deserialize(table).map_err(|e| format!("config.toml: {}", sentences::suggest(e.message(), "")))?;
        experiment.fill("run")?;
        experiment.check()?;
        Ok((experiment, run))
    }

    /// Writes the experiment as TOML that [`from_toml`](Self::from_toml) reads back unchanged.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("an experiment consists of plain values")
    }

    /// Writes the `config.toml` of a run folder: the experiment, then `run` as its last section.
    pub fn to_config(&self, run: &Table) -> String {
        let mut section = Table::new();
        section.insert("run".to_string(), toml::Value::Table(run.clone()));
        format!("{}\n{section}", self.to_toml())
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

    /// Returns the name of the scheduler.
    pub fn scheduler_name(&self) -> &str {
        self.scheduler.get("name").and_then(toml::Value::as_str).unwrap_or("")
    }

    /// Fills in what depends on other values: the name and the variant of the network.
    fn fill(&mut self, name: &str) -> Result<(), String> {
        if self.name.is_empty() {
            self.name = name.to_string();
        }
        self.check_network()?;
        let architecture = self.architecture();
        self.shortcut = Some(architecture.shortcut);
        self.stem = Some(architecture.stem);
        Ok(())
    }

    /// Returns the experiment as a table, as `--set` changes it.
    fn table(&self) -> Table {
        Table::try_from(self).expect("an experiment consists of plain values")
    }
}
