//! VGG with batch normalisation for CIFAR: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image
//! recognition", 2014, <https://arxiv.org/abs/1409.1556>, columns A, B, D and E.
//!
//! Five stages of 3×3 convolutions with a 2×2 max-pool between them; parameter paths are those of a PyTorch `Sequential`
//! called `feature`. Convolutions are drawn normal by fan-out, the classifier with deviation 0.01 (network slimming and
//! GraNet do so).
//!
//! Differs from the paper, as all of the pruning literature does: batch normalisation after each convolution and no
//! bias before it; the last pool is an average over what is left of the map (2×2 on CIFAR); one linear layer instead of
//! three.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{Activation, BatchNorm, Conv2dConfig, Linear, LinearConfig, Sparsity, Step, global_average};
use crate::ledger::{Ledger, Told};
use crate::operations::Window;

/// The size of CIFAR, for which the network without its last pool was made.
pub(crate) const SMALLEST: usize = 32;
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// A column of the paper's table: convolutions in each of the five stages, between which the map is halved.
pub(crate) type Column = [usize; 5];

pub(crate) const VGG11: Column = [1, 1, 2, 2, 2];
pub(crate) const VGG13: Column = [2, 2, 2, 2, 2];
pub(crate) const VGG16: Column = [2, 2, 3, 3, 3];
pub(crate) const VGG19: Column = [2, 2, 4, 4, 4];

/// A VGG network.
#[derive(Module, Debug)]
pub struct Vgg {
    feature: Vec<Step>,
    classifier: Linear,
}

impl Vgg {
    pub(crate) fn new(architecture: &Architecture, column: Column, init: &Init) -> Self {
        let at = init.at("feature");
        let mut feature = Vec::new();
        for (stage, convs) in stages(architecture, column).into_iter().enumerate() {
            if stage > 0 {
                feature.push(Step::Pool);
            }
            for (step, conv) in convs {
                let norm = BatchNorm::new(conv.outputs, init);
                feature.push(Step::Conv(conv.init(&at.at(step), Scheme::KaimingNormalFanOut)));
                feature.extend([Step::Norm(norm), Step::Relu]);
            }
        }
        Self {
            feature,
            classifier: classifier(architecture, column).init(&init.at("classifier"), Scheme::Normal(0.01)),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.feature.iter().fold(Activation::new(images), |x, step| step.forward(x, sparsity));
        self.classifier.forward(global_average(x), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, column: Column) -> Told {
    let (mut ledger, mut x) = Ledger::new(architecture.input);
    for (stage, convs) in stages(architecture, column).into_iter().enumerate() {
        if stage > 0 {
            x = ledger.max_pool(Window::HALVING, x);
        }
        for (step, conv) in convs {
            x = ledger.conv(&format!("feature.{step}"), conv, x);
            x = ledger.batch_norm(&format!("feature.{}", step + 1), x);
            x = ledger.relu(x);
        }
    }
    let x = ledger.global_average(x);
    let x = ledger.linear("classifier", classifier(architecture, column), 1, x);
    ledger.finish(x)
}

/// Returns the convolutions of every stage, each with its place in the stack.
fn stages(architecture: &Architecture, column: Column) -> Vec<Vec<(usize, Conv2dConfig)>> {
    let mut inputs = architecture.input[0];
    let mut step = 0;
    let mut stages = Vec::new();
    for (stage, full) in WIDTHS.into_iter().enumerate() {
        step += usize::from(stage > 0);
        let mut convs = Vec::new();
        for _ in 0..column[stage] {
            let outputs = architecture.width(&format!("feature.{step}"), full);
            convs.push((step, Conv2dConfig::new(inputs, outputs, 3)));
            inputs = outputs;
            // The convolution, its normalisation and the rectifier.
            step += 3;
        }
        stages.push(convs);
    }
    stages
}

fn classifier(architecture: &Architecture, column: Column) -> LinearConfig {
    let last = stages(architecture, column).into_iter().flatten().next_back();
    LinearConfig::new(last.expect("every column has convolutions").1.outputs, architecture.classes)
}
