//! Our operations against burn's own: outputs and gradients, on flex with our kernels and on ndarray without.

use std::sync::Arc;

use bonsai_kernels::{
    Activation, Gradients, Pattern, Then, add_around, average_pool, batch_norm, batch_norm_train, concat, conv2d,
    depthwise, gather_maps, global_average, max_pool, pad_shortcut, scale_maps, sparse_conv2d,
};
use burn::tensor::module::{avg_pool2d, conv2d as burns_conv2d, max_pool2d};
use burn::tensor::module::{batch_norm as burns_batch_norm, batch_norm_train as burns_batch_norm_train};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu, s};
use proptest::prelude::*;
use rand::RngExt;

#[allow(deprecated)] // ndarray stays selectable, and runs burn's own operations.
fn devices() -> [Device; 2] {
    [Device::flex().autodiff(), Device::ndarray().autodiff()]
}

fn random<const D: usize>(dims: [usize; D], purpose: &str, device: &Device) -> Tensor<D> {
    let len = dims.iter().product();
    let mut random = bonsai_random::stream(0, purpose, len);
    let values: Vec<f32> = (0..len).map(|_| random.random_range(-1.0..1.0)).collect();
    let tensor = Tensor::from_data(TensorData::new(values, dims), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn close(ours: &[Vec<f32>], burns: &[Vec<f32>]) {
    assert_eq!(ours.len(), burns.len());
    for (i, (ours, burns)) in ours.iter().zip(burns).enumerate() {
        assert_eq!(ours.len(), burns.len(), "result {i}");
        // Inputs are of size 1: a sum that cancels to less keeps the rounding of its parts.
        let size = burns.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        for (j, (a, b)) in ours.iter().zip(burns).enumerate() {
            assert!((a - b).abs() <= 1e-5 * size, "result {i}, number {j}: {a} instead of {b} (of {size})");
        }
    }
}

/// Returns `y` and the gradients of `inputs` for a random gradient of `y`.
fn results<const D: usize>(y: Tensor<D>, inputs: &[&Tensor<4>], vectors: &[&Tensor<1>]) -> Vec<Vec<f32>> {
    let weights = random(y.dims(), "loss", &y.device()).detach();
    let gradients = (y.clone() * weights).sum().backward();
    let mut all = vec![floats(y)];
    all.extend(inputs.iter().map(|input| floats(input.grad(&gradients).unwrap())));
    all.extend(vectors.iter().map(|input| floats(input.grad(&gradients).unwrap())));
    all
}

fn check_conv(dims: [usize; 4], outputs: usize, kernel: usize, stride: usize, padding: usize, bias: bool) {
    for device in devices() {
        let x = random(dims, "x", &device);
        let weight = random([outputs, dims[1], kernel, kernel], "weight", &device);
        let bias = bias.then(|| random([outputs], "bias", &device));
        let biases: Vec<&Tensor<1>> = bias.iter().collect();
        let y = conv2d(Activation::new(x.clone()), weight.clone(), bias.clone(), stride, padding).into_nchw();
        let ours = results(y, &[&x, &weight], &biases);
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        let y = burns_conv2d(x.clone(), weight.clone(), bias.clone(), options);
        close(&ours, &results(y, &[&x, &weight], &biases));
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    Nothing,
    Relu,
    AddRelu,
}

fn check_norm(dims: [usize; 4], after: After) {
    for device in devices() {
        let (x, residual) = (random(dims, "x", &device), random(dims, "residual", &device));
        let gamma = random([dims[1]], "gamma", &device);
        let beta = random([dims[1]], "beta", &device);
        // Made anew for each graph, since a backward pass consumes it.
        let then = || match after {
            After::Nothing => Then::Nothing,
            After::Relu => Then::Relu,
            After::AddRelu => Then::AddRelu(Activation::new(residual.clone())),
        };
        let finish = |y: Tensor<4>| match after {
            After::Nothing => y,
            After::Relu => relu(y),
            After::AddRelu => relu(y + residual.clone()),
        };
        let inputs = [&x, &residual];
        let inputs = if after == After::AddRelu { &inputs[..] } else { &inputs[..1] };

        let normalised = batch_norm_train(Activation::new(x.clone()), gamma.clone(), beta.clone(), 1e-5, then());
        let mut ours = results(normalised.output.into_nchw(), inputs, &[&gamma, &beta]);
        ours.extend([floats(normalised.mean.clone()), floats(normalised.variance.clone())]);
        let batch = burns_batch_norm_train(x.clone(), gamma.clone(), beta.clone(), 1e-5);
        let mut burns = results(finish(batch.output), inputs, &[&gamma, &beta]);
        burns.extend([floats(batch.mean.clone()), floats(batch.variance.clone())]);
        close(&ours, &burns);

        let (mean, variance) = (batch.mean.clone().add_scalar(0.1), batch.variance.clone().add_scalar(0.2));
        let fixed = Activation::new(x.clone());
        let y = batch_norm(fixed, gamma.clone(), beta.clone(), mean.clone(), variance.clone(), 1e-5, then());
        let ours = results(y.into_nchw(), inputs, &[&gamma, &beta]);
        let y = burns_batch_norm(x.clone(), gamma.clone(), beta.clone(), mean, variance, 1e-5);
        close(&ours, &results(finish(y), inputs, &[&gamma, &beta]));
    }
}

fn check_pooling(dims: [usize; 4], more: usize) {
    let [images, channels, height, width] = dims;
    for device in devices() {
        let x = random(dims, "x", &device);
        let ours = results(global_average(Activation::new(x.clone())), &[&x], &[]);
        let average = x.clone().reshape([images, channels, height * width]).mean_dim(2).squeeze_dim::<2>(2);
        close(&ours, &results(average, &[&x], &[]));

        let ours = results(pad_shortcut(Activation::new(x.clone()), channels + more).into_nchw(), &[&x], &[]);
        let padded = x.clone().slice(s![.., .., ..;2, ..;2]).pad([(more / 2, more - more / 2), (0, 0), (0, 0)], 0.0);
        close(&ours, &results(padded, &[&x], &[]));

        for (stride, sources) in [(1, vec![Some(channels - 1), None, Some(0), Some(0)]), (2, vec![Some(0); 3])] {
            let ours =
                results(gather_maps(Activation::new(x.clone()), sources.clone(), stride).into_nchw(), &[&x], &[]);
            let step = stride as isize;
            let pixels = x.clone().slice(s![.., .., ..;step, ..;step]);
            let of = |source: &Option<usize>| match source {
                Some(source) => pixels.clone().narrow(1, *source, 1),
                None => pixels.clone().narrow(1, 0, 1).zeros_like(),
            };
            let burns = Tensor::cat(sources.iter().map(of).collect(), 1);
            close(&ours, &results(burns, &[&x], &[]));
        }
        let factors = random([images, channels], "factors", &device);
        let broadcast = x.clone() * factors.clone().reshape([images, channels, 1, 1]);
        // A normalisation reads the scaled maps with the zeros around them.
        let squares = |maps: Activation| maps.through_nchw(|maps| maps.clone() * maps).into_nchw();
        let [ours, burns] =
            [scale_maps(Activation::new(x.clone()), factors.clone()), Activation::new(broadcast)].map(|maps| {
                let y = squares(maps);
                let gradients = (y.clone() * random(dims, "y", &device).detach()).sum().backward();
                [floats(y), floats(x.grad(&gradients).unwrap()), floats(factors.grad(&gradients).unwrap())].to_vec()
            });
        close(&ours, &burns);

        if height > 1 && width > 1 {
            let ours = results(max_pool(Activation::new(x.clone())).into_nchw(), &[&x], &[]);
            close(&ours, &results(max_pool2d(x.clone(), MaxPoolOptions::new([2, 2])), &[&x], &[]));

            let ours = results(average_pool(Activation::new(x.clone())).into_nchw(), &[&x], &[]);
            let options = AvgPoolOptions::new([2, 2]);
            close(&ours, &results(avg_pool2d(x.clone(), options), &[&x], &[]));
        }
    }
}

fn check_depthwise(dims: [usize; 4], kernel: usize, stride: usize) {
    for device in devices() {
        let x = random(dims, "x", &device);
        let weight = random([dims[1], 1, kernel, kernel], "weight", &device);
        let y = depthwise(Activation::new(x.clone()), weight.clone(), stride).into_nchw();
        let ours = results(y, &[&x, &weight], &[]);
        let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], dims[1]);
        close(&ours, &results(burns_conv2d(x.clone(), weight.clone(), None, options), &[&x, &weight], &[]));
    }
}

fn check_planes([images, channels, height, width]: [usize; 4], more: usize) {
    for device in devices() {
        let x = random([images, channels, height, width], "x", &device);
        let y = random([images, more, height, width], "y", &device);
        let joined = concat(Activation::new(x.clone()), Activation::new(y.clone())).into_nchw();
        let burns = Tensor::cat(vec![x.clone(), y.clone()], 1);
        close(&results(joined, &[&x, &y], &[]), &results(burns, &[&x, &y], &[]));

        // Every second channel, the last ones first.
        let places: Vec<usize> = (0..channels).rev().step_by(2).collect();
        let picked = pick(Activation::new(x.clone()), &places).into_nchw();
        close(&results(picked, &[&x], &[]), &results(burns_pick(x.clone(), &places), &[&x], &[]));

        // Some of both, one of them twice.
        let places: Vec<usize> = (0..channels + more).step_by(2).chain([channels]).collect();
        let joined = concat(Activation::new(x.clone()), Activation::new(y.clone()));
        let burns = Tensor::cat(vec![x.clone(), y.clone()], 1);
        let picked = pick(joined, &places).into_nchw();
        close(&results(picked, &[&x, &y], &[]), &results(burns_pick(burns, &places), &[&x, &y], &[]));
    }
}

fn pick(x: Activation, places: &[usize]) -> Activation {
    gather_maps(x, places.iter().copied().map(Some).collect(), 1)
}

fn burns_pick(x: Tensor<4>, places: &[usize]) -> Tensor<4> {
    let indices: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [places.len()]), &x.device());
    x.select(1, indices)
}

