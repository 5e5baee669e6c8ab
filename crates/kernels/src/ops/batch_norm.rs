//! Batch normalisation, with what usually follows it.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, FloatDType, Tensor};
use burn::tensor::{activation, module};

use super::activation::{Blocks, in_blocks, shape};
use super::flex::{Floats, Input, is_flex, run, vector, writable};
use super::pending::Pending;
use super::planes::{gather_maps, parts_of};
use super::precision::in_f32;
use super::reductions::{self, Batch};
use super::{Activation, cube};
use crate::batch_norm::{Affine, Gate, Statistics};
use crate::maps::Maps;
use crate::planes::Picked;

/// What follows a batch normalisation.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// A rectifier.
    Relu,
    /// The addition of a residual, then a rectifier.
    AddRelu(Activation),
    /// The same with a residual of more channels: each channel is added to the one at its place, in rising order.
    AddReluAt(Activation, Vec<usize>),
}

/// The result of [`batch_norm_train`].
#[derive(Clone, Debug)]
pub struct Normalised {
    /// The normalised activation.
    pub output: Activation,
    /// The mean of each channel, detached.
    pub mean: Tensor<1>,
    /// The biased variance of each channel, detached.
    pub variance: Tensor<1>,
}

/// Normalises each channel of `x` by its own mean and variance.
pub fn batch_norm_train(x: Activation, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, then: Then) -> Normalised {
    let x = match x.into_plain() {
        Ok(images) => return normalise_maps(images, gamma, beta, epsilon, then),
        Err(x) => x,
    };
    let device = x.device();
    let constant = |floats| {
        let plain = Tensor::<1>::from_primitive::<Flex>(vector(floats));
        if device.is_autodiff() { Tensor::from_inner(plain) } else { plain }
    };
    let finished = |output, Statistics { mean, variance }| Normalised {
        output,
        mean: constant(mean),
        variance: constant(variance),
    };
    let x = match x.into_pending() {
        Ok(chain) if chain.takes_norm() => {
            let maps = chain.maps();
            let (chain, statistics) = chain.normalise(gamma, beta, epsilon, !matches!(then, Then::Nothing));
            let output = match then {
                Then::Nothing | Then::Relu => Activation::of_pending(chain),
                Then::AddRelu(residual) => Activation::of_settled(chain.settle_with(residual.blocks_of(maps))),
                Then::AddReluAt(residual, places) => {
                    let wide = Maps { channels: residual.dims()[1], ..maps };
                    Activation::of_settled(chain.settle_at(places, residual.blocks_of(wide)))
                }
            };
            return finished(output, statistics);
        }
        Ok(chain) => Activation::of_pending(chain),
        Err(x) => x,
    };
    let view = x.into_view().expect("the maps are in a layout of ours");
    if let Then::Nothing | Then::Relu = then {
        let relu = matches!(then, Then::Relu);
        let (chain, statistics) = Pending::in_front(view, device.clone(), gamma, beta, epsilon, relu);
        return finished(Activation::of_pending(chain), statistics);
    }
    let Blocks { tensor: x, maps, .. } = view.settle();
    let mut taken = None;
    let output = normalise(maps, x, gamma, beta, epsilon, then, |x| {
        let statistics = Statistics::of(maps, x);
        taken = Some(statistics.clone());
        (statistics, true)
    });
    finished(output, taken.expect("statistics have been taken"))
}

/// Normalises each channel of `x` by a given mean and variance, which are constants.
pub fn batch_norm(
    x: Activation,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    epsilon: f64,
    then: Then,
) -> Activation {
    let dtype = x.dtype();
    let view = match x.into_view() {
        Ok(view) => view,
        Err(images) => return finish(module::batch_norm(images, gamma, beta, mean, variance, epsilon), then, dtype),
    };
    let floats = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().expect("statistics are f32");
    let statistics = Statistics { mean: floats(mean), variance: floats(variance) };
    let tracks = [gamma.device(), view.parts[0].tensor.device()].iter().any(Device::is_autodiff);
    if let (false, false, Then::Nothing | Then::Relu) = (tracks, view.is_whole(), &then) {
        let view = view.of_few_parts();
        let inputs = view.parts.iter().map(|part| Input::from(part.tensor.clone()).floats()).collect::<Vec<_>>();
        let shapes: Vec<Maps> = view.parts.iter().map(|part| part.maps).collect();
        let parts = parts_of(&shapes, &inputs);
        let affine = statistics.affine(&Input::from(gamma).floats(), &Input::from(beta).floats(), epsilon);
        let y = affine.apply_picked(Picked::new(&parts, &view.places), matches!(then, Then::Relu));
        let maps = view.maps();
        return Activation::of_blocks(Tensor::from_primitive::<Flex>(in_blocks(maps, y)), maps);
    }
    let Blocks { tensor: x, maps, .. } = view.settle();
    normalise(maps, x, gamma, beta, epsilon, then, |_| (statistics, false))
}

