//! Agreement with PyTorch, whose results are in `tests/pytorch/*.json`; the README there says how they were made.

use std::collections::{BTreeMap, BTreeSet};

use bonsai_data::Batch;
use bonsai_models::{Architecture, Network, Precision};
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::graph::Graph;
use bonsai_pruning::mask::Mask;
use bonsai_pruning::registry;
use bonsai_training::loss::cross_entropy;
use bonsai_training::lr::{LearningRate, Schedule};
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::{Optimizer, Rule, clip};
use bonsai_training::parameters::{self, to_device, to_host};
use bonsai_training::trainee::{StepOptions, Trainee};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/pytorch/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The finalizer of MurmurHash3, as `formula.py` has it.
fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// `value(i, salt)` of `formula.py`: in [-0.5, 0.5), the same bits in both languages.
fn value(i: usize, salt: u32) -> f32 {
    let mixed = hash((i as u32).wrapping_add(salt.wrapping_mul(0x9e37_79b9)));
    (mixed >> 8) as f32 / (1 << 24) as f32 - 0.5
}

fn values(count: usize, salt: u32, scale: f64) -> Vec<f32> {
    (0..count).map(|i| (f64::from(value(i, salt)) * scale) as f32).collect()
}

fn assert_close(ours: f64, theirs: f64, bound: f64, what: &str) {
    assert!((ours - theirs).abs() <= bound, "{what}: {ours}, PyTorch has {theirs}");
}

#[test]
fn twenty_optimizer_steps_follow_pytorch() {
    let device = Device::flex();
    let cases = [("optimizer", false), ("optimizer_clipped", true)];
    for (file, clipped) in cases {
        for (name, case) in fixture(file).as_object().unwrap().iter().filter(|(_, case)| case["options"].is_object()) {
            let options = &case["options"];
            let option = |key: &str| options[key].as_f64().unwrap_or(0.0);
            let rule = if name == "adamw" {
                Rule::AdamW {
                    betas: (floats(&options["betas"])[0], floats(&options["betas"])[1]),
                    epsilon: option("eps"),
                }
            } else {
                Rule::Sgd { momentum: option("momentum"), nesterov: options["nesterov"] == true }
            };
            let mut optimizer = Optimizer::new(rule, option("weight_decay"));
            let parts = [("vector", 16, 0), ("matrix", 15, 1000)];
            let mut weights: BTreeMap<&str, Tensor<1>> =
                parts.iter().map(|&(part, n, salt)| (part, to_device(values(n, salt, 1.0), &device))).collect();
            for step in 1..=20 {
                let scale = if clipped { f64::from(step) / 8.0 } else { 1.0 };
                let mut gradients: BTreeMap<String, Tensor<1>> = (parts.iter())
                    .map(|&(part, n, salt)| (part.to_string(), to_device(values(n, salt + step, scale), &device)))
                    .collect();
                if clipped {
                    clip(&mut gradients, 1.0);
                }
                optimizer.begin_step(None);
                for (part, ..) in parts {
                    let gradient = gradients.remove(part).unwrap();
                    let new = optimizer.update(part, option("lr"), true, weights[part].clone(), gradient, None);
                    for (ours, theirs) in to_host(new.clone()).iter().zip(floats(&case[part][step as usize - 1])) {
                        assert_close(f64::from(*ours), theirs, 1e-6, &format!("{name}, step {step}, {part}"));
                    }
                    weights.insert(part, new);
                }
            }
        }
    }
}

#[test]
fn learning_rates_follow_pytorch() {
    let fixture = fixture("lr");
    let total = fixture["iterations"].as_u64().unwrap();
    let milestones = fixture["multi-step"]["options"]["milestones"].as_array().unwrap();
    let milestones = milestones.iter().map(|m| m.as_u64().unwrap()).collect();
    let cases = [
        ("multi-step", Schedule::MultiStep { milestones, gamma: 0.1 }, 0),
        ("cosine", Schedule::Cosine { last: 0.0 }, 0),
        ("one-cycle", Schedule::OneCycle, 0),
        ("warmup-cosine", Schedule::Cosine { last: 0.0 }, 5),
    ];
    for (name, schedule, warmup) in cases {
        let lr = LearningRate { base: 0.1, schedule, warmup, total };
        for (iteration, theirs) in floats(&fixture[name]["rates"]).into_iter().enumerate() {
            assert_close(lr.at(iteration as u64), theirs, 1e-9, &format!("{name}, iteration {iteration}"));
        }
    }
}