/// Layers that put channels behind those that they read, as those of a DenseNet: each normalises channels that it picks.
struct Layers {
    x: Tensor<4>,
    weights: Vec<Tensor<4>>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    picks: Vec<Vec<usize>>,
}

const GROWTH: usize = 2;
const READ: usize = 5;

impl Layers {
    /// Draws `count` layers that read [`READ`] channels each, all of them of different activations.
    fn new(count: usize, images: usize, side: usize, device: &Device) -> Layers {
        let mut random_places = bonsai_random::stream(0, "picks", count);
        let picks =
            (0..count).map(|layer| (0..READ).map(|_| random_places.random_range(0..READ + GROWTH * layer)).collect());
        Layers {
            picks: picks.collect(),
            x: random([images, READ, side, side], "x", device),
            weights: (0..count).map(|i| random([GROWTH, READ, 3, 3], &format!("weight {i}"), device)).collect(),
            gamma: random([READ], "gamma", device),
            beta: random([READ], "beta", device),
        }
    }

    fn ours(&self) -> Vec<Vec<f32>> {
        let norm = |x| batch_norm_train(x, self.gamma.clone(), self.beta.clone(), 1e-5, Then::Relu).output;
        let stream =
            self.weights.iter().zip(&self.picks).fold(Activation::new(self.x.clone()), |stream, (weight, picks)| {
                let read = norm(pick(stream.clone(), picks));
                concat(stream, conv2d(read, weight.clone(), None, 1, 1))
            });
        // The last normalisation has no convolution behind it; the stream itself is read too.
        let last: Vec<usize> = (0..READ).map(|place| place * 2).collect();
        let y = concat(norm(pick(stream.clone(), &last)), stream).into_nchw();
        self.results(y)
    }

