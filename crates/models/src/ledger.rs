//! Adds up what a network costs, and notes how its channels flow, while its forward pass is told.

use bonsai_pruning::graph::{Node, Op};
use bonsai_pruning::{Graph, Kind, LayerSpec};

use crate::layers::{Conv2dConfig, DepthwiseConfig, LinearConfig};

/// A graph in the making: a model tells its forward pass, with its layers in the order of its fields.
pub(crate) struct Ledger {
    graph: Graph,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    node: usize,
    /// Its channels.
    pub(crate) width: usize,
    /// Height and width of its maps.
    pub(crate) map: [usize; 2],
}

impl Ledger {
    /// Starts with the image.
    pub(crate) fn new([channels, height, width]: [usize; 3]) -> (Self, Value) {
        let mut ledger = Self { graph: Graph::default() };
        let image = ledger.node(Op::Input, &[], channels, [height, width]);
        (ledger, image)
    }

    /// Lists a convolution.
    pub(crate) fn conv(&mut self, path: &str, conv: Conv2dConfig, x: Value) -> Value {
        let map = conv.output(x.map);
        let shape = vec![conv.outputs, conv.inputs, conv.kernel, conv.kernel];
        self.layer(path, Kind::Conv, shape, conv.bias, map[0] * map[1]);
        let op = Op::Layer { path: path.to_string(), bias: conv.bias, padded: conv.padding > 0 };
        self.node(op, &[x], conv.outputs, map)
    }

    /// Lists a depthwise convolution.
    pub(crate) fn depthwise(&mut self, path: &str, conv: DepthwiseConfig, x: Value) -> Value {
        let map = conv.output(x.map);
        self.layer(path, Kind::Conv, vec![conv.channels, 1, conv.kernel, conv.kernel], false, map[0] * map[1]);
        let op = Op::Depthwise { path: path.to_string(), padded: conv.kernel > 1 };
        self.node(op, &[x], conv.channels, map)
    }

    /// Lists a linear layer that is applied to `tokens` vectors of every image.
    pub(crate) fn linear(&mut self, path: &str, linear: LinearConfig, tokens: usize, x: Value) -> Value {
        self.layer(path, Kind::Linear, vec![linear.outputs, linear.inputs], linear.bias, tokens);
        let op = Op::Layer { path: path.to_string(), bias: linear.bias, padded: false };
        self.node(op, &[x], linear.outputs, x.map)
    }

    /// Lists a batch normalisation.
    pub(crate) fn batch_norm(&mut self, path: &str, x: Value) -> Value {
        self.parameters(2 * x.width);
        self.node(Op::BatchNorm { path: path.to_string() }, &[x], x.width, x.map)
    }

    /// Lists a layer normalisation.
    pub(crate) fn layer_norm(&mut self, path: &str, x: Value) -> Value {
        self.parameters(2 * x.width);
        self.node(Op::LayerNorm { path: path.to_string() }, &[x], x.width, x.map)
    }

    /// Lists the turning of maps into `tokens` tokens, with a class token in front and positions added.
    pub(crate) fn embed(&mut self, class_token: &str, positions: &str, tokens: usize, x: Value) -> Value {
        self.parameters(x.width + tokens * x.width);
        let op = Op::Embed { class_token: class_token.to_string(), positions: positions.to_string(), tokens };
        self.node(op, &[x], x.width, x.map)
    }

    /// Lists a rectifier.
    pub(crate) fn relu(&mut self, x: Value) -> Value {
        self.node(Op::Relu, &[x], x.width, x.map)
    }

    /// Lists a GELU.
    pub(crate) fn gelu(&mut self, x: Value) -> Value {
        self.node(Op::Gelu, &[x], x.width, x.map)
    }

    /// Lists a pool and the size of its maps.
    pub(crate) fn pool(&mut self, x: Value, map: [usize; 2]) -> Value {
        self.node(Op::Pool, &[x], x.width, map)
    }

