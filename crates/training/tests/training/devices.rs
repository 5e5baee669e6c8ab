//! The same masks and nearly the same numbers on a CPU and on wgpu.

use bonsai_kernels::{Activation, Then, batch_norm_train, conv2d};
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_training::meter::Meter;
use bonsai_training::parameters::{self, reads, to_host};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::rand_core::Rng;

use crate::{batch, schedulers, trainee, wgpu};

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };

#[test]
fn stored_weights_and_gradients_give_the_same_masks_and_weights_on_cpu_and_wgpu() {
    let Some(wgpu) = wgpu() else { return };
    // Made on one device, then stored and put on both: the devices' own arithmetic must not decide.
    let mut source = trainee("name = 'dense'", HORIZON, &Device::flex());
    let gradients = source.gradients(&batch(20, 1), true, &mut Meter::default());
    source.step(gradients.clone(), &Clock { iteration: 1, horizon: HORIZON, lr: 0.1 });
    let gradients: Vec<_> = gradients.into_iter().map(|(name, values)| (name, parameters::to_host(values))).collect();
    let (tensors, _) = source.save();

    for scheduler in &schedulers() {
        let [cpu, gpu] = [&Device::flex(), &wgpu].map(|device| {
            let mut trainee = trainee(scheduler, HORIZON, device);
            trainee.begin();
            let (_, state) = trainee.save();
            trainee.restore(tensors.clone(), state).unwrap();
            let dense = (gradients.iter())
                .map(|(name, values)| (name.clone(), parameters::to_device(values.clone(), device)))
                .collect();
            let mut masks = vec![trainee.engine.masks().to_vec()];
            for iteration in 1..=20 {
                let clock = Clock { iteration, horizon: HORIZON, lr: 0.1 };
                if let Some(event) = trainee.engine.due(&clock) {
                    trainee.event(&clock, &event, Some(&dense));
                    masks.push(trainee.engine.masks().to_vec());
                }
            }
            (masks, trainee.save().0)
        });
        assert!(cpu == gpu, "{scheduler}: CPU and wgpu differ");
    }
}

#[test]
fn a_step_on_wgpu_is_close_to_one_on_the_cpu() {
    let Some(wgpu) = wgpu() else { return };
    let scheduler = "name = 'static'\nsparsity = 0.5";
    let [cpu, gpu] = [&Device::flex(), &wgpu].map(|device| {
        let mut trainee = trainee(scheduler, HORIZON, device);
        trainee.begin();
        let mut meter = Meter::default();
        for iteration in 1..=3 {
            let gradients = trainee.gradients(&batch(20, iteration), false, &mut meter);
            trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr: 0.02 });
        }
        meter.read();
        (meter.totals(), parameters::weights(&trainee.network, trainee.engine.layers()))
    });
    assert!((cpu.0.mean_loss() - gpu.0.mean_loss()).abs() < 1e-4 * cpu.0.mean_loss(), "{:?} {:?}", cpu.0, gpu.0);
    for (a, b) in cpu.1.iter().flatten().zip(gpu.1.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
        assert_eq!(*a == 0.0, *b == 0.0);
    }
}

#[test]
fn quiet_steps_read_nothing() {
    for scheduler in &schedulers() {
        let mut trainee = trainee(scheduler, HORIZON, &Device::flex());
        trainee.begin();
        let (mut meter, mut quiet) = (Meter::default(), 0);
        for iteration in 1..=20 {
            let clock = Clock { iteration, horizon: HORIZON, lr: 0.1 };
            let event = trainee.engine.due(&clock);
            let before = reads();
            let gradients = trainee.gradients(&batch(4, iteration), event.is_some(), &mut meter);
            let dense = event.is_some().then(|| gradients.clone());
            trainee.step(gradients, &clock);
            assert_eq!(reads(), before, "{scheduler}, iteration {iteration}");
            quiet += 1;
            if let Some(event) = event {
                trainee.event(&clock, &event, dense.as_ref());
                // All weights in one transfer, and all gradients.
                assert!((1..=2).contains(&(reads() - before)), "{scheduler}: an event reads {}", reads() - before);
            }
        }
        assert_eq!(quiet, 20);
    }
}

