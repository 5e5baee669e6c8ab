//! The contract of a pruning method: a scheduler decides, the engine does.

use serde_json::Value;

use crate::allocation::Allocation;
use crate::clock::Clock;
use crate::graph::LayerSpec;
use crate::layer::Layer;
use crate::learned::{GateMeans, GatedGroup, MaskedGroup};
use crate::mask::Mask;
use crate::units::GroupView;
use crate::{Random, score};

/// Who a scheduler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The name that an experiment selects it by.
    pub name: &'static str,
    /// Authors, title, year and link of the paper.
    pub citation: &'static str,
}

/// What happens to the masks at one iteration: weights are restored, then pruned, then replaced.
///
/// Made by one of its functions, such as [`prune`](Event::prune), and those that change it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Brings every removed weight back, as zero, before anything else happens.
    pub restore: bool,
    /// The share of all prunable weights removed after the event; without it every layer keeps its count.
    pub sparsity: Option<f64>,
    /// The share of each layer's kept weights that is dropped and grown again elsewhere.
    pub replace: Option<f64>,
    /// Lets a weight that one replacement drops and grows again keep its value and its moments.
    pub keep_regrown: bool,
    /// Leaves out the optimizer step of this iteration.
    pub skips_step: bool,
    /// Asks for the gradients of removed weights too.
    pub dense_gradients: bool,
    /// The channels that go, for methods that remove channels.
    pub cut: Option<Cut>,
}

/// How many units of the channel groups go; those with the lowest scores do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cut {
    /// The same share of every group, until an image costs no more than this share of the full network's
    /// multiply-accumulates.
    Uniform {
        /// The share that stays.
        macs: f64,
    },
    /// The lowest scores of the whole network, until an image costs no more than this share.
    Global {
        /// The share that stays.
        macs: f64,
    },
    /// The same, and then units come back, those with the highest scores first, as long as the cost allows it.
    Filled {
        /// The share that stays.
        macs: f64,
    },
    /// The lowest scores of the whole network, until this share of the units is removed.
    Share(f64),
    /// Every unit whose score is zero or less.
    Zeros,
}

/// What a method removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removes {
    /// Single weights.
    #[default]
    Weights,
    /// Units of channel groups.
    Channels,
    /// Units of channel groups that pass one batch normalisation, whose scale the method learns to rank them by: it is
    /// asked for [`penalty`](Scheduler::penalty) and [`after_step`](Scheduler::after_step) at every step.
    Scaled,
    /// Units of channel groups that the method masks, and no longer masks, as it learns from the loss: it is asked for
    /// [`mask_units`](Scheduler::mask_units) before every step and told what came of it by
    /// [`learn_masks`](Scheduler::learn_masks).
    Masked,
    /// The same for units that pass one batch normalisation: what the method is given as their sizes are the absolute values of
    /// its scale, which it also sees after each step.
    MaskedByScale,
    /// Units of channel groups that the network can gate: each image opens and closes the gates by itself until the cut,
    /// and [`gate_slopes`](Scheduler::gate_slopes) pulls at their means over a batch.
    Gated,
}

impl Event {
    /// Prunes the network to a sparsity.
    pub fn prune(sparsity: f64) -> Self {
        Self { sparsity: Some(sparsity), ..Self::default() }
    }

    /// Keeps every weight again; those that were removed start from zero.
    pub fn restore() -> Self {
        Self { restore: true, ..Self::default() }
    }

    /// Removes whole channels.
    pub fn cut(cut: Cut) -> Self {
        Self { cut: Some(cut), ..Self::default() }
    }

    /// Also replaces a share of each layer's kept weights by others, after the pruning.
    pub fn and_replace(self, share: f64) -> Self {
        Self { replace: Some(share), ..self }
    }

    /// Asks for the gradients of removed weights too.
    pub fn with_dense_gradients(self) -> Self {
        Self { dense_gradients: true, ..self }
    }

    /// Lets a weight that one replacement drops and grows again keep its value and its moments.
    pub fn keeping_regrown(self) -> Self {
        Self { keep_regrown: true, ..self }
    }

    /// Leaves out the optimizer step of the event's iteration.
    pub fn skipping_step(self) -> Self {
        Self { skips_step: true, ..self }
    }

    /// Says whether something goes for good.
    pub fn removes(&self) -> bool {
        self.sparsity.is_some() || self.cut.is_some()
    }

    /// Replaces a share of each layer's kept weights by others.
    pub fn replace(share: f64) -> Self {
        Self { replace: Some(share), ..Self::default() }
    }
}

