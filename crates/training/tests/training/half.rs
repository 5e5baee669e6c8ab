//! Training in half precision: scaled losses, steps that are left out, and what is read on the way.

use bonsai_kernels::{Activation, Then, Tokens, batch_norm_train, conv2d, global_average, linear, max_pool};
use bonsai_models::Precision;
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::Rule;
use bonsai_training::parameters::{self, reads};
use bonsai_training::trainee::Trainee;
use burn::tensor::{Device, FloatDType, Tensor, TensorData, activation};

use crate::{batch, trainee_in, wgpu};

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };
const RULES: [Rule; 2] =
    [Rule::Sgd { momentum: 0.9, nesterov: true }, Rule::AdamW { betas: (0.9, 0.999), epsilon: 1e-8 }];
const SCHEDULER: &str = "name = 'static'\nsparsity = 0.5";

/// Begins a training of LeNet-5; in f16 its loss is scaled, also on the CPU, which computes in f32.
fn begun(precision: Precision, rule: &Rule, device: &Device) -> Trainee {
    let mut trainee = trainee_in(precision, rule.clone(), SCHEDULER, HORIZON, device);
    trainee.begin();
    trainee
}

/// Takes a step; in one that is `lost`, a gradient is not a number. Returns the loss.
fn step(trainee: &mut Trainee, iteration: u64, lost: bool) -> f64 {
    let mut meter = Meter::default();
    let mut gradients = trainee.gradients(&batch(20, iteration), false, &mut meter);
    if lost {
        let name = gradients.keys().next().unwrap().clone();
        let gradient = gradients.remove(&name).unwrap();
        gradients.insert(name, gradient * f32::NAN);
    }
    trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr: 0.02 });
    meter.read();
    meter.totals().mean_loss()
}

fn weights(trainee: &Trainee) -> Vec<Vec<f32>> {
    parameters::weights(&trainee.network, trainee.engine.layers())
}

#[test]
fn a_scaled_loss_gives_the_steps_of_one_that_is_not() {
    for rule in &RULES {
        let [mut plain, mut scaled] = [Precision::F32, Precision::F16].map(|p| begun(p, rule, &Device::flex()));
        for iteration in 1..=5 {
            step(&mut plain, iteration, false);
            step(&mut scaled, iteration, false);
        }
        assert_eq!(scaled.loss_scaling(), Some((65_536.0, 0)));
        assert_eq!(plain.loss_scaling(), None);
        let (plain, scaled) = (weights(&plain).concat(), weights(&scaled).concat());
        let apart = |most: f32| plain.iter().zip(&scaled).filter(|(a, b)| (*a - *b).abs() > most).count();
        match rule {
            // A power of two changes no digit.
            Rule::Sgd { .. } => assert_eq!(apart(0.0), 0),
            // Numbers that follow from the count of steps are f32 where the device counts them, and where a gradient is nearly
            // zero AdamW takes a whole step in the direction that rounding leaves.
            Rule::AdamW { .. } => assert!(apart(1e-5) * 100 <= plain.len(), "{} of {}", apart(1e-5), plain.len()),
        }
    }
}

#[test]
fn a_step_that_is_lost_changes_neither_weights_nor_moments_nor_what_comes_after() {
    for rule in &RULES {
        let [mut straight, mut lossy] = [(); 2].map(|()| begun(Precision::F16, rule, &Device::flex()));
        // The first step, which has no moments yet, is lost too.
        step(&mut lossy, 1, true);
        for iteration in 2..=4 {
            step(&mut straight, iteration, false);
            step(&mut lossy, iteration, false);
        }
        let before = lossy.save().0;
        step(&mut lossy, 5, true);
        let mut after = lossy.save().0;
        assert_eq!(after.remove("loss_scale").unwrap().as_f32().unwrap(), [16_384.0, 0.0, 2.0]);
        after.insert("loss_scale".to_string(), before["loss_scale"].clone());
        assert!(before == after, "{rule:?}");
        for (a, b) in weights(&straight).iter().flatten().zip(weights(&lossy).iter().flatten()) {
            assert!((a - b).abs() <= 1e-6, "{rule:?}: {a} and {b}");
        }
    }
}

#[test]
fn a_resumed_training_goes_on_with_its_scale() {
    for rule in &RULES {
        let mut straight = begun(Precision::F16, rule, &Device::flex());
        step(&mut straight, 1, true);
        step(&mut straight, 2, false);
        let (tensors, state) = straight.save();
        let mut resumed = trainee_in(Precision::F16, rule.clone(), SCHEDULER, HORIZON, &Device::flex());
        resumed.restore(tensors, serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap()).unwrap();
        for trainee in [&mut straight, &mut resumed] {
            step(trainee, 3, true);
            step(trainee, 4, false);
        }
        assert_eq!(straight.loss_scaling(), Some((16_384.0, 2)));
        assert_eq!(straight.save().0, resumed.save().0, "{rule:?}");
    }
}