    fn burns(&self) -> Vec<Vec<f32>> {
        let norm = |x| relu(burns_batch_norm_train(x, self.gamma.clone(), self.beta.clone(), 1e-5).output);
        let stream = self.weights.iter().zip(&self.picks).fold(self.x.clone(), |stream, (weight, picks)| {
            let read = norm(burns_pick(stream.clone(), picks));
            let made = burns_conv2d(read, weight.clone(), None, ConvOptions::new([1; 2], [1; 2], [1; 2], 1));
            Tensor::cat(vec![stream, made], 1)
        });
        let last: Vec<usize> = (0..READ).map(|place| place * 2).collect();
        self.results(Tensor::cat(vec![norm(burns_pick(stream.clone(), &last)), stream], 1))
    }

    fn results(&self, y: Tensor<4>) -> Vec<Vec<f32>> {
        let inputs: Vec<&Tensor<4>> = std::iter::once(&self.x).chain(&self.weights).collect();
        results(y, &inputs, &[&self.gamma, &self.beta])
    }
}

#[track_caller]
fn nearly(ours: &[Vec<f32>], burns: &[Vec<f32>]) {
    for (i, (ours, burns)) in ours.iter().zip(burns).enumerate() {
        // A chain of layers multiplies the rounding of each.
        let size = burns.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        let distance = ours.iter().zip(burns).fold(0.0f32, |all, (a, b)| all.max((a - b).abs()));
        assert!(distance <= 2e-4 * size, "result {i}: {distance} of {size}");
    }
}

