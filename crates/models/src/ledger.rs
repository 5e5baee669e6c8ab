//! Adds up what a network costs, and notes how its channels flow, while its forward pass is told.

use bonsai_pruning::graph::{Node, Op};
use bonsai_pruning::{Graph, Kind, LayerSpec};

use crate::layers::{BypassConfig, Conv2dConfig, DepthwiseConfig, LinearConfig, NORM_EPSILON};
use crate::operations::{Compute, Operation, Window};

/// A graph in the making: a model tells its forward pass, with its layers in the order of its fields.
pub(crate) struct Ledger {
    told: Told,
}

/// A forward pass as it was told.
pub(crate) struct Told {
    /// Costs, and how channels flow.
    pub(crate) graph: Graph,
    /// What is computed.
    pub(crate) operations: Vec<Operation>,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    node: usize,
    operation: usize,
    /// Its channels.
    pub(crate) width: usize,
    /// Height and width of its maps.
    pub(crate) map: [usize; 2],
}

impl Ledger {
    /// Starts with the image.
    pub(crate) fn new([channels, height, width]: [usize; 3]) -> (Self, Value) {
        let mut ledger = Self { told: Told { graph: Graph::default(), operations: Vec::new() } };
        let image = ledger.node(Op::Input, &[], channels, [height, width]);
        let image = ledger.computed(image, Compute::Image);
        (ledger, image)
    }

    /// Lists a convolution.
    pub(crate) fn conv(&mut self, path: &str, conv: Conv2dConfig, x: Value) -> Value {
        let map = conv.output(x.map);
        let shape = vec![conv.outputs, conv.inputs, conv.kernel, conv.kernel];
        self.layer(path, Kind::Conv, shape, conv.bias, map[0] * map[1]);
        let op = Op::Layer { path: path.to_string(), bias: conv.bias, padded: conv.padding > 0 };
        let y = self.node(op, &[x], conv.outputs, map);
        let Conv2dConfig { kernel, stride, padding, bias, .. } = conv;
        self.computed(y, Compute::Conv { path: path.to_string(), kernel, stride, padding, bias })
    }

    /// Lists a depthwise convolution.
    pub(crate) fn depthwise(&mut self, path: &str, conv: DepthwiseConfig, x: Value) -> Value {
        let DepthwiseConfig { channels, kernel, stride } = conv;
        let map = conv.output(x.map);
        self.layer(path, Kind::Conv, vec![channels, 1, kernel, kernel], false, map[0] * map[1]);
        let op = Op::Depthwise { path: path.to_string(), padded: kernel > 1 };
        let y = self.node(op, &[x], channels, map);
        self.computed(y, Compute::Conv { path: path.to_string(), kernel, stride, padding: kernel / 2, bias: false })
    }

    /// Lists a linear layer that is applied to `tokens` vectors of every image.
    pub(crate) fn linear(&mut self, path: &str, linear: LinearConfig, tokens: usize, x: Value) -> Value {
        self.layer(path, Kind::Linear, vec![linear.outputs, linear.inputs], linear.bias, tokens);
        let op = Op::Layer { path: path.to_string(), bias: linear.bias, padded: false };
        let y = self.node(op, &[x], linear.outputs, x.map);
        self.computed(y, Compute::Linear { path: path.to_string(), bias: linear.bias })
    }

    /// Lists a batch normalisation.
    pub(crate) fn batch_norm(&mut self, path: &str, x: Value) -> Value {
        self.parameters(2 * x.width);
        let y = self.node(Op::BatchNorm { path: path.to_string() }, &[x], x.width, x.map);
        self.computed(y, Compute::BatchNorm { path: path.to_string(), epsilon: NORM_EPSILON })
    }

    /// Lists a layer normalisation.
    pub(crate) fn layer_norm(&mut self, path: &str, epsilon: f64, x: Value) -> Value {
        self.parameters(2 * x.width);
        let y = self.node(Op::LayerNorm { path: path.to_string() }, &[x], x.width, x.map);
        self.computed(y, Compute::LayerNorm { path: path.to_string(), epsilon })
    }

