//! DenseNet for CIFAR: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", 2016,
//! <https://arxiv.org/abs/1608.06993>, table 2, without bottlenecks and compression.
//!
//! A 3×3 convolution of 24 channels, then three blocks of 12 layers; each layer is batch normalisation, a rectifier and a
//! 3×3 convolution whose 12 channels are put behind all that it has read. Between blocks a 1×1 convolution and an average
//! pool halve the map. Convolutions are drawn normal by fan-out, the classifier as PyTorch does (network slimming does so).
//!
//! Differs from the paper: the first convolution has 24 channels instead of 16, as in the code of network slimming (Liu et
//! al. 2017, <https://arxiv.org/abs/1708.06519>), which all of the pruning literature follows; no dropout.
//!
//! A channel is read by all later layers of its block and by the transition behind it. It can go from all of them at once
//! (groups of kind `stream`), or every layer picks the channels that it reads (`selection`), as network slimming does.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, Conv2d, Conv2dConfig, Linear, LinearConfig, PreActivation, PreActivationConfig, Sparsity, average_pool,
    concat, global_average,
};
use crate::ledger::{Ledger, Told, Value};

/// The smallest side that leaves a pixel after two halvings.
pub(crate) const SMALLEST: usize = 4;
const SCHEME: Scheme = Scheme::KaimingNormalFanOut;

/// What tells one DenseNet from another.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Layers of each of the three blocks.
    layers: usize,
    /// Channels that each layer adds.
    growth: usize,
}

pub(crate) const DENSENET40: Size = Size { layers: 12, growth: 12 };

/// A DenseNet.
#[derive(Module, Debug)]
pub struct DenseNet {
    conv: Conv2d,
    blocks: Vec<Block>,
    pre: PreActivation,
    fc: Linear,
}

impl DenseNet {
    pub(crate) fn new(architecture: &Architecture, size: Size, init: &Init) -> Self {
        let config = size.config(architecture);
        let at = init.at("blocks");
        let block = |(b, block): (usize, &BlockConfig)| {
            let (at, layers) = (at.at(b), at.at(b).at("layers"));
            Block {
                layers: block.layers.iter().enumerate().map(|(i, layer)| layer.init(&layers.at(i))).collect(),
                transition: block.transition.as_ref().map(|layer| layer.init(&at.at("transition"))),
            }
        };
        Self {
            conv: config.stem.init(&init.at("conv"), SCHEME),
            blocks: config.blocks.iter().enumerate().map(block).collect(),
            pre: config.pre.init(&init.at("pre")),
            fc: config.fc.init(&init.at("fc"), Scheme::Uniform),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.conv.forward(Activation::new(images), sparsity);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        self.fc.forward(global_average(self.pre.forward(x)), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, size: Size) -> Told {
    let config = size.config(architecture);
    let (mut ledger, x) = Ledger::new(architecture.input);
    let mut x = ledger.conv("conv", config.stem, x);
    for (b, block) in config.blocks.iter().enumerate() {
        for (i, layer) in block.layers.iter().enumerate() {
            let y = layer.list(&mut ledger, &format!("blocks.{b}.layers.{i}"), x);
            x = ledger.concat(x, y);
        }
        if let Some(layer) = &block.transition {
            let y = layer.list(&mut ledger, &format!("blocks.{b}.transition"), x);
            x = ledger.average_pool(y);
        }
    }
    let x = config.pre.list(&mut ledger, x);
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", config.fc, 1, x);
    ledger.finish(x)
}

impl Size {
    fn config(self, architecture: &Architecture) -> Config {
        let mut full = 2 * self.growth;
        let stem = Conv2dConfig::new(architecture.input[0], architecture.width("conv", full), 3);
        let mut width = stem.outputs;
        let layer = |path: String, width: usize, outputs: usize, kernel: usize| {
            let pre = PreActivationConfig::new(architecture, format!("{path}.pre"), width);
            let outputs = architecture.width(&format!("{path}.conv"), outputs);
            LayerConfig { conv: Conv2dConfig::new(pre.width, outputs, kernel), pre }
        };
        let mut blocks = Vec::new();
        for b in 0..3 {
            let mut layers = Vec::new();
            for i in 0..self.layers {
                let config = layer(format!("blocks.{b}.layers.{i}"), width, self.growth, 3);
                width += config.conv.outputs;
                full += self.growth;
                layers.push(config);
            }
            let transition = (b < 2).then(|| layer(format!("blocks.{b}.transition"), width, full, 1));
            width = transition.as_ref().map_or(width, |layer| layer.conv.outputs);
            blocks.push(BlockConfig { layers, transition });
        }
        let pre = PreActivationConfig::new(architecture, "pre".to_string(), width);
        Config { stem, blocks, fc: LinearConfig::new(pre.width, architecture.classes), pre }
    }
}

/// The shapes of all layers.
struct Config {
    stem: Conv2dConfig,
    blocks: Vec<BlockConfig>,
    pre: PreActivationConfig,
    fc: LinearConfig,
}

struct BlockConfig {
    layers: Vec<LayerConfig>,
    transition: Option<LayerConfig>,
}

struct LayerConfig {
    pre: PreActivationConfig,
    conv: Conv2dConfig,
}

impl LayerConfig {
    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let y = self.pre.list(ledger, x);
        ledger.conv(&format!("{path}.conv"), self.conv, y)
    }

    fn init(&self, init: &Init) -> Layer {
        Layer { pre: self.pre.init(&init.at("pre")), conv: self.conv.init(&init.at("conv"), SCHEME) }
    }
}

/// Layers that each add channels, and the transition to a smaller map.
#[derive(Module, Debug)]
pub struct Block {
    layers: Vec<Layer>,
    transition: Option<Layer>,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let x = self.layers.iter().fold(x, |x, layer| concat(x.clone(), layer.forward(x, sparsity)));
        match &self.transition {
            Some(transition) => average_pool(transition.forward(x, sparsity)),
            None => x,
        }
    }
}

/// Normalisation, a rectifier and a convolution.
#[derive(Module, Debug)]
pub struct Layer {
    pre: PreActivation,
    conv: Conv2d,
}

impl Layer {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        self.conv.forward(self.pre.forward(x), sparsity)
    }
}