#[test]
fn normalisations_read_picked_channels_where_they_are() {
    for device in devices() {
        // The last count is that of more activations than one operation reads.
        for (count, images, side) in [(3, 16, 8), (4, 19, 5), (15, 2, 3)] {
            let layers = Layers::new(count, images, side, &device);
            nearly(&layers.ours(), &layers.burns());
        }
    }
}

#[test]
fn picked_channels_give_the_same_bits_on_any_number_of_threads() {
    let device = Device::flex().autodiff();
    for side in [5, 24] {
        let layers = Layers::new(4, 40, side, &device);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| layers.ours())
        };
        let one = on(1);
        assert!(one == on(2) && one == on(3) && one == on(7));
    }
}

/// A residual block that normalises first, reads some channels of a stream and adds to all of them.
fn check_residual(length: usize, last_norm: bool, shared: bool, device: &Device) {
    let x = random([18, 4, 6, 6], "x", device);
    let places = [3, 0];
    let widths: Vec<usize> = [2].into_iter().chain((0..length).map(|i| if i + 1 == length { 4 } else { 3 })).collect();
    let weight = |i: usize| random([widths[i + 1], widths[i], 3, 3], &format!("weight {i}"), device);
    let weights: Vec<_> = (0..length).map(weight).collect();
    let scales: Vec<_> =
        widths.iter().map(|width| [random([*width], "gamma", device), random([*width], "beta", device)]).collect();
    let inputs: Vec<&Tensor<4>> = std::iter::once(&x).chain(&weights).collect();
    let used = if last_norm { &scales[..] } else { &scales[..length] };
    let vectors: Vec<&Tensor<1>> = used.iter().flatten().collect();
    // The block is used twice, so that the stream has gradients from both.
    let rounds = if shared { 2 } else { 1 };

    let norm =
        |x, [gamma, beta]: &[Tensor<1>; 2], then| batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, then).output;
    let mut stream = Activation::new(x.clone());
    for _ in 0..rounds {
        let mut y = pick(stream.clone(), &places);
        for (weight, scales) in weights.iter().zip(&scales) {
            y = conv2d(norm(y, scales, Then::Relu), weight.clone(), None, 1, 1);
        }
        if last_norm {
            y = norm(y, &scales[length], Then::Nothing);
        }
        stream = y.add(stream);
    }
    let ours = results(stream.into_nchw(), &inputs, &vectors);

    let norm = |x, [gamma, beta]: &[Tensor<1>; 2]| burns_batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5).output;
    let mut stream = x.clone();
    for _ in 0..rounds {
        let mut y = burns_pick(stream.clone(), &places);
        for (weight, scales) in weights.iter().zip(&scales) {
            let options = ConvOptions::new([1; 2], [1; 2], [1; 2], 1);
            y = burns_conv2d(relu(norm(y, scales)), weight.clone(), None, options);
        }
        if last_norm {
            y = norm(y, &scales[length]);
        }
        stream = y + stream;
    }
    nearly(&ours, &results(stream, &inputs, &vectors));
}

#[test]
fn residual_blocks_that_normalise_first_are_those_of_burn() {
    for device in devices() {
        for length in 1..5 {
            for (last_norm, shared) in [(false, false), (false, true), (true, true)] {
                check_residual(length, last_norm, shared, &device);
            }
        }
    }
}

#[test]
fn a_bypass_is_a_normalised_product_with_what_is_made_in_its_places() {
    for device in devices() {
        let x = random([19, 4, 5, 6], "x", &device);
        let weight = random([2, 4, 3, 3], "weight", &device);
        let [factors, gamma, beta] = ["factors", "gamma", "beta"].map(|purpose| random([4], purpose, &device));
        // A small factor, so that ε counts beside its variance.
        let sizes = Tensor::<1>::from_data([1.0f32, 0.01, 0.3, 2.0], &device);
        let factors = (factors * sizes).detach().require_grad();
        let (inputs, vectors) = ([&x, &weight], [&factors, &gamma, &beta]);
        let source = Activation::new(x.clone());
        let made = conv2d(source.clone(), weight.clone(), None, 1, 1);
        let ours = add_around(source, made, &[1, 2], factors.clone(), gamma.clone(), beta.clone(), 1e-5);

        let product = x.clone() * factors.clone().reshape([1, 4, 1, 1]);
        let batch = burns_batch_norm_train(product, gamma.clone(), beta.clone(), 1e-5);
        let made = burns_conv2d(x.clone(), weight.clone(), None, ConvOptions::new([1; 2], [1; 2], [1; 2], 1));
        let zeros = Tensor::<4>::zeros([19, 1, 5, 6], &device);
        let burns = Tensor::cat(vec![zeros.clone(), made, zeros], 1) + batch.output;
        close(&[floats(ours.mean), floats(ours.variance)], &[floats(batch.mean), floats(batch.variance)]);
        // The statistics that come with the sum are those of a normalisation behind it.
        let behind = |x| batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, Then::Nothing).output.into_nchw();
        let ours = results(behind(ours.output), &inputs, &vectors);
        let burns = burns_batch_norm_train(burns, gamma.clone(), beta.clone(), 1e-5).output;
        nearly(&ours, &results(burns, &inputs, &vectors));
    }
}

