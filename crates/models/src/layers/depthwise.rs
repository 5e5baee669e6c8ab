//! Depthwise convolution with square kernels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::Activation;
use crate::init::{Fans, Init, Scheme};

/// The shape of a [`Depthwise`]; as many zeros are added on each side as keep the map's size at a stride of 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DepthwiseConfig {
    /// Input channels, and output channels.
    pub channels: usize,
    /// Height and width of the kernels.
    pub kernel: usize,
    /// The step of the kernels in both directions.
    pub stride: usize,
}

impl DepthwiseConfig {
    /// Returns the size of the output map.
    pub fn output(&self, map: [usize; 2]) -> [usize; 2] {
        map.map(|side| (side + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1)
    }

    /// Builds the layer.
    pub fn init(&self, init: &Init, scheme: Scheme) -> Depthwise {
        let area = self.kernel * self.kernel;
        let fans = Fans { fan_in: area, fan_out: area };
        Depthwise {
            weight: init.weight("weight", [self.channels, 1, self.kernel, self.kernel], scheme, fans),
            stride: self.stride,
        }
    }
}

/// A convolution of each channel with a kernel of its own, over maps `[images, channels, height, width]`.
#[derive(Module, Debug)]
pub struct Depthwise {
    /// The weight `[channels, 1, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// The step of the kernels in both directions.
    pub stride: usize,
}

impl Depthwise {
    /// Convolves `x`. Removed weights are zeros like others: nine products a pixel are too few to leave any out.
    pub fn forward(&self, x: Activation) -> Activation {
        bonsai_kernels::depthwise(x, self.weight.val(), self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_predicted_map_is_the_computed_one() {
        let device = Device::flex();
        for (kernel, stride, side) in [(3, 1, 7), (3, 2, 7), (3, 2, 8), (5, 1, 6), (5, 2, 9)] {
            let conv = DepthwiseConfig { channels: 2, kernel, stride };
            let x = Activation::new(Tensor::ones([1, 2, side, side + 4], &device));
            let y = conv.init(&Init::new(0, &device), Scheme::Uniform).forward(x);
            let [height, width] = conv.output([side, side + 4]);
            assert_eq!(y.dims(), [1, 2, height, width]);
        }
    }
}
