//! Says what a run is made of, and builds it: data, network, engine, optimizer, learning rate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use bonsai_data::{Loader, Source};
use bonsai_models::layers::is_of_gate;
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_pruning::graph::LayerSpec;
use bonsai_pruning::mask::Mask;
use burn::tensor::Device;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::Mistake;
use crate::dashboard::View;
use crate::evaluate;
use crate::experiment::Experiment;
use crate::lr::LearningRate;
use crate::optimizer::Optimizer;
use crate::resident::Resident;
use crate::tensors::hex;
use crate::trainee::{StepOptions, Trainee};
use crate::{parameters, recalibrate, snapshot};

/// Everything that `train` is told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The name of the experiment that was asked for; another than the experiment's where its data is absent.
    pub asked: String,
    /// What to train; resolved and checked.
    pub experiment: Experiment,
    /// Where the images come from.
    pub source: Source,
    /// The run folder.
    pub folder: PathBuf,
    /// Whether the run in the folder goes on.
    pub resume: bool,
    /// Where the network runs.
    pub device: Device,
    /// Further devices of the same kind, each of which computes a part of every batch.
    pub replicas: Vec<Device>,
    /// What the device is called in the records, for example `cpu`.
    pub device_name: String,
    /// Whether reading a number from the device costs next to nothing, as on a CPU.
    pub cheap_reads: bool,
    /// How the run is shown.
    pub view: View,
    /// Validate and test on the first records only.
    pub limit_test: Option<usize>,
    /// Set from outside to stop after the iteration under way.
    pub stop: Arc<AtomicBool>,
    /// Threads that prepare batches.
    pub workers: usize,
}

/// What a run trains with, ready to go.
pub struct Parts {
    /// Shuffled, augmented training batches.
    pub train: Loader,
    /// The validation split.
    pub valid: Loader,
    /// The training images as they are, for statistics of batch normalisation.
    pub calibration: Loader,
    /// The network, its masks and the optimizer.
    pub trainee: Trainee,
    /// The learning rate of every iteration.
    pub lr: LearningRate,
    /// The length of the run.
    pub horizon: Horizon,
    /// Learnable parameters of the dense network.
    pub parameters: u64,
    /// Weights of all convolution and linear layers, those excluded from pruning included.
    pub weights: u64,
}

impl Setup {
    /// Reads the data and builds the network, without training anything.
    ///
    /// # Errors
    ///
    /// Says what in the experiment or in the data set is wrong.
    pub fn build(&self) -> Result<Parts> {
        let experiment = &self.experiment;
        let info = self.source.set().info();
        let images = self.source.train().context("reading the training split")?;
        let (mut train, mut valid) = images.split_validation(info.validation);
        if let Some(records) = experiment.train_records {
            ensure!(
                records <= train.len(),
                "train_records = {records}, but {} has {} training records besides its validation split: lower it",
                info.name,
                train.len()
            );
            train.truncate(records);
        }
        if let Some(limit) = self.limit_test {
            valid.truncate(limit);
        }
        let train = Arc::new(train);
        let calibration = recalibrate::loader(train.clone(), info.mean, info.std, self.workers);
        let mut train = Loader::new(
            train,
            experiment.batch_size,
            info.mean,
            info.std,
            experiment.augmentation(),
            experiment.seed,
            self.workers,
        );
        let valid = evaluate::loader(valid, info.mean, info.std, self.workers);

        let graph = experiment.architecture().full().graph().map_err(anyhow::Error::msg)?;
        let horizon = experiment.horizon(train.records());
        let mut trainee = trainee(experiment, train.records(), &self.device)?;
        trainee.replicate(&self.replicas);
        if !self.cheap_reads {
            let devices = std::iter::once(&self.device).chain(&self.replicas);
            let residents = devices.map(|on| Resident::new(train.images(), train.values(), &on.clone().autodiff()));
            match residents.collect::<Result<Vec<Resident>, String>>() {
                Ok(residents) => {
                    info!("the training images stay on the device: {} MB of bytes", residents[0].megabytes());
                    train = train.without_pixels();
                    trainee.keep_images(residents);
                }
                Err(why) => info!("the training images are sent to the device batch by batch: {why}"),
            }
        }
        Ok(Parts {
            train,
            valid,
            calibration,
            trainee,
            lr: experiment.learning_rate(horizon),
            horizon,
            parameters: graph.parameters,
            weights: graph.weights() as u64,
        })
    }
}