/// A residual block whose last channels are added to some of a wider stream.
fn check_expanded(shortcut: bool, evaluated: bool, device: &Device) {
    let x = random([18, 4, 6, 6], "x", device);
    let wide = if shortcut { 8 } else { 4 };
    let places = vec![1, 3];
    let weights = [random([3, 4, 3, 3], "a", device), random([2, 3, 3, 3], "b", device)];
    let scales = [3, 2].map(|width| [random([width], "gamma", device), random([width], "beta", device)]);
    let inputs = [&x, &weights[0], &weights[1]];
    let vectors: Vec<&Tensor<1>> = scales.iter().flatten().collect();
    let stride = if shortcut { 2 } else { 1 };
    let constant = |width| (Tensor::<1>::zeros([width], device), Tensor::<1>::ones([width], device));

    let norm = |x: Activation, [gamma, beta]: &[Tensor<1>; 2], then| {
        let (mean, variance) = constant(gamma.dims()[0]);
        match evaluated {
            true => batch_norm(x, gamma.clone(), beta.clone(), mean, variance, 1e-5, then),
            false => batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, then).output,
        }
    };
    let source = Activation::new(x.clone());
    let y = norm(conv2d(source.clone(), weights[0].clone(), None, stride, 1), &scales[0], Then::Relu);
    let y = conv2d(y, weights[1].clone(), None, 1, 1);
    let around = if shortcut { pad_shortcut(source, wide) } else { source };
    let ours = norm(y, &scales[1], Then::AddReluAt(around, places.clone())).into_nchw();

    let norm = |x: Tensor<4>, [gamma, beta]: &[Tensor<1>; 2]| {
        let (mean, variance) = constant(gamma.dims()[0]);
        match evaluated {
            true => burns_batch_norm(x, gamma.clone(), beta.clone(), mean, variance, 1e-5),
            false => burns_batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5).output,
        }
    };
    let conv = |x, w: &Tensor<4>, s| burns_conv2d(x, w.clone(), None, ConvOptions::new([s; 2], [1; 2], [1; 2], 1));
    let y = norm(conv(relu(norm(conv(x.clone(), &weights[0], stride), &scales[0])), &weights[1], 1), &scales[1]);
    let [images, _, height, width] = y.dims();
    let zeros = |channels| Tensor::<4>::zeros([images, channels, height, width], device);
    let [first, second] = [0, 1].map(|channel| y.clone().narrow(1, channel, 1));
    let y = Tensor::cat(vec![zeros(1), first, zeros(1), second, zeros(wide - 4)], 1);
    let around = match shortcut {
        true => x.clone().slice(s![.., .., ..;2, ..;2]).pad([(2, 2), (0, 0), (0, 0)], 0.0),
        false => x.clone(),
    };
    let burns = relu(y + around);
    if device.is_autodiff() {
        nearly(&results(ours, &inputs, &vectors), &results(burns, &inputs, &vectors));
    } else {
        nearly(&[floats(ours)], &[floats(burns)]);
    }
}

#[test]
fn channels_are_added_to_some_of_a_wider_residual() {
    for device in devices() {
        for shortcut in [false, true] {
            check_expanded(shortcut, false, &device);
            check_expanded(shortcut, true, &device);
            check_expanded(shortcut, true, &device.clone().inner());
        }
    }
}

