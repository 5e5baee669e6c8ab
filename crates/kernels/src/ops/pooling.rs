//! Pooling and the parameter-free shortcut.

use burn::tensor::module::{avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{Tensor, s};

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, run, tensor};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::pooling;

/// Averages each map to one number: returns `[images, channels]`.
pub fn global_average(x: Activation) -> Tensor<2> {
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => {
            let [count, channels, height, width] = images.dims();
            return images.reshape([count, channels, height * width]).mean_dim(2).squeeze_dim(2);
        }
    };
    run([x.into()], |[x]| {
        let averages = pooling::global_average(maps, &x);
        let mut y = Buffer::any(averages.len());
        y.copy_from_slice(&averages);
        let backward =
            move |gradient, _| [Some(in_blocks(maps, pooling::global_average_gradient(maps, &Floats::new(&gradient))))];
        (tensor(y, [maps.images, maps.channels]), Box::new(backward))
    })
}

/// Takes the largest of every 2×2 pixels; an odd last row or column is left out.
pub fn max_pool(x: Activation) -> Activation {
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => return Activation::of_nchw(max_pool2d(images, MaxPoolOptions::new([2, 2]))),
    };
    let [images, channels, height, width] = maps.dims();
    let to = Maps::new([images, channels, height / 2, width / 2]);
    let y = run([x.into()], |[x]| {
        let y = in_blocks(to, pooling::max(maps, &x));
        let output = Floats::new(&y);
        let backward = move |gradient, _| {
            let gradient = Floats::new(&gradient);
            [Some(in_blocks(maps, pooling::max_gradient(maps, &x, to, &output, &gradient)))]
        };
        (y, Box::new(backward))
    });
    Activation::of_blocks(y, to)
}

/// Averages every 2×2 pixels; an odd last row or column is left out.
pub fn average_pool(x: Activation) -> Activation {
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => return Activation::of_nchw(avg_pool2d(images, AvgPoolOptions::new([2, 2]))),
    };
    let [images, channels, height, width] = maps.dims();
    let to = Maps::new([images, channels, height / 2, width / 2]);
    let y = run([x.into()], |[x]| {
        let backward =
            move |gradient, _| [Some(in_blocks(maps, pooling::average_gradient(maps, to, &Floats::new(&gradient))))];
        (in_blocks(to, pooling::average(maps, &x)), Box::new(backward))
    });
    Activation::of_blocks(y, to)
}

/// Takes every second pixel of `x` and adds zero channels on both sides until there are `channels`.
///
/// # Panics
///
/// Panics if `x` has more than `channels` channels.
pub fn pad_shortcut(x: Activation, channels: usize) -> Activation {
    let missing = channels.checked_sub(x.dims()[1]).expect("a shortcut only widens");
    let narrow = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => {
            let before = missing / 2;
            let pixels = images.slice(s![.., .., ..;2, ..;2]);
            return Activation::of_nchw(pixels.pad([(before, missing - before), (0, 0), (0, 0)], 0.0));
        }
    };
    let maps = narrow.maps;
    let [images, _, height, width] = maps.dims();
    let to = Maps::new([images, channels, height.div_ceil(2), width.div_ceil(2)]);
    let y = run([narrow.tensor.clone().into()], |[x]| {
        let backward =
            move |gradient, _| [Some(in_blocks(maps, pooling::shortcut_gradient(maps, to, &Floats::new(&gradient))))];
        (in_blocks(to, pooling::shortcut(maps, &x, channels)), Box::new(backward))
    });
    Activation::of_shortcut(y, to, narrow)
}
