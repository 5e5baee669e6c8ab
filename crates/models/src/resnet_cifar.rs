//! ResNet for CIFAR: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015,
//! <https://arxiv.org/abs/1512.03385>, section 4.2.
//!
//! A 3×3 convolution, then three stages of 16, 32 and 64 channels, each of n blocks of two 3×3 convolutions, then the
//! average of each map and one linear layer: 6n + 2 layers. Weights are drawn as in "Delving deep into rectifiers" (He et
//! al. 2015, fan-in), those of the classifier too; biases start at zero.
//!
//! Shortcut A, the paper's choice for CIFAR, has no parameters ([`crate::layers::pad_shortcut`]). Shortcut B is a 1×1
//! convolution with batch normalisation where the width changes, which many later papers mean by "ResNet-20".

use bonsai_pruning::Graph;
use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::{Architecture, Shortcut};
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Then, global_average, pad_shortcut,
};
use crate::ledger::Ledger;

const WIDTHS: [usize; 3] = [16, 32, 64];
const SCHEME: Scheme = Scheme::KaimingNormalFanIn;
/// The smallest side that leaves a pixel after two halvings.
pub(crate) const SMALLEST: usize = 4;

/// A CIFAR ResNet.
#[derive(Module, Debug)]
pub struct ResNetCifar {
    conv: Conv2d,
    bn: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

impl ResNetCifar {
    pub(crate) fn new(architecture: &Architecture, blocks: usize, init: &Init) -> Self {
        let blocks = stages(blocks, architecture.shortcut);
        let at = init.at("blocks");
        Self {
            conv: stem(architecture).init(&init.at("conv"), SCHEME),
            bn: BatchNorm::new(WIDTHS[0], init),
            blocks: blocks.iter().enumerate().map(|(i, block)| block.init(&at.at(i))).collect(),
            fc: classifier(architecture).init(&init.at("fc"), SCHEME),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.bn.forward(self.conv.forward(Activation::new(images), sparsity), Then::Relu);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, blocks: usize) -> Graph {
    let mut ledger = Ledger::new();
    let mut map = ledger.conv("conv", stem(architecture), architecture.map());
    ledger.norm(WIDTHS[0]);
    for (i, block) in stages(blocks, architecture.shortcut).iter().enumerate() {
        map = block.list(&mut ledger, &format!("blocks.{i}"), map);
    }
    ledger.linear("fc", classifier(architecture), 1);
    ledger.finish()
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    Conv2dConfig::new(architecture.input[0], WIDTHS[0], 3)
}

fn classifier(architecture: &Architecture) -> LinearConfig {
    LinearConfig::new(WIDTHS[2], architecture.classes)
}

/// Returns the blocks of all three stages; the first block of the second and third stage halves the map.
fn stages(blocks: usize, shortcut: Shortcut) -> Vec<BlockConfig> {
    let mut inputs = WIDTHS[0];
    let mut all = Vec::new();
    for outputs in WIDTHS {
        for _ in 0..blocks {
            let stride = if inputs == outputs { 1 } else { 2 };
            all.push(BlockConfig { inputs, outputs, stride, projects: stride == 2 && shortcut == Shortcut::B });
            inputs = outputs;
        }
    }
    all
}

struct BlockConfig {
    inputs: usize,
    outputs: usize,
    stride: usize,
    projects: bool,
}

impl BlockConfig {
    fn conv1(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.inputs, self.outputs, 3).with_stride(self.stride)
    }

    fn conv2(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.outputs, self.outputs, 3)
    }

    fn projection(&self) -> Option<Conv2dConfig> {
        self.projects.then(|| Conv2dConfig::new(self.inputs, self.outputs, 1).with_stride(self.stride))
    }

    fn list(&self, ledger: &mut Ledger, path: &str, map: [usize; 2]) -> [usize; 2] {
        let output = ledger.conv(&format!("{path}.conv1"), self.conv1(), map);
        ledger.norm(self.outputs);
        ledger.conv(&format!("{path}.conv2"), self.conv2(), output);
        ledger.norm(self.outputs);
        if let Some(projection) = self.projection() {
            ledger.conv(&format!("{path}.shortcut.conv"), projection, map);
            ledger.norm(self.outputs);
        }
        output
    }

    fn init(&self, init: &Init) -> Block {
        Block {
            conv1: self.conv1().init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.outputs, init),
            conv2: self.conv2().init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.outputs, init),
            shortcut: self.projection().map(|conv| Projection {
                conv: conv.init(&init.at("shortcut").at("conv"), SCHEME),
                bn: BatchNorm::new(self.outputs, init),
            }),
            widens: self.stride == 2,
        }
    }
}

/// Two convolutions and a shortcut around them.
#[derive(Module, Debug)]
pub struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    shortcut: Option<Projection>,
    widens: bool,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let y = self.bn1.forward(self.conv1.forward(x.clone(), sparsity), Then::Relu);
        let y = self.conv2.forward(y, sparsity);
        let x = match &self.shortcut {
            Some(projection) => projection.bn.forward(projection.conv.forward(x, sparsity), Then::Nothing),
            None if self.widens => pad_shortcut(x, y.dims()[1]),
            None => x,
        };
        self.bn2.forward(y, Then::AddRelu(x))
    }
}

/// The convolution of shortcut B.
#[derive(Module, Debug)]
pub struct Projection {
    conv: Conv2d,
    bn: BatchNorm,
}
