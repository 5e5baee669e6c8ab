//! Masks and gates that are learned: their slopes, and what a cut makes of them.

use bonsai_data::Batch;
use bonsai_models::layers::is_of_gate;
use bonsai_models::{Architecture, Network};
use bonsai_pruning::channels::{Channels, GroupKind, Role};
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::{GateMeans, LayerSpec, registry};
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::{Optimizer, Rule};
use bonsai_training::parameters::{self, to_device, to_host};
use bonsai_training::trainee::{StepOptions, Trainee};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::rand_core::Rng;

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };

fn trainee(scheduler: &str) -> Trainee {
    trainee_of(Architecture::new("resnet20", 10, [3, 8, 8]), scheduler)
}

fn trainee_of(architecture: Architecture, scheduler: &str) -> Trainee {
    let (scheduler, common) = registry::build(&scheduler.parse().unwrap(), HORIZON).unwrap();
    let options = Options { seed: 3, channels: common.channels, ..Options::default() };
    let engine = Engine::new(&architecture.graph().unwrap(), scheduler, options).unwrap();
    let options = StepOptions {
        label_smoothing: 0.0,
        clip_norm: None,
        accumulate: 1,
        precision: Default::default(),
        decayed: Default::default(),
    };
    let rule = Rule::Sgd { momentum: 0.9, nesterov: true };
    let device = Device::flex().autodiff();
    let mut trainee = Trainee::new(architecture, 3, engine, Optimizer::new(rule, 5e-4), options, device).unwrap();
    trainee.begin();
    trainee
}

fn batch(key: u64) -> Batch {
    let mut stream = bonsai_random::stream(0, "learned batch", key);
    Batch {
        images: (0..20 * 3 * 64).map(|_| stream.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect(),
        labels: (0..20).map(|i| i % 10).collect(),
        shape: [20, 3, 8, 8],
        ..Batch::default()
    }
}

fn train(trainee: &mut Trainee, iterations: std::ops::RangeInclusive<u64>) {
    for iteration in iterations {
        let gradients = trainee.gradients(&batch(iteration), false, &mut Meter::default());
        trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr: 0.01 });
    }
}

fn logits(network: &Network) -> Vec<f32> {
    let batch = batch(99);
    let images = Tensor::<4>::from_data(TensorData::new(batch.images, batch.shape), &Device::flex());
    to_host(network.valid().forward(images).reshape([200]))
}

fn assert_close(ours: &[f32], theirs: &[f32]) {
    let largest = theirs.iter().fold(1.0f32, |max, x| max.max(x.abs()));
    assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{ours:?} and {theirs:?}");
}

/// Multiplies the weights that read one channel.
fn scaled(network: &Network, layer: &LayerSpec, column: usize, factor: f32) -> Network {
    parameters::map(network.clone(), |info, values| {
        let stored = (info.name == layer.name).then(|| to_host(values))?;
        let mut rows = parameters::to_rows(layer, &stored);
        let kernel = layer.width() / layer.shape[1];
        for row in rows.chunks_exact_mut(layer.width()) {
            row[column * kernel..][..kernel].iter_mut().for_each(|weight| *weight *= factor);
        }
        Some(to_device(parameters::to_storage(layer, &rows), &Device::flex()))
    })
}

#[test]
fn the_slope_along_a_mask_is_that_of_finite_differences() {
    // The transformer has no kinks; those of rectifiers blur the differences of the convolutional network.
    for (name, step, tolerance) in [("vit-cifar", 0.25, 0.02), ("resnet20", 0.004, 0.15)] {
        let mut trainee = trainee_of(Architecture::new(name, 10, [3, 8, 8]), "name = 'dense'");
        train(&mut trainee, 1..=3);
        let whole = trainee.network.clone();
        let layers = trainee.engine.layers().to_vec();
        let channels = Channels::derive(trainee.engine.graph()).unwrap();
        let inner = channels.groups.iter().find(|group| group.kind == GroupKind::Inner).unwrap();
        let reader = inner.members.iter().find(|member| (member.role, member.axis) == (Role::Weight, 1)).unwrap();
        let at = layers.iter().position(|layer| layer.name == reader.parameter).unwrap();
        let mut loss = |network: Network| {
            trainee.network = network;
            let mut meter = Meter::default();
            let gradients = trainee.gradients(&batch(4), false, &mut meter);
            (meter.read().mean_loss(), parameters::column_slopes(&whole, &gradients, &layers)[at].clone())
        };
        let (_, slopes) = loss(whole.clone());
        let column = (0..slopes.len()).max_by(|a, b| slopes[*a].abs().total_cmp(&slopes[*b].abs())).unwrap();
        // A unit that is there, and one that is masked: its slope is what it would do if it came back.
        for mask in [1.0, 0.0] {
            let (_, slopes) = loss(scaled(&whole, &layers[at], column, mask));
            let [above, below] = [step, -step].map(|step| loss(scaled(&whole, &layers[at], column, mask + step)).0);
            let (slope, numeric) = (f64::from(slopes[column]), (above - below) / f64::from(2.0 * step));
            println!("{} {column} at {mask}: {slope:.6} and {numeric:.6}", layers[at].name);
            let difference = (slope - numeric).abs();
            assert!(difference <= 1e-4 + tolerance * numeric.abs(), "{name} at {mask}: {slope} and {numeric}");
        }
    }
}

