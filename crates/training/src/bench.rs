//! Times training steps of an experiment's network: forward and backward, the optimizer with and without masks, events.
//!
//! Images are noise, since their content costs nothing; the data loader is left out. Every figure is a median over
//! steps, between two synchronisations of the device.

use std::time::Instant;

use anyhow::Result;
use bonsai_data::Batch;
use bonsai_pruning::clock::Clock;
use burn::tensor::Device;

use crate::experiment::Experiment;
use crate::meter::Meter;
use crate::setup::trainee;

/// Medians of one network, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTimes {
    /// The share of prunable weights that is removed.
    pub sparsity: f64,
    /// Forward, loss and backward.
    pub forward_backward: f64,
    /// The optimizer step, masking included.
    pub optimizer: f64,
    /// One mask event, if the scheduler has any.
    pub event: Option<f64>,
    /// Images in a step.
    pub batch_size: usize,
}

impl StepTimes {
    /// Milliseconds of a whole step.
    pub fn total(&self) -> f64 {
        self.forward_backward + self.optimizer
    }

    /// Images trained in a second.
    pub fn images_per_second(&self) -> f64 {
        1000.0 * self.batch_size as f64 / self.total()
    }
}

/// Times `steps` training steps of an experiment's network with the masks that its schedule ends at.
///
/// # Errors
///
/// A sentence if the experiment cannot be built.
pub fn step_times(experiment: &Experiment, device: &Device, steps: usize) -> Result<StepTimes> {
    let mut trainee = trainee(experiment, experiment.records(), device)?;
    trainee.begin();
    let batch = noise(experiment);
    let mut meter = Meter::default();
    let horizon = experiment.horizon(experiment.records());
    let clock = |iteration| Clock { iteration, horizon, lr: 1e-6 };

    let (mut forward_backward, mut optimizer, mut events) = (Vec::new(), Vec::new(), Vec::new());
    let schedule: Vec<_> =
        (1..=horizon.total()).filter_map(|i| trainee.engine.due(&clock(i)).map(|event| (i, event))).collect();
    let last = schedule.iter().rev().find(|(_, event)| event.sparsity.is_some()).or(schedule.last());
    // The first steps compile kernels and fill caches.
    for step in 0..steps + 2 {
        let began = synced(device)?;
        let gradients = trainee.gradients(&batch, false, &mut meter);
        let middle = synced(device)?;
        if let Some((iteration, event)) = last
            && step < 3
        {
            trainee.event(&clock(*iteration), event, Some(&gradients));
            events.push(milliseconds(middle, synced(device)?));
        }
        let before_step = synced(device)?;
        trainee.step(gradients, 1e-6);
        if step >= 2 {
            forward_backward.push(milliseconds(began, middle));
            optimizer.push(milliseconds(before_step, synced(device)?));
        }
    }
    Ok(StepTimes {
        sparsity: trainee.engine.sparsity(),
        forward_backward: median(&mut forward_backward),
        optimizer: median(&mut optimizer),
        event: (!events.is_empty()).then(|| median(&mut events)),
        batch_size: experiment.batch_size,
    })
}

fn noise(experiment: &Experiment) -> Batch {
    let [channels, height, width] = experiment.data.info().shape;
    let records = experiment.batch_size;
    let size = records * channels * height * width;
    Batch {
        images: (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect(),
        labels: (0..records).map(|i| (i % experiment.data.info().classes) as i32).collect(),
        shape: [records, channels, height, width],
        records: (0..records as u32).collect(),
    }
}

fn synced(device: &Device) -> Result<Instant> {
    device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
    Ok(Instant::now())
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
