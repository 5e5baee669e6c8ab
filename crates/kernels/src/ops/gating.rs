//! Channels multiplied by a number for each image, as gates do, and channels gathered from others.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, s};

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

/// Takes for every channel of the result the map of one of `x`, every `stride`-th pixel of it, or zeros.
///
/// # Panics
///
/// Panics if a source is no channel of `x` or the stride is 0.
pub fn gather_maps(x: Activation, sources: Vec<Option<usize>>, stride: usize) -> Activation {
    let [images, channels, ..] = x.dims();
    assert!(sources.iter().flatten().all(|source| *source < channels) && stride > 0, "sources are channels");
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(x) => {
            let step = stride as isize;
            let x = x.slice(s![.., .., ..;step, ..;step]);
            let [_, _, height, width] = x.dims();
            let zeros = Tensor::zeros([images, 1, height, width], &x.device());
            let places: Vec<i32> = sources.iter().map(|source| source.unwrap_or(channels) as i32).collect();
            let count = places.len();
            let places: Tensor<1, Int> = Tensor::from_data(TensorData::new(places, [count]), &x.device());
            return Activation::of_nchw(Tensor::cat(vec![x, zeros], 1).select(1, places));
        }
    };
    let to = pooling::gathered(maps, sources.len(), stride);
    let sources: Arc<[Option<usize>]> = sources.into();
    let y = run([x.into()], |[x]| {
        let y = in_blocks(to, pooling::gather(maps, &x, &sources, stride));
        let backward = move |gradient, _| {
            let gradient = Floats::new(&gradient);
            [Some(in_blocks(maps, pooling::gather_gradient(maps, &sources, stride, &gradient)))]
        };
        (y, Box::new(backward))
    });
    Activation::of_blocks(y, to)
}