#[test]
fn slopes_along_masks_are_those_that_autodiff_gives_for_gates() {
    // Gates that are the same for all images are masks; the gradient of their biases goes the long way through the network.
    let closed = |unit: usize| unit.is_multiple_of(3);
    let nothing = "macs = 0.5\nend_epoch = 1\npolarization = 1e-30\ncost = 1e-30";
    let mut gated = trainee(&format!("name = 'consensus-gating'\n{nothing}"));
    gated.network = with_biases(&gated.network, |unit| if closed(unit) { -1.0 } else { 1.0 });
    let through_gates = gated.gradients(&batch(1), false, &mut Meter::default());

    let mut plain = trainee("name = 'dense'");
    let whole = plain.network.clone();
    let layers = plain.engine.layers().to_vec();
    for layer in layers.iter().filter(|layer| layer.name.ends_with("conv2.weight")) {
        for column in (0..layer.shape[1]).filter(|column| closed(*column)) {
            plain.network = scaled(&plain.network, layer, column, 0.0);
        }
    }
    let gradients = plain.gradients(&batch(1), false, &mut Meter::default());
    let slopes = parameters::column_slopes(&whole, &gradients, &layers);
    let soft = 1.0 / (1.0 + (-1.0f32).exp());
    for (layer, slopes) in layers.iter().zip(slopes).filter(|(layer, _)| layer.name.ends_with("conv2.weight")) {
        let bias = layer.name.replace("conv2.weight", "gate.output.bias");
        let expected: Vec<f32> =
            to_host(through_gates[&bias].clone()).into_iter().map(|slope| slope / (soft * (1.0 - soft))).collect();
        let largest = expected.iter().fold(0.0f32, |max, slope| max.max(slope.abs()));
        for (unit, (ours, theirs)) in slopes.iter().zip(&expected).enumerate() {
            assert!((ours - theirs).abs() <= 1e-3 * largest, "{} {unit}: {ours} and {theirs}", layer.name);
        }
        let of_closed = expected.iter().step_by(3).fold(0.0f32, |max, slope| max.max(slope.abs()));
        assert!(of_closed > 0.05 * largest, "closed units of {} have slopes too", layer.name);
    }
}

/// Sets the gates of every block to what does not depend on the image.
fn with_biases(network: &Network, bias: impl Fn(usize) -> f32) -> Network {
    parameters::map(network.clone(), |info, values| {
        let length = values.dims()[0];
        match info.name.rsplit_once("gate.output.") {
            Some((_, "weight")) => Some(to_device(vec![0.0; length], &Device::flex())),
            Some((_, "bias")) => Some(to_device((0..length).map(&bias).collect(), &Device::flex())),
            _ => None,
        }
    })
}

/// Sets the thresholds of a LAPP training.
fn with_thresholds(trainee: &mut Trainee, threshold: f64) {
    let (tensors, state) = trainee.save();
    let mut state = serde_json::to_value(state).unwrap();
    let thresholds = state["engine"]["state"]["thresholds"].as_object_mut().unwrap();
    assert_eq!(thresholds.len(), 9);
    thresholds.values_mut().for_each(|value| *value = threshold.into());
    trainee.restore(tensors, serde_json::from_value(state).unwrap()).unwrap();
}

#[test]
fn a_cut_where_the_thresholds_are_changes_no_logit_and_masked_weights_wait_unchanged() {
    let lapp = |macs: f64| {
        let mut trainee = trainee(&format!("name = 'lapp'\nmacs = {macs}\nend_epoch = 1\nlambda = 1e-9"));
        train(&mut trainee, 1..=3);
        with_thresholds(&mut trainee, 1.0);
        trainee
    };
    let trainee = lapp(0.5);
    let masked = trainee.effective();
    let full = logits(&trainee.network);
    let [of_masked, of_whole] =
        [&masked, &trainee.network].map(|network| parameters::weights(network, trainee.engine.layers()));
    let zeros = of_masked.iter().flatten().filter(|weight| **weight == 0.0).count();
    assert!(zeros > 10_000 && of_whole.iter().flatten().all(|weight| *weight != 0.0), "{zeros} weights are masked");
    assert!(logits(&masked).iter().zip(&full).any(|(a, b)| (a - b).abs() > 1e-3));

    // What the masks leave, read off the zeroed columns: the inner width of every block.
    let mut counts = Vec::new();
    for (layer, weights) in trainee.engine.layers().iter().zip(&of_masked) {
        if layer.name.ends_with("conv2.weight") {
            let columns = layer.shape[1];
            counts.push(weights.chunks_exact(9).take(columns).filter(|kernel| kernel[0] != 0.0).count());
        }
    }
    let graph = trainee.engine.graph();
    let macs: u64 = graph
        .layers
        .iter()
        .map(|layer| {
            let block = layer.name.split('.').nth(1).and_then(|block| block.parse::<usize>().ok());
            let share = |all: usize, block: usize| layer.macs * counts[block] as u64 / all as u64;
            match block {
                Some(block) if layer.name.ends_with("conv1.weight") => share(layer.shape[0], block),
                Some(block) if layer.name.ends_with("conv2.weight") => share(layer.shape[1], block),
                _ => layer.macs,
            }
        })
        .sum();
    let mut cut = lapp((macs as f64 + 0.5) / graph.macs() as f64);
    let before = logits(&cut.effective());
    let clock = Clock { iteration: 10, horizon: HORIZON, lr: 0.01 };
    let event = cut.engine.due(&clock).unwrap();
    let (_, absorbed) = cut.event(&clock, &event, None);
    assert_eq!((cut.engine.macs(), absorbed), (macs, [0.0; 2]));
    assert_close(&logits(&cut.network), &before);
    assert!(!cut.is_learning());
    // It trains on like any other network.
    train(&mut cut, 11..=12);
    assert_eq!(cut.engine.macs(), macs);
}

