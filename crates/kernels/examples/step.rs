//! Times a training step of ResNet-20 on CIFAR shapes, batch 128: our operations, dense, in bf16 and sparse (kept
//! shares of the three stages and the two transitions as in an ERK allocation), and burn's own on flex.
//!
//! `cargo run --release -p bonsai-kernels --example step [repeats] [ours|bf16|sparse90|sparse95|burn]`. Prints medians in milliseconds.

use std::sync::Arc;
use std::time::Instant;

use bonsai_kernels::{
    Activation, Gradients, Pattern, Precision, Then, batch_norm_train, conv2d, global_average, pad_shortcut,
    sparse_conv2d,
};
use burn::tensor::module::{batch_norm_train as burns_batch_norm, conv2d as burns_conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Int, Tensor, TensorData, activation, s};
use rand::RngExt;

const BATCH: usize = 128;

/// A convolution with its normalisation: weight, gamma, beta, stride.
struct Layer(Tensor<4>, Tensor<1>, Tensor<1>, usize);

struct Network {
    layers: Vec<Layer>,
    classifier: Tensor<2>,
    /// For each layer, if the network is sparse.
    patterns: Vec<Option<Arc<Pattern>>>,
    precision: Precision,
}

impl Network {
    fn new(precision: Precision, device: &Device) -> Network {
        let mut layers = vec![layer(3, 16, 1, device)];
        let mut inputs = 16;
        for outputs in [16, 32, 64] {
            for _ in 0..3 {
                layers.push(layer(inputs, outputs, if inputs == outputs { 1 } else { 2 }, device));
                layers.push(layer(outputs, outputs, 1, device));
                inputs = outputs;
            }
        }
        let patterns = vec![None; layers.len()];
        Network { layers, classifier: random([64, 10], 0.1, device).require_grad(), patterns, precision }
    }

    /// Keeps a share of the weights of each layer but the first: of 16, 16 to 32, 32, 32 to 64 and 64 channels.
    fn prune(&mut self, shares: [f64; 5]) {
        for (layer, pattern) in self.layers.iter_mut().zip(&mut self.patterns).skip(1) {
            let shape @ [outputs, inputs, ..] = layer.0.dims();
            let share = shares[inputs.ilog2() as usize + outputs.ilog2() as usize - 8];
            let mut random = bonsai_random::stream(0, "mask", outputs);
            let mask: Vec<bool> = (0..outputs * inputs * 9).map(|_| random.random_bool(share)).collect();
            let floats: Vec<f32> = mask.iter().map(|kept| *kept as u8 as f32).collect();
            let mask_tensor = Tensor::from_data(TensorData::new(floats, shape), &layer.0.device().inner());
            layer.0 = Tensor::from_inner(layer.0.clone().inner() * mask_tensor).require_grad();
            *pattern = Some(Arc::new(Pattern::new(shape, mask)));
        }
    }

    fn ours(&self, images: Tensor<4>) -> Tensor<2> {
        let conv = |x: Activation, layer: &Layer, pattern: &Option<Arc<Pattern>>| match pattern {
            None => conv2d(x.with_precision(self.precision), layer.0.clone(), None, layer.3, 1),
            Some(pattern) => sparse_conv2d(x, layer.0.clone(), None, layer.3, 1, pattern, Gradients::Kept),
        };
        let norm = |x, layer: &Layer, then| batch_norm_train(x, layer.1.clone(), layer.2.clone(), 1e-5, then).output;
        let stem = &self.layers[0];
        let mut x = norm(conv(Activation::new(images), stem, &None), stem, Then::Relu);
        for (pair, patterns) in self.layers[1..].chunks(2).zip(self.patterns[1..].chunks(2)) {
            let y = norm(conv(x.clone(), &pair[0], &patterns[0]), &pair[0], Then::Relu);
            let y = conv(y, &pair[1], &patterns[1]);
            let shortcut = if pair[0].3 == 2 { pad_shortcut(x, y.dims()[1]) } else { x };
            x = norm(y, &pair[1], Then::AddRelu(shortcut));
        }
        linear(global_average(x), self.classifier.clone(), None)
    }