    /// Lists a rectifier.
    pub(crate) fn relu(&mut self, x: Value) -> Value {
        let y = self.node(Op::Relu, &[x], x.width, x.map);
        self.computed(y, Compute::Relu)
    }

    /// Lists a GELU.
    pub(crate) fn gelu(&mut self, x: Value) -> Value {
        let y = self.node(Op::Gelu, &[x], x.width, x.map);
        self.computed(y, Compute::Gelu)
    }

    /// Lists a max-pool.
    pub(crate) fn max_pool(&mut self, window: Window, x: Value) -> Value {
        let y = self.node(Op::Pool, &[x], x.width, window.output(x.map));
        self.computed(y, Compute::MaxPool(window))
    }

    /// Lists an average over every 2×2 pixels.
    pub(crate) fn average_pool(&mut self, x: Value) -> Value {
        let y = self.node(Op::Pool, &[x], x.width, Window::HALVING.output(x.map));
        self.computed(y, Compute::AveragePool(Window::HALVING))
    }

    /// Lists the channels of `b` behind those of `a`.
    pub(crate) fn concat(&mut self, a: Value, b: Value) -> Value {
        let y = self.node(Op::Concat, &[a, b], a.width + b.width, a.map);
        self.computed(y, Compute::Concat)
    }

    /// Lists a selection of channels; all of them without `places`.
    pub(crate) fn select(&mut self, path: &str, places: Option<&[usize]>, x: Value) -> Value {
        let places = places.map_or_else(|| (0..x.width).collect(), <[usize]>::to_vec);
        let op = Op::Select { path: path.to_string(), places: places.clone() };
        let y = self.node(op, &[x], places.len(), x.map);
        self.computed(y, Compute::Select { places })
    }

    /// Lists channels put in their places among zeros, `width` in all; all of them without `places`.
    pub(crate) fn expand(&mut self, path: &str, places: Option<&[usize]>, width: usize, x: Value) -> Value {
        let places = places.map_or_else(|| (0..width).collect(), <[usize]>::to_vec);
        let op = Op::Expand { path: path.to_string(), places: places.clone() };
        let y = self.node(op, &[x], width, x.map);
        self.computed(y, Compute::Expand { places })
    }

    /// Lists the mean of every map.
    pub(crate) fn global_average(&mut self, x: Value) -> Value {
        let y = self.node(Op::Pool, &[x], x.width, [1, 1]);
        self.computed(y, Compute::GlobalAverage)
    }

    /// Lists a sum.
    pub(crate) fn add(&mut self, a: Value, b: Value) -> Value {
        let y = self.node(Op::Add, &[a, b], a.width, a.map);
        self.computed(y, Compute::Add)
    }

    /// Lists the shortcut that takes every second pixel and adds zero channels, `front` of them in front.
    pub(crate) fn pad_shortcut(&mut self, x: Value, front: usize, width: usize) -> Value {
        let y = self.node(Op::Pad { front }, &[x], width, x.map.map(|side| side.div_ceil(2)));
        self.computed(y, Compute::PadShortcut { front })
    }

    /// Lists the turning of maps into vectors.
    pub(crate) fn flatten(&mut self, x: Value) -> Value {
        let area = x.map[0] * x.map[1];
        let y = self.node(Op::Flatten { area }, &[x], x.width * area, [1, 1]);
        self.computed(y, Compute::Flatten)
    }

    /// Lists the turning of maps into a sequence of `tokens` tokens, a class token in front, with positions added.
    pub(crate) fn embed(&mut self, class_token: &str, positions: &str, tokens: usize, x: Value) -> Value {
        self.parameters(x.width + tokens * x.width);
        let op = Op::Embed { class_token: class_token.to_string(), positions: positions.to_string(), tokens };
        let y = self.node(op, &[x], x.width, x.map);
        self.computed(y, Compute::Embed { class_token: class_token.to_string(), positions: positions.to_string() })
    }

    /// Lists the choice of the first token.
    pub(crate) fn first_token(&mut self, x: Value) -> Value {
        self.aside(Compute::FirstToken, x)
    }

