//! What training promises, tested through the crate's public parts: one binary, because each links all of burn.

mod channels;
mod devices;
mod half;
mod learned;
mod loop_ends;
mod penalties;
mod pytorch;
mod recalibrate;
mod resident;
mod steps;

use std::collections::BTreeSet;

use bonsai_data::Batch;
use bonsai_models::{Architecture, Precision};
use bonsai_pruning::clock::Horizon;
use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::{Removes, registry};
use bonsai_training::optimizer::{Optimizer, Rule};
use bonsai_training::trainee::{StepOptions, Trainee};
use burn::tensor::{Device, DeviceType};
use rand_chacha::rand_core::Rng;

/// A LeNet-5 under the scheduler of a TOML table, on a device, trained by SGD.
fn trainee(scheduler: &str, horizon: Horizon, device: &Device) -> Trainee {
    trainee_by(Rule::Sgd { momentum: 0.9, nesterov: true }, scheduler, horizon, device)
}

fn trainee_by(rule: Rule, scheduler: &str, horizon: Horizon, device: &Device) -> Trainee {
    trainee_in(Precision::F32, rule, scheduler, horizon, device)
}

fn trainee_in(precision: Precision, rule: Rule, scheduler: &str, horizon: Horizon, device: &Device) -> Trainee {
    let architecture = Architecture::new("lenet5", 10, [1, 28, 28]);
    let table: toml::Table = scheduler.parse().unwrap();
    let (scheduler, common) = registry::build(&table, horizon).unwrap();
    let options = Options { exclude: common.exclude, floor: common.floor, seed: 3, channels: common.channels };
    let engine = Engine::new(&architecture.graph().unwrap(), scheduler, options).unwrap();
    let device = device.clone().autodiff();
    let options =
        StepOptions { label_smoothing: 0.0, clip_norm: None, accumulate: 1, precision, decayed: BTreeSet::new() };
    let mut trainee = Trainee::new(architecture, 3, engine, Optimizer::new(rule, 5e-4), options, device).unwrap();
    let mut decayed = BTreeSet::new();
    bonsai_training::parameters::visit(&trainee.network, |info, _| {
        decayed.insert(info.name.clone());
    });
    trainee.options_mut().decayed = decayed;
    trainee
}

/// A batch of noise with a class-dependent brightness, so that there is something to learn.
fn batch(records: usize, key: u64) -> Batch {
    let mut stream = bonsai_random::stream(0, "test batch", key);
    let labels: Vec<i32> = (0..records).map(|i| (i % 10) as i32).collect();
    let images = (labels.iter())
        .flat_map(|&label| {
            let mut pixel = || stream.next_u32() as f32 / u32::MAX as f32 - 0.5;
            (0..28 * 28).map(|_| pixel() + label as f32 / 10.0).collect::<Vec<_>>()
        })
        .collect();
    Batch { images, labels, shape: [records, 1, 28, 28], ..Batch::default() }
}

/// Every scheduler of the registry that removes weights, as shipped in `experiments/`, and some variants, on two epochs of
/// ten iterations.
fn schedulers() -> Vec<String> {
    let mut all: Vec<String> = [
        "name = 'gmp'\nsparsity = 0.9\nend_epoch = 1.5\nevery = 3\nscope = 'global'",
        "name = 'granet'\nsparsity = 0.9\nend_epoch = 1.5\nevery = 3",
        "name = 'gmp'\nsparsity = 0.9\nend_epoch = 1.5\nevery = 3\nscope = 'lamp'",
        "name = 'granet'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 1.5\nevery = 3\ncompat = 'granet-cifar'",
        "name = 'static'\nsparsity = 0.9\nallocation = 'uniform'",
    ]
    .map(String::from)
    .into();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    for name in registry::names() {
        let file = folder.join(format!("cifar10-resnet20-{name}.toml"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut table = text.parse::<toml::Table>().unwrap()["scheduler"].as_table().unwrap().clone();
        for (key, value) in [("end_epoch", 1.5.into()), ("every", toml::Value::from(3))] {
            if let Some(old) = table.get_mut(key) {
                *old = value;
            }
        }
        if registry::build(&table, Horizon { iterations_per_epoch: 10, epochs: 2 })
            .is_ok_and(|(s, _)| s.removes() == Removes::Weights)
        {
            all.push(toml::to_string(&table).unwrap());
        }
    }
    all
}

/// The wgpu device of this machine, software included; `None`, said aloud, where there is no adapter.
fn wgpu() -> Option<Device> {
    let found = Device::enumerate(DeviceType::Wgpu).into_vec().into_iter().next();
    if found.is_none() {
        assert!(std::env::var_os("BONSAI_REQUIRE_WGPU").is_none(), "no wgpu adapter, though one is required here");
        println!("skipped: this machine has no wgpu adapter (Debian: apt-get install mesa-vulkan-drivers libvulkan1)");
    }
    found
}