/// The counter sees nothing but what goes through `to_host`, so nothing else may read.
#[test]
fn tensors_come_to_the_host_in_one_place() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for crate_name in ["kernels", "models", "training"] {
        let mut folders = vec![sources.join(crate_name).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = std::fs::read_to_string(&entry).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let read = ["into_data(", "to_data(", "into_scalar(", "into_data_sync(", "into_data_async("];
                for _ in code.lines().filter(|line| read.iter().any(|read| line.contains(read))) {
                    found.push(entry.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
    }
    found.sort();
    // The second is the statistics of a batch normalisation on our CPU kernels, which are on the host already.
    assert_eq!(found, ["batch_norm.rs", "parameters.rs"]);
}

#[test]
fn a_batch_of_more_pixels_than_one_reduction_holds_is_normalised_right_on_wgpu() {
    // 131,072 pixels a channel: CubeCL's strided reduction loses those beyond 65,536.
    const DIMS: [usize; 4] = [128, 2, 32, 32];
    let Some(wgpu) = wgpu() else { return };
    let values = |salt: u64| -> Vec<f32> {
        let mut stream = bonsai_random::stream(0, "pixels", salt);
        (0..DIMS.iter().product()).map(|_| stream.next_u32() as f32 / u32::MAX as f32 + 0.25).collect()
    };
    let (images, weights) = (values(0), values(1));
    let [cpu, gpu] = [&Device::flex(), &wgpu].map(|device| {
        let device = device.clone().autodiff();
        let tensor = |values: &[f32]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), DIMS), &device);
        let vector = |values: [f32; 2]| Tensor::<1>::from_floats(values, &device).require_grad();
        let (gamma, beta, bias) = (vector([1.5, 0.5]), vector([0.1, -0.1]), vector([0.3, 0.7]));
        let weight = Tensor::<4>::from_floats([[[[0.5]], [[0.25]]], [[[-0.5]], [[1.0]]]], &device).require_grad();
        let x = conv2d(Activation::new(tensor(&images)), weight.clone(), Some(bias.clone()), 1, 0);
        let batch = batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, Then::Nothing);
        let y = batch.output.into_nchw() * tensor(&weights);
        let gradients = (y.clone() * y).mean_dim(3).mean_dim(2).sum().backward();
        let gradient = |vector: &Tensor<1>| to_host(vector.grad(&gradients).unwrap());
        [
            to_host(batch.mean.inner()),
            to_host(batch.variance.inner()),
            gradient(&gamma),
            gradient(&beta),
            to_host(weight.grad(&gradients).unwrap().reshape([4])),
        ]
    });
    for (ours, theirs) in cpu.iter().flatten().zip(gpu.iter().flatten()) {
        assert!((ours - theirs).abs() <= 2e-3 * ours.abs().max(0.1), "{cpu:?} {gpu:?}");
    }
}

#[test]
fn a_replica_on_another_device_gives_nearly_the_same_gradients() {
    let Some(wgpu) = wgpu() else { return };
    let gradients = |replicas: &[Device]| {
        let mut trainee = trainee("name = 'dense'", HORIZON, &Device::flex());
        trainee.replicate(replicas);
        let gradients = trainee.gradients(&batch(20, 1), false, &mut Meter::default());
        gradients.into_iter().map(|(name, values)| (name, to_host(values))).collect::<Vec<_>>()
    };
    let [same, other] = [Device::flex(), wgpu].map(|device| gradients(&[device]));
    for ((name, same), (_, other)) in same.iter().zip(&other) {
        let largest = same.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
        let off = same.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        assert!(off < 1e-3, "{name} is off by {off}");
    }
}
