//! The receipt of a finished run: what its network costs on this machine, dense, masked, and as it was trained.
//!
//! The networks take turns, so that what disturbs the machine disturbs all of them; a figure is a median. Images are
//! noise, since their content costs nothing.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bonsai_kernels::Kernels;
use bonsai_pruning::clock::Clock;
use bonsai_pruning::layer_mask;
use bonsai_pruning::mask::Mask;
use burn::module::Module;
use burn::tensor::Device;

use crate::bench::{median, milliseconds, noise, synced};
use crate::experiment::Experiment;
use crate::meter::Meter;
use crate::parameters::to_host;
use crate::records::{ReceiptRow, csv_rows};
use crate::run_folder::{RunPaths, write_atomic};
use crate::setup::{given_mask, trainee};
use crate::snapshot::{self, Snapshot};
use crate::trainee::{Trainee, tensors};

/// Steps before the first timed one.
const WARM_UP: usize = 2;
/// The most steps for which sparse kernels may choose.
const SETTLING: usize = 16;
/// MACs of a training step that a batch is cut down to, so that a receipt takes seconds.
const STEP_MACS: u64 = 20_000_000_000;
/// Images that kernels take at once.
const BLOCK: u64 = 16;

/// A form of the network, and the times measured so far.
struct Form {
    name: &'static str,
    trainee: Trainee,
    bytes: u64,
    forward: Vec<f64>,
    step: Vec<f64>,
}

/// Measures the network of a finished run, every figure `repeats` times, and writes `receipt.csv` into its folder.
///
/// # Errors
///
/// Says what of the run cannot be read, or that the device failed.
pub fn measure(run: &RunPaths, device: &Device, repeats: usize) -> Result<Vec<ReceiptRow>> {
    let text = std::fs::read_to_string(run.config());
    let text = text.with_context(|| format!("{} cannot be read", run.config().display()))?;
    let experiment =
        Experiment::from_config(&text).map_err(|message| anyhow::anyhow!("{}: {message}", run.path().display()))?;
    let rows = rows(&experiment, snapshot::read(&run.model())?, device, repeats)?;
    write(&run.receipt(), &rows)?;
    Ok(rows)
}

fn write(path: &Path, rows: &[ReceiptRow]) -> Result<()> {
    write_atomic(path, &csv_rows(rows, true)?)
}

fn rows(experiment: &Experiment, network: Snapshot, device: &Device, repeats: usize) -> Result<Vec<ReceiptRow>> {
    let mut experiment = experiment.clone();
    let full = network.header.architecture.full();
    let macs = full.graph().map_err(anyhow::Error::msg)?.macs();
    let room = STEP_MACS / (3 * macs.max(1)) / BLOCK * BLOCK;
    experiment.batch_size = experiment.batch_size.min(room.max(BLOCK) as usize);
    experiment.optimizer.accumulate = experiment.optimizer.accumulate.min(experiment.batch_size);

    let mut forms = forms(&experiment, &network, device)?;
    let batch = noise(&experiment);
    let horizon = experiment.horizon(experiment.records());
    let clock = Clock { iteration: 1, horizon, lr: 1e-6 };
    for form in &mut forms {
        let mut steps = 0;
        while steps < WARM_UP || (steps < SETTLING && form.trainee.sparsity().is_choosing()) {
            step(&mut form.trainee, &batch, &clock);
            steps += 1;
        }
        forward(&form.trainee, &batch, device);
    }
    for _ in 0..repeats.max(1) {
        for form in &mut forms {
            let began = synced(device)?;
            forward(&form.trainee, &batch, device);
            let middle = synced(device)?;
            step(&mut form.trainee, &batch, &clock);
            let end = synced(device)?;
            form.forward.push(milliseconds(began, middle));
            form.step.push(milliseconds(middle, end));
        }
    }
    let dense = [median(&forms[0].forward), median(&forms[0].step)];
    Ok(forms.iter().map(|form| row(form, dense, macs, experiment.batch_size as u64)).collect())
}

