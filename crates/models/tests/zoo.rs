//! Every model of the zoo: graph and network agree, forward and backward pass work, and seeds decide the weights.

mod common;

use bonsai_models::init::{Fans, Scheme};
use bonsai_models::{Architecture, Network, Shortcut, Stem, names};
use bonsai_pruning::Kind;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Gradients;
use burn::tensor::{Device, Tensor, TensorData};
use common::{build, parameters};

/// Every name with each of its choices, on images small enough for a test.
fn everything() -> Vec<Architecture> {
    let mut all: Vec<Architecture> = names().into_iter().map(|name| Architecture::new(name, 10, [3, 32, 32])).collect();
    for name in ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"] {
        all.push(Architecture::new(name, 10, [3, 32, 32]).with_shortcut(Shortcut::B));
    }
    for name in ["resnet18", "resnet34", "resnet50"] {
        all.push(Architecture::new(name, 7, [3, 64, 64]));
        assert_eq!(all.last().unwrap().stem, Stem::ImageNet);
    }
    for name in ["mlp", "lenet5"] {
        all.push(Architecture::new(name, 10, [1, 28, 28]));
    }
    for shortcut in [Shortcut::A, Shortcut::B] {
        all.push(Architecture::new("resnet20", 10, [3, 32, 32]).with_shortcut(shortcut).with_bypass(true));
    }
    all.push(Architecture::new("resnet20", 3, [1, 5, 7]).with_bypass(true));
    // Sides that are odd, unequal or the smallest allowed.
    all.push(Architecture::new("resnet20", 3, [1, 29, 18]));
    all.push(Architecture::new("resnet20", 3, [1, 4, 5]).with_shortcut(Shortcut::B));
    all.push(Architecture::new("resnet18", 3, [1, 8, 11]));
    all.push(Architecture::new("resnet18", 3, [1, 33, 47]).with_stem(Stem::ImageNet));
    all.push(Architecture::new("vgg11", 3, [1, 47, 33]));
    all.push(Architecture::new("densenet40", 3, [1, 5, 6]));
    all.push(Architecture::new("preresnet164", 3, [1, 5, 7]));
    all.push(Architecture::new("mobilenetv2", 3, [1, 9, 11]));
    all.push(Architecture::new("tas-c100-resnet56", 3, [1, 4, 8]));
    all.push(Architecture::new("vit-cifar", 1, [2, 4, 12]));
    all.push(Architecture::new("lenet5", 3, [1, 16, 21]));
    all
}

fn images([channels, height, width]: [usize; 3], count: usize, device: &Device) -> Tensor<4> {
    let pixels = 0..count * channels * height * width;
    let values: Vec<f32> = pixels.map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [count, channels, height, width]), device)
}

#[test]
fn the_graph_describes_the_network() {
    for architecture in everything() {
        let graph = architecture.graph().unwrap();
        let parameters = parameters(&build(&architecture, 0));
        let learnable: usize = parameters.iter().filter(|p| !p.is_statistic()).map(|p| p.values.len()).sum();
        assert_eq!(learnable as u64, graph.parameters, "{architecture:?}");

        // The layers are the weights, each of them once and in the same order.
        let weights: Vec<(String, Vec<usize>)> = parameters
            .iter()
            .filter(|p| p.path.ends_with(".weight"))
            .map(|p| (p.path.clone(), p.shape.clone()))
            .collect();
        let layers: Vec<(String, Vec<usize>)> = graph
            .layers
            .iter()
            .map(|layer| match layer.kind {
                Kind::Conv => (layer.name.clone(), layer.shape.clone()),
                Kind::Linear => (layer.name.clone(), layer.shape.iter().rev().copied().collect()),
            })
            .collect();
        assert_eq!(weights, layers, "{architecture:?}");
    }
}

#[test]
fn every_network_gives_finite_logits() {
    let device = Device::flex();
    for architecture in everything() {
        let logits = build(&architecture, 1).forward(images(architecture.input, 2, &device));
        assert_eq!(logits.dims(), [2, architecture.classes], "{architecture:?}");
        let logits = logits.into_data().try_to_vec::<f32>().unwrap();
        assert!(logits.iter().all(|logit| logit.is_finite()), "{architecture:?}: {logits:?}");
        // Two different images, two different answers: the network looks at its input.
        assert_ne!(logits[..architecture.classes], logits[architecture.classes..], "{architecture:?}");
    }
}