/// The masks before the first step.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Start {
    /// Every weight is kept.
    #[default]
    Dense,
    /// Weights at random positions are kept.
    Random {
        /// The share of weights that is removed.
        sparsity: f64,
        /// How the kept ones are shared among the layers.
        allocation: Allocation,
    },
    /// The weights are kept that the scheduler's own allocation and score prefer among the initial ones.
    Scored {
        /// The share of weights that is removed.
        sparsity: f64,
    },
    /// Units of channel groups go by their scores, and the network is smaller from the first step on.
    Cut(Cut),
}

/// The scales of the batch normalisation that one group's channels pass.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GroupScales {
    /// The name of the group.
    pub group: String,
    /// The scales, one for each unit.
    pub scales: Vec<f32>,
    /// What a penalty adds to their gradient.
    pub gradient: Vec<f32>,
}

impl GroupScales {
    /// Takes the scales of a group, to whose gradient nothing was added yet.
    pub fn new(group: impl Into<String>, scales: Vec<f32>) -> Self {
        Self { group: group.into(), gradient: vec![0.0; scales.len()], scales }
    }
}

impl Start {
    /// Returns the share of weights that is removed before the first step.
    pub fn sparsity(&self) -> f64 {
        match self {
            Start::Dense | Start::Cut(_) => 0.0,
            Start::Random { sparsity, .. } | Start::Scored { sparsity } => *sparsity,
        }
    }
}

/// The rules by which the engine counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rules {
    /// Exact counts, the lower index wins ties, and no layer falls below its floor.
    #[default]
    Exact,
    /// The rules of GraNet's CIFAR code, bit for bit; they miss counts by a weight or more and may empty a layer.
    GranetCifar,
}

/// A pruning method.
///
/// Only [`about`](Scheduler::about) and [`due`](Scheduler::due) must be written; by default weights go by magnitude,
/// every layer has the same sparsity, and weights grow where the gradient is largest. Whatever can be wrong with a
/// configuration is found before a scheduler exists; a scheduler itself cannot fail.
///
/// # Example
///
/// A method that removes the globally smallest weights once, at iteration 100:
///
/// ```
/// use bonsai_pruning::{About, Allocation, Clock, Engine, Event, Graph, Horizon, Kind, Layer, LayerSpec, Options, Scheduler};
///
/// struct OneShot {
///     sparsity: f64,
/// }
///
/// impl Scheduler for OneShot {
///     fn about(&self) -> About {
///         About { name: "one-shot", citation: "an example" }
///     }
///
///     fn due(&self, clock: &Clock) -> Option<Event> {
///         (clock.iteration == 100).then(|| Event::prune(self.sparsity))
///     }
///
///     fn target(&self) -> f64 {
///         self.sparsity
///     }
///
///     fn allocate(&mut self, _: &[Layer]) -> Allocation {
///         Allocation::Global
///     }
/// }
///
/// let layer = LayerSpec { name: "fc.weight".into(), kind: Kind::Linear, shape: vec![2, 2], macs: 4 };
/// let graph = Graph { layers: vec![layer], parameters: 4, fixed_macs: 0, ..Graph::default() };
/// let mut engine = Engine::new(&graph, Box::new(OneShot { sparsity: 0.5 }), Options::default())?;
///
/// let clock = Clock { iteration: 100, horizon: Horizon { iterations_per_epoch: 100, epochs: 2 }, lr: 0.1 };
/// let event = engine.due(&clock).unwrap();
/// engine.apply(&clock, &event, &[vec![0.1, -0.9, 0.4, -0.2]], None);
/// assert_eq!(engine.masks()[0].iter().collect::<Vec<_>>(), [false, true, true, false]);
/// # Ok::<(), String>(())
/// ```
pub trait Scheduler: Send {
    /// Says who the scheduler is.
    fn about(&self) -> About;

    /// Says what happens at an iteration, from the clock alone, so that a plan can be printed before a run.
    fn due(&self, clock: &Clock) -> Option<Event>;

    /// Returns the masks before the first step.
    fn start(&self) -> Start {
        Start::Dense
    }

    /// Returns the highest sparsity that the scheduler will ask for.
    fn target(&self) -> f64 {
        self.start().sparsity()
    }

    /// Says how the weights that an event keeps are shared among the layers.
    fn allocate(&mut self, layers: &[Layer]) -> Allocation {
        let _ = layers;
        Allocation::Uniform
    }

    /// Scores the weights of a layer; the lowest of the kept ones go first.
    fn score(&mut self, layer: &Layer, random: &mut Random) -> Vec<f32> {
        let _ = random;
        score::magnitude(layer.weights)
    }

    /// Scores the weights of a layer for growth; the highest of the removed ones grow first.
    fn grow_score(&mut self, layer: &Layer, random: &mut Random) -> Vec<f32> {
        let _ = random;
        score::gradient(layer.gradient)
    }

