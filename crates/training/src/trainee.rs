//! Holds a network that is being trained and pruned, and what belongs to it: engine, optimizer, masks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use bonsai_data::Batch;
use bonsai_kernels::profile::{Part, section};
use bonsai_kernels::{Choices, awake, timed};
use bonsai_models::{Architecture, Network, Precision, Sparsity};
use bonsai_pruning::EngineState;
use bonsai_pruning::clock::Clock;
use bonsai_pruning::engine::{Change, Engine};
use bonsai_pruning::graph::LayerSpec;
use bonsai_pruning::mask::Mask;
use bonsai_pruning::scheduler::Event;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::loss::cross_entropy;
use crate::loss_scale::LossScale;
use crate::meter::Meter;
use crate::optimizer::{Optimizer, clip};
use crate::parameters::{self, Gradients};
use crate::replicas::{Place, Replica, pieces, summed};
use crate::resident::Resident;
use crate::tensors::{HostTensor, Tensors, Values};

/// What a checkpoint calls the state of the loss's scale.
const LOSS_SCALE: &str = "loss_scale";

/// How a step is taken, besides the optimizer's own rule.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// The ε of label smoothing; 0 for none.
    pub label_smoothing: f64,
    /// The largest global norm of the gradients, if they are clipped.
    pub clip_norm: Option<f64>,
    /// Pieces into which a batch is split; their gradients are averaged.
    pub accumulate: usize,
    /// How exactly dense kernels multiply, forward and backward; in f16 the loss is scaled.
    pub precision: Precision,
    /// Parameters that weight decay applies to.
    pub decayed: BTreeSet<String>,
}

/// A network that is being trained, with its masks and the optimizer's state.
pub struct Trainee {
    /// The network, on a device with autodiff.
    pub network: Network,
    /// The masks and the scheduler.
    pub engine: Engine,
    pub(crate) architecture: Architecture,
    pub(crate) optimizer: Optimizer,
    options: StepOptions,
    /// How the loss is scaled, in f16.
    loss_scale: Option<LossScale>,
    pub(crate) device: Device,
    /// The mask of every pruned parameter, in the order in which it is stored; absent where nothing is removed.
    pub(crate) masks: BTreeMap<String, Tensor<1>>,
    /// The same for kernels that leave removed weights out.
    sparsity: Sparsity,
    /// The images that batches show, where they are on the device.
    pub(crate) resident: Option<Resident>,
    /// Further devices that compute parts of each batch.
    pub(crate) replicas: Vec<Replica>,
    /// What a method that learns masks multiplies the weights by that read masked units, while it learns; 0 or 1.
    pub(crate) factors: BTreeMap<String, Tensor<1>>,
}

/// What a checkpoint holds of a trainee besides tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct TraineeState {
    optimizer_steps: u64,
    engine: EngineState,
    /// The network that the tensors belong to, where channels or gates were taken away or may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    architecture: Option<Architecture>,
}

impl Trainee {
    /// Builds the network of an architecture on `device`, which has autodiff, and puts the parts together; the network has
    /// gates if the method learns by them.
    ///
    /// # Errors
    ///
    /// A sentence if the architecture cannot be built.
    pub fn new(
        architecture: Architecture,
        seed: u64,
        engine: Engine,
        optimizer: Optimizer,
        options: StepOptions,
        device: Device,
    ) -> Result<Self> {
        let architecture = architecture.with_gates(engine.has_gates());
        let network = Network::new(&architecture, seed, &device).map_err(anyhow::Error::msg)?;
        let (masks, sparsity, factors) = (BTreeMap::new(), Sparsity::default(), BTreeMap::new());
        let loss_scale = (options.precision == Precision::F16).then(|| LossScale::new(&device.clone().inner()));
        Ok(Self {
            network,
            engine,
            architecture,
            optimizer,
            options,
            loss_scale,
            device,
            masks,
            sparsity,
            resident: None,
            replicas: Vec::new(),
            factors,
        })
    }