#[test]
fn picked_channels_are_evaluated_without_autodiff() {
    let device = Device::flex();
    let (x, y) = (random([18, 4, 5, 6], "x", &device), random([18, 3, 5, 6], "y", &device));
    let places = [6, 1, 4];
    let channel = |purpose| random([3], purpose, &device);
    let variance = channel("variance").abs() + 0.5;
    for then in [Then::Nothing, Then::Relu] {
        let picked = pick(concat(Activation::new(x.clone()), Activation::new(y.clone())), &places);
        let rectified = matches!(then, Then::Relu);
        let ours = batch_norm(picked, channel("g"), channel("b"), channel("m"), variance.clone(), 1e-5, then);
        let burns = burns_pick(Tensor::cat(vec![x.clone(), y.clone()], 1), &places);
        let burns = burns_batch_norm(burns, channel("g"), channel("b"), channel("m"), variance.clone(), 1e-5);
        close(&[floats(ours.into_nchw())], &[floats(if rectified { relu(burns) } else { burns })]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_are_those_of_burn(
        (images, inputs, outputs) in (1usize..36, 1usize..8, 1usize..8),
        (height, width) in (3usize..10, 3usize..10),
        (kernel, stride, padding) in (1usize..4, 1usize..3, 0usize..2),
        bias in any::<bool>(),
    ) {
        check_conv([images, inputs, height, width], outputs, kernel, stride, padding, bias);
    }

    #[test]
    fn depthwise_convolutions_are_those_of_burn(
        (images, channels, height, width) in (1usize..36, 1usize..8, 1usize..10, 1usize..10),
        (kernel, stride) in prop_oneof![Just((3, 1)), Just((3, 2)), Just((5, 1)), Just((1, 2)), Just((3, 3))],
    ) {
        check_depthwise([images, channels, height, width], kernel, stride);
    }

    #[test]
    fn channels_are_joined_and_picked_as_by_burn(
        (images, channels, height, width) in (1usize..36, 1usize..8, 1usize..6, 1usize..6),
        more in 1usize..5,
    ) {
        check_planes([images, channels, height, width], more);
    }

    #[test]
    fn normalisations_are_those_of_burn(
        (images, channels, height, width) in (2usize..40, 1usize..6, 1usize..7, 1usize..7),
        after in prop_oneof![Just(After::Nothing), Just(After::Relu), Just(After::AddRelu)],
    ) {
        check_norm([images, channels, height.max(2), width.max(2)], after);
    }

    #[test]
    fn pools_and_shortcuts_are_those_of_burn(
        (images, channels, height, width) in (1usize..40, 1usize..6, 1usize..9, 1usize..9),
        more in 0usize..6,
    ) {
        check_pooling([images, channels, height, width], more);
    }
}

#[test]
fn sparse_convolutions_are_dense_ones_with_zeros() {
    for (device, percent) in devices().into_iter().flat_map(|device| [0, 10, 30, 90].map(|p| (device.clone(), p))) {
        let mut random_mask = bonsai_random::stream(0, "mask", percent);
        let mask: Vec<bool> = (0..12 * 8 * 9).map(|_| random_mask.random_range(0..100) < percent).collect();
        let pattern = Arc::new(Pattern::new([12, 8, 3, 3], mask.iter().copied()));
        let flags: Vec<f32> = mask.iter().map(|kept| *kept as u8 as f32).collect();
        let flags = Tensor::<4>::from_data(TensorData::new(flags, [12, 8, 3, 3]), &device);
        let x = random([18, 8, 7, 9], "x", &device);
        let weight = (random([12, 8, 3, 3], "weight", &device) * flags.clone()).detach().require_grad();
        for (stride, gradients) in [(1, Gradients::Kept), (2, Gradients::Kept), (1, Gradients::All)] {
            let activation = Activation::new(x.clone());
            let y = sparse_conv2d(activation, weight.clone(), None, stride, 1, &pattern, gradients).into_nchw();
            let mut ours = results(y, &[&x, &weight], &[]);
            let y = burns_conv2d(x.clone(), weight.clone(), None, ConvOptions::new([stride; 2], [1, 1], [1, 1], 1));
            let mut burns = results(y, &[&x, &weight], &[]);
            if gradients == Gradients::Kept {
                // The gradient of a weight that is not kept may be there or not.
                for gradient in [&mut ours[2], &mut burns[2]] {
                    gradient.iter_mut().zip(&mask).for_each(|(gradient, kept)| *gradient *= *kept as u8 as f32);
                }
            }
            close(&ours, &burns);
        }
    }
}

#[test]
fn whichever_kernels_are_tried_the_bits_are_the_same() {
    let device = Device::flex().autodiff();
    // With the margin that maps have, and with a wider one.
    for (kernel, padding) in [(3, 1), (5, 2)] {
        let shape = [12, 8, kernel, kernel];
        let mask: Vec<bool> = (0..shape.iter().product()).map(|i| i % 5 == 0).collect();
        let pattern = Arc::new(Pattern::new(shape, mask.iter().copied()));
        let flags = mask.iter().map(|kept| *kept as u8 as f32).collect();
        let flags = Tensor::<4>::from_data(TensorData::new(flags, shape), &device);
        let x = random([18, 8, 7, 9], "x", &device);
        let weight = (random(shape, "weight", &device) * flags).detach().require_grad();
        let step = || {
            let y =
                sparse_conv2d(Activation::new(x.clone()), weight.clone(), None, 1, padding, &pattern, Gradients::Kept);
            let all = results(y.into_nchw(), &[&x, &weight], &[]);
            all.into_iter()
                .map(|floats| floats.iter().map(|value| value.to_bits()).collect())
                .collect::<Vec<Vec<u32>>>()
        };
        let first = step();
        assert!((0..12).all(|_| step() == first), "kernel {kernel}");
        assert!(pattern.choices().is_some(), "kernel {kernel}");
    }
}

/// A residual block by our operations.
fn block(x: Activation, weights: &[Tensor<4>; 2], gamma: &Tensor<1>, beta: &Tensor<1>) -> Activation {
    let y = conv2d(x.clone(), weights[0].clone(), None, 2, 1);
    let y = batch_norm_train(y, gamma.clone(), beta.clone(), 1e-5, Then::Relu).output;
    let y = conv2d(y, weights[1].clone(), None, 1, 1);
    let shortcut = pad_shortcut(x, gamma.dims()[0]);
    batch_norm_train(y, gamma.clone(), beta.clone(), 1e-5, Then::AddRelu(shortcut)).output
}

#[test]
fn gradients_flow_through_a_residual_block_used_twice() {
    let device = Device::flex().autodiff();
    let x = random([19, 3, 8, 8], "x", &device);
    let first = [random([5, 3, 3, 3], "a", &device), random([5, 5, 3, 3], "b", &device)];
    let second = [random([5, 5, 3, 3], "c", &device), random([5, 5, 3, 3], "d", &device)];
    let (gamma, beta) = (random([5], "gamma", &device), random([5], "beta", &device));
    let inputs = [&x, &first[0], &first[1], &second[0], &second[1]];

    let y = block(block(Activation::new(x.clone()), &first, &gamma, &beta), &second, &gamma, &beta);
    let ours = results(
        global_average(
            y.add(Activation::new(x.clone()).through_nchw(|x| x.slice(s![.., ..1, ..2, ..2]).repeat_dim(1, 5))).relu(),
        ),
        &inputs,
        &[&gamma, &beta],
    );

    let plain = |x: Tensor<4>, weights: &[Tensor<4>; 2]| {
        let conv = |x, w: &Tensor<4>, s| burns_conv2d(x, w.clone(), None, ConvOptions::new([s; 2], [1; 2], [1; 2], 1));
        let norm = |x| burns_batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5).output;
        let missing = 5 - x.dims()[1];
        let y = norm(conv(relu(norm(conv(x.clone(), &weights[0], 2))), &weights[1], 1));
        let before = missing / 2;
        relu(y + x.slice(s![.., .., ..;2, ..;2]).pad([(before, missing - before), (0, 0), (0, 0)], 0.0))
    };
    let y = plain(plain(x.clone(), &first), &second);
    let y = relu(y + x.clone().slice(s![.., ..1, ..2, ..2]).repeat_dim(1, 5));
    let burns = results(y.reshape([19, 5, 4]).mean_dim(2).squeeze_dim::<2>(2), &inputs, &[&gamma, &beta]);
    // A chain of five layers multiplies the rounding of each.
    for (ours, burns) in ours.iter().zip(&burns) {
        // Inputs are of size 1: a sum that cancels to less keeps the rounding of its parts.
        let size = burns.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        assert!(ours.iter().zip(burns).all(|(a, b)| (a - b).abs() <= 1e-4 * size), "{ours:?} is not {burns:?}");
    }
}

/// What follows a chain of convolutions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Nothing,
    Convolution,
    Residual,
    Used,
}

