//! Holds whichever network was asked for.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::architecture::Architecture;
use crate::densenet::DenseNet;
use crate::init::Init;
use crate::layers::{Gates, Sparsity};
use crate::lenet5::LeNet5;
use crate::mlp::Mlp;
use crate::mobilenet::MobileNetV2;
use crate::preresnet::PreResNet;
use crate::resnet::ResNet;
use crate::resnet_cifar::ResNetCifar;
use crate::tas::Tas;
use crate::vgg::Vgg;
use crate::vit::Vit;
use crate::zoo::Model;

/// A network of the zoo.
///
/// It trains where its device does (`Device::autodiff`); [`Module::valid`] gives the network for evaluation.
// One network lives in a process, so the unused bytes of a smaller variant do not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Network {
    /// A CIFAR ResNet.
    ResNetCifar(ResNetCifar),
    /// A ResNet of the ImageNet kind.
    ResNet(ResNet),
    /// A pre-activation ResNet.
    PreResNet(PreResNet),
    /// A DenseNet.
    DenseNet(DenseNet),
    /// MobileNetV2.
    MobileNetV2(MobileNetV2),
    /// A ResNet whose shape was searched.
    Tas(Tas),
    /// A VGG network.
    Vgg(Vgg),
    /// A vision transformer.
    Vit(Vit),
    /// LeNet-5.
    LeNet5(LeNet5),
    /// A perceptron with two hidden layers.
    Mlp(Mlp),
}

impl Network {
    /// Builds the network on `device`; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// Returns the sentence of [`Architecture::check`].
    pub fn new(architecture: &Architecture, seed: u64, device: &Device) -> Result<Network, String> {
        architecture.check()?;
        let init = Init::new(seed, device);
        Ok(match architecture.model()? {
            Model::ResNetCifar(blocks) => Network::ResNetCifar(ResNetCifar::new(architecture, blocks, &init)),
            Model::ResNet(depth) => Network::ResNet(ResNet::new(architecture, depth, &init)),
            Model::PreResNet(blocks) => Network::PreResNet(PreResNet::new(architecture, blocks, &init)),
            Model::DenseNet(size) => Network::DenseNet(DenseNet::new(architecture, size, &init)),
            Model::MobileNetV2 => Network::MobileNetV2(MobileNetV2::new(architecture, &init)),
            Model::Tas(shape) => Network::Tas(Tas::new(architecture, shape, &init)),
            Model::Vgg(column) => Network::Vgg(Vgg::new(architecture, column, &init)),
            Model::Vit(size) => Network::Vit(Vit::new(architecture, size, &init)),
            Model::LeNet5 => Network::LeNet5(LeNet5::new(architecture, &init)),
            Model::Mlp => Network::Mlp(Mlp::new(architecture, &init)),
        })
    }

    /// Returns the logits `[images, classes]` of `images`, which are `[images, channels, height, width]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward_sparse(images, &Sparsity::default())
    }

    /// Returns the logits as [`forward`](Self::forward) does, with kernels that leave out removed weights, which must be
    /// zero, and multiply as exactly as `sparsity` says.
    pub fn forward_sparse(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        match self {
            Network::ResNetCifar(network) => network.forward(images, sparsity),
            Network::ResNet(network) => network.forward(images, sparsity),
            Network::PreResNet(network) => network.forward(images, sparsity),
            Network::DenseNet(network) => network.forward(images, sparsity),
            Network::MobileNetV2(network) => network.forward(images, sparsity),
            Network::Tas(network) => network.forward(images, sparsity),
            Network::Vgg(network) => network.forward(images, sparsity),
            Network::Vit(network) => network.forward(images, sparsity),
            Network::LeNet5(network) => network.forward(images, sparsity),
            Network::Mlp(network) => network.forward(images, sparsity),
        }
    }

    /// Returns the logits as [`forward_sparse`](Self::forward_sparse) does, and the gates of every gated channel group in the
    /// order of the graph; none where the network was built without.
    pub fn forward_gated(&self, images: Tensor<4>, sparsity: &Sparsity) -> (Tensor<2>, Vec<Gates>) {
        let mut gates = Vec::new();
        let logits = match self {
            Network::ResNetCifar(network) => network.forward_gated(images, sparsity, &mut gates),
            network => network.forward_sparse(images, sparsity),
        };
        (logits, gates)
    }
}
