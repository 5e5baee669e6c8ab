//! MobileNetV2 for CIFAR: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: inverted residuals and linear bottlenecks",
//! 2018, <https://arxiv.org/abs/1801.04381>, table 2.
//!
//! A 3×3 convolution, then blocks that widen a thin stream sixfold by a 1×1 convolution, convolve each channel with a 3×3
//! kernel of its own and make it thin again; blocks of equal shape are added to what they read. Convolutions are drawn normal
//! by fan-in, the classifier with deviation 0.01.
//!
//! Differs from the paper, as networks for CIFAR do: the first convolution and the second stage keep the size of the map, so
//! that 32×32 pixels become 4×4; rectifiers are not cut at 6; no dropout.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Depthwise, DepthwiseConfig, Linear, LinearConfig, Sparsity, Then,
    global_average,
};
use crate::ledger::{Ledger, Told, Value};

/// The smallest side that leaves a pixel after three halvings.
pub(crate) const SMALLEST: usize = 8;
const SCHEME: Scheme = Scheme::KaimingNormalFanIn;
const STEM: usize = 32;
const LAST: usize = 1280;

/// Blocks of one shape: how much wider they are inside, their outputs, their number, and the stride of the first.
struct Stage {
    expansion: usize,
    outputs: usize,
    blocks: usize,
    stride: usize,
}

const STAGES: [Stage; 7] = [
    Stage { expansion: 1, outputs: 16, blocks: 1, stride: 1 },
    Stage { expansion: 6, outputs: 24, blocks: 2, stride: 1 },
    Stage { expansion: 6, outputs: 32, blocks: 3, stride: 2 },
    Stage { expansion: 6, outputs: 64, blocks: 4, stride: 2 },
    Stage { expansion: 6, outputs: 96, blocks: 3, stride: 1 },
    Stage { expansion: 6, outputs: 160, blocks: 3, stride: 2 },
    Stage { expansion: 6, outputs: 320, blocks: 1, stride: 1 },
];

/// A MobileNetV2.
#[derive(Module, Debug)]
pub struct MobileNetV2 {
    conv: Conv2d,
    bn: BatchNorm,
    blocks: Vec<Block>,
    last: Conv2d,
    last_bn: BatchNorm,
    fc: Linear,
}

impl MobileNetV2 {
    pub(crate) fn new(architecture: &Architecture, init: &Init) -> Self {
        let (stem, blocks) = (stem(architecture), blocks(architecture));
        let (at, last) = (init.at("blocks"), last(architecture, &blocks));
        Self {
            conv: stem.init(&init.at("conv"), SCHEME),
            bn: BatchNorm::new(stem.outputs, init),
            blocks: blocks.iter().enumerate().map(|(i, block)| block.init(&at.at(i))).collect(),
            last: last.init(&init.at("last"), SCHEME),
            last_bn: BatchNorm::new(last.outputs, init),
            fc: LinearConfig::new(last.outputs, architecture.classes).init(&init.at("fc"), Scheme::Normal(0.01)),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.bn.forward(self.conv.forward(Activation::new(images), sparsity), Then::Relu);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        let x = self.last_bn.forward(self.last.forward(x, sparsity), Then::Relu);
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.conv("conv", stem(architecture), x);
    let x = ledger.batch_norm("bn", x);
    let mut x = ledger.relu(x);
    let blocks = blocks(architecture);
    for (i, block) in blocks.iter().enumerate() {
        x = block.list(&mut ledger, &format!("blocks.{i}"), x);
    }
    let x = ledger.conv("last", last(architecture, &blocks), x);
    let x = ledger.batch_norm("last_bn", x);
    let x = ledger.relu(x);
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", LinearConfig::new(x.width, architecture.classes), 1, x);
    ledger.finish(x)
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    Conv2dConfig::new(architecture.input[0], architecture.width("conv", STEM), 3)
}

fn last(architecture: &Architecture, blocks: &[BlockConfig]) -> Conv2dConfig {
    let inputs = blocks.last().expect("there are blocks").project.outputs;
    Conv2dConfig::new(inputs, architecture.width("last", LAST), 1)
}

fn blocks(architecture: &Architecture) -> Vec<BlockConfig> {
    let (mut inputs, mut full_inputs) = (stem(architecture).outputs, STEM);
    let mut all = Vec::new();
    for Stage { expansion, outputs: full, blocks, stride } in STAGES {
        for block in 0..blocks {
            let width = |conv, full| architecture.width(&format!("blocks.{}.{conv}", all.len()), full);
            let hidden = if expansion > 1 { width("expand", full_inputs * expansion) } else { inputs };
            let outputs = if block == 0 { width("project", full) } else { inputs };
            all.push(BlockConfig {
                expand: (expansion > 1).then(|| Conv2dConfig::new(inputs, hidden, 1)),
                depthwise: DepthwiseConfig { channels: hidden, kernel: 3, stride: if block == 0 { stride } else { 1 } },
                project: Conv2dConfig::new(hidden, outputs, 1),
                adds: block > 0,
            });
            (inputs, full_inputs) = (outputs, full);
        }
    }
    all
}

struct BlockConfig {
    expand: Option<Conv2dConfig>,
    depthwise: DepthwiseConfig,
    project: Conv2dConfig,
    /// Whether the input is added to the output.
    adds: bool,
}

impl BlockConfig {
    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let mut y = x;
        if let Some(conv) = self.expand {
            y = ledger.conv(&format!("{path}.expand"), conv, y);
            y = ledger.batch_norm(&format!("{path}.expand_bn"), y);
            y = ledger.relu(y);
        }
        let y = ledger.depthwise(&format!("{path}.depthwise"), self.depthwise, y);
        let y = ledger.batch_norm(&format!("{path}.depthwise_bn"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.project"), self.project, y);
        let y = ledger.batch_norm(&format!("{path}.project_bn"), y);
        if self.adds { ledger.add(y, x) } else { y }
    }

    fn init(&self, init: &Init) -> Block {
        Block {
            expand: self.expand.map(|conv| conv.init(&init.at("expand"), SCHEME)),
            expand_bn: self.expand.map(|conv| BatchNorm::new(conv.outputs, init)),
            depthwise: self.depthwise.init(&init.at("depthwise"), SCHEME),
            depthwise_bn: BatchNorm::new(self.depthwise.channels, init),
            project: self.project.init(&init.at("project"), SCHEME),
            project_bn: BatchNorm::new(self.project.outputs, init),
            adds: self.adds,
        }
    }
}

/// An inverted residual.
#[derive(Module, Debug)]
pub struct Block {
    expand: Option<Conv2d>,
    expand_bn: Option<BatchNorm>,
    depthwise: Depthwise,
    depthwise_bn: BatchNorm,
    project: Conv2d,
    project_bn: BatchNorm,
    adds: bool,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let onto = self.adds.then(|| x.clone());
        let y = match (&self.expand, &self.expand_bn) {
            (Some(conv), Some(bn)) => bn.forward(conv.forward(x, sparsity), Then::Relu),
            _ => x,
        };
        let y = self.depthwise_bn.forward(self.depthwise.forward(y), Then::Relu);
        let y = self.project_bn.forward(self.project.forward(y, sparsity), Then::Nothing);
        match onto {
            Some(x) => y.add(x),
            None => y,
        }
    }
}