/// Collects the paths of parameters that got no gradient, or one that is zero or not finite.
struct WithoutGradient {
    gradients: Gradients,
    path: Vec<String>,
    found: Vec<String>,
}

impl ModuleVisitor for WithoutGradient {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path[1..].join(".");
        let gradient = param.val().grad(&self.gradients);
        let gradient = gradient.map(|gradient| gradient.into_data().try_to_vec::<f32>().unwrap());
        let good = gradient.is_some_and(|g| g.iter().all(|v| v.is_finite()) && g.iter().any(|v| *v != 0.0));
        if !good && !path.contains(".running_") && !path.starts_with("running_") {
            self.found.push(path);
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let device = Device::flex().autodiff();
    for (name, input) in [
        ("resnet20", [3, 16, 16]),
        ("resnet18", [3, 16, 16]),
        ("resnet50", [3, 8, 8]),
        ("preresnet164", [3, 8, 8]),
        ("densenet40", [3, 8, 8]),
        ("mobilenetv2", [3, 16, 16]),
        ("tas-c10-resnet20", [3, 16, 16]),
        ("vgg11", [3, 32, 32]),
        ("vgg16-linear", [3, 32, 32]),
        ("vit-cifar", [3, 8, 8]),
        ("lenet5", [1, 28, 28]),
        ("mlp", [1, 28, 28]),
    ] {
        let mut architecture = Architecture::new(name, 5, input);
        if name == "resnet20" {
            architecture = architecture.with_shortcut(Shortcut::B);
        }
        let network = Network::new(&architecture, 0, &device).unwrap();
        let logits = network.forward(images(input, 4, &device));
        let weights = Tensor::from_data(TensorData::new((0..20).map(|i| (i as f32).sin()).collect(), [4, 5]), &device);
        let gradients = (logits * weights).sum().backward();
        let mut visitor = WithoutGradient { gradients, path: Vec::new(), found: Vec::new() };
        network.visit(&mut visitor);
        assert_eq!(visitor.found, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn equal_seeds_give_equal_weights_on_every_device() {
    for name in ["resnet20", "densenet40", "mobilenetv2", "vgg11", "vit-cifar", "lenet5", "mlp"] {
        let architecture = Architecture::new(name, 10, [3, 32, 32]);
        let weights = |seed, device: &Device| parameters(&Network::new(&architecture, seed, device).unwrap());
        let first = weights(5, &Device::flex());
        assert_eq!(first, weights(5, &Device::flex()), "{name}");
        assert_eq!(first, weights(5, &Device::flex().autodiff()), "{name}");
        #[allow(deprecated)]
        let other = Device::ndarray();
        assert_eq!(first, weights(5, &other), "{name}");
        let other = weights(6, &Device::flex());
        for (a, b) in first.iter().zip(&other).filter(|(a, _)| a.path.ends_with("weight")) {
            assert_ne!(a.values, b.values, "{name} {}", a.path);
        }
    }
}

#[test]
fn a_weight_is_drawn_from_the_stream_of_its_own_path() {
    let expect = |name: &str, shortcut, scheme: Scheme, fans: fn(&[usize]) -> Fans| {
        let architecture = Architecture::new(name, 10, [3, 32, 32]).with_shortcut(shortcut);
        for p in parameters(&build(&architecture, 9)).iter().filter(|p| p.shape.len() == 4) {
            assert_eq!(p.values, scheme.draw(9, &p.path, p.values.len(), fans(&p.shape)), "{name} {}", p.path);
        }
    };
    let fans = |s: &[usize]| Fans { fan_in: s[1] * s[2] * s[3], fan_out: s[0] * s[2] * s[3] };
    expect("resnet20", Shortcut::B, Scheme::KaimingNormalFanIn, fans);
    expect("resnet18", Shortcut::A, Scheme::KaimingNormalFanIn, fans);
    expect("vgg11", Shortcut::A, Scheme::KaimingNormalFanOut, fans);
    expect("densenet40", Shortcut::A, Scheme::KaimingNormalFanOut, fans);
    expect("preresnet164", Shortcut::A, Scheme::KaimingNormalFanOut, fans);
    expect("vit-cifar", Shortcut::A, Scheme::TruncatedNormal(0.02), fans);
    expect("lenet5", Shortcut::A, Scheme::Uniform, fans);
    let linear = |s: &[usize]| Fans { fan_in: s[0], fan_out: s[1] };
    let mlp = parameters(&build(&Architecture::new("mlp", 10, [1, 28, 28]), 9));
    for p in mlp.iter().filter(|p| p.shape.len() == 2) {
        assert_eq!(p.values, Scheme::Uniform.draw(9, &p.path, p.values.len(), linear(&p.shape)), "{}", p.path);
    }
}

#[test]
fn evaluation_changes_no_statistic_and_training_does() {
    let device = Device::flex().autodiff();
    let architecture = Architecture::new("resnet20", 10, [3, 8, 8]);
    let network = Network::new(&architecture, 0, &device).unwrap();
    let before = parameters(&network);
    network.valid().forward(images(architecture.input, 2, &device.clone().inner()));
    assert_eq!(parameters(&network), before);
    network.forward(images(architecture.input, 2, &device));
    let changed: Vec<bool> = parameters(&network).iter().zip(&before).map(|(a, b)| a != b).collect();
    let statistics: Vec<bool> = before.iter().map(|p| p.is_statistic()).collect();
    assert_eq!(changed, statistics);
}

#[test]
fn counts_are_the_published_ones() {
    let counts = |architecture: Architecture| {
        let graph = architecture.graph().unwrap();
        (graph.parameters, graph.macs())
    };
    let cifar = |name| Architecture::new(name, 10, [3, 32, 32]);
    let imagenet = |name| Architecture::new(name, 1000, [3, 224, 224]);
    assert_eq!(counts(cifar("resnet20")), (269_722, 40_551_040));
    assert_eq!(counts(cifar("resnet20").with_shortcut(Shortcut::B)), (272_474, 40_813_184));
    assert_eq!(counts(cifar("resnet32")), (464_154, 68_862_592));
    assert_eq!(counts(cifar("resnet56")), (853_018, 125_485_696));
    assert_eq!(counts(cifar("resnet56").with_shortcut(Shortcut::B)), (855_770, 125_747_840));
    assert_eq!(counts(cifar("resnet110")), (1_727_962, 252_887_680));
    assert_eq!(counts(cifar("vgg16")), (14_724_042, 313_201_664));
    assert_eq!(counts(cifar("vgg19")), (20_035_018, 398_136_320));
    assert_eq!(counts(cifar("vgg16-linear")), (14_987_722, 313_463_808));
    assert_eq!(counts(cifar("densenet40")), (1_059_298, 282_917_328));
    assert_eq!(counts(cifar("preresnet164")), (1_703_258, 247_646_720));
    // Counted in PyTorch, with a counter that gives the published 3,504,872 and 300,774,272 at ImageNet's strides.
    assert_eq!(counts(cifar("mobilenetv2")), (2_236_682, 87_976_448));
    assert_eq!(counts(imagenet("resnet18")), (11_689_512, 1_814_073_344));
    assert_eq!(counts(imagenet("resnet34")).0, 21_797_672);
    assert_eq!(counts(imagenet("resnet50")), (25_557_032, 4_089_184_256));
    assert_eq!(counts(Architecture::new("lenet5", 10, [1, 28, 28])).0, 431_080);
    assert_eq!(counts(Architecture::new("mlp", 10, [1, 28, 28])).0, 266_610);
    // GraNet's prunable weights.
    assert_eq!(cifar("resnet20").graph().unwrap().weights(), 268_336);
    assert_eq!(cifar("resnet20").with_shortcut(Shortcut::B).graph().unwrap().weights(), 270_896);
    assert_eq!(cifar("vgg19").graph().unwrap().weights(), 20_024_000);
    assert_eq!(cifar("resnet50").graph().unwrap().weights(), 23_467_712);
    for (name, parameters, all, without_attention) in
        [("vit-s16", 22_050_664, "4.5989", "4.2412"), ("vit-b16", 86_567_656, "17.5638", "16.8485")]
    {
        let graph = imagenet(name).graph().unwrap();
        let billions = |macs: u64| format!("{:.4}", macs as f64 / 1e9);
        assert_eq!(graph.parameters, parameters);
        assert_eq!((&*billions(graph.macs()), &*billions(graph.macs() - graph.fixed_macs)), (all, without_attention));
    }
}
