//! Depthwise convolution.

use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, run_as, tensor};
use crate::depthwise::Depthwise;
use crate::profile::Part;

/// Convolves each channel of `x` with its own kernel, `weight` is `[channels, 1, kernel, kernel]`, with zeros around the maps
/// so that a step of 1 keeps their size.
pub fn depthwise(x: Activation, weight: Tensor<4>, stride: usize) -> Activation {
    let shape @ [channels, _, kernel, _] = weight.dims();
    let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], channels);
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => return Activation::of_nchw(module::conv2d(images, weight, None, options)),
    };
    if !Depthwise::fits(kernel, stride) {
        let x = Activation::of_blocks(x, maps);
        return x.through_nchw(|images| module::conv2d(images, weight, None, options));
    }
    assert_eq!(channels, maps.channels, "channels of a depthwise weight of {shape:?}");
    let conv = Depthwise { input: maps, stride };
    let y = run_as(Part::Depthwise, [x.into(), weight.into()], |[x, weight]| {
        let y = in_blocks(conv.output(), conv.forward(&x, &weight));
        let backward = move |gradient, [of_x, of_weight]: [bool; 2]| {
            let gradient = Floats::new(&gradient);
            [
                of_x.then(|| in_blocks(maps, conv.data_gradient(&gradient, &weight))),
                of_weight.then(|| tensor(conv.weight_gradient(&x, &gradient), shape)),
            ]
        };
        (y, Box::new(backward))
    });
    Activation::of_blocks(y, conv.output())
}
