//! Measures loss and accuracy of a network on images it is not trained on. The test split is read here and nowhere else.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bonsai_data::{Images, Loader, Source};
use bonsai_models::{Network, Sparsity};
use bonsai_pruning::GateMeans;
use burn::module::Module;
use burn::tensor::Device;

use crate::loss::cross_entropy;
use crate::meter::{Meter, Totals};
use crate::parameters::to_host;
use crate::recalibrate;
use crate::snapshot;
use crate::trainee::{load_network, tensors};

/// Records in one batch of an evaluation; small enough for a laptop, and part of no result.
const BATCH: usize = 250;

/// Returns the totals of `network` over all images of a loader, in evaluation mode; `sparsity` only makes it faster.
pub fn evaluate(network: &Network, sparsity: &Sparsity, loader: &Loader) -> Totals {
    let network = network.valid();
    let device = network.devices().into_iter().next().expect("a network has parameters").inner();
    let mut meter = Meter::default();
    for batch in loader.in_order() {
        let (images, labels) = tensors(&batch, 0..batch.labels.len(), &device);
        let logits = network.forward_sparse(images, sparsity);
        meter.add(cross_entropy(logits.clone(), labels.clone(), 0.0), logits, labels);
    }
    meter.read();
    meter.totals()
}

/// Returns the gates of `network` over all images of a loader, in evaluation mode and as they are; none where it has none.
pub fn gates(network: &Network, loader: &Loader) -> Vec<GateMeans> {
    let network = network.valid();
    let device = network.devices().into_iter().next().expect("a network has parameters").inner();
    let mut sums: Vec<[Vec<f64>; 2]> = Vec::new();
    let mut count = 0;
    for batch in loader.in_order() {
        let (images, _) = tensors(&batch, 0..batch.labels.len(), &device);
        let (_, gates) = network.forward_gated(images, &Sparsity::default());
        count += batch.labels.len();
        sums.resize_with(gates.len(), Default::default);
        for (sums, gates) in sums.iter_mut().zip(gates) {
            for (sums, values) in sums.iter_mut().zip([gates.open, gates.probability]) {
                let channels = values.dims()[1];
                sums.resize(channels, 0.0);
                let of_batch = to_host(values.sum_dim(0).reshape([channels]));
                sums.iter_mut().zip(of_batch).for_each(|(sum, value)| *sum += f64::from(value));
            }
        }
    }
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / count as f64) as f32).collect();
    sums.into_iter().map(|[open, probability]| GateMeans::new(mean(open), mean(probability))).collect()
}

/// Makes the loader of an evaluation: in order, not augmented.
pub fn loader(images: Images, mean: &[f32], std: &[f32], workers: usize) -> Loader {
    Loader::new(Arc::new(images), BATCH, mean, std, None, 0, workers)
}

/// Evaluates networks on the test split, or on its first `limit` records; the split is read once for all of them.
///
/// `mean` and `std` are those that the networks were trained with.
///
/// # Errors
///
/// Says which file of the data set cannot be read.
pub fn test(
    networks: &[&Network],
    source: &Source,
    (mean, std): (&[f32], &[f32]),
    limit: Option<usize>,
    workers: usize,
) -> Result<Vec<Totals>> {
    let mut images = source.test().context("reading the test split")?;
    if let Some(limit) = limit {
        images.truncate(limit);
    }
    let loader = loader(images, mean, std, workers);
    Ok(networks.iter().map(|network| evaluate(network, &Sparsity::default(), &loader)).collect())
}

/// How a stored network does on the test split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The mean cross-entropy.
    pub loss: f64,
    /// The share of records whose label was predicted.
    pub accuracy: f64,
    /// Records evaluated.
    pub records: u64,
    /// The share of prunable weights that is removed.
    pub sparsity: f64,
}

/// Rebuilds the network in a `model.safetensors` and evaluates it on the test split; with `recalibrate` after its statistics
/// of batch normalisation were recomputed over so many batches of the training split.
///
/// # Errors
///
/// Says what is wrong with the file, or that it does not fit the data set; a network without batch normalisation has no
/// statistics.
pub fn evaluate_snapshot(
    path: &Path,
    source: &Source,
    device: &Device,
    limit: Option<usize>,
    recalibrate: Option<usize>,
    workers: usize,
) -> Result<Evaluation> {
    let snapshot = snapshot::read(path)?;
    let (architecture, info) = (&snapshot.header.architecture, source.set().info());
    ensure!(
        architecture.input == info.shape && architecture.classes == info.classes,
        "{} was trained on images {:?} of {} classes, but {} has images {:?} of {} classes: choose its own data set, {}",
        path.display(),
        architecture.input,
        architecture.classes,
        info.name,
        info.shape,
        info.classes,
        snapshot.header.data,
    );
    let device = device.clone().inner();
    let network = Network::new(architecture, 0, &device).map_err(anyhow::Error::msg)?;
    let network =
        load_network(network, snapshot.weights, &device).with_context(|| format!("loading {}", path.display()))?;
    let normalisation = (&snapshot.header.mean[..], &snapshot.header.std[..]);
    let network = match recalibrate {
        None => network,
        Some(batches) => {
            let images = source.train().context("reading the training split")?;
            let (training, _) = images.split_validation(info.validation);
            let training = recalibrate::loader(Arc::new(training), normalisation.0, normalisation.1, workers);
            recalibrate::recalibrated(&network, architecture, &training, batches, &device)?
        }
    };
    let totals = test(&[&network], source, normalisation, limit, workers)?[0];
    Ok(Evaluation {
        loss: totals.mean_loss(),
        accuracy: totals.accuracy(),
        records: totals.records,
        sparsity: snapshot.header.sparsity,
    })
}
