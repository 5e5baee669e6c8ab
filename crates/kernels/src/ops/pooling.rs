//! Pooling and the parameter-free shortcut.

use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Tensor, s};

use super::Activation;
use super::activation::in_blocks;
use super::flex::{Floats, run, tensor};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::pooling;

/// Averages each map to one number: returns `[images, channels]`.
pub fn global_average(x: Activation) -> Tensor<2> {
    let Some(maps) = x.maps else {
        let [images, channels, height, width] = x.tensor.dims();
        return x.tensor.reshape([images, channels, height * width]).mean_dim(2).squeeze_dim(2);
    };
    run([x.tensor.into()], |[x]| {
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
    let Some(maps) = x.maps else {
        return Activation { tensor: max_pool2d(x.tensor, MaxPoolOptions::new([2, 2])), maps: None };
    };
    let [images, channels, height, width] = maps.dims();
    let to = Maps::new([images, channels, height / 2, width / 2]);
    let y = run([x.tensor.into()], |[x]| {
        let y = in_blocks(to, pooling::max(maps, &x));
        let output = Floats::new(&y);
        let backward = move |gradient, _| {
            let gradient = Floats::new(&gradient);
            [Some(in_blocks(maps, pooling::max_gradient(maps, &x, to, &output, &gradient)))]
        };
        (y, Box::new(backward))
    });
    Activation { tensor: y, maps: Some(to) }
}

/// Takes every second pixel of `x` and adds zero channels on both sides until there are `channels`.
///
/// # Panics
///
/// Panics if `x` has more than `channels` channels.
pub fn pad_shortcut(x: Activation, channels: usize) -> Activation {
    let missing = channels.checked_sub(x.dims()[1]).expect("a shortcut only widens");
    let Some(maps) = x.maps else {
        let before = missing / 2;
        let tensor = x.tensor.slice(s![.., .., ..;2, ..;2]).pad([(before, missing - before), (0, 0), (0, 0)], 0.0);
        return Activation { tensor, maps: None };
    };
    let [images, _, height, width] = maps.dims();
    let to = Maps::new([images, channels, height.div_ceil(2), width.div_ceil(2)]);
    let y = run([x.tensor.into()], |[x]| {
        let backward =
            move |gradient, _| [Some(in_blocks(maps, pooling::shortcut_gradient(maps, to, &Floats::new(&gradient))))];
        (in_blocks(to, pooling::shortcut(maps, &x, channels)), Box::new(backward))
    });
    Activation { tensor: y, maps: Some(to) }
}
