//! Says which network is meant, checks it once and counts what it costs.

use std::collections::BTreeMap;

use bonsai_pruning::Graph;
use bonsai_pruning::channels::Channels;
use serde::{Deserialize, Serialize};

use crate::ledger::Told;
use crate::operations::Operation;
use crate::zoo::{self, Model};
use crate::{densenet, lenet5, mlp, mobilenet, preresnet, resnet, resnet_cifar, tas, vgg, vit};

/// How a CIFAR ResNet joins stages of different width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shortcut {
    /// Every second pixel, and zero channels on both sides: no parameters.
    #[default]
    A,
    /// A 1×1 convolution and batch normalisation.
    B,
}

/// How a ResNet of the ImageNet kind meets the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// A 3×3 convolution at full resolution.
    #[default]
    Cifar,
    /// A 7×7 convolution of stride 2 and a max-pool.
    ImageNet,
}

/// Names a network exactly: what a run folder and a model file keep in order to build it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Architecture {
    /// The name in the zoo, such as `resnet20`.
    pub name: String,
    /// The number of classes.
    pub classes: usize,
    /// Channels, height and width of an image.
    pub input: [usize; 3],
    /// How a CIFAR ResNet joins its stages; A for all other models.
    pub shortcut: Shortcut,
    /// How ResNet-18, 34 and 50 meet the image; CIFAR for all other models.
    pub stem: Stem,
    /// Whether a light bypass runs around each convolution inside the blocks of a CIFAR ResNet, so that any of its filters may
    /// be missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bypass: bool,
    /// Whether the network has gates on the channels that it can gate, as some methods want while they learn.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gates: bool,
    /// What is left of channel groups that were pruned: units, as they are counted in the full network, by group name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Vec<usize>>,
}

/// An architecture as a user writes it, with the choices that may be left out.
#[derive(Deserialize)]
#[serde(rename = "Architecture", deny_unknown_fields)]
struct Written {
    name: String,
    classes: usize,
    input: [usize; 3],
    shortcut: Option<Shortcut>,
    stem: Option<Stem>,
    #[serde(default)]
    bypass: bool,
    #[serde(default)]
    gates: bool,
    #[serde(default)]
    kept: BTreeMap<String, Vec<usize>>,
}

impl From<Written> for Architecture {
    fn from(written: Written) -> Self {
        let default = Architecture::new(written.name, written.classes, written.input);
        Self {
            shortcut: written.shortcut.unwrap_or(default.shortcut),
            stem: written.stem.unwrap_or(default.stem),
            bypass: written.bypass,
            gates: written.gates,
            kept: written.kept,
            ..default
        }
    }
}

const CLASSES: usize = 100_000;
const CHANNELS: usize = 1024;
const SIDE: usize = 4096;
/// Enough for every model at any sensible input, and 4 GB of weights.
const PARAMETERS: u64 = 1_000_000_000;

impl Architecture {
    /// Returns the architecture called `name` with its usual choices: shortcut A, and the ImageNet stem for ResNet-18, 34
    /// and 50 on images of at least 64×64.
    pub fn new(name: impl Into<String>, classes: usize, input: [usize; 3]) -> Self {
        let name = name.into();
        let large = input[1] >= 64 && input[2] >= 64;
        let stem = match zoo::find(&name) {
            Ok(Model::ResNet(_)) if large => Stem::ImageNet,
            _ => Stem::Cifar,
        };
        Self { name, classes, input, shortcut: Shortcut::A, stem, bypass: false, gates: false, kept: BTreeMap::new() }
    }

    /// Returns the same architecture with another shortcut.
    pub fn with_shortcut(self, shortcut: Shortcut) -> Self {
        Self { shortcut, ..self }
    }

    /// Returns the same architecture with another stem.
    pub fn with_stem(self, stem: Stem) -> Self {
        Self { stem, ..self }
    }

    /// Returns the same architecture with or without a bypass around convolutions.
    pub fn with_bypass(self, bypass: bool) -> Self {
        Self { bypass, ..self }
    }

    /// Returns the same architecture with or without gates.
    pub fn with_gates(self, gates: bool) -> Self {
        Self { gates, ..self }
    }

    /// Returns the architecture with all of its channels.
    pub fn full(&self) -> Self {
        Self { kept: BTreeMap::new(), ..self.clone() }
    }