    /// Takes the images that the batches of a loader without pixels show, once for each device.
    ///
    /// # Panics
    ///
    /// Panics if they are more or fewer than the devices.
    pub fn keep_images(&mut self, residents: Vec<Resident>) {
        assert_eq!(residents.len(), 1 + self.replicas.len(), "every device needs the images");
        let places =
            std::iter::once(&mut self.resident).chain(self.replicas.iter_mut().map(|other| &mut other.resident));
        places.zip(residents).for_each(|(place, resident)| *place = Some(resident));
    }

    /// The network's architecture as it is now.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How steps are taken.
    pub fn options_mut(&mut self) -> &mut StepOptions {
        &mut self.options
    }

    /// Replaces the masks, one per prunable layer, and zeroes what they remove.
    ///
    /// # Errors
    ///
    /// Names the layer whose mask has another length than its weights.
    pub fn set_masks(&mut self, masks: Vec<Mask>) -> Result<Change> {
        let change = self.engine.set_masks(masks).map_err(anyhow::Error::msg)?;
        self.apply(&change);
        Ok(change)
    }

    /// Leaves removed weights to dense kernels, which multiply their zeros, as a comparison may.
    pub fn use_dense_kernels(&mut self) {
        self.sparsity = Sparsity::default();
    }

    /// Sets the scales that the scheduler starts from, draws its first masks and applies them; channels that it removes at
    /// once are cut out.
    pub fn begin(&mut self) -> Change {
        self.start_all_scales();
        self.change_scales(|engine, group, scales| engine.start_scales(group, scales));
        let weights = parameters::weights(&self.network, self.engine.layers());
        let change = self.engine.begin(&weights);
        self.apply(&change);
        if self.engine.wants_compaction() {
            self.compact();
        }
        self.mask_anew();
        change
    }

    /// The kept weights, as the network's kernels take them.
    pub fn sparsity(&self) -> &Sparsity {
        &self.sparsity
    }

    /// Runs the network forward and backward and returns the gradients; loss and accuracy go to the meter.
    ///
    /// The gradients of removed weights are true only if `dense`; else they may be zero, which is faster.
    pub fn gradients(&self, batch: &Batch, dense: bool, meter: &mut Meter) -> Gradients {
        let _awake = awake(&self.device);
        let sparsity = if dense { self.sparsity.with_all_gradients() } else { self.sparsity.clone() };
        let sparsity = sparsity.with_precision(self.options.precision);
        let records = batch.labels.len();
        // All devices are told what to do before any of them is waited for.
        let places = self.places();
        let mut sums = vec![Gradients::new(); places.len()];
        for (at, Range { start, end }) in pieces(records, places.len(), self.options.accumulate) {
            let (Place { network, device, resident }, sum) = (&places[at], &mut sums[at]);
            let (images, labels) = {
                let _section = section(Part::Data);
                match resident {
                    Some(resident) if batch.images.is_empty() => resident.tensors(batch, start..end),
                    _ => tensors(batch, start..end, device),
                }
            };
            let (logits, gates) = network.forward_gated(images, &sparsity);
            let smoothing = self.options.label_smoothing;
            let loss = timed(Part::Loss, logits.clone(), |logits| cross_entropy(logits, labels.clone(), smoothing));
            {
                let _section = section(Part::Accuracy);
                meter.add(loss.clone().inner(), logits.inner(), labels.inner());
            }
            let loss = match self.pull(gates) {
                Some(pull) => loss + pull,
                None => loss,
            };
            let share = (end - start) as f64 / records as f64;
            let loss = if share < 1.0 { loss * share } else { loss };
            let loss = match &self.loss_scale {
                Some(loss_scale) => loss_scale.scaled(loss),
                None => loss,
            };
            let gradients = loss.backward();
            for (name, gradient) in parameters::gradients(network, gradients) {
                let gradient = match sum.remove(&name) {
                    Some(earlier) => earlier + gradient,
                    None => gradient,
                };
                sum.insert(name, gradient);
            }
        }
        let mut sum = summed(sums, &self.device.clone().inner());
        if let Some(loss_scale) = &self.loss_scale {
            loss_scale.unscale(&mut sum);
        }
        sum
    }

