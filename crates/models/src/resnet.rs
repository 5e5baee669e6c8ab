//! ResNet-18, 34 and 50: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015,
//! <https://arxiv.org/abs/1512.03385>, table 1.
//!
//! Four stages of blocks: two 3×3 convolutions (18, 34) or 1×1, 3×3, 1×1 with four times the width at the end (50); a 1×1
//! convolution with batch normalisation joins stages (option B). Parameter paths are torchvision's. Convolutions are
//! drawn normal by fan-in ("Delving deep into rectifiers", He et al. 2015), the classifier as PyTorch does.
//!
//! Differs from the paper: the stride of a bottleneck sits in its 3×3 convolution ("version 1.5", as in torchvision and in
//! the pruning literature). The CIFAR stem is a 3×3 convolution of stride 1 without pool, as in GraNet's code, whose
//! ResNet-50 has no bias in the classifier and PyTorch's default convolutions; ours has the bias in both stems.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

use crate::architecture::{Architecture, Stem};
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Then, global_average,
};
use crate::ledger::{Ledger, Told, Value};
use crate::operations::Window;

const SCHEME: Scheme = Scheme::KaimingNormalFanIn;
const WIDTHS: [usize; 4] = [64, 128, 256, 512];
/// The pool behind the ImageNet stem.
const STEM_POOL: Window = Window { kernel: 3, stride: 2, padding: 1 };
/// The smallest side that leaves a pixel after three halvings.
pub(crate) const SMALLEST_CIFAR: usize = 8;
/// The smallest side that leaves a pixel after five halvings.
pub(crate) const SMALLEST_IMAGENET: usize = 32;

/// What tells one ResNet from another.
pub(crate) struct Depth {
    blocks: [usize; 4],
    bottleneck: bool,
}

pub(crate) const RESNET18: Depth = Depth { blocks: [2, 2, 2, 2], bottleneck: false };
pub(crate) const RESNET34: Depth = Depth { blocks: [3, 4, 6, 3], bottleneck: false };
pub(crate) const RESNET50: Depth = Depth { blocks: [3, 4, 6, 3], bottleneck: true };

/// A ResNet of the ImageNet kind.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    fc: Linear,
    pools: bool,
}

