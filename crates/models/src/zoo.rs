//! Lists the models by name.

use crate::{densenet, resnet, tas, vgg, vit};

/// A model of the zoo with the numbers that its name stands for.
#[derive(Clone, Copy)]
pub(crate) enum Model {
    /// A CIFAR ResNet, by blocks per stage.
    ResNetCifar(usize),
    /// A ResNet of the ImageNet kind.
    ResNet(&'static resnet::Depth),
    /// A pre-activation ResNet, by blocks per stage.
    PreResNet(usize),
    /// A DenseNet.
    DenseNet(densenet::Size),
    /// MobileNetV2.
    MobileNetV2,
    /// A ResNet whose shape was searched.
    Tas(tas::Shape),
    /// A VGG network.
    Vgg(vgg::Column),
    /// A vision transformer.
    Vit(&'static vit::Size),
    /// LeNet-5.
    LeNet5,
    /// LeNet-300-100.
    Mlp,
}

const MODELS: &[(&str, Model)] = &[
    ("resnet20", Model::ResNetCifar(3)),
    ("resnet32", Model::ResNetCifar(5)),
    ("resnet44", Model::ResNetCifar(7)),
    ("resnet56", Model::ResNetCifar(9)),
    ("resnet110", Model::ResNetCifar(18)),
    ("resnet18", Model::ResNet(&resnet::RESNET18)),
    ("resnet34", Model::ResNet(&resnet::RESNET34)),
    ("resnet50", Model::ResNet(&resnet::RESNET50)),
    ("preresnet164", Model::PreResNet(18)),
    ("densenet40", Model::DenseNet(densenet::DENSENET40)),
    ("mobilenetv2", Model::MobileNetV2),
    ("tas-c10-resnet20", Model::Tas(tas::C10_RESNET20)),
    ("tas-c10-resnet32", Model::Tas(tas::C10_RESNET32)),
    ("tas-c100-resnet56", Model::Tas(tas::C100_RESNET56)),
    ("vgg11", Model::Vgg(vgg::VGG11)),
    ("vgg13", Model::Vgg(vgg::VGG13)),
    ("vgg16", Model::Vgg(vgg::VGG16)),
    ("vgg16-linear", Model::Vgg(vgg::VGG16_LINEAR)),
    ("vgg19", Model::Vgg(vgg::VGG19)),
    ("vit-ti16", Model::Vit(&vit::TI16)),
    ("vit-s16", Model::Vit(&vit::S16)),
    ("vit-b16", Model::Vit(&vit::B16)),
    ("vit-cifar", Model::Vit(&vit::CIFAR)),
    ("lenet5", Model::LeNet5),
    ("mlp", Model::Mlp),
];

/// Returns the names of all models.
pub fn names() -> Vec<&'static str> {
    MODELS.iter().map(|(name, _)| *name).collect()
}

/// Returns the model called `name`, or a sentence that suggests what could have been meant.
pub(crate) fn find(name: &str) -> Result<Model, String> {
    match MODELS.iter().find(|(known, _)| *known == name) {
        Some((_, model)) => Ok(*model),
        None => Err(match nearest(name) {
            near if near.is_empty() => format!("model {name:?} is unknown; the models are {}", names().join(", ")),
            near => format!("model {name:?} is unknown; did you mean {}?", near.join(" or ")),
        }),
    }
}

/// Returns up to three names that resemble `name`, the nearest first.
fn nearest(name: &str) -> Vec<&'static str> {
    let written = name.to_lowercase().replace(['_', ' '], "-");
    let likeness = |known: &str| strsim::jaro_winkler(&written, known);
    let mut near: Vec<&str> = names().into_iter().filter(|known| likeness(known) > 0.8).collect();
    near.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    near.truncate(3);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let message = |name| find(name).err().unwrap();
        assert!(message("resnet21").starts_with("model \"resnet21\" is unknown; did you mean resnet20"));
        assert!(message("ResNet-20").contains("resnet20"));
        assert!(message("VGG_19").contains("vgg19"));
        assert!(message("vit_s16").contains("vit-s16"));
        assert!(message("qqq").contains("the models are resnet20, resnet32"));
        assert!(message("").contains("the models are"));
    }
}
