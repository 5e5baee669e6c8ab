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

use bonsai_pruning::Graph;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

use crate::architecture::{Architecture, Stem};
use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Then, global_average,
};
use crate::ledger::Ledger;

const SCHEME: Scheme = Scheme::KaimingNormalFanIn;
const WIDTHS: [usize; 4] = [64, 128, 256, 512];
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
        let [layer1, layer2, layer3, layer4] = [0, 1, 2, 3].map(|i| {
            let at = init.at(format_args!("layer{}", i + 1));
            depth.stage(i).iter().enumerate().map(|(j, block)| block.init(&at.at(j))).collect()
        });
        Self {
            conv1: stem(architecture).init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(WIDTHS[0], init),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: depth.classifier(architecture).init(&init.at("fc"), Scheme::Uniform),
            pools: architecture.stem == Stem::ImageNet,
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let mut x = self.bn1.forward(self.conv1.forward(Activation::new(images), sparsity), Then::Relu);
        if self.pools {
            let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
            x = x.through_nchw(|x| max_pool2d(x, options));
        }
        for block in [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten() {
            x = block.forward(x, sparsity);
        }
        self.fc.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, depth: &Depth) -> Graph {
    let mut ledger = Ledger::new();
    let mut map = ledger.conv("conv1", stem(architecture), architecture.map());
    ledger.norm(WIDTHS[0]);
    if architecture.stem == Stem::ImageNet {
        map = map.map(|side| side.div_ceil(2));
    }
    for i in 0..4 {
        for (j, block) in depth.stage(i).iter().enumerate() {
            map = block.list(&mut ledger, &format!("layer{}.{j}", i + 1), map);
        }
    }
    ledger.linear("fc", depth.classifier(architecture), 1);
    ledger.finish()
}

fn stem(architecture: &Architecture) -> Conv2dConfig {
    match architecture.stem {
        Stem::Cifar => Conv2dConfig::new(architecture.input[0], WIDTHS[0], 3),
        Stem::ImageNet => Conv2dConfig::new(architecture.input[0], WIDTHS[0], 7).with_stride(2),
    }
}

impl Depth {
    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    fn classifier(&self, architecture: &Architecture) -> LinearConfig {
        LinearConfig::new(WIDTHS[3] * self.expansion(), architecture.classes)
    }

    /// Returns the blocks of stage `i`; the first of every stage but the first halves the map.
    fn stage(&self, i: usize) -> Vec<BlockConfig> {
        let width = WIDTHS[i];
        let outputs = width * self.expansion();
        let before = if i == 0 { WIDTHS[0] } else { WIDTHS[i - 1] * self.expansion() };
        (0..self.blocks[i])
            .map(|j| BlockConfig {
                inputs: if j == 0 { before } else { outputs },
                width,
                outputs,
                stride: if i > 0 && j == 0 { 2 } else { 1 },
                bottleneck: self.bottleneck,
            })
            .collect()
    }
}

struct BlockConfig {
    inputs: usize,
    width: usize,
    outputs: usize,
    stride: usize,
    bottleneck: bool,
}

impl BlockConfig {
    fn conv1(&self) -> Conv2dConfig {
        match self.bottleneck {
            true => Conv2dConfig::new(self.inputs, self.width, 1),
            false => Conv2dConfig::new(self.inputs, self.width, 3).with_stride(self.stride),
        }
    }

    fn conv2(&self) -> Conv2dConfig {
        let stride = if self.bottleneck { self.stride } else { 1 };
        Conv2dConfig::new(self.width, self.width, 3).with_stride(stride)
    }

    fn conv3(&self) -> Option<Conv2dConfig> {
        self.bottleneck.then(|| Conv2dConfig::new(self.width, self.outputs, 1))
    }

    fn downsample(&self) -> Option<Conv2dConfig> {
        let same = self.stride == 1 && self.inputs == self.outputs;
        (!same).then(|| Conv2dConfig::new(self.inputs, self.outputs, 1).with_stride(self.stride))
    }

    fn list(&self, ledger: &mut Ledger, path: &str, map: [usize; 2]) -> [usize; 2] {
        let mut output = ledger.conv(&format!("{path}.conv1"), self.conv1(), map);
        ledger.norm(self.width);
        output = ledger.conv(&format!("{path}.conv2"), self.conv2(), output);
        ledger.norm(self.width);
        if let Some(conv) = self.conv3() {
            ledger.conv(&format!("{path}.conv3"), conv, output);
            ledger.norm(self.outputs);
        }
        if let Some(conv) = self.downsample() {
            ledger.conv(&format!("{path}.downsample.0"), conv, map);
            ledger.norm(self.outputs);
        }
        output
    }

    fn init(&self, init: &Init) -> Block {
        let conv3 = self.conv3();
        Block {
            conv1: self.conv1().init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.width, init),
            conv2: self.conv2().init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.width, init),
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
