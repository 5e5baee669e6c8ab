//! Pooling over maps.

use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

/// Averages each map to one number: `[images, channels, height, width]` to `[images, channels]`.
pub fn global_average(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    x.reshape([images, channels, height * width]).mean_dim(2).squeeze_dim(2)
}

/// Takes the largest of every 2×2 pixels; an odd last row or column is left out.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([2, 2]))
}