impl ResNet {
    pub(crate) fn new(architecture: &Architecture, depth: &Depth, init: &Init) -> Self {
        let stages = depth.stages(architecture);
        let width = stages[3].last().expect("every stage has blocks").outputs;
        let [layer1, layer2, layer3, layer4] = [0, 1, 2, 3].map(|i| {
            let at = init.at(format_args!("layer{}", i + 1));
            stages[i].iter().enumerate().map(|(j, block)| block.init(&at.at(j))).collect()
        });
        Self {
            conv1: stem(architecture).init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(stem(architecture).outputs, init),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: LinearConfig::new(width, architecture.classes).init(&init.at("fc"), Scheme::Uniform),
            pools: architecture.stem == Stem::ImageNet,
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let mut x = self.bn1.forward(self.conv1.forward(Activation::new(images), sparsity), Then::Relu);
        if self.pools {
            let Window { kernel, stride, padding } = STEM_POOL;
            let options = MaxPoolOptions::new([kernel; 2]).with_stride([stride; 2]).with_padding([padding; 2]);
            x = x.through_nchw(|x| max_pool2d(x, options));
        }
        for block in [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten() {
            x = block.forward(x, sparsity);
        }
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, depth: &Depth) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.conv("conv1", stem(architecture), x);
    let x = ledger.batch_norm("bn1", x);
    let mut x = ledger.relu(x);
    if architecture.stem == Stem::ImageNet {
        x = ledger.max_pool(STEM_POOL, x);
    }
    for (i, blocks) in depth.stages(architecture).iter().enumerate() {
        for (j, block) in blocks.iter().enumerate() {
            x = block.list(&mut ledger, &format!("layer{}.{j}", i + 1), x);
        }
    }
    let x = ledger.global_average(x);
    let x = ledger.linear("fc", LinearConfig::new(x.width, architecture.classes), 1, x);
    ledger.finish(x)
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    let width = architecture.width("conv1", WIDTHS[0]);
    match architecture.stem {
        Stem::Cifar => Conv2dConfig::new(architecture.input[0], width, 3),
        Stem::ImageNet => Conv2dConfig::new(architecture.input[0], width, 7).with_stride(2),
    }
}

impl Depth {
    /// Returns the blocks of every stage; the first of every stage but the first halves the map.
    fn stages(&self, architecture: &Architecture) -> Vec<Vec<BlockConfig>> {
        let (expansion, last) = if self.bottleneck { (4, "conv3") } else { (1, "conv2") };
        let mut inputs = stem(architecture).outputs;
        let mut stages = Vec::new();
        for (i, full) in WIDTHS.into_iter().enumerate() {
            let mut blocks = Vec::new();
            for j in 0..self.blocks[i] {
                let path = format!("layer{}.{j}", i + 1);
                let downsamples = j == 0 && (i > 0 || expansion > 1);
                let outputs = match downsamples {
                    true => architecture.width(&format!("{path}.{last}"), full * expansion),
                    false => inputs,
                };
                let width = |conv| architecture.width(&format!("{path}.{conv}"), full);
                blocks.push(BlockConfig {
                    inputs,
                    width: width("conv1"),
                    middle: self.bottleneck.then(|| width("conv2")),
                    outputs,
                    stride: if i > 0 && j == 0 { 2 } else { 1 },
                    downsamples,
                });
                inputs = outputs;
            }
            stages.push(blocks);
        }
        stages
    }
}

struct BlockConfig {
    inputs: usize,
    width: usize,
    /// The width of a bottleneck's 3×3 convolution.
    middle: Option<usize>,
    outputs: usize,
    stride: usize,
    downsamples: bool,
}

impl BlockConfig {
    fn conv1(&self) -> Conv2dConfig {
        match self.middle {
            Some(_) => Conv2dConfig::new(self.inputs, self.width, 1),
            None => Conv2dConfig::new(self.inputs, self.width, 3).with_stride(self.stride),
        }
    }

    fn conv2(&self) -> Conv2dConfig {
        match self.middle {
            Some(middle) => Conv2dConfig::new(self.width, middle, 3).with_stride(self.stride),
            None => Conv2dConfig::new(self.width, self.outputs, 3),
        }
    }

    fn conv3(&self) -> Option<Conv2dConfig> {
        self.middle.map(|middle| Conv2dConfig::new(middle, self.outputs, 1))
    }

    fn downsample(&self) -> Option<Conv2dConfig> {
        self.downsamples.then(|| Conv2dConfig::new(self.inputs, self.outputs, 1).with_stride(self.stride))
    }

    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let y = ledger.conv(&format!("{path}.conv1"), self.conv1(), x);
        let y = ledger.batch_norm(&format!("{path}.bn1"), y);
        let y = ledger.relu(y);
        let y = ledger.conv(&format!("{path}.conv2"), self.conv2(), y);
        let mut y = ledger.batch_norm(&format!("{path}.bn2"), y);
        if let Some(conv) = self.conv3() {
            y = ledger.relu(y);
            y = ledger.conv(&format!("{path}.conv3"), conv, y);
            y = ledger.batch_norm(&format!("{path}.bn3"), y);
        }
        let mut shortcut = x;
        if let Some(conv) = self.downsample() {
            shortcut = ledger.conv(&format!("{path}.downsample.0"), conv, x);
            shortcut = ledger.batch_norm(&format!("{path}.downsample.1"), shortcut);
        }
        let sum = ledger.add(y, shortcut);
        ledger.relu(sum)
    }

    fn init(&self, init: &Init) -> Block {
        let conv3 = self.conv3();
        Block {
            conv1: self.conv1().init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.width, init),
            conv2: self.conv2().init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.conv2().outputs, init),
            bn3: conv3.map(|_| BatchNorm::new(self.outputs, init)),
            conv3: conv3.map(|conv| conv.init(&init.at("conv3"), SCHEME)),
            downsample: self
                .downsample()
                .map(|conv| (conv.init(&init.at("downsample").at(0), SCHEME), BatchNorm::new(self.outputs, init))),
        }
    }
}

/// Two convolutions, or three in a bottleneck, and a shortcut around them.
#[derive(Module, Debug)]
pub struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        let y = self.bn1.forward(self.conv1.forward(x.clone(), sparsity), Then::Relu);
        let y = self.conv2.forward(y, sparsity);
        let (y, last) = match (&self.conv3, &self.bn3) {
            (Some(conv), Some(bn)) => (conv.forward(self.bn2.forward(y, Then::Relu), sparsity), bn),
            _ => (y, &self.bn2),
        };
        let x = match &self.downsample {
            Some((conv, bn)) => bn.forward(conv.forward(x, sparsity), Then::Nothing),
            None => x,
        };
        last.forward(y, Then::AddRelu(x))
    }
}