#[test]
fn a_masked_unit_keeps_its_weights_and_comes_back_when_its_threshold_falls() {
    let mut trainee = trainee("name = 'lapp'\nmacs = 0.5\nend_epoch = 1\nlambda = 1e-9\nthreshold_lr = 1e-9");
    with_thresholds(&mut trainee, 1.0);
    let before = parameters::weights(&trainee.network, trainee.engine.layers());
    let masked = parameters::weights(&trainee.effective(), trainee.engine.layers());
    train(&mut trainee, 1..=1);
    let after = parameters::weights(&trainee.network, trainee.engine.layers());
    let waits = masked.iter().flatten().zip(before.iter().flatten().zip(after.iter().flatten()));
    let (mut waiting, mut moved) = (0, 0);
    for (masked, (before, after)) in waits {
        if *masked == 0.0 {
            // No parameter decays in this test.
            assert_eq!(before, after);
            waiting += 1;
        } else {
            moved += usize::from(before != after);
        }
    }
    assert!(waiting > 10_000 && moved > 100_000, "{waiting} {moved}");
    with_thresholds(&mut trainee, 0.0);
    assert_eq!(logits(&trainee.effective()), logits(&trainee.network));
}

#[test]
fn gates_that_agree_leave_the_same_network_without_them() {
    let mut trainee = trainee("name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 1\nexact = false");
    train(&mut trainee, 1..=2);
    // Every third gate is closed for all images.
    trainee.network = with_biases(&trainee.network, |unit| if unit.is_multiple_of(3) { -3.0 } else { 3.0 });
    let (tensors, _) = trainee.save();
    assert!(tensors.keys().any(|name| name.starts_with("first/") && is_of_gate(name)));
    let dynamic = logits(&trainee.network);
    let means: Vec<GateMeans> = (trainee.engine.graph().gates.iter())
        .map(|name| {
            let units = trainee.engine.groups().find(|(group, _)| group.name == *name).unwrap().0.units;
            let open: Vec<f32> = (0..units).map(|unit| if unit.is_multiple_of(3) { 0.0 } else { 1.0 }).collect();
            GateMeans::new(open.clone(), open)
        })
        .collect();
    assert_eq!(means.len(), 9);
    trainee.engine.see_gates(&means);
    let clock = Clock { iteration: 10, horizon: HORIZON, lr: 0.01 };
    let event = trainee.engine.due(&clock).unwrap();
    let (_, absorbed) = trainee.event(&clock, &event, None);
    assert_eq!(absorbed, [0.0; 2]);
    assert_close(&logits(&trainee.network), &dynamic);
    assert_eq!(trainee.architecture().kept["blocks.8.conv1"].len(), 42);
    let (tensors, _) = trainee.save();
    assert!(tensors.keys().all(|name| !is_of_gate(name)) && !trainee.is_learning());
    train(&mut trainee, 11..=12);
}

#[test]
fn a_penalty_on_the_cost_closes_gates_and_leaves_other_parameters_to_the_loss() {
    let open = |scheduler: &str| {
        let mut trainee = trainee(scheduler);
        train(&mut trainee, 1..=8);
        let images = Tensor::<4>::from_data(TensorData::new(batch(99).images, [20, 3, 8, 8]), &Device::flex());
        let (_, gates) = trainee.network.valid().forward_gated(images, &Default::default());
        gates.into_iter().map(|gates| to_host(gates.open.mean().reshape([1]))[0]).sum::<f32>() / 9.0
    };
    let cheap = open("name = 'consensus-gating'\nmacs = 0.3\nend_epoch = 1\ncost = 20000");
    let free = open("name = 'consensus-gating'\nmacs = 1\nend_epoch = 1\ncost = 1e-6");
    assert!(cheap < 0.9 && free > 0.9, "{cheap} and {free} of the gates are open");
}
