//! Convolution, dense and sparse.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use super::Activation;
use super::activation::in_blocks;
use super::flex::{Floats, run, tensor, vector};
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
/// On backends without our kernels, and where so much is kept that it is faster, it is the dense convolution. The
/// gradient of weights that are not kept is zero or not, as `gradients` says, except that it may be there nevertheless
/// where the dense convolution ran.
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
    let Some(input) = x.maps else {
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        return Activation { tensor: module::conv2d(x.tensor, weight, bias, options), maps: None };
    };
    let [outputs, inputs, height, width] = weight.dims();
    assert_eq!(inputs, input.channels, "input channels of a weight of {:?}", weight.dims());
    let conv = Conv { input, outputs, kernel: [height, width], stride, padding };
    let output = conv.output();
    let sparse = sparse.filter(|(pattern, _)| pattern.pays());
    let y = run([x.tensor.into(), weight.into()], |[x, weight]| {
        let y = match &sparse {
            None => conv.forward(&x, &weight),
            Some((pattern, _)) => conv.forward_kept(&x, &weight, pattern),
        };
        let backward = move |gradient, [of_x, of_weight]: [bool; 2]| {
            let gradient = Floats::new(&gradient);
            let of_weight = of_weight.then(|| match &sparse {
                Some((pattern, Gradients::Kept)) => conv.weight_gradient_kept(&x, &gradient, pattern),
                Some((_, Gradients::All)) | None => conv.weight_gradient(&x, &gradient),
            });
            let of_x = of_x.then(|| match &sparse {
                None => conv.data_gradient(&gradient, &weight),
                Some((pattern, _)) => conv.data_gradient_kept(&gradient, &weight, pattern),
            });
            [
                of_x.map(|floats| in_blocks(conv.input, floats)),
                of_weight.map(|floats| tensor(floats, [outputs, inputs, height, width])),
            ]
        };
        (in_blocks(output, y), Box::new(backward))
    });
    let y = Activation { tensor: y, maps: Some(output) };
    match bias {
        Some(bias) => add_bias(y, output, bias),
        None => y,
    }
}

fn add_bias(x: Activation, maps: Maps, bias: Tensor<1>) -> Activation {
    let y = run([x.tensor.into(), bias.into()], |[x, bias]| {
        let affine = Affine { mean: vec![0.0; maps.channels], scale: vec![1.0; maps.channels], shift: bias.to_vec() };
        let y = affine.apply(maps, &x, false, None);
        let backward = move |gradient, [_, of_bias]: [bool; 2]| {
            let floats = Floats::new(&gradient);
            let of_bias = of_bias.then(|| vector(affine.sums(maps, &floats, &floats, Gate::Open).gradient));
            [Some(gradient), of_bias]
        };
        (in_blocks(maps, y), Box::new(backward))
    });
    Activation { tensor: y, maps: Some(maps) }
}