impl Setup {
    /// Reads the masks of the run that a baseline takes them from, one for each prunable layer; `None` where it takes none.
    ///
    /// # Errors
    ///
    /// Says that the run's network is gone, is another one by now or does not fit.
    pub fn given_masks(&self, trainee: &Trainee) -> Result<Option<Vec<Mask>>> {
        let Some(baseline) = &self.experiment.baseline else { return Ok(None) };
        let Some(model) = &baseline.model else { return Ok(None) };
        ensure!(
            model.is_file(),
            Mistake(format!(
                "the masks of {} are those of {}, but there is no file {}: bring the run's model.safetensors back, or name \
                 where it is by baseline.model in the experiment",
                self.experiment.name,
                baseline.of,
                model.display()
            ))
        );
        let same = digest(model)? == baseline.sha256;
        ensure!(
            same,
            Mistake(format!(
                "{} is not the network any more that {} was to begin with: start anew with --out",
                model.display(),
                self.experiment.name
            ))
        );
        let stored = snapshot::read(model)?.masks;
        let layers = trainee.engine.layers().iter();
        layers.map(|layer| given_mask(layer, &stored)).collect::<Result<Vec<Mask>>>().map(Some)
    }
}

/// Returns the mask of a layer as rows of units, from masks as they are stored.
pub(crate) fn given_mask(layer: &LayerSpec, stored: &BTreeMap<String, Mask>) -> Result<Mask> {
    let Some(mask) = stored.get(&layer.name) else { return Ok(Mask::dense(layer.weights())) };
    ensure!(
        mask.len() == layer.weights(),
        "the mask of {} is for {} weights of {}",
        layer.name,
        mask.len(),
        layer.weights()
    );
    Ok(Mask::from_bools(parameters::to_rows(layer, &mask.iter().collect::<Vec<bool>>())))
}

/// Returns the SHA-256 of a file.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// Builds the network of an experiment that trains on `train_records` records, its engine and its optimizer.
///
/// # Errors
///
/// Says what in the experiment is wrong.
pub fn trainee(experiment: &Experiment, train_records: usize, device: &Device) -> Result<Trainee> {
    experiment.precision.check(device).map_err(Mistake)?;
    let engine = experiment.engine(train_records).map_err(anyhow::Error::msg)?;
    let architecture = experiment.architecture();
    let layers = architecture.graph().map_err(anyhow::Error::msg)?.layers;
    let matrices: BTreeSet<String> = layers.into_iter().map(|layer| layer.name).collect();
    let settings = &experiment.optimizer;
    let options = StepOptions {
        label_smoothing: settings.label_smoothing,
        clip_norm: settings.clip_norm,
        accumulate: settings.accumulate,
        decayed: BTreeSet::new(),
        precision: experiment.precision,
    };
    let optimizer = Optimizer::new(experiment.rule(), settings.weight_decay);
    let device = device.clone().autodiff();
    let mut trainee = Trainee::new(architecture, experiment.seed, engine, optimizer, options, device)?;
    let mut decayed = BTreeSet::new();
    crate::parameters::visit(&trainee.network, |info, _| {
        let decays = experiment.decays_all() || matrices.contains(&info.name);
        if info.trainable && decays && !is_of_gate(&info.name) {
            decayed.insert(info.name.clone());
        }
    });
    trainee.options_mut().decayed = decayed;
    Ok(trainee)
}

impl Parts {
    /// The clock of an iteration, counted from 1.
    pub fn clock(&self, iteration: u64) -> Clock {
        Clock { iteration, horizon: self.horizon, lr: self.lr.at(iteration.saturating_sub(1)) }
    }

    /// The iteration of the last event that removes weights; 0 if the first masks are all there is.
    pub fn last_pruning(&self) -> u64 {
        let prunes =
            |iteration: &u64| self.trainee.engine.due(&self.clock(*iteration)).is_some_and(|event| event.removes());
        (1..=self.horizon.total()).rev().find(prunes).unwrap_or(0)
    }
}
