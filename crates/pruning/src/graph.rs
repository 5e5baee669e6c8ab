//! Describes a network to a scheduler: names, kinds, shapes and costs of its layers, without any tensor.

use serde::{Deserialize, Serialize};

/// The kind of a layer that holds prunable weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A convolution, its weight shaped `[out, in / groups, kernel height, kernel width]`.
    Conv,
    /// A fully connected layer, its weight shaped `[out, in]`.
    Linear,
}

/// One prunable layer: the weight of a convolution or of a linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// The path of the weight in the network, such as `blocks.0.conv1.weight`.
    pub name: String,
    /// What the layer computes.
    pub kind: Kind,
    /// The shape of the weight, output channels first.
    pub shape: Vec<usize>,
    /// Multiply-accumulates for one image with every weight kept.
    pub macs: u64,
}

impl LayerSpec {
    /// Returns the number of units, which are output channels.
    pub fn units(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Returns the number of weights of one unit.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Returns the number of weights.
    pub fn weights(&self) -> usize {
        self.units() * self.width()
    }
}

/// A network as data: its prunable layers in the order of the forward pass, and what else it costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The convolutional and linear layers.
    pub layers: Vec<LayerSpec>,
    /// The number of all learnable parameters, biases and normalisation included.
    pub parameters: u64,
    /// Multiply-accumulates for one image that no mask can save, such as those of attention.
    pub fixed_macs: u64,
}

impl Graph {
    /// Returns the multiply-accumulates for one image of the dense network.
    pub fn macs(&self) -> u64 {
        self.fixed_macs + self.layers.iter().map(|layer| layer.macs).sum::<u64>()
    }

    /// Returns the number of prunable weights.
    pub fn weights(&self) -> usize {
        self.layers.iter().map(LayerSpec::weights).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_is_a_matrix_of_units_and_their_weights() {
        let stem = LayerSpec { name: "conv.weight".into(), kind: Kind::Conv, shape: vec![16, 3, 3, 3], macs: 442_368 };
        let head = LayerSpec { name: "fc.weight".into(), kind: Kind::Linear, shape: vec![10, 64], macs: 640 };
        assert_eq!((stem.units(), stem.width(), stem.weights()), (16, 27, 432));
        assert_eq!((head.units(), head.width(), head.weights()), (10, 64, 640));
        let graph = Graph { layers: vec![stem, head], parameters: 1100, fixed_macs: 8 };
        assert_eq!((graph.weights(), graph.macs()), (1072, 443_016));
    }
}
