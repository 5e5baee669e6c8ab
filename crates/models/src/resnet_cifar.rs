//! ResNet for CIFAR: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015,
//! <https://arxiv.org/abs/1512.03385>, section 4.2.
//!
//! A 3×3 convolution, then three stages of 16, 32 and 64 channels, each of n blocks of two 3×3 convolutions, then the
//! average of each map and one linear layer: 6n + 2 layers. Weights are drawn as in "Delving deep into rectifiers" (He et
//! al. 2015, fan-in), those of the classifier too; biases start at zero.
//!
//! Shortcut A, the paper's choice for CIFAR, has no parameters ([`crate::layers::pad_shortcut`]). Shortcut B is a 1×1
//! convolution with batch normalisation where the width changes, which many later papers mean by "ResNet-20".

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::{Architecture, Shortcut};
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Then, global_average, pad_shortcut,
};
use crate::ledger::{Ledger, Told, Value};

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
        let blocks = stages(architecture, blocks);
        let at = init.at("blocks");
        let width = blocks.last().expect("every name has blocks").outputs;
        Self {
            conv: stem(architecture).init(&init.at("conv"), SCHEME),
            bn: BatchNorm::new(stem(architecture).outputs, init),
            blocks: blocks.iter().enumerate().map(|(i, block)| block.init(&at.at(i))).collect(),
            fc: LinearConfig::new(width, architecture.classes).init(&init.at("fc"), SCHEME),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.bn.forward(self.conv.forward(Activation::new(images), sparsity), Then::Relu);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, blocks: usize) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.conv("conv", stem(architecture), x);
    let x = ledger.batch_norm("bn", x);
    let mut x = ledger.relu(x);
    for (i, block) in stages(architecture, blocks).iter().enumerate() {
        x = block.list(&mut ledger, &format!("blocks.{i}"), x);
    }
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", LinearConfig::new(x.width, architecture.classes), 1, x);
    ledger.finish(x)
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    Conv2dConfig::new(architecture.input[0], architecture.width("conv", WIDTHS[0]), 3)
}

/// Returns the blocks of all three stages; the first block of the second and third stage halves the map.
fn stages(architecture: &Architecture, blocks: usize) -> Vec<BlockConfig> {
    let mut inputs = stem(architecture).outputs;
    let mut all = Vec::new();
    for (stage, full) in WIDTHS.into_iter().enumerate() {
        for block in 0..blocks {
            let path = format!("blocks.{}", all.len());
            let group = format!("{path}.conv2");
            let widening = match (stage > 0 && block == 0, architecture.shortcut) {
                (false, _) => Widening::None,
                (true, Shortcut::B) => Widening::Project { outputs: architecture.width(&group, full) },
                (true, Shortcut::A) => {
                    // Shortcut A carries the channels of the last stage on; the group has the zero channels around them.
                    let own = full - WIDTHS[stage - 1];
                    let front = architecture.width_below(&group, own / 2);
                    Widening::Pad { front, outputs: inputs + architecture.width(&group, own) }
                }
            };
            let width = architecture.width(&format!("{path}.conv1"), full);
            let config = BlockConfig { inputs, width, outputs: widening.outputs().unwrap_or(inputs), widening };
            inputs = config.outputs;
            all.push(config);
        }
    }
    all
}

/// How a block joins a stage to a wider one.
#[derive(Clone, Copy)]
enum Widening {
    None,
    /// Shortcut A, with `front` zero channels before those that come in.
    Pad {
        front: usize,
        outputs: usize,
    },
    /// Shortcut B.
    Project {
        outputs: usize,
    },
}

impl Widening {
    fn outputs(self) -> Option<usize> {
        match self {
            Widening::None => None,
            Widening::Pad { outputs, .. } | Widening::Project { outputs } => Some(outputs),
        }
    }
}

struct BlockConfig {
    inputs: usize,
    width: usize,
    outputs: usize,
    widening: Widening,
}

impl BlockConfig {
    fn stride(&self) -> usize {
        if self.widening.outputs().is_some() { 2 } else { 1 }
    }

    fn conv1(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.inputs, self.width, 3).with_stride(self.stride())
    }

    fn conv2(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.width, self.outputs, 3)
    }

    fn projection(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.inputs, self.outputs, 1).with_stride(self.stride())
    }

    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let y = ledger.conv(&format!("{path}.conv1"), self.conv1(), x);
        let y = ledger.batch_norm(&format!("{path}.bn1"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.conv2"), self.conv2(), y);
        let y = ledger.batch_norm(&format!("{path}.bn2"), y);
        let x = match self.widening {
            Widening::None => x,
            Widening::Pad { front, outputs } => ledger.pad_shortcut(x, front, outputs),
            Widening::Project { .. } => {
                let x = ledger.conv(&format!("{path}.shortcut.conv"), self.projection(), x);
                ledger.batch_norm(&format!("{path}.shortcut.bn"), x)
            }
        };
        let sum = ledger.add(y, x);
        ledger.relu(sum)
    }

    fn init(&self, init: &Init) -> Block {
        let (shortcut, front) = match self.widening {
            Widening::None => (None, None),
            Widening::Pad { front, .. } => (None, Some(front)),
            Widening::Project { .. } => {
                let conv = self.projection().init(&init.at("shortcut").at("conv"), SCHEME);
                (Some(Projection { conv, bn: BatchNorm::new(self.outputs, init) }), None)
            }
        };
        Block {
            conv1: self.conv1().init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.width, init),
            conv2: self.conv2().init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.outputs, init),
            shortcut,
            front,
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
    /// Zero channels in front, where the block widens by shortcut A.
    front: Option<usize>,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let y = self.bn1.forward(self.conv1.forward(x.clone(), sparsity), Then::Relu);
        let y = self.conv2.forward(y, sparsity);
        let x = match (&self.shortcut, self.front) {
            (Some(projection), _) => projection.bn.forward(projection.conv.forward(x, sparsity), Then::Nothing),
            (None, Some(front)) => pad_shortcut(x, front, y.dims()[1]),
            (None, None) => x,
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