fn check_chain(length: usize, end: End, device: &Device) {
    let x = random([18, 4, 6, 6], "x", device);
    let weights: Vec<_> = (0..length).map(|i| random([4, 4, 3, 3], &format!("weight {i}"), device)).collect();
    let (gamma, beta) = (random([4], "gamma", device), random([4], "beta", device));
    let inputs: Vec<&Tensor<4>> = std::iter::once(&x).chain(&weights).collect();

    let mut y = Activation::new(x.clone());
    let source = y.clone();
    for (i, weight) in weights.iter().enumerate() {
        let z = conv2d(y, weight.clone(), None, 1, 1);
        if i + 1 == length && end == End::Convolution {
            y = z;
            break;
        }
        let then = if i + 1 == length && end == End::Residual { Then::AddRelu(source.clone()) } else { Then::Relu };
        y = batch_norm_train(z, gamma.clone(), beta.clone(), 1e-5, then).output;
        if end == End::Used {
            y = y.clone().add(y);
        }
    }
    let ours = results(y.into_nchw(), &inputs, &[&gamma, &beta]);

    let mut y = x.clone();
    for (i, weight) in weights.iter().enumerate() {
        let z = burns_conv2d(y, weight.clone(), None, ConvOptions::new([1; 2], [1; 2], [1; 2], 1));
        if i + 1 == length && end == End::Convolution {
            y = z;
            break;
        }
        let z = burns_batch_norm_train(z, gamma.clone(), beta.clone(), 1e-5).output;
        y = relu(if i + 1 == length && end == End::Residual { z + x.clone() } else { z });
        if end == End::Used {
            y = y.clone() + y;
        }
    }
    let burns = results(y, &inputs, &[&gamma, &beta]);
    for (i, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        // Inputs are of size 1: a sum that cancels to less keeps the rounding of its parts.
        let size = burns.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        let close = ours.iter().zip(burns).all(|(a, b)| (a - b).abs() <= 1e-4 * size);
        assert!(close, "result {i} of {length} convolutions, {end:?}");
    }
}

