//! A forward pass as data, complete enough to be computed elsewhere from the parameters alone: what an exporter reads.
//!
//! [`Graph`](bonsai_pruning::Graph) says how channels flow; this says what is computed. A model tells both at once, to
//! `ledger.rs`.

use bonsai_pruning::graph::Op;

/// One operation; another names its result by the operation's place in the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What is computed.
    pub compute: Compute,
    /// The operations whose results it reads, all of them earlier ones.
    pub inputs: Vec<usize>,
    /// The channels of its result.
    pub width: usize,
}

/// What an operation computes. Maps are `[images, channels, height, width]`, vectors `[images, channels]`, sequences
/// `[images, tokens, channels]`; parameters are named as in a model file.
#[derive(Clone, Debug, PartialEq)]
pub enum Compute {
    /// The normalised image.
    Image,
    /// A convolution with the weight `{path}.weight`, `[out, in / groups, kernel, kernel]`.
    Conv {
        /// The path of the layer.
        path: String,
        /// Height and width of the kernel.
        kernel: usize,
        /// The step of the kernel in both directions.
        stride: usize,
        /// Zeros added on each of the four sides.
        padding: usize,
        /// Whether there is a `{path}.bias`.
        bias: bool,
    },
    /// A convolution of kernel 1 with as many groups as there are input channels: every output channel reads one of them,
    /// times its number in `{path}.scale`, `[out]`.
    Scale {
        /// The path of the layer.
        path: String,
        /// The step in both directions.
        stride: usize,
    },
    /// A linear map of vectors or of every token, with the weight `{path}.weight`, stored `[in, out]`.
    Linear {
        /// The path of the layer.
        path: String,
        /// Whether there is a `{path}.bias`.
        bias: bool,
    },
    /// Batch normalisation of maps by `gamma`, `beta`, `running_mean` and `running_var` under its path.
    BatchNorm {
        /// The path of the normalisation.
        path: String,
        /// What is added to the variance.
        epsilon: f64,
    },
    /// Layer normalisation of every token by `gamma` and `beta` under its path.
    LayerNorm {
        /// The path of the normalisation.
        path: String,
        /// What is added to the variance.
        epsilon: f64,
    },
    /// A rectifier.
    Relu,
    /// `x · Φ(x)`, with the exact distribution function.
    Gelu,
    /// The largest of every window; a window that leaves the map at the far side is left out.
    MaxPool(Window),
    /// The mean of every window.
    AveragePool(Window),
    /// The mean of every map: maps become vectors.
    GlobalAverage,
    /// A sum, value by value.
    Add,
    /// The channels of one input after those of the other.
    Concat,
    /// Some of the input's channels.
    Select {
        /// The channels, in rising order.
        places: Vec<usize>,
    },
    /// The input's channels in their places among zero channels, up to the operation's width.
    Expand {
        /// The places, in rising order.
        places: Vec<usize>,
    },
    /// Every second pixel in both directions, `front` zero channels before the input's, and others behind, up to the
    /// operation's width.
    PadShortcut {
        /// Zero channels in front.
        front: usize,
    },
    /// Maps become vectors, channel by channel.
    Flatten,
    /// Maps become a sequence, pixel by pixel; a class token `[1, 1, channels]` is put in front, and positions
    /// `[1, tokens, channels]` are added.
    Embed {
        /// The name of the class token.
        class_token: String,
        /// The name of the positions.
        positions: String,
    },
    /// Attention over queries, keys and values, which lie in this order in the channels of its input, head after head.
    Attention {
        /// The number of heads.
        heads: usize,
        /// The number of tokens.
        tokens: usize,
        /// The channels of all queries, and of all keys.
        keys: usize,
        /// What the products of queries and keys are multiplied by.
        scale: f64,
    },
    /// The first token: a sequence becomes vectors.
    FirstToken,
    /// The logits.
    Logits,
    /// An operation that its model has told only as far as channels are concerned.
    Untold(Op),
}

/// The windows of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of a window.
    pub kernel: usize,
    /// The step between two windows in both directions.
    pub stride: usize,
    /// Pixels added on each of the four sides.
    pub padding: usize,
}

impl Window {
    /// Windows of 2×2 side by side.
    pub const HALVING: Window = Window { kernel: 2, stride: 2, padding: 0 };

    /// Returns the size of the output map.
    pub fn output(&self, map: [usize; 2]) -> [usize; 2] {
        map.map(|side| (side + 2 * self.padding - self.kernel) / self.stride + 1)
    }
}