    /// Takes an optimizer step with masked gradients, after which masked weights and their moments are exactly zero.
    ///
    /// In f16, where a gradient is not finite, weights and moments stay as they are.
    pub fn step(&mut self, mut gradients: Gradients, clock: &Clock) {
        let _awake = awake(&self.device);
        let _section = section(Part::Optimizer);
        let verdict = self.loss_scale.as_mut().map(|loss_scale| loss_scale.judge(&mut gradients));
        self.learn(clock, &mut gradients);
        self.penalise(clock, &mut gradients);
        if let Some(norm) = self.options.clip_norm {
            // The norm is that of masked gradients.
            for (name, mask) in &self.masks {
                let _section = section(Part::Masks);
                if let Some(gradient) = gradients.remove(name) {
                    gradients.insert(name.clone(), gradient * mask.clone());
                }
            }
            clip(&mut gradients, norm);
        }
        let range = self.engine.scheduler().scale_range(clock).map(|range| (self.engine.all_scales(), range));
        let Self { optimizer, options, masks, .. } = self;
        optimizer.begin_step(verdict);
        self.network = parameters::map(self.network.clone(), |info, values| {
            let gradient = gradients.remove(&info.name)?;
            let decayed = options.decayed.contains(&info.name);
            let mask = masks.get(&info.name);
            let values = optimizer.update(&info.name, clock.lr, decayed, values, gradient, mask);
            Some(match &range {
                Some((scales, [least, most])) if scales.contains(&info.name) => values.clamp(*least, *most),
                _ => values,
            })
        });
        self.change_scales(|engine, group, scales| engine.after_step(clock, group, scales));
        self.shape_weights(clock);
        self.mask_anew();
    }

    /// Lets the engine prune and regrow, zeroes what was removed or has just been grown, and cuts removed channels away.
    ///
    /// With the change comes the largest constant that was absorbed for removed channels: exactly, and at padded borders.
    pub fn event(&mut self, clock: &Clock, event: &Event, dense: Option<&Gradients>) -> (Change, [f32; 2]) {
        let layers = self.engine.layers();
        let mut weights = parameters::weights(&self.network, layers);
        let mut gradients = dense.map(|dense| parameters::rows(dense, layers));
        if let (Some(gradients), Some(_)) = (&mut gradients, &self.loss_scale) {
            // What overflowed in f16 says nothing about its weight.
            gradients.iter_mut().flatten().filter(|slope| !slope.is_finite()).for_each(|slope| *slope = 0.0);
        }
        let change = self.engine.apply(clock, event, &weights, gradients.as_deref());
        if event.cut.is_some() {
            self.end_learning();
        }
        self.engine.silence(&mut weights);
        let absorbed = if change.groups.is_empty() { [0.0; 2] } else { self.absorb_constants(&weights) };
        self.apply(&change);
        if self.engine.wants_compaction() {
            self.compact();
        }
        (change, absorbed)
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        if !change.changed {
            return;
        }
        let device = self.device.clone().inner();
        let mut retained: BTreeMap<String, Tensor<1>> = (self.engine.layers().iter().zip(&change.layers))
            .map(|(layer, change)| (layer.name.clone(), mask_tensor(layer, &change.retained, &device)))
            .collect();
        retained.extend(self.vector_masks());
        for (name, retained) in &retained {
            self.optimizer.retain(name, retained);
        }
        self.network = parameters::map(self.network.clone(), |info, values| {
            retained.get(&info.name).map(|retained| values * retained.clone())
        });
        self.place_masks();
    }