#[test]
fn cross_entropy_and_its_gradient_follow_pytorch() {
    let device = Device::flex().autodiff();
    let fixture = fixture("loss");
    let labels: Vec<i32> = floats(&fixture["labels"]).into_iter().map(|x| x as i32).collect();
    for case in [&fixture["smoothing-0.0"], &fixture["smoothing-0.1"]] {
        let logits = TensorData::new(values(60, 0, 8.0), [6, 10]);
        let logits = Tensor::<2>::from_data(logits, &device).require_grad();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [6]), &device);
        let loss = cross_entropy(logits.clone(), labels, case["smoothing"].as_f64().unwrap());
        assert_close(f64::from(to_host(loss.clone().inner())[0]), case["loss"].as_f64().unwrap(), 1e-6, "loss");
        let gradient = to_host(logits.grad(&loss.backward()).unwrap().reshape([60]));
        for (ours, theirs) in gradient.iter().zip(floats(&case["gradient"])) {
            assert_close(f64::from(*ours), theirs, 1e-7, "gradient");
        }
    }
}

/// ResNet-20 with the weights of `ten_steps.py`, dense or with its masks.
fn resnet20(masked: bool) -> Trainee {
    let device = Device::flex().autodiff();
    let architecture = Architecture::new("resnet20", 10, [3, 32, 32]);
    let graph = architecture.graph().unwrap();
    let network = Network::new(&architecture, 0, &device).unwrap();
    let mut decayed = BTreeSet::new();
    let network = parameters::map(network, |info, old| {
        decayed.insert(info.name.clone());
        let Some(layer) = graph.layers.iter().position(|layer| layer.name == info.name) else {
            return info.name.starts_with("fc.").then(|| old.zeros_like());
        };
        let spec = &graph.layers[layer];
        let scale = match spec.shape[..] {
            [_, inputs, _, _] => 2.0 * 3f64.sqrt() * (2.0 / (9.0 * inputs as f64)).sqrt(),
            _ => 2.0 * 3f64.sqrt() / 8.0,
        };
        let rows = values(spec.weights(), layer as u32, scale);
        Some(to_device(parameters::to_storage(spec, &rows), &device.clone().inner()))
    });
    // A scheduler without events; the masks are put in by a restored state.
    let (scheduler, _) =
        registry::build(&"name = 'dense'".parse().unwrap(), Horizon { iterations_per_epoch: 10, epochs: 1 }).unwrap();
    let engine = Engine::new(&graph, scheduler, Options::default()).unwrap();
    let options =
        StepOptions { label_smoothing: 0.0, clip_norm: None, accumulate: 1, precision: Precision::F32, decayed };
    let optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: true }, 5e-4);
    let mut trainee = Trainee::new(architecture, 0, engine, optimizer, options, device).unwrap();
    trainee.network = network;
    if masked {
        let masks: Vec<Mask> = (graph.layers.iter().enumerate())
            .map(|(layer, spec)| {
                let kept = |i: usize| hash((i as u32).wrapping_add(777 * layer as u32)) % 10 < 3;
                Mask::from_bools((0..spec.weights()).map(kept).collect::<Vec<_>>())
            })
            .collect();
        trainee.set_masks(masks).unwrap();
    }
    trainee
}

/// The sum, the sum of magnitudes and the sum against `value(i, 999)`, which notices values in the wrong place, in
/// PyTorch's order of a parameter.
fn sums(graph: &Graph, name: &str, values: Tensor<1>) -> [f64; 3] {
    let stored = to_host(values);
    let ordered = match graph.layers.iter().find(|layer| layer.name == name) {
        Some(layer) => parameters::to_rows(layer, &stored),
        None => stored,
    };
    ordered.iter().enumerate().fold([0.0; 3], |[sum, magnitude, placed], (i, &x)| {
        let x = f64::from(x);
        [sum + x, magnitude + x.abs(), placed + x * f64::from(value(i, 999))]
    })
}

/// Compares the three sums relative to the sum of magnitudes.
fn assert_sums(ours: &[f64; 3], theirs: &[f64], bound: f64, what: &str) {
    for (ours, other) in ours.iter().zip(theirs) {
        assert_close(*ours, *other, bound * theirs[1].max(1e-6), what);
    }
}