/// Builds the dense network, the masked one, and the one that the run has ended with where that is another.
fn forms(experiment: &Experiment, network: &Snapshot, device: &Device) -> Result<Vec<Form>> {
    let Snapshot { header, masks, .. } = network;
    let build = |kept| trainee(&experiment.on_shape(kept), experiment.records(), device);
    let bytes = |trainee: &Trainee| -> Result<u64> {
        let mut header = header.clone();
        header.architecture = trainee.architecture().clone();
        let masks = trainee.stored_masks().into_iter().filter(|(_, mask)| mask.kept() < mask.len()).collect();
        Ok(snapshot::to_bytes(&trainee.weights(), &masks, &header)?.len() as u64)
    };
    let form = |name, trainee: Trainee| -> Result<Form> {
        let bytes = bytes(&trainee)?;
        Ok(Form { name, trainee, bytes, forward: Vec::new(), step: Vec::new() })
    };
    let mut forms = vec![form("dense", build(Default::default())?)?];
    let removed = masks.values().any(|mask| mask.kept() < mask.len());
    let kept = &header.architecture.kept;
    if removed || !kept.is_empty() {
        let mut masked = build(Default::default())?;
        let layers = masked.engine.layers().iter();
        let flags: Vec<Mask> = if kept.is_empty() {
            layers.map(|layer| given_mask(layer, masks)).collect::<Result<_>>()?
        } else {
            let channels = header.architecture.full_channels().map_err(anyhow::Error::msg)?;
            let units = |units: usize, name: &str| match kept.get(name) {
                Some(kept) => Mask::from_bools((0..units).map(|unit| kept.binary_search(&unit).is_ok()).collect()),
                None => Mask::dense(units),
            };
            let units: Vec<Mask> = channels.groups.iter().map(|group| units(group.units, &group.name)).collect();
            let places = channels.places(&units);
            layers.map(|layer| layer_mask(layer, &places)).collect()
        };
        masked.set_masks(flags)?;
        masked.use_dense_kernels();
        forms.push(form("masked", masked)?);

        let mut last = build(kept.clone())?;
        if removed {
            let flags = last.engine.layers().iter().map(|layer| given_mask(layer, masks));
            let flags = flags.collect::<Result<Vec<Mask>>>()?;
            last.set_masks(flags)?;
        }
        ensure!(last.architecture() == &header.architecture, "the run's network cannot be built again");
        let name = if kept.is_empty() { "sparse" } else { "compact" };
        let mut last = form(name, last)?;
        if removed {
            last.bytes = snapshot::to_packed_bytes(network)?.len() as u64;
        }
        forms.push(last);
    }
    Ok(forms)
}

fn step(trainee: &mut Trainee, batch: &bonsai_data::Batch, clock: &Clock) {
    let gradients = trainee.gradients(batch, false, &mut Meter::default());
    trainee.step(gradients, clock);
}

fn forward(trainee: &Trainee, batch: &bonsai_data::Batch, device: &Device) {
    let (images, _) = tensors(batch, 0..batch.labels.len(), &device.clone().inner());
    // Reading the logits ends the pass on a device that is told first and computes later.
    let logits = trainee.network.valid().forward_sparse(images, trainee.sparsity());
    let [records, classes] = logits.dims();
    to_host(logits.reshape([records * classes]));
}

fn row(form: &Form, [dense_forward, dense_step]: [f64; 2], dense_macs: u64, images: u64) -> ReceiptRow {
    let (forward_ms, step_ms) = (median(&form.forward), median(&form.step));
    let engine = &form.trainee.engine;
    let row = ReceiptRow {
        network: form.name.to_string(),
        macs: engine.macs(),
        parameters: engine.parameters(),
        bytes: form.bytes,
        images,
        forward_ms,
        step_ms,
        forward_speedup: dense_forward / forward_ms,
        step_speedup: dense_step / step_ms,
        why: String::new(),
    };
    ReceiptRow { why: why(form, &row, dense_macs), ..row }
}

/// Says why a form of the network is no faster, or not as much as its MACs are fewer; empty for the dense one.
fn why(form: &Form, row: &ReceiptRow, dense_macs: u64) -> String {
    let fewer = dense_macs as f64 / row.macs.max(1) as f64;
    let slower = if row.step_speedup < 1.05 { "no faster" } else { "less than its MACs" };
    let rest = "normalisation, activations and the optimizer cost as much for a kept weight as for any";
    match form.name {
        "masked" => "no faster by design: dense kernels multiply the zeros".to_string(),
        "sparse" if row.step_speedup >= 0.8 * fewer => String::new(),
        "sparse" => match form.trainee.choices() {
            None if form.trainee.sparsity().is_choosing() => "its kernels were still being chosen".to_string(),
            None => format!("{slower}: {rest}, and only the CPU kernels leave zeros out"),
            Some(choices) => {
                let sparse = choices.iter().filter(|(_, choices)| choices.forward.kernels == Kernels::Sparse).count();
                let all = choices.len();
                format!("{slower}: sparse kernels won in {sparse} of {all} convolutions, and {rest}")
            }
        },
        "compact" if row.step_speedup < 0.8 * fewer => {
            format!("{slower} ({fewer:.1} times fewer): narrow layers fill the kernels less, and {rest}")
        }
        _ => String::new(),
    }
}