    /// Returns the architecture that is left when only some units stay; one flag for each unit that a group still has.
    ///
    /// # Panics
    ///
    /// Panics if a group of this architecture has another number of units than there are flags.
    pub fn narrowed<'a>(&self, units: impl IntoIterator<Item = (&'a str, Vec<bool>)>) -> Self {
        let mut kept = self.kept.clone();
        for (group, flags) in units {
            let before = kept.remove(group).unwrap_or_else(|| (0..flags.len()).collect());
            assert_eq!(before.len(), flags.len(), "units of {group}");
            kept.insert(
                group.to_string(),
                before.into_iter().zip(flags).filter_map(|(unit, k)| k.then_some(unit)).collect(),
            );
        }
        Self { kept, ..self.clone() }
    }

    /// Checks that the network can be built.
    ///
    /// # Errors
    ///
    /// Returns a sentence that names the field, its value and what it may be.
    pub fn check(&self) -> Result<(), String> {
        self.graph().map(|_| ())
    }

    /// Returns the network as data: its layers in order, its parameters and its multiply-accumulates.
    ///
    /// # Errors
    ///
    /// Returns a sentence where [`Architecture::check`] does.
    pub fn graph(&self) -> Result<Graph, String> {
        self.told().map(|told| told.graph)
    }

    /// Returns the forward pass as data, complete enough to be computed elsewhere, in the order in which it is computed.
    ///
    /// # Errors
    ///
    /// Returns a sentence where [`Architecture::check`] does.
    pub fn operations(&self) -> Result<Vec<Operation>, String> {
        self.told().map(|told| told.operations)
    }

    fn told(&self) -> Result<Told, String> {
        let model = self.model()?;
        self.check_kept()?;
        let told = match model {
            Model::ResNetCifar(blocks) => resnet_cifar::graph(self, blocks),
            Model::ResNet(depth) => resnet::graph(self, depth),
            Model::PreResNet(blocks) => preresnet::graph(self, blocks),
            Model::DenseNet(size) => densenet::graph(self, size),
            Model::MobileNetV2 => mobilenet::graph(self),
            Model::Tas(shape) => tas::graph(self, shape),
            Model::Vgg(column) => vgg::graph(self, column),
            Model::Vit(size) => vit::graph(self, size),
            Model::LeNet5 => lenet5::graph(self),
            Model::Mlp => mlp::graph(self),
        };
        match told.graph.parameters {
            0..=PARAMETERS => Ok(told),
            many => Err(format!(
                "input = {:?} gives {} {many} parameters; at most {PARAMETERS} are built, so choose a smaller input",
                self.input, self.name
            )),
        }
    }

    /// Returns the model that the name stands for once every field is in its range.
    pub(crate) fn model(&self) -> Result<Model, String> {
        let model = zoo::find(&self.name)?;
        within("classes", self.classes, 1, CLASSES)?;
        within("input channels", self.input[0], 1, CHANNELS)?;
        for (side, size) in [("input height", self.input[1]), ("input width", self.input[2])] {
            within(side, size, 1, SIDE)?;
            self.check_side(model, side, size)?;
        }
        if self.stem == Stem::ImageNet && !matches!(model, Model::ResNet(_)) {
            return Err(format!(
                "stem = \"imagenet\" must be \"cifar\" for {}: only resnet18, 34 and 50 have both",
                self.name
            ));
        }
        if self.shortcut == Shortcut::B && !matches!(model, Model::ResNetCifar(_)) {
            return Err(format!("shortcut = \"B\" must be \"A\" for {}: only resnet20 to 110 have both", self.name));
        }
        if self.bypass && !matches!(model, Model::ResNetCifar(_)) {
            return Err(format!("bypass = true must be false for {}: only resnet20 to 110 have one", self.name));
        }
        if self.gates && self.bypass {
            return Err("gates and a bypass exclude each other: the bypass would fill closed channels".to_string());
        }
        if self.gates && !matches!(model, Model::ResNetCifar(_)) {
            return Err(format!("gates must be absent for {}: only resnet20 to 110 have them", self.name));
        }
        Ok(model)
    }

    fn check_side(&self, model: Model, side: &str, size: usize) -> Result<(), String> {
        let (least, why) = match model {
            Model::ResNetCifar(_) => (resnet_cifar::SMALLEST, "it is halved twice"),
            Model::ResNet(_) if self.stem == Stem::ImageNet => (resnet::SMALLEST_IMAGENET, "it is halved five times"),
            Model::ResNet(_) => (resnet::SMALLEST_CIFAR, "it is halved three times"),
            Model::PreResNet(_) => (preresnet::SMALLEST, "it is halved twice"),
            Model::DenseNet(_) => (densenet::SMALLEST, "it is halved twice"),
            Model::MobileNetV2 => (mobilenet::SMALLEST, "it is halved three times"),
            Model::Tas(_) if !size.is_multiple_of(tas::MULTIPLE) => {
                return Err(format!(
                    "{side} = {size} must be a multiple of {} for {}, since it is halved twice by pools",
                    tas::MULTIPLE,
                    self.name
                ));
            }
            Model::Tas(_) => (tas::MULTIPLE, "it is halved twice"),
            Model::Vgg(_) => (vgg::SMALLEST, "it is halved four times and averaged over 2x2"),
            Model::LeNet5 => (lenet5::SMALLEST, "two 5x5 convolutions without padding and two pools must fit"),
            Model::Mlp => (1, "an image has pixels"),
            Model::Vit(vit) if !size.is_multiple_of(vit.patch) => {
                return Err(format!(
                    "{side} = {size} must be a multiple of the patch of {}, which is {}",
                    self.name, vit.patch
                ));
            }
            Model::Vit(vit) => (vit.patch, "one patch must fit"),
        };
        match size < least {
            true => {
                Err(format!("{side} = {size} is too small for {}: it takes {least} to {SIDE}, since {why}", self.name))
            }
            false => Ok(()),
        }
    }

    /// Returns the channel groups of the full network that `kept` speaks of: streams that lose channels everywhere at once,
    /// or layers that select theirs and blocks that expand theirs.
    ///
    /// # Errors
    ///
    /// A sentence where the coupling cannot be derived.
    pub fn full_channels(&self) -> Result<Channels, String> {
        let graph = self.full().graph()?;
        let coupled = Channels::derive(&graph)?;
        let known = |name: &String| coupled.groups.iter().any(|group| group.name == *name);
        if self.kept.keys().all(known) { Ok(coupled) } else { Channels::derive_whole(&graph) }
    }

    /// Checks what is left of each group against the full network.
    fn check_kept(&self) -> Result<(), String> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let graph = self.full().graph()?;
        let (coupled, whole) = (Channels::derive(&graph)?, Channels::derive_whole(&graph)?);
        let find = |channels: &Channels, name: &str| channels.groups.iter().find(|group| group.name == *name).cloned();
        for (name, units) in &self.kept {
            let group = find(&coupled, name).or_else(|| find(&whole, name));
            let group =
                group.ok_or_else(|| format!("kept names {name:?}, which is no channel group of {}", self.name))?;
            let rising = units.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || units.last().is_none_or(|last| *last >= group.units) {
                return Err(format!(
                    "kept.{name} must list units of {} from 0 to {} in rising order, at least one of them",
                    self.name,
                    group.units - 1
                ));
            }
        }
        let only = |one: &Channels, other: &Channels| {
            self.kept.keys().find(|name| find(one, name).is_some() && find(other, name).is_none())
        };
        if let (Some(stream), Some(other)) = (only(&coupled, &whole), only(&whole, &coupled)) {
            return Err(format!(
                "kept names {stream:?} and {other:?}, but layers select from streams that stay whole, and expand into such: \
                 only one of the two can be cut"
            ));
        }
        Ok(())
    }

    /// Returns how many units are left of a group that has `full` of them.
    pub(crate) fn width(&self, group: &str, full: usize) -> usize {
        self.kept.get(group).map_or(full, Vec::len)
    }

    /// Returns the units that are left of a group that has `full` of them.
    pub(crate) fn units(&self, group: &str, full: usize) -> Vec<usize> {
        self.kept.get(group).cloned().unwrap_or_else(|| (0..full).collect())
    }

    /// Returns how many of a group's first `border` units are left.
    pub(crate) fn width_below(&self, group: &str, border: usize) -> usize {
        self.kept.get(group).map_or(border, |units| units.partition_point(|unit| *unit < border))
    }

    /// Returns height and width of an image.
    pub(crate) fn map(&self) -> [usize; 2] {
        [self.input[1], self.input[2]]
    }
}

