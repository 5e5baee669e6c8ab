//! Channels multiplied by a number for each image, as gates do.

use burn::tensor::Tensor;

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, run, tensor};
use crate::buffer::Buffer;
use crate::pooling;

/// Multiplies every map of `x` by its factor in `factors`, `[images, channels]`.
///
/// # Panics
///
/// Panics if the factors have another shape.
pub fn scale_maps(x: Activation, factors: Tensor<2>) -> Activation {
    let [images, channels, ..] = x.dims();
    assert_eq!(factors.dims(), [images, channels], "a factor for every map");
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(x) => return Activation::of_nchw(x * factors.reshape([images, channels, 1, 1])),
    };
    let y = run([x.into(), factors.into()], |[x, factors]| {
        let y = in_blocks(maps, pooling::scale(maps, &x, &factors));
        let backward = move |gradient, [of_x, of_factors]: [bool; 2]| {
            let gradient = Floats::new(&gradient);
            let of_factors = of_factors.then(|| {
                let sums = pooling::products(maps, &x, &gradient);
                let mut buffer = Buffer::any(sums.len());
                buffer.copy_from_slice(&sums);
                tensor(buffer, [images, channels])
            });
            [of_x.then(|| in_blocks(maps, pooling::scale(maps, &gradient, &factors))), of_factors]
        };
        (y, Box::new(backward))
    });
    Activation::of_blocks(y, maps)
}
