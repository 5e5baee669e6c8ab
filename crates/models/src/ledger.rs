//! Adds up what a network costs while its layers are listed.

use bonsai_pruning::{Graph, Kind, LayerSpec};

use crate::layers::{Conv2dConfig, LinearConfig};

/// A graph in the making: a model lists its layers in the order of its forward pass.
pub(crate) struct Ledger {
    graph: Graph,
}

impl Ledger {
    /// Starts without layers.
    pub(crate) fn new() -> Self {
        Self { graph: Graph { layers: Vec::new(), parameters: 0, fixed_macs: 0 } }
    }

    /// Lists a convolution over a map and returns the size of its output map.
    pub(crate) fn conv(&mut self, path: &str, conv: Conv2dConfig, map: [usize; 2]) -> [usize; 2] {
        let output = conv.output(map);
        let shape = vec![conv.outputs, conv.inputs, conv.kernel, conv.kernel];
        self.layer(path, Kind::Conv, shape, conv.bias, output[0] * output[1]);
        output
    }

    /// Lists a linear layer that is applied to `tokens` vectors of every image.
    pub(crate) fn linear(&mut self, path: &str, linear: LinearConfig, tokens: usize) {
        self.layer(path, Kind::Linear, vec![linear.outputs, linear.inputs], linear.bias, tokens);
    }

    /// Lists the scale and the shift of a normalisation.
    pub(crate) fn norm(&mut self, channels: usize) {
        self.parameters(2 * channels);
    }

    /// Lists parameters that belong to no layer, such as embeddings.
    pub(crate) fn parameters(&mut self, count: usize) {
        self.graph.parameters += count as u64;
    }

    /// Lists multiply-accumulates without weights, such as those of attention.
    pub(crate) fn fixed_macs(&mut self, count: usize) {
        self.graph.fixed_macs += count as u64;
    }

    /// Returns the finished graph.
    pub(crate) fn finish(self) -> Graph {
        self.graph
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
