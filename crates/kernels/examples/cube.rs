//! Times convolutions and batch normalisations on the GPU, burn's own and ours, at ResNet-20's shapes.
//!
//! ```sh
//! cargo run --release --example cube [BATCH]
//! ```
//!
//! Where there is no GPU this runs on Mesa's software adapter, whose figures say nothing about any other device.

use std::time::Instant;

use bonsai_kernels::{Activation, Then, batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData, activation, module};

/// Input channels, output channels, side of the maps, kernel, stride.
const CONVOLUTIONS: [[usize; 5]; 9] = [
    [3, 16, 32, 3, 1],
    [16, 16, 32, 3, 1],
    [16, 32, 32, 3, 2],
    [32, 32, 16, 3, 1],
    [32, 64, 16, 3, 2],
    [64, 64, 8, 3, 1],
    [16, 32, 32, 1, 2],
    [64, 256, 8, 1, 1],
    [256, 64, 8, 1, 1],
];
/// Channels, side of the maps.
const NORMALISATIONS: [[usize; 2]; 3] = [[16, 32], [32, 16], [64, 8]];
const ROUNDS: usize = 5;

fn main() {
    let batch = std::env::args().nth(1).map_or(16, |text| text.parse().expect("BATCH is a number"));
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let name = device.identity().map_or_else(|| "a device without a name".to_string(), |identity| identity.name);
    println!("batch {batch} on {name}; medians of {ROUNDS} in ms, burn's own, ours, their ratio\n");
    println!("{:28}{:>22}{:>22}{:>22}", "convolution", "forward", "data gradient", "weight gradient");
    for [inputs, outputs, side, kernel, stride] in CONVOLUTIONS {
        let leaves = [noise([batch, inputs, side, side], &device), noise([outputs, inputs, kernel, kernel], &device)];
        let own = |[x, weight]: [Tensor<4>; 2]| {
            let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
            module::conv2d(x, weight, None, options)
        };
        let ours =
            |[x, weight]: [Tensor<4>; 2]| conv2d(Activation::new(x), weight, None, stride, kernel / 2).into_nchw();
        let directions = [[false, false], [true, false], [false, true]];
        let name = format!("{inputs} × {side} × {side} → {outputs}, {kernel} × {kernel} / {stride}");
        line(&name, directions.map(|wanted| [time(&leaves, wanted, own), time(&leaves, wanted, ours)]));
    }

    println!(
        "\n{:28}{:>22}{:>22}{:>22}{:>22}",
        "batch norm", "relu, forward", "backward", "add, relu, forward", "backward"
    );
    for [channels, side] in NORMALISATIONS {
        let maps = noise([batch, channels, side, side], &device);
        let [gamma, beta] = [0.5, -0.5].map(|value| Tensor::<1>::full([channels], value, &device));
        let parameters = || [&gamma, &beta].map(|vector| Tensor::from_inner(vector.clone()).require_grad());
        let own = |[x]: [Tensor<4>; 1]| {
            let [gamma, beta] = parameters();
            activation::relu(module::batch_norm_train(x, gamma, beta, 1e-5).output)
        };
        let ours = |[x]: [Tensor<4>; 1]| {
            let [gamma, beta] = parameters();
            batch_norm_train(Activation::new(x), gamma, beta, 1e-5, Then::Relu).output.into_nchw()
        };
        let own_added = |[x, residual]: [Tensor<4>; 2]| {
            let [gamma, beta] = parameters();
            activation::relu(module::batch_norm_train(x, gamma, beta, 1e-5).output + residual)
        };
        let ours_added = |[x, residual]: [Tensor<4>; 2]| {
            let [gamma, beta] = parameters();
            let then = Then::AddRelu(Activation::new(residual));
            batch_norm_train(Activation::new(x), gamma, beta, 1e-5, then).output.into_nchw()
        };
        let (one, two) = ([maps.clone()], [maps.clone(), maps]);
        let both = |wanted| [time(&one, [wanted], own), time(&one, [wanted], ours)];
        let both_added = |wanted| [time(&two, [wanted; 2], own_added), time(&two, [wanted; 2], ours_added)];
        let name = format!("{channels} × {side} × {side}");
        line(&name, [both(false), both(true), both_added(false), both_added(true)]);
    }
}

fn line<const N: usize>(name: &str, times: [[f64; 2]; N]) {
    let cell = |[own, ours]: [f64; 2]| format!("{own:9.1}{ours:7.1}{:6.1}", own / ours);
    println!("{name:28}{}", times.into_iter().map(cell).collect::<String>());
}

/// Returns the median of the backward pass to the leaves that are wanted, or of the forward pass if none is.
fn time<const N: usize>(
    leaves: &[Tensor<4>; N],
    wanted: [bool; N],
    operation: impl Fn([Tensor<4>; N]) -> Tensor<4>,
) -> f64 {
    let device = leaves[0].device();
    let backward = wanted.contains(&true);
    let mut above = None;
    let mut taken = Vec::new();
    for _ in 0..ROUNDS + 2 {
        let mut wanted = wanted.into_iter();
        let leaves = leaves.each_ref().map(|leaf| {
            let leaf = Tensor::from_inner(leaf.clone());
            if wanted.next() == Some(true) { leaf.require_grad() } else { leaf }
        });
        device.sync().unwrap();
        let mut began = Instant::now();
        let y = operation(leaves);
        device.sync().unwrap();
        if backward {
            let above = above.get_or_insert_with(|| noise(y.dims(), &device)).clone();
            let sum = (y.clone() * Tensor::from_inner(above)).sum();
            device.sync().unwrap();
            began = Instant::now();
            let gradients = sum.backward();
            device.sync().unwrap();
            taken.push(began.elapsed().as_secs_f64() * 1e3);
            drop(gradients);
        } else {
            taken.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut taken = taken.split_off(2);
    taken.sort_by(f64::total_cmp);
    taken[ROUNDS / 2]
}

fn noise(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    let numbers: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(number).collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}
