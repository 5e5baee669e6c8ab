//! Recomputes the running statistics of batch normalisation, for a network that was changed since they were taken.
//!
//! After Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018,
//! <https://arxiv.org/abs/1803.05407>, section 3.2: the network sees training images in training mode, and each mean and variance
//! becomes the average of those of the batches, weighted by their images, the variance unbiased. PyTorch's
//! `torch.optim.swa_utils.update_bn` does the same with batches of one size.
//!
//! The images are of the training split, never of validation or test, and as they are: validation and test images are not
//! augmented either. They come in an order that depends on nothing but their number, in batches of 250. No weight changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use bonsai_data::{Images, Loader};
use bonsai_models::layers::NORM_MOMENTUM;
use bonsai_models::{Architecture, Network};
use bonsai_pruning::graph::Op;
use burn::tensor::Device;

use crate::Mistake;
use crate::parameters;
use crate::tensors::{HostTensor, Tensors, Values};
use crate::trainee::{load_network, network_tensors, tensors};

/// Images in a batch whose statistics are taken.
const BATCH: usize = 250;

/// Running means and variances by path, such as `stem_norm.running_mean`.
pub type Statistics = BTreeMap<String, Vec<f32>>;

/// Says whether there is something to recompute.
pub fn has_batch_norm(architecture: &Architecture) -> bool {
    let nodes = architecture.graph().map(|graph| graph.nodes);
    nodes.is_ok_and(|nodes| nodes.iter().any(|node| matches!(node.op, Op::BatchNorm { .. })))
}

/// Makes the loader of the batches; `mean` and `std` are those that the network was trained with.
pub fn loader(training: Arc<Images>, mean: &[f32], std: &[f32], workers: usize) -> Loader {
    Loader::new(training, BATCH, mean, std, None, 0, workers)
}

/// Returns a copy of `network` on `device` whose statistics are those of the first `batches` batches of `images`, or of all
/// if there are fewer; `network` stays as it is.
///
/// # Errors
///
/// A network without batch normalisation, and no image.
pub fn recalibrated(
    network: &Network,
    architecture: &Architecture,
    images: &Loader,
    batches: usize,
    device: &Device,
) -> Result<Network> {
    ensure!(
        has_batch_norm(architecture),
        Mistake(format!("{} has no batch normalisation: there are no statistics to recompute", architecture.name))
    );
    ensure!(images.records() > 0 && batches > 0, "statistics take one training image at least");
    let device = device.clone().inner();
    // A network of its own: clones share their running statistics.
    let copy = Network::new(architecture, 0, &device.clone().autodiff()).map_err(anyhow::Error::msg)?;
    let copy = load_network(copy, network_tensors(network), &device)?;
    let statistics = take(&copy, images, batches, &device);
    Ok(parameters::map(copy, |info, _| {
        statistics.get(&info.name).map(|values| parameters::to_device(values.clone(), &device))
    }))
}

/// Replaces statistics among a network's tensors by those of another network.
pub fn with_statistics_of(other: &Network, mut tensors: Tensors) -> Tensors {
    parameters::visit(other, |info, values| {
        if is_statistic(&info.name) && tensors.contains_key(&info.name) {
            let values = Values::F32(parameters::to_host(values));
            tensors.insert(info.name.clone(), HostTensor { shape: info.shape.clone(), values });
        }
    });
    tensors
}

fn is_statistic(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// Averages the statistics of batches; leaves those of the last one in `network`.
fn take(network: &Network, images: &Loader, batches: usize, device: &Device) -> Statistics {
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut seen = 0.0;
    for batch in images.epoch(0, 0).take(batches) {
        // From zero, a step of the running average leaves the batch's own statistics times the momentum.
        let network =
            parameters::map(network.clone(), |info, values| is_statistic(&info.name).then(|| values.zeros_like()));
        let records = batch.labels.len();
        let (images, _) = tensors(&batch, 0..records, &device.clone().autodiff());
        let _ = network.forward(images);
        seen += records as f64;
        parameters::visit(&network, |info, values| {
            if is_statistic(&info.name) {
                let values = parameters::to_host(values);
                let sums = sums.entry(info.name.clone()).or_insert_with(|| vec![0.0; values.len()]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += records as f64 * f64::from(value) / NORM_MOMENTUM;
                }
            }
        });
    }
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / seen) as f32).collect();
    sums.into_iter().map(|(name, sums)| (name, mean(sums))).collect()
}