    /// Says what the method removes.
    fn removes(&self) -> Removes {
        Removes::Weights
    }

    /// Returns the smallest share of the full network's multiply-accumulates that a cut will ask for.
    fn target_macs(&self) -> Option<f64> {
        None
    }

    /// Scores the units of a channel group; the lowest of the kept ones go first.
    fn score_units(&mut self, group: &GroupView) -> Vec<f32> {
        score::relative(&group.norms(), group.kept)
    }

    /// Sets the scales of a group before training, and what the method keeps beside them.
    fn start_scales(&mut self, group: &str, scales: &mut [f32], random: &mut Random) {
        let _ = (group, scales, random);
    }

    /// Adds the gradient of a penalty on the scales of all groups, before an optimizer step.
    fn penalty(&mut self, clock: &Clock, groups: &mut [GroupScales]) {
        let _ = (clock, groups);
    }

    /// Sees the scales of a group after an optimizer step, and may change them.
    fn after_step(&mut self, clock: &Clock, group: &str, scales: &mut [f32]) {
        let _ = (clock, group, scales);
    }

    /// Returns where the scales of every batch normalisation start, those of no group included; absent: at 1.
    fn initial_scale(&self) -> Option<f32> {
        None
    }

    /// Returns the range that the scales of every batch normalisation are brought into after an optimizer step.
    fn scale_range(&self, clock: &Clock) -> Option<[f32; 2]> {
        let _ = clock;
        None
    }

    /// Says whether a step is one at which the method is asked for [`weight_penalty`](Scheduler::weight_penalty) and
    /// [`after_weight_step`](Scheduler::after_weight_step).
    ///
    /// The weights then travel to the host and back: those of the layers that make the units of prunable groups, or of all
    /// prunable layers where the method removes single weights.
    fn shapes_weights(&self, clock: &Clock) -> bool {
        let _ = clock;
        false
    }

    /// Adds the gradient of a penalty on the weights of a layer, one row per unit, before an optimizer step.
    fn weight_penalty(&mut self, clock: &Clock, layer: &LayerSpec, weights: &[f32], gradient: &mut [f32]) {
        let _ = (clock, layer, weights, gradient);
    }

    /// Sees the weights of a layer, one row per unit, after an optimizer step, and may change them.
    fn after_weight_step(&mut self, clock: &Clock, layer: &LayerSpec, weights: &mut [f32]) {
        let _ = (clock, layer, weights);
    }

    /// Says whether the next forward pass leaves out the units that [`mask_units`](Scheduler::mask_units) masks.
    fn masks_units(&self) -> bool {
        false
    }

    /// Masks units of a group for the next step; `sizes` has the mean absolute weight of each unit's filter, or its absolute
    /// scale where the method ranks by that.
    fn mask_units(&mut self, group: &str, sizes: &[f32]) -> Mask {
        let _ = group;
        Mask::dense(sizes.len())
    }

    /// Learns from a step that was taken with masks; `macs` is the share of the full network's multiply-accumulates that
    /// they leave.
    fn learn_masks(&mut self, clock: &Clock, macs: f64, groups: &[MaskedGroup]) {
        let _ = (clock, macs, groups);
    }

    /// Returns the gradient of the method's penalty with respect to the mean over a batch of every gate, group by group;
    /// `iteration` is the step under way.
    fn gate_slopes(&self, iteration: u64, groups: &[GatedGroup]) -> Vec<Vec<f32>> {
        let _ = iteration;
        groups.iter().map(|group| vec![0.0; group.means.len()]).collect()
    }

    /// Sees the gates of a group over all training images, before the cut that takes their place.
    fn see_gates(&mut self, group: &str, means: &GateMeans) {
        let _ = (group, means);
    }

    /// Forgets what it knows of the units of a group that are cut away: `kept` has a flag for each unit there was.
    fn keep_units(&mut self, group: &str, kept: &Mask) {
        let _ = (group, kept);
    }

    /// Returns the rules by which the engine counts.
    fn rules(&self) -> Rules {
        Rules::Exact
    }

    /// Returns named figures for the dashboard and the records.
    fn observe(&self, clock: &Clock) -> Vec<(String, f64)> {
        let _ = clock;
        Vec::new()
    }

    /// Returns what [`load`](Scheduler::load) needs to go on; nothing for a scheduler that follows from the clock alone.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    ///
    /// A sentence when the state is not one that this scheduler saves.
    fn load(&mut self, state: &Value) -> Result<(), String> {
        match state {
            Value::Null => Ok(()),
            _ => Err(format!("the scheduler `{}` keeps no state, but the checkpoint holds some", self.about().name)),
        }
    }
}
