//! Pre-activation ResNet with bottlenecks for CIFAR: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks",
//! 2016, <https://arxiv.org/abs/1603.05027>, table 2.
//!
//! A 3×3 convolution of 16 channels, then three stages of n blocks, 9n + 2 layers; each block is a 1×1, a 3×3 and a 1×1
//! convolution of 16, 32 or 64, as many, and four times as many channels, with batch normalisation and a rectifier in front
//! of each. Convolutions are drawn normal by fan-out, the classifier as PyTorch does (network slimming does so).
//!
//! Differs from the paper, as the code of network slimming (Liu et al. 2017, <https://arxiv.org/abs/1708.06519>) does: the
//! 1×1 convolution that joins two stages reads the stream as it is, before the normalisation.
//!
//! Channels of the stream can go from all blocks of a stage at once (groups of kind `stream`), or every block picks those
//! that it reads (`selection`), as network slimming does.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, PreActivation, PreActivationConfig, Sparsity,
    Then, global_average,
};
use crate::ledger::{Ledger, Told, Value};

/// The smallest side that leaves a pixel after two halvings.
pub(crate) const SMALLEST: usize = 4;
const SCHEME: Scheme = Scheme::KaimingNormalFanOut;
const WIDTHS: [usize; 3] = [16, 32, 64];
const EXPANSION: usize = 4;

/// A pre-activation ResNet.
#[derive(Module, Debug)]
pub struct PreResNet {
    conv: Conv2d,
    blocks: Vec<Block>,
    pre: PreActivation,
    fc: Linear,
}

impl PreResNet {
    pub(crate) fn new(architecture: &Architecture, blocks: usize, init: &Init) -> Self {
        let blocks = stages(architecture, blocks);
        let (at, pre) = (init.at("blocks"), last(architecture, &blocks));
        Self {
            conv: stem(architecture).init(&init.at("conv"), SCHEME),
            blocks: blocks.iter().enumerate().map(|(i, block)| block.init(&at.at(i))).collect(),
            fc: LinearConfig::new(pre.width, architecture.classes).init(&init.at("fc"), Scheme::Uniform),
            pre: pre.init(&init.at("pre")),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.conv.forward(Activation::new(images), sparsity);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        self.fc.forward(global_average(self.pre.forward(x)), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, blocks: usize) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let mut x = ledger.conv("conv", stem(architecture), x);
    let blocks = stages(architecture, blocks);
    for (i, block) in blocks.iter().enumerate() {
        x = block.list(&mut ledger, &format!("blocks.{i}"), x);
    }
    let x = last(architecture, &blocks).list(&mut ledger, x);
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", LinearConfig::new(x.width, architecture.classes), 1, x);
    ledger.finish(x)
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    Conv2dConfig::new(architecture.input[0], architecture.width("conv", WIDTHS[0]), 3)
}

fn last(architecture: &Architecture, blocks: &[BlockConfig]) -> PreActivationConfig {
    let width = blocks.last().expect("every name has blocks").conv3.outputs;
    PreActivationConfig::new(architecture, "pre".to_string(), width)
}

/// Returns the blocks of all three stages; the first of the second and third stage halves the map, and the first of every
/// stage widens the stream.
fn stages(architecture: &Architecture, blocks: usize) -> Vec<BlockConfig> {
    let mut inputs = stem(architecture).outputs;
    let mut all = Vec::new();
    for (stage, full) in WIDTHS.into_iter().enumerate() {
        for block in 0..blocks {
            let path = format!("blocks.{}", all.len());
            let width = |conv: &str, full| architecture.width(&format!("{path}.{conv}"), full);
            let outputs = if block == 0 { width("conv3", full * EXPANSION) } else { inputs };
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let pre = PreActivationConfig::new(architecture, format!("{path}.pre"), inputs);
            let [first, second] = [width("conv1", full), width("conv2", full)];
            all.push(BlockConfig {
                conv1: Conv2dConfig::new(pre.width, first, 1),
                pre,
                conv2: Conv2dConfig::new(first, second, 3).with_stride(stride),
                conv3: Conv2dConfig::new(second, outputs, 1),
                downsample: (block == 0).then(|| Conv2dConfig::new(inputs, outputs, 1).with_stride(stride)),
            });
            inputs = outputs;
        }
    }
    all
}

struct BlockConfig {
    pre: PreActivationConfig,
    conv1: Conv2dConfig,
    conv2: Conv2dConfig,
    conv3: Conv2dConfig,
    downsample: Option<Conv2dConfig>,
}

impl BlockConfig {
    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let y = self.pre.list(ledger, x);
        let y = ledger.conv(&format!("{path}.conv1"), self.conv1, y);
        let y = ledger.batch_norm(&format!("{path}.bn2"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.conv2"), self.conv2, y);
        let y = ledger.batch_norm(&format!("{path}.bn3"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.conv3"), self.conv3, y);
        let x = match self.downsample {
            Some(conv) => ledger.conv(&format!("{path}.downsample"), conv, x),
            None => x,
        };
        ledger.add(y, x)
    }

    fn init(&self, init: &Init) -> Block {
        let conv = |name: &str, conv: Conv2dConfig| conv.init(&init.at(name), SCHEME);
        Block {
            pre: self.pre.init(&init.at("pre")),
            conv1: conv("conv1", self.conv1),
            bn2: BatchNorm::new(self.conv1.outputs, init),
            conv2: conv("conv2", self.conv2),
            bn3: BatchNorm::new(self.conv2.outputs, init),
            conv3: conv("conv3", self.conv3),
            downsample: self.downsample.map(|downsample| conv("downsample", downsample)),
        }
    }
}

/// Three convolutions, each behind its normalisation, and a shortcut around them.
#[derive(Module, Debug)]
pub struct Block {
    pre: PreActivation,
    conv1: Conv2d,
    bn2: BatchNorm,
    conv2: Conv2d,
    bn3: BatchNorm,
    conv3: Conv2d,
    downsample: Option<Conv2d>,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let y = self.conv1.forward(self.pre.forward(x.clone()), sparsity);
        let y = self.conv2.forward(self.bn2.forward(y, Then::Relu), sparsity);
        let y = self.conv3.forward(self.bn3.forward(y, Then::Relu), sparsity);
        match &self.downsample {
            Some(conv) => y.add(conv.forward(x, sparsity)),
            None => y.add(x),
        }
    }
}
