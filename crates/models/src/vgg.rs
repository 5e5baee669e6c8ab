//! VGG with batch normalisation for CIFAR: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image
//! recognition", 2014, <https://arxiv.org/abs/1409.1556>, columns A, B, D and E.
//!
//! Five stages of 3×3 convolutions with a 2×2 max-pool between them; parameter paths are those of a PyTorch `Sequential`
//! called `feature`. Convolutions are drawn normal by fan-out, the classifier with deviation 0.01 (network slimming and
//! GraNet do so).
//!
//! `vgg16-linear` has one more linear layer of 512 units, with batch normalisation and a rectifier behind it, in front of
//! the classifier: the network of Zhuang et al., "Neuron-level structured pruning using polarization regularizer", 2020.
//!
//! Differs from the paper, as all of the pruning literature does: batch normalisation after each convolution and no
//! bias before it; the last pool is an average over what is left of the map (2×2 on CIFAR); one linear layer instead of
//! three.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::Architecture;
use crate::init::{Init, Scheme};
use crate::layers::{Activation, BatchNorm, Conv2dConfig, Linear, LinearConfig, Sparsity, Step, Then, global_average};
use crate::ledger::{Ledger, Told};
use crate::operations::Window;

/// The size of CIFAR, for which the network without its last pool was made.
pub(crate) const SMALLEST: usize = 32;
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// A column of the paper's table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    /// Convolutions in each of the five stages, between which the map is halved.
    convs: [usize; 5],
    /// The units of a linear layer in front of the classifier.
    hidden: Option<usize>,
}

pub(crate) const VGG11: Column = Column { convs: [1, 1, 2, 2, 2], hidden: None };
pub(crate) const VGG13: Column = Column { convs: [2, 2, 2, 2, 2], hidden: None };
pub(crate) const VGG16: Column = Column { convs: [2, 2, 3, 3, 3], hidden: None };
pub(crate) const VGG19: Column = Column { convs: [2, 2, 4, 4, 4], hidden: None };
pub(crate) const VGG16_LINEAR: Column = Column { hidden: Some(512), ..VGG16 };

/// A VGG network.
#[derive(Module, Debug)]
pub struct Vgg {
    feature: Vec<Step>,
    hidden: Option<Linear>,
    hidden_bn: Option<BatchNorm>,
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
        let hidden = hidden(architecture, column);
        Self {
            feature,
            hidden: hidden.map(|hidden| hidden.init(&init.at("hidden"), Scheme::Normal(0.01))),
            hidden_bn: hidden.map(|hidden| BatchNorm::new(hidden.outputs, init)),
            classifier: classifier(architecture, column).init(&init.at("classifier"), Scheme::Normal(0.01)),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let x = self.feature.iter().fold(Activation::new(images), |x, step| step.forward(x, sparsity));
        let mut x = global_average(x);
        if let (Some(hidden), Some(bn)) = (&self.hidden, &self.hidden_bn) {
            let y = hidden.forward(x, sparsity).unsqueeze_dims::<4>(&[2, 3]);
            // As maps of one pixel.
            x = bn.forward(Activation::new(y), Then::Relu).into_nchw().flatten(1, 3);
        }
        self.classifier.forward(x, sparsity)
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
    let mut x = ledger.global_average(x);
    if let Some(hidden) = hidden(architecture, column) {
        x = ledger.linear("hidden", hidden, 1, x);
        x = ledger.batch_norm("hidden_bn", x);
        x = ledger.relu(x);
    }
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
        for _ in 0..column.convs[stage] {
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

/// Returns the layer in front of the classifier.
fn hidden(architecture: &Architecture, column: Column) -> Option<LinearConfig> {
    let units = architecture.width("hidden", column.hidden?);
    Some(LinearConfig::new(features(architecture, column), units))
}

fn classifier(architecture: &Architecture, column: Column) -> LinearConfig {
    let inputs = hidden(architecture, column).map_or_else(|| features(architecture, column), |hidden| hidden.outputs);
    LinearConfig::new(inputs, architecture.classes)
}

fn features(architecture: &Architecture, column: Column) -> usize {
    let last = stages(architecture, column).into_iter().flatten().next_back();
    last.expect("every column has convolutions").1.outputs
}
