//! ResNets whose widths and depths were searched: Dong, Yang, "Network pruning via transformable architecture search", 2019,
//! <https://arxiv.org/abs/1905.09717>; the shapes are those published with the code (AutoDL-Projects).
//!
//! CIFAR ResNets in which each convolution has a width of its own. A 1×1 convolution is in the shortcut wherever the width
//! changes: with batch normalisation where the map stays, and behind a 2×2 average pool, without normalisation, where it is
//! halved. Weights are drawn normal by fan-in as in our CIFAR ResNets, those of the classifier as PyTorch does.
//!
//! Differs from the paper: nothing is searched, and no teacher helps.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Then, average_pool, global_average,
};
use crate::ledger::{Ledger, Told, Value};

/// Maps are halved twice, and the convolution and the pool beside it must leave equal sizes.
pub(crate) const MULTIPLE: usize = 4;
const SCHEME: Scheme = Scheme::KaimingNormalFanIn;

/// A shape that was found.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// The channels of the first convolution.
    stem: usize,
    /// The channels of both convolutions of every block, by stage.
    stages: [&'static [[usize; 2]]; 3],
}

/// ResNet-20 on CIFAR-10.
pub(crate) const C10_RESNET20: Shape = Shape {
    stem: 16,
    stages: [&[[6, 4], [4, 4], [4, 4]], &[[32, 32], [12, 19], [32, 28]], &[[64, 64], [64, 64], [64, 44]]],
};

/// ResNet-32 on CIFAR-10.
pub(crate) const C10_RESNET32: Shape = Shape {
    stem: 16,
    stages: [
        &[[6, 4], [12, 4], [4, 16], [9, 9], [6, 14]],
        &[[32, 32], [9, 19], [28, 9], [32, 19], [32, 9]],
        &[[64, 64], [64, 64], [64, 64], [64, 32], [38, 32]],
    ],
};

/// ResNet-56 on CIFAR-100, of which five, five and seven of nine blocks a stage are left.
pub(crate) const C100_RESNET56: Shape = Shape {
    stem: 16,
    stages: [
        &[[16, 9], [14, 16], [14, 16], [8, 16], [8, 14]],
        &[[32, 32], [32, 28], [32, 32], [32, 22], [32, 32]],
        &[[64, 64], [64, 64], [64, 64], [64, 64], [64, 51], [19, 19], [19, 19]],
    ],
};

/// A searched ResNet.
#[derive(Module, Debug)]
pub struct Tas {
    conv: Conv2d,
    bn: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

impl Tas {
    pub(crate) fn new(architecture: &Architecture, shape: Shape, init: &Init) -> Self {
        let stem = shape.stem(architecture);
        let blocks = shape.blocks(architecture);
        let at = init.at("blocks");
        let width = blocks.last().expect("every shape has blocks").conv2.outputs;
        Self {
            conv: stem.init(&init.at("conv"), SCHEME),
            bn: BatchNorm::new(stem.outputs, init),
            blocks: blocks.iter().enumerate().map(|(i, block)| block.init(&at.at(i))).collect(),
            fc: LinearConfig::new(width, architecture.classes).init(&init.at("fc"), Scheme::Uniform),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.bn.forward(self.conv.forward(Activation::new(images), sparsity), Then::Relu);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, shape: Shape) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.conv("conv", shape.stem(architecture), x);
    let x = ledger.batch_norm("bn", x);
    let mut x = ledger.relu(x);
    for (i, block) in shape.blocks(architecture).iter().enumerate() {
        x = block.list(&mut ledger, &format!("blocks.{i}"), x);
    }
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", LinearConfig::new(x.width, architecture.classes), 1, x);
    ledger.finish(x)
}

impl Shape {
    fn stem(&self, architecture: &Architecture) -> Conv2dConfig {
        Conv2dConfig::new(architecture.input[0], architecture.width("conv", self.stem), 3)
    }

    fn blocks(&self, architecture: &Architecture) -> Vec<BlockConfig> {
        let (mut inputs, mut full_inputs) = (self.stem(architecture).outputs, self.stem);
        let mut all = Vec::new();
        for (stage, blocks) in self.stages.into_iter().enumerate() {
            for (i, [first, second]) in blocks.iter().copied().enumerate() {
                let width = |conv: &str, full| architecture.width(&format!("blocks.{}.{conv}", all.len()), full);
                let halves = stage > 0 && i == 0;
                // Where the width stays, the block's output is added to its input and shares its channels.
                let joins = halves || second != full_inputs;
                let hidden = width("conv1", first);
                let outputs = if joins { width("conv2", second) } else { inputs };
                all.push(BlockConfig {
                    conv1: Conv2dConfig::new(inputs, hidden, 3).with_stride(if halves { 2 } else { 1 }),
                    conv2: Conv2dConfig::new(hidden, outputs, 3),
                    shortcut: joins.then(|| Conv2dConfig::new(inputs, outputs, 1)),
                    halves,
                });
                (inputs, full_inputs) = (outputs, second);
            }
        }
        all
    }
}

struct BlockConfig {
    conv1: Conv2dConfig,
    conv2: Conv2dConfig,
    shortcut: Option<Conv2dConfig>,
    halves: bool,
}

impl BlockConfig {
    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let y = ledger.conv(&format!("{path}.conv1"), self.conv1, x);
        let y = ledger.batch_norm(&format!("{path}.bn1"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.conv2"), self.conv2, y);
        let y = ledger.batch_norm(&format!("{path}.bn2"), y);
        let mut x = if self.halves { ledger.average_pool(x) } else { x };
        if let Some(conv) = self.shortcut {
            x = ledger.conv(&format!("{path}.shortcut"), conv, x);
            if !self.halves {
                x = ledger.batch_norm(&format!("{path}.shortcut_bn"), x);
            }
        }
        let sum = ledger.add(y, x);
        ledger.relu(sum)
    }

    fn init(&self, init: &Init) -> Block {
        Block {
            conv1: self.conv1.init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.conv1.outputs, init),
            conv2: self.conv2.init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.conv2.outputs, init),
            shortcut: self.shortcut.map(|conv| conv.init(&init.at("shortcut"), SCHEME)),
            shortcut_bn: self.shortcut.filter(|_| !self.halves).map(|conv| BatchNorm::new(conv.outputs, init)),
            halves: self.halves,
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
    shortcut: Option<Conv2d>,
    shortcut_bn: Option<BatchNorm>,
    halves: bool,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let y = self.bn1.forward(self.conv1.forward(x.clone(), sparsity), Then::Relu);
        let y = self.conv2.forward(y, sparsity);
        let x = if self.halves { average_pool(x) } else { x };
        let x = match &self.shortcut {
            Some(conv) => conv.forward(x, sparsity),
            None => x,
        };
        let x = match &self.shortcut_bn {
            Some(bn) => bn.forward(x, Then::Nothing),
            None => x,
        };
        self.bn2.forward(y, Then::AddRelu(x))
    }
}
