//! Sums over a whole batch where our kernels do not run, taken in two stages.
//!
//! On GPUs that is with `BONSAI_KERNELS=burn`, with gradient checkpointing, and for a bias.
//! CubeCL 0.11 loses what lies beyond 65,536 elements when it reduces along a strided axis: `mean_dim(0)` of
//! `[131072, 16]` on wgpu returns half of the mean. burn's training BatchNorm, fused, is such a reduction, and a batch of
//! 128 CIFAR images has 131,072 pixels a channel. Over pixels first and images then, no axis is that long.

use burn::tensor::Tensor;

/// The output of a training batch normalisation with the statistics it used.
pub struct Batch {
    /// The normalised maps.
    pub output: Tensor<4>,
    /// The mean of each channel, detached.
    pub mean: Tensor<1>,
    /// The biased variance of each channel, detached.
    pub variance: Tensor<1>,
}

/// Normalises each channel of `x` by its own mean and variance.
pub fn batch_norm_train(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Batch {
    let shape @ [_, channels, _, _] = x.dims();
    let mean = channel_mean(x.clone());
    let centred = x - mean.clone();
    let variance = channel_mean(centred.clone() * centred.clone());
    let per_channel = [1, channels, 1, 1];
    let scale = gamma.reshape(per_channel) / (variance.clone() + epsilon).sqrt();
    let output = centred * scale + beta.reshape(per_channel);
    debug_assert_eq!(output.dims(), shape);
    Batch { output, mean: mean.reshape([channels]).detach(), variance: variance.reshape([channels]).detach() }
}

/// Adds a bias to each channel.
pub fn add_bias(x: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let channels = bias.dims()[0];
    x + bias.reshape([1, channels, 1, 1])
}

/// Averages over pixels, then over images: `[images, channels, height, width]` to `[1, channels, 1, 1]`.
fn channel_mean(x: Tensor<4>) -> Tensor<4> {
    let [images, channels, height, width] = x.dims();
    let images_mean = x.reshape([images, channels, height * width]).mean_dim(2);
    images_mean.mean_dim(0).reshape([1, channels, 1, 1])
}
