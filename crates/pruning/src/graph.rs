//! Describes a network to a scheduler: its layers with names, kinds, shapes and costs, and how channels flow between
//! them, without any tensor.

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

/// One operation of the forward pass, as far as channels are concerned; another names it by its place in [`Graph::nodes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// The nodes whose results it reads, all of them earlier ones.
    pub inputs: Vec<usize>,
    /// The number of channels of its result.
    pub width: usize,
}

/// An operation on channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// The image.
    Input,
    /// A convolution or a linear layer; its weight is `{path}.weight`.
    Layer {
        /// The path of the layer.
        path: String,
        /// Whether it has a `{path}.bias`.
        bias: bool,
        /// Whether zeros are added around its input, so that a constant channel is not constant to it.
        padded: bool,
    },
    /// Batch normalisation, with `gamma`, `beta`, `running_mean` and `running_var` under its path.
    BatchNorm {
        /// The path of the normalisation.
        path: String,
    },
    /// A convolution of each channel with a kernel of its own; its weight `[channels, 1, height, width]` is `{path}.weight`.
    Depthwise {
        /// The path of the layer.
        path: String,
        /// Whether zeros are added around its input.
        padded: bool,
    },
    /// Layer normalisation, with `gamma` and `beta` under its path. Its result depends on how many channels there are: where
    /// some are masked, it must count the others alone.
    LayerNorm {
        /// The path of the normalisation.
        path: String,
    },
    /// A class token put in front of the pixels, and positions added to all; both have their channels last.
    Embed {
        /// The path of the class token, `[1, 1, channels]`.
        class_token: String,
        /// The path of the positions, `[1, tokens, channels]`.
        positions: String,
        /// The number of tokens, the class token included.
        tokens: usize,
    },
    /// A rectifier.
    Relu,
    /// A GELU.
    Gelu,
    /// A pool that turns a constant channel into the same constant.
    Pool,
    /// A sum, channel by channel.
    Add,
    /// The channels of one input after those of the other.
    Concat,
    /// Some channels of a value that others read too, picked for what comes next: the "channel selection" of network
    /// slimming. A whole network selects all of them.
    Select {
        /// The path of the selection.
        path: String,
        /// The channels that are picked, in rising order.
        places: Vec<usize>,
    },
    /// Channels put in their places among zeros, to be added to a value that others add to too: the "channel expand" of
    /// polarization. In a whole network none of them are missing.
    Expand {
        /// The path of the expansion.
        path: String,
        /// Where the channels go, in rising order.
        places: Vec<usize>,
    },
    /// Zero channels in front of and behind the input's, until there are as many as the node is wide.
    Pad {
        /// Zero channels in front.
        front: usize,
    },
    /// Maps turned into vectors: channel `c` becomes the places from `c · area` to `(c + 1) · area`.
    Flatten {
        /// The pixels of a map.
        area: usize,
    },
    /// Attention of every token to every token. Its input holds the queries, the keys and the values of all heads; its
    /// width is that of the values.
    Attention {
        /// The path of the attention.
        path: String,
        /// The number of heads.
        heads: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// A convolution's channels, of which some may be missing, put in their places among others, plus a light bypass around
    /// it, which has all of them. The second input is what both read; it stays whole, and so does the result.
    Bypass,
    /// The logits, which all stay.
    Output,
}

/// A network as data: its prunable layers in the order of the forward pass, how channels flow, and what else it costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The convolutional and linear layers.
    pub layers: Vec<LayerSpec>,
    /// The number of all learnable parameters, biases and normalisation included.
    pub parameters: u64,
    /// Multiply-accumulates for one image that no mask can save, such as those of attention.
    pub fixed_macs: u64,
    /// The operations in the order of the forward pass; without them weights can be pruned, but no channels.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// The names of the channel groups that the network can gate by its input; a network without pruning has no gates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<String>,
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
        let graph = Graph { layers: vec![stem, head], parameters: 1100, fixed_macs: 8, ..Graph::default() };
        assert_eq!((graph.weights(), graph.macs()), (1072, 443_016));
    }
}