    pub(crate) fn place_masks(&mut self) {
        let device = self.device.clone().inner();
        self.masks = (self.engine.layers().iter().zip(self.engine.masks()))
            .filter(|(_, mask)| mask.kept() < mask.len())
            .map(|(layer, mask)| (layer.name.clone(), mask_tensor(layer, mask, &device)))
            .collect();
        self.masks.extend(self.vector_masks());
        let masks = self.engine.layers().iter().zip(self.engine.masks());
        self.sparsity = parameters::sparsity(&self.network, masks, &self.sparsity);
        let normalised = self.engine.normalised();
        if !normalised.is_empty() {
            let ids = parameters::ids(&self.network);
            for (scale, kept) in normalised {
                self.sparsity.insert_norm(ids[&scale], kept.iter().collect());
            }
        }
    }

    /// Returns the layers that run sparse kernels in some direction, or would, with the choices that the steps since the
    /// masks changed have made; `None` until all are made.
    pub fn choices(&self) -> Option<Vec<(String, Choices)>> {
        let choices = self.sparsity.choices()?;
        let ids = parameters::ids(&self.network);
        let layers = self.engine.layers().iter();
        Some(layers.filter_map(|layer| Some((layer.name.clone(), *choices.get(&ids[&layer.name])?))).collect())
    }

    /// Prunable weights that are not zero; a kept weight that was just grown still is.
    pub fn nonzero(&self) -> u64 {
        let layers = parameters::weights(&self.network, self.engine.layers());
        layers.iter().flatten().filter(|weight| **weight != 0.0).count() as u64
    }

    /// The masks by layer name, in the order in which the weights are stored.
    pub fn stored_masks(&self) -> BTreeMap<String, Mask> {
        (self.engine.layers().iter().zip(self.engine.masks()))
            .map(|(layer, mask)| {
                let rows: Vec<bool> = mask.iter().collect();
                (layer.name.clone(), Mask::from_bools(parameters::to_storage(layer, &rows)))
            })
            .collect()
    }

    /// Reads how the loss is scaled now, and how many steps were left out; nothing unless the training is in f16.
    pub fn loss_scaling(&self) -> Option<(f64, u64)> {
        let [scale, _, skipped] = self.loss_scale.as_ref()?.save();
        Some((f64::from(scale), skipped as u64))
    }

    /// Reads every parameter, running statistics included, to the host.
    pub fn weights(&self) -> Tensors {
        network_tensors(&self.network)
    }

    /// Reads all there is to the host, for a checkpoint.
    pub fn save(&self) -> (Tensors, TraineeState) {
        let mut tensors = self.weights();
        let (optimizer_steps, moments) = self.optimizer.state();
        for (name, values) in moments {
            let values = parameters::to_host(values);
            tensors.insert(name, HostTensor { shape: vec![values.len()], values: Values::F32(values) });
        }
        if let Some(loss_scale) = &self.loss_scale {
            let values = Values::F32(loss_scale.save().to_vec());
            tensors.insert(LOSS_SCALE.to_string(), HostTensor { shape: vec![3], values });
        }
        // Masks travel as bytes; in the state's JSON they would take several times their size.
        let mut engine = self.engine.save();
        for (name, bytes) in std::mem::take(&mut engine.masks) {
            tensors.insert(format!("mask/{name}"), HostTensor::bytes(bytes));
        }
        for (name, bytes) in std::mem::take(&mut engine.explored) {
            tensors.insert(format!("explored/{name}"), HostTensor::bytes(bytes));
        }
        let changes = !self.architecture.kept.is_empty() || self.engine.has_gates();
        let architecture = changes.then(|| self.architecture.clone());
        (tensors, TraineeState { optimizer_steps, engine, architecture })
    }