fn within(field: &str, value: usize, least: usize, most: usize) -> Result<(), String> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{field} = {value} must be between {least} and {most}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_architecture_survives_json_and_toml() {
        let written = Architecture::new("resnet50", 1000, [3, 224, 224]).with_stem(Stem::Cifar);
        let json = serde_json::to_string(&written).unwrap();
        assert_eq!(json, r#"{"name":"resnet50","classes":1000,"input":[3,224,224],"shortcut":"A","stem":"cifar"}"#);
        assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), written);
        assert_eq!(toml::from_str::<Architecture>(&toml::to_string(&written).unwrap()).unwrap(), written);
    }

    #[test]
    fn choices_that_are_left_out_depend_on_the_model() {
        let read = |text| toml::from_str::<Architecture>(text).unwrap();
        assert_eq!(read("name='resnet50'\nclasses=1000\ninput=[3,224,224]").stem, Stem::ImageNet);
        assert_eq!(read("name='resnet50'\nclasses=100\ninput=[3,32,32]").stem, Stem::Cifar);
        assert_eq!(read("name='vit-s16'\nclasses=100\ninput=[3,224,224]").stem, Stem::Cifar);
        assert_eq!(read("name='resnet20'\nclasses=10\ninput=[3,32,32]\nshortcut='B'").shortcut, Shortcut::B);
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let error = toml::from_str::<Architecture>("name='mlp'\nclasses=10\ninput=[1,28,28]\ndepth=3").unwrap_err();
        assert!(error.to_string().contains("unknown field `depth`"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_range() {
        let message = |name: &str, classes, input| Architecture::new(name, classes, input).check().unwrap_err();
        assert_eq!(message("mlp", 0, [1, 28, 28]), "classes = 0 must be between 1 and 100000");
        assert_eq!(message("mlp", 1_000_000_000, [1, 28, 28]), "classes = 1000000000 must be between 1 and 100000");
        assert_eq!(message("mlp", 10, [0, 28, 28]), "input channels = 0 must be between 1 and 1024");
        assert_eq!(message("resnet20", 10, [3, 0, 32]), "input height = 0 must be between 1 and 4096");
        assert_eq!(message("resnet20", 10, [3, 32, 5000]), "input width = 5000 must be between 1 and 4096");
        assert_eq!(
            message("vgg19", 10, [3, 32, 28]),
            "input width = 28 is too small for vgg19: it takes 32 to 4096, since it is halved four times and averaged over 2x2"
        );
        assert_eq!(
            message("vit-cifar", 10, [3, 30, 32]),
            "input height = 30 must be a multiple of the patch of vit-cifar, which is 4"
        );
        assert!(message("mlp", 10, [3, 4096, 4096]).contains("at most 1000000000 are built"));
        let projected = Architecture::new("vgg19", 10, [3, 32, 32]).with_shortcut(Shortcut::B);
        assert!(projected.check().unwrap_err().starts_with("shortcut = \"B\" must be \"A\" for vgg19"));
        let stem = Architecture::new("resnet20", 10, [3, 32, 32]).with_stem(Stem::ImageNet);
        assert!(stem.check().unwrap_err().starts_with("stem = \"imagenet\" must be \"cifar\" for resnet20"));
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..80, Just(4096), Just(4097), Just(usize::MAX), any::<usize>()]
    }

    proptest! {
        #[test]
        fn absurd_sizes_are_refused_or_counted_but_never_panic(
            name in prop_oneof![proptest::sample::select(zoo::names()).prop_map(String::from), ".*"],
            classes in prop_oneof![0usize..3, Just(100_000), Just(100_001), any::<usize>()],
            input in [size(), size(), size()],
            b in any::<bool>(),
            imagenet in any::<bool>(),
        ) {
            let mut architecture = Architecture::new(name, classes, input);
            if b { architecture.shortcut = Shortcut::B }
            if imagenet { architecture.stem = Stem::ImageNet }
            match architecture.graph() {
                Ok(graph) => prop_assert!(graph.macs() > 0 && graph.parameters as usize > graph.weights()),
                Err(sentence) => prop_assert!(!sentence.is_empty()),
            }
        }
    }
}
