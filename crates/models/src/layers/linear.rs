//! Fully connected layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Sparsity, Tokens};
use crate::init::{Fans, Init, Scheme};

/// The shape of a [`Linear`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearConfig {
    /// Length of an input vector.
    pub inputs: usize,
    /// Length of an output vector.
    pub outputs: usize,
    /// Whether each output has a bias.
    pub bias: bool,
}

impl LinearConfig {
    /// Returns a layer with bias.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, bias: true }
    }

    /// Builds the layer.
    pub fn init(&self, init: &Init, scheme: Scheme) -> Linear {
        let fans = Fans { fan_in: self.inputs, fan_out: self.outputs };
        Linear {
            weight: init.weight("weight", [self.inputs, self.outputs], scheme, fans),
            bias: self.bias.then(|| init.bias(self.outputs, scheme, fans)),
        }
    }
}

/// A linear map of the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    /// The weight `[in, out]`, burn's layout; schedulers see it as `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// The bias `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Maps the vectors of `x`, leaving out the weights that are not kept.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, sparsity: &Sparsity) -> Tensor<D> {
        sparsity.linear(x, &self.weight, self.bias.as_ref().map(Param::val))
    }

    /// Maps tokens, leaving out the weights that are not kept, and adds `onto` where it is given.
    pub fn forward_tokens(&self, x: Tokens, onto: Option<Tokens>, sparsity: &Sparsity) -> Tokens {
        sparsity.linear_tokens(x, &self.weight, self.bias.as_ref().map(Param::val), onto)
    }
}
