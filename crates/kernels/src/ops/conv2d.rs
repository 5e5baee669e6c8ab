//! Convolution, dense and sparse.

use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor};

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::cube;
use super::flex::{Floats, run, tensor, vector};
use super::pending::{Pending, Sparse};
use super::precision::in_f32;
use super::reductions::add_bias;
use crate::Precision;
use crate::batch_norm::{Affine, Gate};
use crate::conv::{Conv, Pattern};
use crate::maps::Maps;

/// Which weights a sparse convolution returns gradients for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradients {
    /// Those that are kept; the others' are given as zero.
    Kept,
    /// All of them, for a method that grows weights by their gradient.
    All,
}

/// Convolves `x` with `weight` `[out, in, kernel, kernel]`, adding `padding` zeros on each side, and adds `bias` `[out]`.
pub fn conv2d(x: Activation, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, padding: usize) -> Activation {
    convolve(x, weight, bias, stride, padding, None)
}

/// Convolves as [`conv2d`] does, with the weights that `pattern` keeps; all others must be zero.
///
/// On backends without our kernels it is the dense convolution. On our kernels the first training steps with a pattern
/// find out in which directions that is faster ([`Pattern::choices`]); the result is the same to the last bit. The gradient
/// of weights that are not kept is zero or not, as `gradients` says, except that on other backends and on the dense kernels
/// of bf16 it may be there nevertheless.
pub fn sparse_conv2d(
    x: Activation,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
    pattern: &Arc<Pattern>,
    gradients: Gradients,
) -> Activation {
    assert_eq!(weight.dims(), pattern.shape(), "a pattern has the shape of its weight");
    convolve(x, weight, bias, stride, padding, Some((pattern.clone(), gradients)))
}

fn convolve(
    x: Activation,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
    sparse: Option<(Arc<Pattern>, Gradients)>,
) -> Activation {
    let [outputs, inputs, height, width] = weight.dims();
    let conv = |input: Maps| {
        assert_eq!(inputs, input.channels, "input channels of a weight of {:?}", [outputs, inputs, height, width]);
        Conv { input, outputs, kernel: [height, width], stride, padding }
    };
    let device = if x.device().is_autodiff() { x.device() } else { weight.device() };
    let precision = x.precision();
    let x = match x.into_plain() {
        Ok(images) => {
            let y = cube::conv2d(images, weight, stride, padding, precision);
            let dtype: FloatDType = y.dtype().into();
            return Activation::of_nchw(match bias {
                Some(bias) => add_bias(in_f32(y), bias).cast(dtype),
                None => y,
            });
        }
        Err(x) => x,
    };
    let precision = precision.on_cpu();
    let sparse = sparse.filter(|(pattern, _)| precision == Precision::F32 || pattern.pays_against_bf16());
    let precision = if sparse.is_some() { Precision::F32 } else { precision };
    let (chain, conv) = match x.into_pending() {
        Ok(chain) if chain.takes_convolution() && conv(chain.maps()).fits() => {
            let conv = conv(chain.maps());
            (chain, conv)
        }
        other => {
            let blocks = match other {
                Ok(chain) => chain.settle(),
                Err(x) => x.settled(),
            };
            let conv = conv(blocks.maps);
            if !conv.fits() {
                let y = wide(conv, blocks, weight, precision, sparse);
                return with_bias(Activation::of_blocks(y, conv.output()), bias);
            }
            (Pending::new(blocks, device), conv)
        }
    };
    let sparse = sparse.map(|(pattern, gradients)| Sparse { pattern, all: gradients == Gradients::All });
    with_bias(Activation::of_pending(chain.convolve(conv, weight, precision, sparse)), bias)
}

/// Convolves where maps need a wider margin than they have.
fn wide(
    conv: Conv,
    x: Blocks,
    weight: Tensor<4>,
    precision: Precision,
    sparse: Option<(Arc<Pattern>, Gradients)>,
) -> Tensor<4> {
    let [outputs, inputs, height, width] = weight.dims();
    let trains = x.tensor.device().is_autodiff() || weight.device().is_autodiff();
    run([x.tensor.into(), weight.into()], |[x, weight]| {
        let y = match &sparse {
            None if precision == Precision::Bf16 => conv.forward_bf16(&x, &weight),
            None => conv.forward(&x, &weight),
            Some((pattern, _)) => pattern.forward(conv.input.images, trains, |kept| match kept {
                None => conv.forward(&x, &weight),
                Some(pattern) => conv.forward_kept(&x, &weight, pattern),
            }),
        };
        let backward = move |gradient, [of_x, of_weight]: [bool; 2]| {
            let gradient = Floats::new(&gradient);
            let both = |of_data: Option<&Pattern>, of_weights: Option<&Pattern>| {
                let of_weight = of_weight.then(|| match of_weights {
                    Some(pattern) => conv.weight_gradient_kept(&x, &gradient, pattern),
                    None if precision == Precision::Bf16 => conv.weight_gradient_bf16(&x, &gradient),
                    None => conv.weight_gradient(&x, &gradient),
                });
                let of_x = of_x.then(|| match of_data {
                    Some(pattern) => conv.data_gradient_kept(&gradient, &weight, pattern),
                    None if precision == Precision::Bf16 => conv.data_gradient_bf16(&gradient, &weight),
                    None => conv.data_gradient(&gradient, &weight),
                });
                (of_x, of_weight)
            };
            let (of_x, of_weight) = match &sparse {
                None => both(None, None),
                Some((pattern, gradients)) => {
                    let all = *gradients == Gradients::All;
                    pattern.backward(conv.input.images, all, |sides| {
                        let (of_x, mut of_weight) = both(sides.data(pattern), sides.weight(pattern));
                        if let (None, false, Some(of_weight)) = (sides.weight(pattern), all, &mut of_weight) {
                            pattern.clear_removed(of_weight);
                        }
                        (of_x, of_weight)
                    })
                }
            };
            [
                of_x.map(|floats| in_blocks(conv.input, floats)),
                of_weight.map(|floats| tensor(floats, [outputs, inputs, height, width])),
            ]
        };
        (in_blocks(conv.output(), y), Box::new(backward))
    })
}

fn with_bias(x: Activation, bias: Option<Tensor<1>>) -> Activation {
    let Some(bias) = bias else { return x };
    let Blocks { tensor: x, maps, .. } = x.into_blocks().expect("a convolution of blocks");
    let y = run([x.into(), bias.into()], |[x, bias]| {
        let affine = Affine { mean: vec![0.0; maps.channels], scale: vec![1.0; maps.channels], shift: bias.to_vec() };
        let y = affine.apply(maps, &x, false, None);
        let backward = move |gradient, [_, of_bias]: [bool; 2]| {
            let floats = Floats::new(&gradient);
            let of_bias = of_bias.then(|| vector(affine.sums(maps, &floats, &floats, Gate::Open).gradient));
            [Some(gradient), of_bias]
        };
        (in_blocks(maps, y), Box::new(backward))
    });
    Activation::of_blocks(y, maps)
}
