//! Gates: for each image, which channels are open.
//!
//! After "Learning a Consensus Sub-Network with Polarization Regularization and One Pass Training" (2023),
//! <https://arxiv.org/abs/2302.10798>, in our reading ([`bonsai_pruning::schedulers::consensus_gating`]): the mean of every map
//! passes two small linear layers and a logistic function; what is at least one half opens the channel.

use bonsai_kernels::global_average;
use burn::module::Module;
use burn::tensor::{Tensor, activation};

use super::{Activation, Linear, LinearConfig, Sparsity};
use crate::init::{Init, Scheme};

/// The last part of a path below which the parameters of a gate lie.
const PART: &str = "gate";
/// Gates start open: a probability of 0.88.
const OPEN: f32 = 2.0;

/// The shape of a [`Gate`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateConfig {
    /// Channels that it looks at.
    pub inputs: usize,
    /// Channels that it opens and closes.
    pub channels: usize,
}

impl GateConfig {
    /// Returns a gate on `channels` that looks at `inputs`.
    pub fn new(inputs: usize, channels: usize) -> Self {
        Self { inputs, channels }
    }

    /// Builds the gate, open.
    pub fn init(&self, init: &Init) -> Gate {
        let hidden = (self.inputs / 16).max(4);
        let mut output = LinearConfig::new(hidden, self.channels).init(&init.at("output"), Scheme::Uniform);
        output.bias = Some(init.at("output").constant(self.channels, OPEN));
        Gate { hidden: LinearConfig::new(self.inputs, hidden).init(&init.at("hidden"), Scheme::Uniform), output }
    }
}

/// Opens and closes channels for each image.
#[derive(Module, Debug)]
pub struct Gate {
    hidden: Linear,
    output: Linear,
}

/// What a gate decided for a batch.
#[derive(Clone, Debug)]
pub struct Gates {
    /// 1 where a channel is open for an image and 0 where it is closed, `[images, channels]`; its gradient goes on to the
    /// probability as it is.
    pub open: Tensor<2>,
    /// The probability that was decided by.
    pub probability: Tensor<2>,
}

impl Gate {
    /// Decides by `x`, what the block reads.
    pub fn decide(&self, x: Activation) -> Gates {
        let dense = Sparsity::default();
        let hidden = activation::relu(self.hidden.forward(global_average(x), &dense));
        let probability = activation::sigmoid(self.output.forward(hidden, &dense));
        let decided = probability.clone().greater_equal_elem(0.5).float();
        // Exactly 0 or 1: the difference of two floats of which one is at most twice the other is exact.
        let open = probability.clone() + (decided - probability.clone()).detach();
        Gates { open, probability }
    }
}

/// Says whether a parameter, by its path, belongs to a gate.
pub fn is_of_gate(path: &str) -> bool {
    path.split('.').any(|part| part == PART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn a_gate_starts_open_is_exactly_binary_and_passes_its_gradient_straight_through() {
        let device = Device::flex().autodiff();
        let mut gate = GateConfig::new(3, 4).init(&Init::new(0, &device));
        let images = || {
            let values: Vec<f32> = (0..5 * 3 * 4).map(|i| ((i * 7) % 11) as f32 * 0.3 - 1.0).collect();
            Activation::new(Tensor::from_data(TensorData::new(values, [5, 3, 2, 2]), &device))
        };
        let floats = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(floats(gate.decide(images()).open), [1.0; 20]);

        gate.output.bias = Some(Param::from_data([-0.1f32, 0.1, -3.0, 0.0], &device));
        let gates = gate.decide(images());
        let (open, probability) = (floats(gates.open.clone()), floats(gates.probability.clone()));
        assert!(open.iter().zip(&probability).all(|(open, p)| *open == f32::from(u8::from(*p >= 0.5))));
        assert!(open.contains(&0.0) && open.contains(&1.0));
        let factors =
            Tensor::from_data(TensorData::new((0..20).map(|i| i as f32).collect::<Vec<_>>(), [5, 4]), &device);
        let bias = gate.output.bias.clone().unwrap().val();
        let slope = |gates: Tensor<2>| {
            let gradients = (gates * factors.clone()).sum().backward();
            bias.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(slope(gates.open), slope(gate.decide(images()).probability));
    }

    #[test]
    fn its_parameters_are_known_by_their_path() {
        assert!(is_of_gate("blocks.0.gate.hidden.weight"));
        assert!(!is_of_gate("blocks.0.conv1.weight") && !is_of_gate("gateway.weight"));
    }
}