    /// Lists an average over every 2×2 pixels.
    pub(crate) fn average_pool(&mut self, x: Value) -> Value {
        self.pool(x, x.map.map(|side| side / 2))
    }

    /// Lists the average of every map.
    pub(crate) fn global_average(&mut self, x: Value) -> Value {
        self.pool(x, [1, 1])
    }

    /// Lists the channels of `b` behind those of `a`.
    pub(crate) fn concat(&mut self, a: Value, b: Value) -> Value {
        self.node(Op::Concat, &[a, b], a.width + b.width, a.map)
    }

    /// Lists a selection of channels; all of them without `places`.
    pub(crate) fn select(&mut self, path: &str, places: Option<&[usize]>, x: Value) -> Value {
        let places = places.map_or_else(|| (0..x.width).collect(), <[usize]>::to_vec);
        let width = places.len();
        self.node(Op::Select { path: path.to_string(), places }, &[x], width, x.map)
    }

    /// Lists a sum.
    pub(crate) fn add(&mut self, a: Value, b: Value) -> Value {
        self.node(Op::Add, &[a, b], a.width, a.map)
    }

    /// Lists the shortcut that takes every second pixel and adds zero channels, `front` of them in front.
    pub(crate) fn pad_shortcut(&mut self, x: Value, front: usize, width: usize) -> Value {
        self.node(Op::Pad { front }, &[x], width, x.map.map(|side| side.div_ceil(2)))
    }

    /// Lists the turning of maps into vectors.
    pub(crate) fn flatten(&mut self, x: Value) -> Value {
        let area = x.map[0] * x.map[1];
        self.node(Op::Flatten { area }, &[x], x.width * area, [1, 1])
    }

    /// Lists attention over queries, keys and values; the values take `width` channels.
    pub(crate) fn attention(&mut self, path: &str, heads: usize, width: usize, tokens: usize, x: Value) -> Value {
        // Queries times keys, and weights times values.
        self.graph.fixed_macs += (tokens * tokens * ((x.width - width) / 2 + width)) as u64;
        self.node(Op::Attention { path: path.to_string(), heads, tokens }, &[x], width, x.map)
    }

    /// Lists the bypass around a convolution that turned `x` into `y`; the sum has `width` channels.
    ///
    /// Its weights are no layer: nothing prunes them, and they cost what they cost.
    pub(crate) fn bypass(&mut self, x: Value, y: Value, width: usize) -> Value {
        self.parameters(3 * width);
        self.graph.fixed_macs += (width * y.map[0] * y.map[1]) as u64;
        self.node(Op::Bypass, &[y, x], width, y.map)
    }

    /// Notes that the network can gate the channels of a group.
    ///
    /// The gates themselves are not listed: they are there while some methods train, and gone before the network is used.
    pub(crate) fn gate(&mut self, group: &str) {
        self.graph.gates.push(group.to_string());
    }

    /// Lists parameters that belong to no layer, such as embeddings.
    pub(crate) fn parameters(&mut self, count: usize) {
        self.graph.parameters += count as u64;
    }

    /// Ends with the logits and returns the graph.
    pub(crate) fn finish(mut self, logits: Value) -> Graph {
        self.node(Op::Output, &[logits], logits.width, logits.map);
        self.graph
    }

    fn node(&mut self, op: Op, inputs: &[Value], width: usize, map: [usize; 2]) -> Value {
        let inputs = inputs.iter().map(|value| value.node).collect();
        self.graph.nodes.push(Node { op, inputs, width });
        Value { node: self.graph.nodes.len() - 1, width, map }
    }

    fn layer(&mut self, path: &str, kind: Kind, shape: Vec<usize>, bias: bool, uses: usize) {
        let weights: usize = shape.iter().product();
        let biases = if bias { shape[0] } else { 0 };
        self.parameters(weights + biases);
        self.graph.layers.push(LayerSpec {
            name: format!("{path}.weight"),
            kind,
            shape,
            macs: (weights * uses) as u64,
        });
    }
}