/// Normalises plain maps by their own mean and variance, and returns maps of their type: on our kernels on GPUs, elsewhere by
/// burn's operations.
fn normalise_maps(images: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, then: Then) -> Normalised {
    let dtype = images.dtype().into();
    if cube::takes_norm(&images, [&gamma, &beta]) {
        let (residual, relu, then) = match then {
            Then::Relu => (None, true, Then::Nothing),
            Then::AddRelu(residual) => {
                (Some(residual.into_plain().unwrap_or_else(Activation::into_nchw)), true, Then::Nothing)
            }
            Then::Nothing | Then::AddReluAt(..) => (None, false, then),
        };
        // Halves that something else is added to are rounded once, with it.
        let is_done = matches!(then, Then::Nothing);
        let in_halves = is_done && residual.as_ref().is_none_or(|residual| residual.dtype() == images.dtype());
        let (images, residual) = if in_halves { (images, residual) } else { (in_f32(images), residual.map(in_f32)) };
        let Batch { output, mean, variance } = cube::batch_norm_train(images, gamma, beta, epsilon, residual, relu);
        return Normalised { output: finish(output, then, dtype), mean, variance };
    }
    let images = in_f32(images);
    // CubeCL's long reductions are why burn's own operation does not do everywhere: see `reductions`.
    if is_flex(&images.device()) {
        let batch = module::batch_norm_train(images, gamma, beta, epsilon);
        return Normalised { output: finish(batch.output, then, dtype), mean: batch.mean, variance: batch.variance };
    }
    let Batch { output, mean, variance } = reductions::batch_norm_train(images, gamma, beta, epsilon);
    Normalised { output: finish(output, then, dtype), mean, variance }
}

/// Does what follows, and returns maps of `dtype`: rounded before the rectifier, which keeps them for the backward pass.
fn finish(normalised: Tensor<4>, then: Then, dtype: FloatDType) -> Activation {
    let tensor = match then {
        Then::Nothing => normalised.cast(dtype),
        Then::Relu => activation::relu(normalised.cast(dtype)),
        Then::AddRelu(residual) => activation::relu((normalised + residual.into_nchw()).cast(dtype)),
        Then::AddReluAt(residual, places) => {
            let normalised = expand(Activation::of_nchw(normalised), &places, residual.dims()[1]);
            activation::relu((normalised.into_nchw() + residual.into_nchw()).cast(dtype))
        }
    };
    Activation::of_nchw(tensor)
}

/// Normalises by the statistics that `statistics` returns, which depend on `x` if it says `true`.
fn normalise(
    maps: Maps,
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    then: Then,
    statistics: impl FnOnce(&[f32]) -> (Statistics, bool),
) -> Activation {
    let (relu, residual) = match then {
        Then::Nothing => (false, None),
        Then::Relu => (true, None),
        Then::AddRelu(residual) => (true, Some(residual.blocks_of(maps))),
        Then::AddReluAt(residual, places) => {
            let normalised = normalise(maps, x, gamma, beta, epsilon, Then::Nothing, statistics);
            return expand(normalised, &places, residual.dims()[1]).add(residual).relu();
        }
    };
    let inputs = [x.into(), gamma.into(), beta.into()];
    let tensor = match residual {
        None => run(inputs, |[x, gamma, beta]| {
            let (statistics, depends) = statistics(&x);
            let affine = statistics.affine(&gamma, &beta, epsilon);
            let y = affine.apply(maps, &x, relu, None);
            let backward = move |gradient, wanted: [bool; 3]| {
                let gate = if relu { Gate::Input } else { Gate::Open };
                let norm = Norm { maps, statistics: &statistics, affine: &affine, epsilon, depends };
                let [of_x, of_gamma, of_beta, _] = norm.backward(gradient, &x, gate, wanted[0], false);
                [of_x, of_gamma, of_beta]
            };
            (in_blocks(maps, y), Box::new(backward))
        }),
        Some(residual) => {
            let [x, gamma, beta] = inputs;
            run([x, gamma, beta, residual.tensor.into()], |[x, gamma, beta, residual]| {
                let (statistics, depends) = statistics(&x);
                let affine = statistics.affine(&gamma, &beta, epsilon);
                let y = in_blocks(maps, affine.apply(maps, &x, relu, Some(&residual)));
                let output = Floats::new(&y);
                let backward = move |gradient, wanted: [bool; 4]| {
                    let gate = if relu { Gate::Output(&output) } else { Gate::Open };
                    let norm = Norm { maps, statistics: &statistics, affine: &affine, epsilon, depends };
                    norm.backward(gradient, &x, gate, wanted[0], wanted[3])
                };
                (y, Box::new(backward))
            })
        }
    };
    Activation::of_blocks(tensor, maps)
}

/// Puts channels in their places among zeros, `width` in all.
pub(super) fn expand(x: Activation, places: &[usize], width: usize) -> Activation {
    gather_maps(x, (0..width).map(|channel| places.binary_search(&channel).ok()).collect(), 1)
}

struct Norm<'a> {
    maps: Maps,
    statistics: &'a Statistics,
    affine: &'a Affine,
    epsilon: f64,
    depends: bool,
}

impl Norm<'_> {
    /// Returns the gradients of the input, gamma, beta and the residual.
    fn backward(
        &self,
        gradient: FlexTensor,
        x: &[f32],
        gate: Gate,
        of_x: bool,
        of_residual: bool,
    ) -> [Option<FlexTensor>; 4] {
        let Norm { maps, statistics, affine, epsilon, depends } = *self;
        let sums = affine.sums(maps, &Floats::new(&gradient), x, gate);
        let of_gamma = vector(statistics.gamma_gradient(&sums, epsilon));
        let of_beta = vector(sums.gradient.clone());
        if !of_x && !of_residual {
            return [None, Some(of_gamma), Some(of_beta), None];
        }
        let mut of_input = writable(gradient, shape(maps));
        let training = depends.then_some((statistics, &sums, epsilon));
        let passed = affine.backward(maps, of_input.storage_mut(), x, gate, training, of_residual);
        [of_x.then_some(of_input), Some(of_gamma), Some(of_beta), passed.map(|passed| in_blocks(maps, passed))]
    }
}
