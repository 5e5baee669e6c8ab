//! ResNet for CIFAR: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015,
//! <https://arxiv.org/abs/1512.03385>, section 4.2.
//!
//! A 3×3 convolution, then three stages of 16, 32 and 64 channels, each of n blocks of two 3×3 convolutions, then the
//! average of each map and one linear layer: 6n + 2 layers. Weights are drawn as in "Delving deep into rectifiers" (He et
//! al. 2015, fan-in), those of the classifier too; biases start at zero.
//!
//! Shortcut A, the paper's choice for CIFAR, has no parameters ([`crate::layers::pad_shortcut`]). Shortcut B is a 1×1
//! convolution with batch normalisation where the width changes, which many later papers mean by "ResNet-20".
//!
//! A channel of a stage's stream goes from all of its blocks at once (groups of kind `stream`), or the stream stays whole and
//! each block adds to some of its channels only (`expansion`), as polarization has it.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::architecture::{Architecture, Shortcut};
use bonsai_kernels::scale_maps;

use crate::init::{Init, Scheme};
use crate::layers::{
    Activation, BatchNorm, Bypass, BypassConfig, Conv2d, Conv2dConfig, Gate, GateConfig, Gates, Linear, LinearConfig,
    Sparsity, Then, global_average, pad_shortcut,
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
        self.forward_gated(images, sparsity, &mut Vec::new())
    }

    /// Returns the logits of `images`, and in `gates` those of every block, if there are any.
    pub fn forward_gated(&self, images: Tensor<4>, sparsity: &Sparsity, gates: &mut Vec<Gates>) -> Tensor<2> {
        let x = self.bn.forward(self.conv.forward(Activation::new(images), sparsity), Then::Relu);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity, gates));
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
                // A bypass keeps every stream whole.
                (true, Shortcut::B) if architecture.bypass => Widening::Project { outputs: full },
                (true, Shortcut::A) if architecture.bypass => {
                    Widening::Pad { front: (full - WIDTHS[stage - 1]) / 2, outputs: full }
                }
                (true, Shortcut::B) => Widening::Project { outputs: architecture.width(&group, full) },
                (true, Shortcut::A) => {
                    // Shortcut A carries the channels of the last stage on; the group has the zero channels around them.
                    let own = full - WIDTHS[stage - 1];
                    let front = architecture.width_below(&group, own / 2);
                    Widening::Pad { front, outputs: inputs + architecture.width(&group, own) }
                }
            };
            let conv1 = format!("{path}.conv1");
            let width = if architecture.bypass { full } else { architecture.width(&conv1, full) };
            let filters = architecture.bypass.then(|| [conv1, group].map(|conv| architecture.units(&conv, full)));
            let outputs = widening.outputs().unwrap_or(inputs);
            let added = architecture.kept.get(&format!("{path}.expand")).cloned();
            let config = BlockConfig { inputs, width, outputs, added, widening, gated: architecture.gates, filters };
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
    /// The channels of the stream that the block adds to, where not to all of them.
    added: Option<Vec<usize>>,
    widening: Widening,
    gated: bool,
    /// With a bypass: the filters that are left of both convolutions.
    filters: Option<[Vec<usize>; 2]>,
}

impl BlockConfig {
    fn stride(&self) -> usize {
        if self.widening.outputs().is_some() { 2 } else { 1 }
    }

    fn conv1(&self) -> Conv2dConfig {
        let filters = self.filters.as_ref().map_or(self.width, |[filters, _]| filters.len());
        Conv2dConfig::new(self.inputs, filters, 3).with_stride(self.stride())
    }

    fn conv2(&self) -> Conv2dConfig {
        let filters = self.filters.as_ref().map_or(self.made(), |[_, filters]| filters.len());
        Conv2dConfig::new(self.width, filters, 3)
    }

    /// Counts the channels that the second normalisation returns.
    fn made(&self) -> usize {
        self.added.as_ref().map_or(self.outputs, Vec::len)
    }

    fn bypass1(&self) -> Option<BypassConfig> {
        let (inputs, outputs, stride) = (self.inputs, self.width, self.stride());
        self.filters.as_ref().map(|[filters, _]| BypassConfig { inputs, outputs, stride, filters: filters.clone() })
    }