#[test]
fn one_pass_of_lenet5_and_vit_follows_pytorch() {
    let device = Device::flex().autodiff();
    for (file, model, input) in [("lenet5", "lenet5", [1, 28, 28]), ("vit_cifar", "vit-cifar", [3, 32, 32])] {
        let fixture = fixture(file);
        let architecture = Architecture::new(model, 10, input);
        let graph = architecture.graph().unwrap();
        let network = Network::new(&architecture, 0, &device).unwrap();
        let mut filled = 0;
        let network = parameters::map(network, |info, old| {
            let parameter = &fixture["parameters"][&info.name];
            let count = old.dims()[0];
            filled += 1;
            if parameter["fill"] == "one" {
                return Some(old.ones_like());
            }
            assert_eq!(parameter["fill"], "formula", "{file}: {} is not in the fixture", info.name);
            let ordered = values(count, parameter["salt"].as_u64().unwrap() as u32, 0.1);
            let stored = match graph.layers.iter().find(|layer| layer.name == info.name) {
                Some(layer) => parameters::to_storage(layer, &ordered),
                None => ordered,
            };
            Some(to_device(stored, &device.clone().inner()))
        });
        assert_eq!(filled, fixture["parameters"].as_object().unwrap().len(), "{file}");

        let size = input.iter().product::<usize>();
        let images = TensorData::new(values(4 * size, 1000, 2.0), [4, input[0], input[1], input[2]]);
        let labels: Vec<i32> = (0..4).map(|i| i * 7 % 10).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [4]), &device);
        let logits = network.forward(Tensor::from_data(images, &device));
        for (ours, theirs) in to_host(logits.clone().inner().reshape([40])).iter().zip(floats(&fixture["logits"])) {
            assert_close(f64::from(*ours), theirs, 1e-5 * theirs.abs().max(0.1), &format!("{file}: logit"));
        }
        let loss = cross_entropy(logits, labels, 0.0);
        let theirs = fixture["loss"].as_f64().unwrap();
        assert_close(f64::from(to_host(loss.clone().inner())[0]), theirs, 1e-5 * theirs, &format!("{file}: loss"));
        let gradients = parameters::gradients(&network, loss.backward());
        for (name, theirs) in fixture["gradients"].as_object().unwrap() {
            let ours = sums(&graph, name, gradients[name].clone());
            assert_sums(&ours, &floats(theirs), 1e-5, &format!("{file}, gradient of {name}"));
        }
    }
}

#[test]
fn ten_steps_of_resnet20_follow_pytorch() {
    let fixture = fixture("ten_steps");
    let lr = fixture["options"]["lr"].as_f64().unwrap();
    for (case, masked) in [("dense", false), ("masked", true)] {
        let mut trainee = resnet20(masked);
        for (step, theirs) in floats(&fixture[case]["losses"]).into_iter().enumerate() {
            let batch = Batch {
                images: values(8 * 3 * 32 * 32, 1000 + step as u32, 2.0),
                labels: (0..8).map(|i| (i * 7 + step as i32 * 3) % 10).collect(),
                shape: [8, 3, 32, 32],
                ..Batch::default()
            };
            let mut meter = Meter::default();
            let gradients = trainee.gradients(&batch, false, &mut meter);
            let ours = meter.read().mean_loss();
            assert_close(ours / theirs, 1.0, 1e-5, &format!("{case}, step {step}: relative loss"));
            let horizon = Horizon { iterations_per_epoch: 10, epochs: 1 };
            trainee.step(gradients, &Clock { iteration: step as u64 + 1, horizon, lr });
        }
        let graph = Architecture::new("resnet20", 10, [3, 32, 32]).graph().unwrap();
        let mut ours = BTreeMap::new();
        parameters::visit(&trainee.network, |info, values| {
            ours.insert(info.name.clone(), sums(&graph, &info.name, values));
        });
        let mut compared = 0;
        // Biases of normalisation start at zero and are differences of rounding for a while: bounded loosely.
        for (kind, bound) in [("parameters", 1e-2), ("statistics", 1e-5)] {
            for (name, theirs) in fixture[case][kind].as_object().unwrap() {
                let bound = if graph.layers.iter().any(|layer| layer.name == *name) { 1e-6 } else { bound };
                assert_sums(&ours[name], &floats(theirs), bound, &format!("{case}, {name}"));
                compared += 1;
            }
        }
        assert_eq!(compared, ours.len(), "{case}: every parameter and statistic is compared");
    }
}
