//! Penalties of schedulers where they meet a network: on scales of normalisations, and on weights.

use std::collections::{BTreeMap, BTreeSet};

use bonsai_models::Architecture;
use bonsai_pruning::channels::Role;
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::registry;
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::{Optimizer, Rule};
use bonsai_training::parameters::{self, to_host};
use bonsai_training::trainee::{StepOptions, Trainee};
use burn::tensor::Device;

use crate::batch;

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };
const PLAIN: Rule = Rule::Sgd { momentum: 0.0, nesterov: false };

fn trainee(model: &str, scheduler: &str) -> Trainee {
    let architecture = Architecture::new(model, 10, [1, 28, 28]);
    let (scheduler, common) = registry::build(&scheduler.parse().unwrap(), HORIZON).unwrap();
    let options = Options { seed: 3, channels: common.channels, ..Options::default() };
    let engine = Engine::new(&architecture.graph().unwrap(), scheduler, options).unwrap();
    let options = StepOptions {
        label_smoothing: 0.0,
        clip_norm: None,
        accumulate: 1,
        precision: Default::default(),
        decayed: BTreeSet::new(),
    };
    let device = Device::flex().autodiff();
    let mut trainee = Trainee::new(architecture, 3, engine, Optimizer::new(PLAIN, 0.0), options, device).unwrap();
    trainee.begin();
    trainee
}

fn step(trainee: &mut Trainee, iteration: u64, lr: f64) {
    let gradients = trainee.gradients(&batch(20, iteration), false, &mut Meter::default());
    trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr });
}

/// The scales of all normalisations, by path.
fn scales(trainee: &Trainee) -> BTreeMap<String, Vec<f32>> {
    let mut scales = BTreeMap::new();
    parameters::visit(&trainee.network, |info, values| {
        if info.name.ends_with("gamma") {
            scales.insert(info.name.clone(), to_host(values));
        }
    });
    scales
}

#[test]
fn polarization_holds_the_scales_of_all_normalisations_in_range() {
    let mut trainee = trainee("resnet20", "name = 'polarization'\nlambda = 0.5\nt = 1.0\nend_epoch = 1");
    let ranked: Vec<String> = trainee.engine.scales().into_iter().map(|(_, path)| path).collect();
    let start = scales(&trainee);
    assert_eq!((start.len(), ranked.len()), (19, 9));
    assert!(start.values().flatten().all(|scale| *scale == 0.5));
    // Scales of the stream, which have no penalty, begin so near the ends of the range that any step takes some beyond.
    trainee.network = parameters::map(trainee.network.clone(), |info, values| {
        let near = (0..values.dims()[0]).map(|i| if i % 2 == 0 { 0.9999 } else { 0.0001 });
        let stream = info.name.ends_with("gamma") && !ranked.contains(&info.name);
        stream.then(|| parameters::to_device(near.collect(), &Device::flex()))
    });
    (1..=8).for_each(|iteration| step(&mut trainee, iteration, 0.5));
    let held = scales(&trainee);
    assert!(held.values().flatten().all(|scale| (0.0..=1.0).contains(scale)));
    let stream = held.iter().filter(|(path, _)| !ranked.contains(path)).flat_map(|(_, scales)| scales);
    assert!(stream.filter(|scale| [0.0, 1.0].contains(*scale)).count() > 0);
    // The penalty is at work: most of the scales that it reaches are at an end of the range.
    let all: Vec<f32> = ranked.iter().flat_map(|path| held[path].clone()).collect();
    let ends = all.iter().filter(|scale| [0.0, 1.0].contains(*scale)).count();
    assert!(ends * 2 > all.len(), "{ends} of {}", all.len());
}

#[test]
fn a_penalty_on_scales_is_one_on_all_groups_together() {
    let (lambda, t) = (0.25, 1.4);
    let one_step = |scheduler: &str| {
        let mut trainee = trainee("resnet20", scheduler);
        // Other scales than those that all are at first, without which every sign is zero; the same for both methods.
        trainee.network = parameters::map(trainee.network.clone(), |info, values| {
            let spread = (0..values.dims()[0]).map(|i| 0.3 + 0.4 * ((i * 7 + info.name.len()) % 11) as f32 / 10.0);
            let device = Device::flex();
            info.name.ends_with("gamma").then(|| parameters::to_device(spread.collect(), &device))
        });
        let before = scales(&trainee);
        step(&mut trainee, 1, 0.01);
        (trainee.engine.scales(), before, scales(&trainee))
    };
    // An l1 penalty of next to nothing leaves the gradient of the loss alone.
    let (named, before, without) = one_step("name = 'slimming'\nlambda = 1e-30\nchannels = 0.5\nend_epoch = 1");
    let (_, same, with) = one_step(&format!("name = 'polarization'\nlambda = {lambda}\nt = {t}\nend_epoch = 1"));
    let all: Vec<f64> = named.iter().flat_map(|(_, path)| &before[path]).map(|scale| f64::from(*scale)).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let above = all.iter().filter(|scale| **scale > mean).count() as f64 / all.len() as f64;
    for (_, path) in &named {
        assert_eq!(before[path], same[path]);
        for ((scale, with), without) in before[path].iter().zip(&with[path]).zip(&without[path]) {
            let sign = if f64::from(*scale) > mean { 1.0 } else { -1.0 };
            let slope = t - sign + (2.0 * above - 1.0);
            let moved = f64::from(with - without);
            assert!((moved + 0.01 * lambda * slope).abs() < 1e-6, "{path}: {moved} for {slope}");
        }
    }
}

