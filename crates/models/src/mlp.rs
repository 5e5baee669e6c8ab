//! LeNet-300-100, a perceptron with two hidden layers: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to
//! document recognition", 1998, <https://doi.org/10.1109/5.726791>, section III.C.5.
//!
//! 300 and 100 hidden units on the pixels of an image. Weights and biases are drawn uniformly by fan-in, as PyTorch does.
//!
//! Differs from the paper, as pruning papers do (Han et al. 2015, <https://arxiv.org/abs/1506.02626>): rectifiers and
//! softmax instead of tanh and a squared error.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{Linear, LinearConfig, Sparsity};
use crate::ledger::{Ledger, Told};

/// A perceptron with two hidden layers.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
}

impl Mlp {
    pub(crate) fn new(architecture: &Architecture, init: &Init) -> Self {
        let [fc1, fc2, fc3] = layers(architecture);
        Self {
            fc1: fc1.init(&init.at("fc1"), Scheme::Uniform),
            fc2: fc2.init(&init.at("fc2"), Scheme::Uniform),
            fc3: fc3.init(&init.at("fc3"), Scheme::Uniform),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = relu(self.fc1.forward(images.flatten::<2>(1, 3), sparsity));
        let x = relu(self.fc2.forward(x, sparsity));
        self.fc3.forward(x, sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture) -> Told {
    let [fc1, fc2, fc3] = layers(architecture);
    let (mut ledger, x) = Ledger::new(architecture.input);
    let x = ledger.flatten(x);
    let x = ledger.linear("fc1", fc1, 1, x);
    let x = ledger.relu(x);
    let x = ledger.linear("fc2", fc2, 1, x);
    let x = ledger.relu(x);
    let x = ledger.linear("fc3", fc3, 1, x);
    ledger.finish(x)
}

fn layers(architecture: &Architecture) -> [LinearConfig; 3] {
    let pixels = architecture.input.iter().product();
    let [first, second] = [architecture.width("fc1", 300), architecture.width("fc2", 100)];
    [
        LinearConfig::new(pixels, first),
        LinearConfig::new(first, second),
        LinearConfig::new(second, architecture.classes),
    ]
}