    /// Restores what [`save`](Self::save) returned.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing or has another shape than the network's.
    pub fn restore(&mut self, tensors: Tensors, mut state: TraineeState) -> Result<()> {
        let device = self.device.clone().inner();
        if let Some(architecture) = state.architecture.take() {
            let graph = architecture.graph().map_err(anyhow::Error::msg).context("restoring the network")?;
            self.network = Network::new(&architecture, 0, &self.device).map_err(anyhow::Error::msg)?;
            self.engine.resume_at(graph);
            self.architecture = architecture;
            self.rebuild_replicas();
        }
        let mut sizes = BTreeMap::new();
        parameters::visit(&self.network, |info, values| {
            sizes.insert(info.name.clone(), values.dims()[0]);
        });
        let (mut weights, mut moments) = (Tensors::new(), BTreeMap::new());
        for (key, tensor) in tensors {
            if key == LOSS_SCALE {
                let state = tensor.as_f32()?.try_into().context("the tensor loss_scale has not three numbers")?;
                self.loss_scale = self.loss_scale.is_some().then(|| LossScale::restored(state, &device));
            } else if let Some(layer) = key.strip_prefix("mask/") {
                state.engine.masks.insert(layer.to_string(), tensor.as_bytes()?.to_vec());
            } else if let Some(layer) = key.strip_prefix("explored/") {
                state.engine.explored.insert(layer.to_string(), tensor.as_bytes()?.to_vec());
            } else if let Some(name) = key.strip_prefix("first/").or_else(|| key.strip_prefix("second/")) {
                let values = tensor.as_f32()?.to_vec();
                ensure!(
                    sizes.get(name) == Some(&values.len()),
                    "the moments {key} do not belong to a parameter of the network"
                );
                moments.insert(key, parameters::to_device(values, &device));
            } else {
                weights.insert(key, tensor);
            }
        }
        self.network = load_network(self.network.clone(), weights, &device)?;
        self.optimizer.restore(state.optimizer_steps, moments);
        self.engine.load(state.engine).map_err(anyhow::Error::msg).context("restoring the scheduler")?;
        self.place_masks();
        self.factors.clear();
        self.mask_anew();
        Ok(())
    }
}

/// Reads every parameter of a network, running statistics included, to the host.
pub fn network_tensors(network: &Network) -> Tensors {
    let mut tensors = Tensors::new();
    parameters::visit(network, |info, values| {
        let values = Values::F32(parameters::to_host(values));
        tensors.insert(info.name.clone(), HostTensor { shape: info.shape.clone(), values });
    });
    tensors
}

/// Replaces every parameter of a network by the tensor of its name; `device` is the network's, without autodiff.
///
/// burn's clones share running statistics, so a clone of the network passed in sees the new ones.
///
/// # Errors
///
/// Names the first tensor that is missing, left over or of another shape than the network's.
pub fn load_network(network: Network, mut tensors: Tensors, device: &Device) -> Result<Network> {
    let mut problem = None;
    let network = parameters::map(network, |info, _| {
        let found = tensors.remove(&info.name);
        let values = match found {
            Some(HostTensor { shape, values: Values::F32(values) }) if shape == info.shape => values,
            Some(other) => {
                problem.get_or_insert(format!(
                    "the tensor {} has shape {:?}, but the network needs f32 of shape {:?}",
                    info.name, other.shape, info.shape
                ));
                return None;
            }
            None => {
                problem.get_or_insert(format!("the tensor {} is missing", info.name));
                return None;
            }
        };
        Some(parameters::to_device(values, device))
    });
    if let Some(problem) = problem {
        bail!(problem);
    }
    let extra = tensors.keys().next();
    ensure!(extra.is_none(), "the tensor {} belongs to no parameter of the network", extra.unwrap());
    Ok(network)
}

/// Puts a range of a batch's records on a device: images `[N, C, H, W]` and labels `[N]`.
pub fn tensors(batch: &Batch, range: std::ops::Range<usize>, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let [_, channels, height, width] = batch.shape;
    let size = channels * height * width;
    let images = batch.images[range.start * size..range.end * size].to_vec();
    let labels = batch.labels[range.clone()].to_vec();
    let images = TensorData::new(images, [range.len(), channels, height, width]);
    let labels = TensorData::new(labels, [range.len()]);
    (Tensor::from_data(images, device), Tensor::from_data(labels, device))
}

fn mask_tensor(layer: &LayerSpec, mask: &Mask, device: &Device) -> Tensor<1> {
    let rows: Vec<f32> = mask.iter().map(|kept| if kept { 1.0 } else { 0.0 }).collect();
    parameters::to_device(parameters::to_storage(layer, &rows), device)
}