    /// Lists attention over queries, keys and values; the values take `width` channels.
    pub(crate) fn attention(
        &mut self,
        path: &str,
        heads: usize,
        width: usize,
        tokens: usize,
        scale: f64,
        x: Value,
    ) -> Value {
        let keys = (x.width - width) / 2;
        // Queries times keys, and weights times values.
        self.told.graph.fixed_macs += (tokens * tokens * (keys + width)) as u64;
        let y = self.node(Op::Attention { path: path.to_string(), heads, tokens }, &[x], width, x.map);
        self.computed(y, Compute::Attention { heads, tokens, keys, scale })
    }

    /// Lists the bypass around a convolution that turned `x` into `y`.
    ///
    /// Its weights are no layer: nothing prunes them, and they cost what they cost.
    pub(crate) fn bypass(&mut self, path: &str, bypass: &BypassConfig, x: Value, y: Value) -> Value {
        let (width, stride) = (bypass.outputs, bypass.stride);
        self.parameters(3 * width);
        self.told.graph.fixed_macs += (width * y.map[0] * y.map[1]) as u64;
        let whole = |operation| Value { operation, width, ..y };
        let made = whole(self.operation(Compute::Expand { places: bypass.filters.clone() }, &[y], width));
        let around = whole(self.operation(Compute::Scale { path: path.to_string(), stride }, &[x], width));
        let norm = Compute::BatchNorm { path: format!("{path}.bn"), epsilon: NORM_EPSILON };
        let around = whole(self.operation(norm, &[around], width));
        let sum = self.operation(Compute::Add, &[made, around], width);
        self.told.graph.nodes.push(Node { op: Op::Bypass, inputs: vec![y.node, x.node], width });
        Value { node: self.told.graph.nodes.len() - 1, operation: sum, width, map: y.map }
    }

    /// Notes that the network can gate the channels of a group.
    ///
    /// The gates themselves are not listed: they are there while some methods train, and gone before the network is used.
    pub(crate) fn gate(&mut self, group: &str) {
        self.told.graph.gates.push(group.to_string());
    }

    /// Lists parameters that belong to no layer, such as embeddings.
    pub(crate) fn parameters(&mut self, count: usize) {
        self.told.graph.parameters += count as u64;
    }

    /// Ends with the logits and returns what was told.
    pub(crate) fn finish(mut self, logits: Value) -> Told {
        let end = self.node(Op::Output, &[logits], logits.width, logits.map);
        self.computed(end, Compute::Logits);
        self.told
    }

    /// Adds an operation of which only the flow of channels is known; [`computed`](Self::computed) says the rest.
    fn node(&mut self, op: Op, inputs: &[Value], width: usize, map: [usize; 2]) -> Value {
        let Told { graph, operations } = &mut self.told;
        let read = inputs.iter().map(|value| value.operation).collect();
        operations.push(Operation { compute: Compute::Untold(op.clone()), inputs: read, width });
        graph.nodes.push(Node { op, inputs: inputs.iter().map(|value| value.node).collect(), width });
        Value { node: graph.nodes.len() - 1, operation: operations.len() - 1, width, map }
    }

    /// Says what the operation behind a value computes.
    fn computed(&mut self, value: Value, compute: Compute) -> Value {
        self.told.operations[value.operation].compute = compute;
        value
    }

    /// Adds an operation through which channels pass as they are.
    fn aside(&mut self, compute: Compute, x: Value) -> Value {
        Value { operation: self.operation(compute, &[x], x.width), ..x }
    }

    /// Adds an operation that no node stands for, and returns its place.
    fn operation(&mut self, compute: Compute, inputs: &[Value], width: usize) -> usize {
        let operations = &mut self.told.operations;
        operations.push(Operation { compute, inputs: inputs.iter().map(|value| value.operation).collect(), width });
        operations.len() - 1
    }

    fn layer(&mut self, path: &str, kind: Kind, shape: Vec<usize>, bias: bool, uses: usize) {
        let weights: usize = shape.iter().product();
        let biases = if bias { shape[0] } else { 0 };
        self.parameters(weights + biases);
        self.told.graph.layers.push(LayerSpec {
            name: format!("{path}.weight"),
            kind,
            shape,
            macs: (weights * uses) as u64,
        });
    }
}