#[test]
fn chains_of_any_length_are_those_of_burn() {
    for device in devices() {
        for length in 2..6 {
            for end in [End::Nothing, End::Convolution, End::Residual, End::Used] {
                check_chain(length, end, &device);
            }
        }
        check_chain(1, End::Residual, &device);
    }
}

#[test]
fn backward_twice_and_from_clones_gives_the_same_gradients() {
    let device = Device::flex().autodiff();
    let x = random([3, 4, 6, 6], "x", &device);
    let weight = random([4, 4, 3, 3], "weight", &device);
    let (gamma, beta) = (random([4], "gamma", &device), random([4], "beta", &device));
    let step = || {
        let y = conv2d(Activation::new(x.clone()), weight.clone(), None, 1, 1);
        let kept = y.clone();
        let y = batch_norm_train(y, gamma.clone(), beta.clone(), 1e-5, Then::Relu).output;
        // `kept` is used after its clone went through the layer, so that its gradient is a sum of two.
        let y = y.clone().add(kept).add(y);
        results(y.into_nchw(), &[&x, &weight], &[&gamma, &beta])
    };
    let first = step();
    assert_eq!(step(), first);
    assert_eq!(step(), first);
}

#[test]
fn evaluation_needs_no_autodiff() {
    let device = Device::flex();
    for images in [1, 2, 17] {
        let x = random([images, 3, 9, 7], "x", &device);
        let weight = random([6, 3, 3, 3], "weight", &device);
        let channel = |purpose| random([6], purpose, &device);
        let variance = channel("variance").abs() + 0.5;
        let y = conv2d(Activation::new(x.clone()), weight.clone(), None, 2, 1);
        let y = batch_norm(y, channel("g"), channel("b"), channel("m"), variance.clone(), 1e-5, Then::Relu);
        let burns = burns_conv2d(x, weight, None, ConvOptions::new([2, 2], [1, 1], [1, 1], 1));
        let burns = relu(burns_batch_norm(burns, channel("g"), channel("b"), channel("m"), variance, 1e-5));
        close(&[floats(y.into_nchw())], &[floats(burns)]);
    }
}

#[test]
fn inputs_that_ask_for_no_gradient_get_none() {
    let device = Device::flex().autodiff();
    let images = Tensor::from_inner(random([2, 3, 5, 5], "x", &Device::flex()));
    let weight = random([4, 3, 3, 3], "weight", &device);
    let y = conv2d(Activation::new(images.clone()), weight.clone(), None, 1, 1);
    let gradients = y.into_nchw().sum().backward();
    assert!(images.grad(&gradients).is_none());
    assert!(weight.grad(&gradients).is_some());

    // Images of a plain device are constants too.
    let images = random([2, 3, 5, 5], "x", &Device::flex());
    let y = conv2d(Activation::new(images), weight.clone(), None, 1, 1);
    assert!(weight.grad(&y.into_nchw().sum().backward()).is_some());
}

#[test]
fn balanced_checkpointing_uses_burns_own_operations() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let x = random([2, 3, 5, 5], "x", &device);
    let weight = random([4, 3, 3, 3], "weight", &device);
    let y = conv2d(Activation::new(x.clone()), weight.clone(), None, 1, 1);
    assert_eq!(results(y.into_nchw(), &[&x, &weight], &[]).len(), 3);
}
