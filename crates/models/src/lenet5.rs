//! LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998,
//! <https://doi.org/10.1109/5.726791>, in the form that came with Caffe and that pruning papers mean (Han et al. 2015,
//! <https://arxiv.org/abs/1506.02626>: 431 thousand parameters).
//!
//! Two 5×5 convolutions without padding, of 20 and 50 channels, each followed by a 2×2 max-pool, then 500 hidden units
//! with a rectifier. Weights and biases are drawn uniformly by fan-in, as PyTorch does.
//!
//! Differs from LeCun's: wider, max instead of trained average pools, full instead of partial connections, a rectifier
//! and softmax instead of tanh and Gaussian units. Differs from Caffe's: any input of at least 16×16 is taken.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{Activation, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, max_pool};
use crate::ledger::{Ledger, Told};
use crate::operations::Window;

/// The smallest side that leaves a pixel after both convolutions and pools.
pub(crate) const SMALLEST: usize = 16;
const CHANNELS: [usize; 2] = [20, 50];
const HIDDEN: usize = 500;

/// LeNet-5.
#[derive(Module, Debug)]
pub struct LeNet5 {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

impl LeNet5 {
    pub(crate) fn new(architecture: &Architecture, init: &Init) -> Self {
        Self {
            conv1: conv1(architecture).init(&init.at("conv1"), Scheme::Uniform),
            conv2: conv2(architecture).init(&init.at("conv2"), Scheme::Uniform),
            fc1: fc1(architecture).init(&init.at("fc1"), Scheme::Uniform),
            fc2: fc2(architecture).init(&init.at("fc2"), Scheme::Uniform),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = max_pool(self.conv1.forward(Activation::new(images), sparsity));
        let x = max_pool(self.conv2.forward(x, sparsity));
        let x = relu(self.fc1.forward(x.into_nchw().flatten::<2>(1, 3), sparsity));
        self.fc2.forward(x, sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture) -> Told {
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.conv("conv1", conv1(architecture), x);
    let x = ledger.max_pool(Window::HALVING, x);
    let x = ledger.conv("conv2", conv2(architecture), x);
    let x = ledger.max_pool(Window::HALVING, x);
    let x = ledger.flatten(x);
    let x = ledger.linear("fc1", fc1(architecture), 1, x);
    let x = ledger.relu(x);
    let x = ledger.linear("fc2", fc2(architecture), 1, x);
    ledger.finish(x)
}

fn conv1(architecture: &Architecture) -> Conv2dConfig {
    let outputs = architecture.width("conv1", CHANNELS[0]);
    Conv2dConfig::new(architecture.input[0], outputs, 5).without_padding().with_bias()
}

fn conv2(architecture: &Architecture) -> Conv2dConfig {
    let outputs = architecture.width("conv2", CHANNELS[1]);
    Conv2dConfig::new(conv1(architecture).outputs, outputs, 5).without_padding().with_bias()
}

fn fc1(architecture: &Architecture) -> LinearConfig {
    let conv2 = conv2(architecture);
    let map = halved(conv2.output(halved(conv1(architecture).output(architecture.map()))));
    LinearConfig::new(conv2.outputs * map[0] * map[1], architecture.width("fc1", HIDDEN))
}

fn fc2(architecture: &Architecture) -> LinearConfig {
    LinearConfig::new(fc1(architecture).outputs, architecture.classes)
}

fn halved(map: [usize; 2]) -> [usize; 2] {
    map.map(|side| side / 2)
}