    fn bypass2(&self) -> Option<BypassConfig> {
        let (inputs, outputs, stride) = (self.width, self.outputs, 1);
        self.filters.as_ref().map(|[_, filters]| BypassConfig { inputs, outputs, stride, filters: filters.clone() })
    }

    fn projection(&self) -> Conv2dConfig {
        Conv2dConfig::new(self.inputs, self.outputs, 1).with_stride(self.stride())
    }

    fn list(&self, ledger: &mut Ledger, path: &str, x: Value) -> Value {
        let input = x;
        let mut y = ledger.conv(&format!("{path}.conv1"), self.conv1(), x);
        if let Some(bypass) = self.bypass1() {
            y = ledger.bypass(&format!("{path}.bypass1"), &bypass, input, y);
        }
        let y = ledger.batch_norm(&format!("{path}.bn1"), y);
        let y = ledger.relu(y);
        if self.filters.is_none() {
            ledger.gate(&format!("{path}.conv1"));
        }
        let inner = y;
        let mut y = ledger.conv(&format!("{path}.conv2"), self.conv2(), y);
        if let Some(bypass) = self.bypass2() {
            y = ledger.bypass(&format!("{path}.bypass2"), &bypass, inner, y);
        }
        let mut y = ledger.batch_norm(&format!("{path}.bn2"), y);
        if self.filters.is_none() {
            y = ledger.expand(&format!("{path}.expand"), self.added.as_deref(), self.outputs, y);
        }
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
            bypass1: self.bypass1().map(|bypass| bypass.init(&init.at("bypass1"), SCHEME)),
            bypass2: self.bypass2().map(|bypass| bypass.init(&init.at("bypass2"), SCHEME)),
            conv1: self.conv1().init(&init.at("conv1"), SCHEME),
            bn1: BatchNorm::new(self.width, init),
            conv2: self.conv2().init(&init.at("conv2"), SCHEME),
            bn2: BatchNorm::new(self.made(), init),
            outputs: self.outputs,
            added: self.added.clone(),
            shortcut,
            front,
            gate: self.gated.then(|| GateConfig::new(self.inputs, self.width).init(&init.at("gate"))),
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
    /// The channels of the stream behind the block.
    outputs: usize,
    /// Those that it adds to, where not to all of them.
    added: Option<Vec<usize>>,
    shortcut: Option<Projection>,
    /// Zero channels in front, where the block widens by shortcut A.
    front: Option<usize>,
    /// Opens and closes the channels between the convolutions, while a method learns which are needed.
    gate: Option<Gate>,
    /// What runs around the first convolution.
    bypass1: Option<Bypass>,
    /// What runs around the second convolution.
    bypass2: Option<Bypass>,
}

impl Block {
    fn forward(&self, x: Activation, sparsity: &Sparsity, gates: &mut Vec<Gates>) -> Activation {
        let mut y = self.bn1.forward(with_bypass(&self.conv1, &self.bypass1, x.clone(), sparsity), Then::Relu);
        if let Some(gate) = &self.gate {
            let decided = gate.decide(x.clone());
            y = scale_maps(y, decided.open.clone());
            gates.push(decided);
        }
        let y = with_bypass(&self.conv2, &self.bypass2, y, sparsity);
        let x = match (&self.shortcut, self.front) {
            (Some(projection), _) => projection.bn.forward(projection.conv.forward(x, sparsity), Then::Nothing),
            (None, Some(front)) => pad_shortcut(x, front, self.outputs),
            (None, None) => x,
        };
        let then = match &self.added {
            None => Then::AddRelu(x),
            Some(places) => Then::AddReluAt(x, places.clone()),
        };
        self.bn2.forward(y, then)
    }
}

/// Convolves, with or without a bypass around the convolution.
fn with_bypass(conv: &Conv2d, bypass: &Option<Bypass>, x: Activation, sparsity: &Sparsity) -> Activation {
    match bypass {
        None => conv.forward(x, sparsity),
        Some(bypass) => bypass.around(conv.forward(x.clone(), sparsity), x),
    }
}

/// The convolution of shortcut B.
#[derive(Module, Debug)]
pub struct Projection {
    conv: Conv2d,
    bn: BatchNorm,
}