    fn burns(&self, images: Tensor<4>) -> Tensor<2> {
        let conv = |x, layer: &Layer| {
            burns_conv2d(x, layer.0.clone(), None, ConvOptions::new([layer.3; 2], [1, 1], [1, 1], 1))
        };
        let norm = |x, layer: &Layer| burns_batch_norm(x, layer.1.clone(), layer.2.clone(), 1e-5).output;
        let stem = &self.layers[0];
        let mut x = activation::relu(norm(conv(images, stem), stem));
        for pair in self.layers[1..].chunks(2) {
            let y = activation::relu(norm(conv(x.clone(), &pair[0]), &pair[0]));
            let y = norm(conv(y, &pair[1]), &pair[1]);
            if pair[0].3 == 2 {
                let half = x.dims()[1] / 2;
                x = x.slice(s![.., .., ..;2, ..;2]).pad([(half, half), (0, 0), (0, 0)], 0.0);
            }
            x = activation::relu(y + x);
        }
        let [images, channels, height, width] = x.dims();
        let x = x.reshape([images, channels, height * width]).mean_dim(2).squeeze_dim(2);
        linear(x, self.classifier.clone(), None)
    }

    /// Takes a step by `forward` and returns the loss and the time of the forward and the backward pass.
    fn step(&mut self, forward: fn(&Network, Tensor<4>) -> Tensor<2>, images: &Tensor<4>) -> (f32, [f64; 2]) {
        let device = images.device();
        let labels =
            Tensor::<1, Int>::from_data(TensorData::new((0..BATCH as i64).map(|i| i % 10).collect(), [BATCH]), &device);
        let start = Instant::now();
        let logits = forward(self, images.clone());
        let forward = start.elapsed().as_secs_f64();
        let loss = activation::log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg();
        let gradients = loss.clone().backward();
        let update = |w: &Tensor<4>| descend(w, w.grad(&gradients).unwrap());
        for layer in &mut self.layers {
            layer.0 = update(&layer.0);
            layer.1 = descend(&layer.1, layer.1.grad(&gradients).unwrap());
            layer.2 = descend(&layer.2, layer.2.grad(&gradients).unwrap());
        }
        self.classifier = descend(&self.classifier, self.classifier.grad(&gradients).unwrap());
        drop(gradients);
        let loss = loss.into_data().try_to_vec::<f32>().unwrap()[0];
        (loss, [forward, start.elapsed().as_secs_f64()])
    }
}

fn descend<const D: usize>(weight: &Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(weight.clone().inner() - gradient * 0.1).require_grad()
}

fn layer(inputs: usize, outputs: usize, stride: usize, device: &Device) -> Layer {
    let size = (6.0 / (inputs * 9) as f32).sqrt();
    let weight = random([outputs, inputs, 3, 3], size, device).require_grad();
    Layer(
        weight,
        Tensor::ones([outputs], device).require_grad(),
        Tensor::zeros([outputs], device).require_grad(),
        stride,
    )
}

fn random<const D: usize>(dims: [usize; D], size: f32, device: &Device) -> Tensor<D> {
    let len = dims.iter().product();
    let mut random = bonsai_random::stream(0, "step", len);
    let values: Vec<f32> = (0..len).map(|_| random.random_range(-size..size)).collect();
    Tensor::from_data(TensorData::new(values, dims), device)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let repeats = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(7);
    let only = arguments.get(1).map(String::as_str);
    let device = Device::flex().autodiff();
    let images = random([BATCH, 3, 32, 32], 2.0, &device);
    let ours = Network::ours as fn(&Network, Tensor<4>) -> _;
    let erk90 = [0.302, 0.215, 0.139, 0.101, 0.0666];
    let erk95 = [0.1475, 0.105, 0.0679, 0.0495, 0.0325];
    for (name, forward, precision, kept) in [
        ("ours", ours, Precision::F32, None),
        ("bf16", ours, Precision::Bf16, None),
        ("sparse90", ours, Precision::F32, Some(erk90)),
        ("sparse95", ours, Precision::F32, Some(erk95)),
        ("burn", Network::burns, Precision::F32, None),
    ] {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let mut network = Network::new(precision, &device);
        if let Some(kept) = kept {
            network.prune(kept);
        }
        let first = network.step(forward, &images).0;
        let mut times = Vec::new();
        let mut losses = vec![first];
        for _ in 0..repeats {
            let (loss, time) = network.step(forward, &images);
            losses.push(loss);
            times.push(time);
        }
        let median = |of: usize| {
            let mut times: Vec<f64> = times.iter().map(|time| time[of] * 1e3).collect();
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2], times[0])
        };
        let ((step, best), (forward, _)) = (median(1), median(0));
        println!("{name}: step {step:.0} ms (forward {forward:.0} ms, best step {best:.0} ms), losses {losses:.4?}");
    }
}