#[test]
fn a_penalty_on_weights_reaches_the_filters_of_prunable_groups_alone() {
    for model in ["resnet20", "mlp"] {
        let plain = "name = 'group-magnitude'\nmacs = 0.99\nstart_epoch = 1\nend_epoch = 2\nevery = 10";
        let sparse = "name = 'sparse-group-l0'\nlambda = 0.02\nbeta = 0.5\nevery = 10\nend_epoch = 1";
        let [mut without, mut with] = [plain, sparse].map(|scheduler| trainee(model, scheduler));
        let before = with.weights();
        assert_eq!(before, without.weights());
        step(&mut without, 1, 0.1);
        step(&mut with, 1, 0.1);
        let (without, after) = (without.weights(), with.weights());
        let groups = with.engine.groups().filter(|(group, _)| group.kind == bonsai_pruning::GroupKind::Inner);
        let made = groups.flat_map(|(group, _)| group.members.iter());
        let made: BTreeSet<String> = made
            .filter(|member| (member.role, member.axis) == (Role::Weight, 0))
            .map(|member| member.parameter.clone())
            .collect();
        assert_eq!(made.len(), if model == "mlp" { 2 } else { 9 });
        for (name, tensor) in &after {
            let (ours, theirs) = (tensor.as_f32().unwrap(), without[name].as_f32().unwrap());
            if !made.contains(name) {
                assert_eq!(ours, theirs, "{name}");
                continue;
            }
            let layer = with.engine.layers().iter().find(|layer| layer.name == *name).unwrap();
            let rows = |tensor: &[f32]| parameters::to_rows(layer, tensor);
            let (ours, theirs, old) = (rows(ours), rows(theirs), rows(before[name].as_f32().unwrap()));
            let width = layer.width();
            for (i, weight) in old.iter().map(|weight| f64::from(*weight)).enumerate() {
                let filter = &old[i / width * width..][..width];
                let norm = filter.iter().map(|weight| f64::from(*weight).powi(2)).sum::<f64>().sqrt();
                // Up to √(2λ/β) a weight's copy is zero.
                let copy = if weight.abs() <= (2.0f64 * 0.02 / 0.5).sqrt() { 0.0 } else { weight };
                let slope = 0.5 * (weight - copy) + 0.02 * (width as f64).sqrt() * weight / norm;
                let moved = f64::from(ours[i] - theirs[i]);
                assert!((moved + 0.1 * slope).abs() < 1e-6, "{name}: {moved} for {slope}");
            }
        }
    }
}

#[test]
fn filters_that_a_proximal_map_empties_are_cut_out() {
    let table = "name = 'sparse-group-l0'\nlambda = 0.02\nbeta = 1e-6\nevery = 10\nend_epoch = 0.5\ngroup = 'prox'";
    let mut trainee = trainee("resnet20", table);
    let clock = |iteration| Clock { iteration, horizon: HORIZON, lr: 1.0 };
    for iteration in 1..=5 {
        // Without a loss, so that nothing holds against the penalty: five steps of 0.02 √width each.
        trainee.step(BTreeMap::new(), &clock(iteration));
    }
    let norms = |weights: &[f32], width: usize| -> Vec<f64> {
        let norm = |filter: &[f32]| filter.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        weights.chunks(width).map(norm).collect()
    };
    let fresh = self::trainee("resnet20", table).weights();
    let layers = trainee.engine.shaped_layers(&clock(5));
    assert_eq!(layers.len(), 9);
    let mut expected = BTreeMap::new();
    for layer in &layers {
        let shrink = 5.0 * 0.02 * (layer.width() as f64).sqrt();
        let left = norms(fresh[&layer.name].as_f32().unwrap(), layer.width());
        let left = left.into_iter().filter(|norm| *norm > shrink).count();
        expected.insert(layer.name.clone(), left.max(1));
    }
    let event = trainee.engine.due(&clock(5)).unwrap();
    trainee.event(&clock(5), &event, None);
    let shapes = trainee.weights();
    for (name, left) in expected {
        assert_eq!(shapes[&name].shape[0], left, "{name}");
    }
    assert!(trainee.engine.macs() < trainee.engine.dense_macs());
}

#[test]
fn uniform_widths_are_there_before_the_first_step() {
    for keep in ["first", "largest"] {
        let mut trainee = trainee("resnet20", &format!("name = 'uniform-width'\nmacs = 0.5\nkeep = '{keep}'"));
        let graph = trainee.architecture().graph().unwrap();
        assert!(graph.macs() * 2 <= trainee.engine.dense_macs() && graph.macs() == trainee.engine.macs());
        let shapes: Vec<usize> = trainee
            .weights()
            .iter()
            .filter(|(name, _)| name.ends_with("conv1.weight"))
            .map(|(_, t)| t.shape[0])
            .collect();
        // The same share of 16, 32 and 64, but for rounding.
        let share = shapes[8] as f64 / 64.0;
        for (i, kept) in shapes.iter().enumerate() {
            assert!((*kept as f64 - share * [16.0, 32.0, 64.0][i / 3]).abs() <= 1.0, "{shapes:?}");
        }
        step(&mut trainee, 1, 0.1);
    }
}
