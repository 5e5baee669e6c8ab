//! A light bypass around a convolution, for channels whose filters are missing.
//!
//! From "LAPP: Layer Adaptive Progressive Pruning for Compressing CNNs from Scratch" (2023),
//! <https://arxiv.org/abs/2309.14157>, in our reading ([`bonsai_pruning::schedulers::lapp`]): the abstract says that a bypass
//! runs around each convolution that is to be pruned, adds little cost, and keeps information flowing where a block gets
//! narrow. Here it is
//!
//! ```text
//! y = scatter(conv(x)) + BN(b(x))
//! ```
//!
//! with `b` a grouped 1×1 convolution of as many groups as there are input channels, in the stride of the convolution, and the
//! filters that are left in their places among zeros. Its weight is one number for every channel.

use bonsai_kernels::gather_maps;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Activation, BatchNorm};
use crate::init::{Fans, Init, Scheme};

/// The shape of a [`Bypass`].
#[derive(Clone, Debug, PartialEq)]
pub struct BypassConfig {
    /// Input channels.
    pub inputs: usize,
    /// Output channels, a multiple of the input channels.
    pub outputs: usize,
    /// The stride of the convolution.
    pub stride: usize,
    /// The output channels that the convolution still makes, in rising order.
    pub filters: Vec<usize>,
}

impl BypassConfig {
    /// Builds the bypass.
    ///
    /// # Panics
    ///
    /// Panics if the output channels are no multiple of the input channels.
    pub fn init(&self, init: &Init, scheme: Scheme) -> Bypass {
        assert!(self.outputs.is_multiple_of(self.inputs), "every output channel reads one input channel");
        let scale =
            init.weight("scale", [self.outputs], scheme, Fans { fan_in: 1, fan_out: self.outputs / self.inputs });
        Bypass {
            scale,
            bn: BatchNorm::new(self.outputs, init),
            inputs: self.inputs,
            stride: self.stride,
            filters: self.filters.clone(),
        }
    }
}

/// A grouped 1×1 convolution and a normalisation around another convolution.
#[derive(Module, Debug)]
pub struct Bypass {
    /// The weight of every output channel.
    pub scale: Param<Tensor<1>>,
    bn: BatchNorm,
    inputs: usize,
    stride: usize,
    filters: Vec<usize>,
}

impl Bypass {
    /// Puts `made`, the channels that the convolution made of `x`, in their places and adds what comes around it.
    pub fn around(&self, made: Activation, x: Activation) -> Activation {
        let [outputs] = self.scale.dims();
        let read = (0..outputs).map(|output| Some(output * self.inputs / outputs)).collect();
        self.bn.add_around(gather_maps(x, read, self.stride), self.scale.val(), made, &self.filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn it_is_a_grouped_convolution_with_what_is_made_in_its_places() {
        let device = Device::flex();
        let config = BypassConfig { inputs: 2, outputs: 4, stride: 2, filters: vec![1, 3] };
        let bypass = config.init(&Init::new(0, &device), Scheme::Uniform);
        let numbers = |dims: [usize; 4], seed: usize| {
            let count = dims.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| ((i * 7 + seed * 13) % 11) as f32 * 0.3 - 1.0).collect();
            Tensor::<4>::from_data(TensorData::new(values, dims), &device)
        };
        let (x, made) = (numbers([3, 2, 5, 4], 1), numbers([3, 2, 3, 2], 2));
        let ours = bypass.around(Activation::new(made.clone()), Activation::new(x.clone())).into_nchw();

        let weight = bypass.scale.val().reshape([4, 1, 1, 1]);
        let options = ConvOptions::new([2, 2], [0, 0], [1, 1], 2);
        // At first the running statistics are 0 and 1.
        let around = conv2d(x, weight, None, options) / (1.0f32 + 1e-5).sqrt();
        let zeros = made.clone().narrow(1, 0, 1).zeros_like();
        let channel = |place| made.clone().narrow(1, place, 1);
        let expected = around + Tensor::cat(vec![zeros.clone(), channel(0), zeros, channel(1)], 1);
        let difference = (ours - expected).abs().max().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!(difference < 1e-6, "{difference}");
    }
}
