//! A step of a plain stack of layers, as in PyTorch's `Sequential`: activations and pools are counted too.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use super::{Activation, BatchNorm, Conv2d, Sparsity, Then, max_pool};

/// One step of a stack; a `Vec` of them gives parameters the paths `0.weight`, `1.gamma`, `3.weight`, ….
#[derive(Clone, Debug)]
pub enum Step {
    /// A convolution.
    Conv(Conv2d),
    /// A batch normalisation and the rectifier behind it.
    Norm(BatchNorm),
    /// The place of that rectifier, which counts as a step but has nothing left to do.
    Relu,
    /// A 2×2 max-pool.
    Pool,
}

impl Step {
    /// Applies the step.
    pub fn forward(&self, x: Activation, sparsity: &Sparsity) -> Activation {
        match self {
            Step::Conv(conv) => conv.forward(x, sparsity),
            Step::Norm(norm) => norm.forward(x, Then::Relu),
            Step::Relu => x,
            Step::Pool => max_pool(x),
        }
    }

    fn map_parts(self, conv: impl FnOnce(Conv2d) -> Conv2d, norm: impl FnOnce(BatchNorm) -> BatchNorm) -> Self {
        match self {
            Step::Conv(part) => Step::Conv(conv(part)),
            Step::Norm(part) => Step::Norm(norm(part)),
            Step::Relu => Step::Relu,
            Step::Pool => Step::Pool,
        }
    }
}

/// Written by hand because the derived code knows no variant without a part and would put the variant into the path.
impl Module for Step {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Step::Conv(conv) => conv.collect_devices(devices),
            Step::Norm(norm) => norm.collect_devices(devices),
            Step::Relu | Step::Pool => devices,
        }
    }

    fn fork(self, device: &Device) -> Self {
        self.map_parts(|conv| conv.fork(device), |norm| norm.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_parts(|conv| conv.to_device(device), |norm| norm.to_device(device))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Step::Conv(conv) => conv.visit(visitor),
            Step::Norm(norm) => norm.visit(visitor),
            Step::Relu | Step::Pool => {}
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Step::Conv(conv) => Step::Conv(conv.map(mapper)),
            Step::Norm(norm) => Step::Norm(norm.map(mapper)),
            Step::Relu => Step::Relu,
            Step::Pool => Step::Pool,
        }
    }

    fn valid(&self) -> Self {
        self.clone().map_parts(|conv| conv.valid(), |norm| norm.valid())
    }

    fn train(self) -> Self {
        self.map_parts(Module::train, Module::train)
    }

    fn materialize(self) -> Self {
        self.map_parts(Module::materialize, Module::materialize)
    }
}

impl ModuleDisplayDefault for Step {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Step::Conv(conv) => content.add_single(conv).optional(),
            Step::Norm(norm) => content.add_single(norm).optional(),
            Step::Relu => content.add_single("Relu").optional(),
            Step::Pool => content.add_single("MaxPool").optional(),
        }
    }
}

impl ModuleDisplay for Step {}
