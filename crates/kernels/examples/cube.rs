//! Times the directions of a convolution on the GPU, burn's own and ours, at ResNet-20's shapes.
//!
//! ```sh
//! cargo run --release --example cube [BATCH]
//! ```
//!
//! Where there is no GPU this runs on Mesa's software adapter, whose figures say nothing about any other device.

use std::time::Instant;

use bonsai_kernels::{Activation, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData, module};

/// Input channels, output channels, side of the maps, kernel, stride.
const SHAPES: [[usize; 5]; 7] = [
    [3, 16, 32, 3, 1],
    [16, 16, 32, 3, 1],
    [16, 32, 32, 3, 2],
    [32, 32, 16, 3, 1],
    [64, 64, 8, 3, 1],
    [64, 256, 8, 1, 1],
    [256, 64, 8, 1, 1],
];
const ROUNDS: usize = 5;

fn main() {
    let batch = std::env::args().nth(1).map_or(16, |text| text.parse().expect("BATCH is a number"));
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let name = device.identity().map_or_else(|| "a device without a name".to_string(), |identity| identity.name);
    println!("batch {batch} on {name}; medians of {ROUNDS} in ms, burn's own, ours, their ratio\n");
    println!("{:28}{:>22}{:>22}{:>22}", "convolution", "forward", "data gradient", "weight gradient");
    for [inputs, outputs, side, kernel, stride] in SHAPES {
        let own = times(&device, batch, [inputs, outputs, side, kernel, stride], |x, weight| {
            let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
            module::conv2d(x, weight, None, options)
        });
        let ours = times(&device, batch, [inputs, outputs, side, kernel, stride], |x, weight| {
            conv2d(Activation::new(x), weight, None, stride, kernel / 2).into_nchw()
        });
        let shape = format!("{inputs} × {side} × {side} → {outputs}, {kernel} × {kernel} / {stride}");
        let cell = |(own, ours): (&f64, &f64)| format!("{own:9.1}{ours:7.1}{:6.1}", own / ours);
        println!("{shape:28}{}", own.iter().zip(&ours).map(cell).collect::<String>());
    }
}

/// Returns the medians of the forward pass, and of a backward pass to the input alone and to the weight alone.
fn times(
    device: &Device,
    batch: usize,
    shape: [usize; 5],
    conv: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> [f64; 3] {
    let [inputs, outputs, side, kernel, stride] = shape;
    let x = noise([batch, inputs, side, side], device);
    let weight = noise([outputs, inputs, kernel, kernel], device);
    let above = noise([batch, outputs, side.div_ceil(stride), side.div_ceil(stride)], device);
    let run = |of_x: bool, of_weight: bool| {
        let mut taken = Vec::new();
        for _ in 0..ROUNDS + 2 {
            let gradient = |tensor: &Tensor<4>, wanted| {
                let tensor = Tensor::from_inner(tensor.clone());
                if wanted { tensor.require_grad() } else { tensor }
            };
            let (x, weight) = (gradient(&x, of_x), gradient(&weight, of_weight));
            let (mut began, y) = (Instant::now(), conv(x.clone(), weight.clone()));
            device.sync().unwrap();
            if of_x || of_weight {
                let y = y.clone();
                let sum = (y * Tensor::from_inner(above.clone())).sum();
                device.sync().unwrap();
                began = Instant::now();
                let gradients = sum.backward();
                device.sync().unwrap();
                taken.push(began.elapsed().as_secs_f64() * 1e3);
                assert_eq!([x.grad(&gradients).is_some(), weight.grad(&gradients).is_some()], [of_x, of_weight]);
            } else {
                taken.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        let mut taken = taken.split_off(2);
        taken.sort_by(f64::total_cmp);
        taken[ROUNDS / 2]
    };
    [run(false, false), run(true, false), run(false, true)]
}

fn noise(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    let numbers: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(number).collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}