#[test]
fn steps_in_f16_on_wgpu_learn_as_those_in_f32_and_read_nothing() {
    let Some(device) = wgpu().filter(|device| device.supports_dtype(FloatDType::F16)) else { return };
    let rule = &RULES[0];
    let [exact, half] =
        [(Precision::F32, Device::flex()), (Precision::F16, device.clone())].map(|(precision, device)| {
            let mut trainee = begun(precision, rule, &device);
            (1..=4).map(|iteration| step(&mut trainee, iteration, false)).collect::<Vec<f64>>()
        });
    for (a, b) in exact.iter().zip(&half) {
        assert!(a != b && (a / b - 1.0).abs() < 5e-3, "{exact:?} {half:?}");
    }

    let mut trainee = begun(Precision::F16, rule, &device);
    let mut meter = Meter::default();
    let before = reads();
    for (iteration, lost) in [(1, false), (2, true), (3, false)] {
        let mut gradients = trainee.gradients(&batch(20, iteration), false, &mut meter);
        if lost {
            // As an overflow in f16 leaves it; the device must see it though its compiler may think that there is no such thing.
            let [length] = gradients["fc1.weight"].dims();
            let overflow = Tensor::<1>::from_floats([f32::INFINITY], &device).expand([length]);
            let gradient = gradients.remove("fc1.weight").unwrap();
            gradients.insert("fc1.weight".to_string(), gradient + overflow);
        }
        trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr: 0.02 });
    }
    assert_eq!(reads(), before);
    assert_eq!(trainee.loss_scaling(), Some((32_768.0, 1)));
    assert!(weights(&trainee).iter().flatten().all(|weight| weight.is_finite()));
}

fn noise<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    let number = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(number).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("results are f32")
}

/// A small residual network and a linear layer: what comes out, and the gradients of all that is learned.
fn network(precision: Precision, device: &Device) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let [w1, w2] =
        [([8, 3, 3, 3], 1), ([8, 8, 3, 3], 2)].map(|(shape, seed)| noise(shape, seed, &device).require_grad());
    let [gamma, beta] = [4, 5].map(|seed| noise([8], seed, &device).require_grad());
    let fc = noise([8, 5], 6, &device).require_grad();
    let x = Activation::new(noise([2, 3, 6, 6], 7, &device)).with_precision(precision);
    let x = conv2d(x, w1.clone(), Some(noise([8], 3, &device)), 1, 1);
    let x = batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, Then::Relu).output;
    let y = conv2d(x.clone().with_precision(precision), w2.clone(), None, 1, 1);
    let y = batch_norm_train(y, gamma.clone(), beta.clone(), 1e-5, Then::AddRelu(x.clone())).output;
    let y = y.add(x).relu();
    let y = linear(global_average(max_pool(y)), fc.clone(), None, None, precision);
    let gradients = (y.clone() * noise([2, 5], 8, &device)).sum().backward();
    vec![
        floats(y),
        floats(w1.grad(&gradients).unwrap()),
        floats(w2.grad(&gradients).unwrap()),
        floats(gamma.grad(&gradients).unwrap()),
        floats(fc.grad(&gradients).unwrap()),
    ]
}

#[test]
fn layers_in_f16_are_near_those_in_f32_and_leave_f32_gradients() {
    let Some(device) = wgpu().filter(|device| device.supports_dtype(FloatDType::F16)) else { return };
    let [exact, half] =
        [(Precision::F32, &Device::flex()), (Precision::F16, &device)].map(|(p, device)| network(p, device));
    for (part, (exact, half)) in exact.iter().zip(&half).enumerate() {
        let scale = exact.iter().fold(0f32, |most, value| most.max(value.abs()));
        let off = exact.iter().zip(half).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
        println!("part {part} is off by {off}");
        assert!(off > 0.0 && off < 2e-2, "part {part} is off by {off}");
    }
    let tokens = |precision: Precision, device: &Device| {
        let device = device.clone().autodiff();
        let weight = noise([7, 5], 1, &device).require_grad();
        let x = Tokens::new(noise([3, 4, 7], 2, &device)).with_precision(precision);
        let y = x.linear(weight.clone(), Some(noise([5], 3, &device)), None).into_tensor();
        let gradients = activation::gelu(y.clone()).sum().backward();
        [floats(y), floats(weight.grad(&gradients).unwrap())]
    };
    for (exact, half) in tokens(Precision::F32, &Device::flex()).iter().zip(&tokens(Precision::F16, &device)) {
        assert!(exact.iter().zip(half).all(|(a, b)| (a - b).abs() < 1e-2) && exact != half, "{exact:?} {half:?}");
    }
}

#[test]
fn halves_are_added_in_f32_on_wgpu() {
    let Some(device) = wgpu().filter(|device| device.supports_dtype(FloatDType::F16)) else { return };
    // In f16 there is no odd number above 2048, and a sum of ones stops there.
    let x = Activation::new(Tensor::ones([1, 512, 3, 3], &device)).with_precision(Precision::F16);
    let y = conv2d(x, Tensor::ones([1, 512, 3, 3], &device), None, 1, 0);
    assert_eq!(floats(y.into_nchw()), [4608.0]);
}

#[test]
fn what_a_device_cannot_do_is_refused_in_a_sentence_that_names_what_it_can() {
    let on_cpu = Precision::F16.check(&Device::flex()).unwrap_err();
    assert!(on_cpu.contains("bf16"), "{on_cpu}");
    assert_eq!(Precision::Bf16.check(&Device::flex()), Ok(()));
    let Some(device) = wgpu() else { return };
    for precision in [Precision::Bf16, Precision::F16] {
        if let Err(refused) = precision.check(&device) {
            println!("{refused}");
            assert!(refused.contains("use precision = \"f32\""), "{refused}");
        }
    }
}
