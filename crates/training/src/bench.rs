//! Times training steps of an experiment's network: forward and backward, the optimizer with and without masks, events.
//!
//! Images are noise, since their content costs nothing; the data loader is left out, and timed apart. Every figure is a
//! median over steps, between two synchronisations of the device.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bonsai_data::{Batch, Images, Loader};
use bonsai_kernels::profile::{Profile, record};
use bonsai_pruning::clock::Clock;
use burn::tensor::Device;
use toml::Value;

use crate::experiment::Experiment;
use crate::meter::Meter;
use crate::setup::trainee;

/// Steps before the first timed one, which compile kernels and fill caches.
pub(crate) const WARM_UP: usize = 3;

/// Times of one network's steps, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    /// The share of prunable weights that is removed.
    pub sparsity: f64,
    /// The median of forward, loss and backward.
    pub forward_backward: f64,
    /// The median of the optimizer step, masking included.
    pub optimizer: f64,
    /// Whole steps, in the order in which they were taken.
    pub steps: Vec<f64>,
    /// The median of a mask event, if the scheduler has any.
    pub event: Option<f64>,
    /// Images in a step.
    pub batch_size: usize,
    /// Where the time of as many more steps went, taken in turn with the others, if asked for.
    pub profiles: Vec<Profile>,
}

impl StepTimes {
    /// The median of a whole step.
    pub fn total(&self) -> f64 {
        median(&self.steps)
    }

    /// Images trained in a second.
    pub fn images_per_second(&self) -> f64 {
        1000.0 * self.batch_size as f64 / self.total()
    }
}

/// Replaces the scheduler by masks that never change: spread by ERK, or none at sparsity 0.
pub fn at_sparsity(mut experiment: Experiment, sparsity: f64) -> Experiment {
    // What every scheduler takes stays as it is.
    experiment.scheduler.retain(|key, _| ["exclude", "floor"].contains(&key));
    let own: &[(&str, Value)] = match sparsity {
        0.0 => &[("name", "dense".into())],
        _ => &[("name", "static".into()), ("sparsity", sparsity.into()), ("allocation", "erk".into())],
    };
    experiment.scheduler.extend(own.iter().map(|(key, value)| (key.to_string(), value.clone())));
    experiment
}

/// Times `steps` training steps of an experiment's network with the masks that its schedule ends at, and if `profiled`
/// looks where the time of as many more goes, taken in turn with them.
///
/// # Errors
///
/// A sentence if the experiment cannot be built.
pub fn step_times(experiment: &Experiment, device: &Device, steps: usize, profiled: bool) -> Result<StepTimes> {
    let mut trainee = trainee(experiment, experiment.records(), device)?;
    trainee.begin();
    let batch = noise(experiment);
    let mut meter = Meter::default();
    let horizon = experiment.horizon(experiment.records());
    let clock = |iteration| Clock { iteration, horizon, lr: 1e-6 };

    let schedule: Vec<_> =
        (1..=horizon.total()).filter_map(|i| trainee.engine.due(&clock(i)).map(|event| (i, event))).collect();
    let last = schedule.iter().rev().find(|(_, event)| event.removes()).or(schedule.last());
    let (mut forward_backward, mut optimizer, mut events) = (Vec::new(), Vec::new(), Vec::new());
    let mut profiles = Vec::new();
    // More than the warm-up where kernels are still being chosen.
    let mut settling = 0;
    let mut step = 0;
    while step < WARM_UP + settling + steps {
        let began = synced(device)?;
        let gradients = trainee.gradients(&batch, false, &mut meter);
        let middle = synced(device)?;
        let dense = (step < WARM_UP).then(|| gradients.clone());
        let now = clock(last.map_or(1, |(iteration, _)| *iteration));
        trainee.step(gradients, &now);
        let end = synced(device)?;
        step += 1;
        if step > WARM_UP && trainee.sparsity().is_choosing() {
            settling += 1;
        } else if step > WARM_UP {
            forward_backward.push(milliseconds(began, middle));
            optimizer.push(milliseconds(middle, end));
        } else if let Some((iteration, event)) = last {
            trainee.event(&clock(*iteration), event, dense.as_ref());
            events.push(milliseconds(end, synced(device)?));
        }
        if step > WARM_UP + settling && profiled {
            let step = || {
                let gradients = trainee.gradients(&batch, false, &mut meter);
                trainee.step(gradients, &now);
            };
            profiles.push(record(step).1);
        }
    }
    Ok(StepTimes {
        sparsity: trainee.engine.sparsity(),
        forward_backward: median(&forward_backward),
        optimizer: median(&optimizer),
        steps: forward_backward.iter().zip(&optimizer).map(|(pass, update)| pass + update).collect(),
        event: (!events.is_empty()).then(|| median(&events)),
        batch_size: experiment.batch_size,
        profiles,
    })
}

/// Returns the sum of those profiles that took no longer than the median, and how many they are.
pub fn calm_half(mut profiles: Vec<Profile>) -> Option<(Profile, usize)> {
    profiles.sort_by_key(|profile| profile.wall);
    profiles.truncate(profiles.len().div_ceil(2));
    let count = profiles.len();
    Profile::sum(profiles).map(|sum| (sum, count))
}

/// Returns the milliseconds that a thread of the loader takes to prepare a training batch of an experiment.
pub fn batch_preparation(experiment: &Experiment) -> f64 {
    const BATCHES: usize = 12;
    let info = experiment.data.info();
    let records = BATCHES * experiment.batch_size;
    let pixels = records * info.shape.iter().product::<usize>();
    let images = Images {
        pixels: (0..pixels as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
        labels: vec![0; records],
        shape: info.shape,
        classes: info.classes,
    };
    let augmentation = experiment.augmentation();
    let loader = Loader::new(Arc::new(images), experiment.batch_size, info.mean, info.std, augmentation, 0, 1);
    let began = Instant::now();
    let prepared = loader.epoch(0, 0).count();
    milliseconds(began, Instant::now()) / prepared as f64
}

pub(crate) fn noise(experiment: &Experiment) -> Batch {
    let [channels, height, width] = experiment.data.info().shape;
    let records = experiment.batch_size;
    let size = records * channels * height * width;
    Batch {
        images: (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect(),
        labels: (0..records).map(|i| (i % experiment.data.info().classes) as i32).collect(),
        shape: [records, channels, height, width],
        ..Batch::default()
    }
}

pub(crate) fn synced(device: &Device) -> Result<Instant> {
    device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
    Ok(Instant::now())
}

pub(crate) fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1000.0
}

/// Gives the middle value, or the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_ones() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[8.0, 1.0, 2.0, 4.0]), 3.0);
    }

    #[test]
    fn a_sparsity_replaces_the_scheduler_but_not_what_it_spares() {
        let text = include_str!("../../../experiments/cifar10-vit-gmp.toml");
        let experiment = Experiment::from_toml(text, "vit").unwrap();
        let sparse = at_sparsity(experiment.clone(), 0.5);
        sparse.check().unwrap();
        let expected = "floor = 0.02\nname = 'static'\nsparsity = 0.5\nallocation = 'erk'";
        assert_eq!(sparse.scheduler, expected.parse().unwrap());
        let dense = at_sparsity(experiment, 0.0);
        dense.check().unwrap();
        assert_eq!(dense.scheduler_name(), "dense");
    }
}
