//! Convolution with square kernels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Activation, Sparsity};
use crate::init::{Fans, Init, Scheme};

/// The shape of a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2dConfig {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// The step of the kernel in both directions.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
    /// Whether each output channel has a bias.
    pub bias: bool,
}

impl Conv2dConfig {
    /// Returns a convolution of stride 1 that keeps the size of the map and has no bias.
    pub fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self { inputs, outputs, kernel, stride: 1, padding: kernel / 2, bias: false }
    }

    /// Sets the stride.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Takes the padding away.
    pub fn without_padding(self) -> Self {
        Self { padding: 0, ..self }
    }

    /// Adds a bias.
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// Returns the size of the output map.
    pub fn output(&self, map: [usize; 2]) -> [usize; 2] {
        map.map(|side| (side + 2 * self.padding - self.kernel) / self.stride + 1)
    }

    /// Builds the layer.
    pub fn init(&self, init: &Init, scheme: Scheme) -> Conv2d {
        let area = self.kernel * self.kernel;
        let fans = Fans { fan_in: self.inputs * area, fan_out: self.outputs * area };
        Conv2d {
            weight: init.weight("weight", [self.outputs, self.inputs, self.kernel, self.kernel], scheme, fans),
            bias: self.bias.then(|| init.bias(self.outputs, scheme, fans)),
            stride: self.stride,
            padding: self.padding,
        }
    }
}

/// A convolution over maps `[images, channels, height, width]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// The weight `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// The bias `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The step of the kernel in both directions.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
}

impl Conv2d {
    /// Convolves `x`, leaving out the weights that are not kept.
    pub fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        sparsity.convolve(x, &self.weight, self.bias.as_ref().map(Param::val), self.stride, self.padding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_predicted_map_is_the_computed_one() {
        let device = Device::flex();
        for (conv, side) in [
            (Conv2dConfig::new(2, 3, 3), 7),
            (Conv2dConfig::new(2, 3, 3).with_stride(2), 7),
            (Conv2dConfig::new(2, 3, 3).with_stride(2), 8),
            (Conv2dConfig::new(2, 3, 1).with_stride(2), 9),
            (Conv2dConfig::new(2, 3, 7).with_stride(2), 32),
            (Conv2dConfig::new(2, 3, 5).without_padding(), 12),
            (Conv2dConfig::new(2, 3, 4).with_stride(4).without_padding(), 12),
        ] {
            let [height, width] = conv.output([side, side + 4]);
            let layer = conv.init(&Init::new(0, &device), Scheme::Uniform);
            let x = Activation::new(Tensor::ones([1, 2, side, side + 4], &device));
            let y = layer.forward(x, &Sparsity::default());
            assert_eq!(y.dims(), [1, 3, height, width]);
        }
    }
}
