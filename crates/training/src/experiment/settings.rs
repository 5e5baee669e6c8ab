//! The sections of an experiment and their defaults.

use bonsai_data::Padding;
use serde::{Deserialize, Serialize};

/// What is measured beside the training; the training itself is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The test split is read once, after the last epoch.
    #[default]
    Honest,
    /// Also the test accuracy of every epoch, in a column of its own that nothing selects by: papers that report the best of
    /// these can only be compared with the same figure.
    Paper,
}

impl Protocol {
    pub(super) fn is_honest(&self) -> bool {
        *self == Protocol::Honest
    }
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

/// The section `[evaluate]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// Batches of 250 training images over which the statistics of batch normalisation are recomputed for a validation or test;
    /// 0: they are used as training left them. Training itself stays the same ([`recalibrate`](crate::recalibrate)).
    pub recalibrate: usize,
}

impl EvaluateSettings {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
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
