//! One network of every kind, dense, sparse and compact, with parameters that leave nothing the identity.

use std::collections::BTreeMap;

use bonsai_models::{Architecture, Network, Shortcut, Stem};
use bonsai_onnx::{Meta, export};
use bonsai_pruning::channels::Channels;
use bonsai_training::parameters::{map, to_device, to_host};
use bonsai_training::tensors::Tensors;
use bonsai_training::trainee::network_tensors;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::rand_core::Rng;

/// A network and its name.
pub struct Case {
    /// Such as `resnet20-A-sparse`.
    pub name: String,
    /// The network's shape.
    pub architecture: Architecture,
    /// The network.
    pub network: Network,
    /// Whether most of its weights are zero.
    pub sparse: bool,
}

/// Lists the networks; small ones take small images, so that a slow interpreter can run them.
pub fn architectures(small: bool) -> Vec<Architecture> {
    let of = |name: &str, [less, more]: [usize; 2]| {
        let side = if small { less } else { more };
        Architecture::new(name, 10, [3, side, side])
    };
    vec![
        of("resnet20", [8, 32]),
        of("resnet20", [9, 32]).with_shortcut(Shortcut::B),
        of("resnet20", [9, 32]).with_bypass(true),
        of("resnet20", [8, 32]).with_shortcut(Shortcut::B).with_bypass(true),
        of("resnet18", [8, 32]),
        of("resnet18", [32, 224]).with_stem(Stem::ImageNet),
        of("resnet50", [8, 32]),
        of("vgg11", [32, 32]),
        of("vgg16-linear", [32, 32]),
        of("preresnet164", [8, 32]),
        of("densenet40", [8, 32]),
        of("mobilenetv2", [8, 32]),
        of("tas-c10-resnet20", [8, 32]),
        of("vit-cifar", [8, 32]),
        Architecture::new("lenet5", 10, [1, 28, 28]),
        Architecture::new("mlp", 10, [1, 28, 28]),
    ]
}

/// Builds every network three times, and once more where its streams can stay whole while layers choose their channels.
pub fn cases(small: bool) -> impl Iterator<Item = Case> {
    let kinds = ["dense", "sparse", "compact", "chosen"];
    let all = architectures(small).into_iter().flat_map(move |full| kinds.map(|kind| (full.clone(), kind)));
    let groups = |full: &Architecture, kind: &str| {
        let graph = full.graph().unwrap();
        if kind == "chosen" { Channels::derive_whole(&graph) } else { Channels::derive(&graph) }.unwrap().groups
    };
    let all = all.filter(move |(full, kind)| *kind != "chosen" || groups(full, kind) != groups(full, "compact"));
    all.map(move |(full, kind)| {
        let mut stream = bonsai_random::stream(0, "onnx", &full.name);
        let mut half = move || stream.next_u32() >> 31 == 1;
        let architecture = match kind {
            "compact" | "chosen" => {
                let groups = groups(&full, kind);
                let mut kept = |units: usize| (0..units).map(|unit| half() || unit == 0).collect();
                let kept: Vec<(String, Vec<bool>)> = groups.into_iter().map(|g| (g.name, kept(g.units))).collect();
                full.narrowed(kept.iter().map(|(name, kept)| (name.as_str(), kept.clone())))
            }
            _ => full,
        };
        let variant = match (architecture.name.as_str(), architecture.stem, architecture.shortcut) {
            ("resnet18", Stem::ImageNet, _) => "-imagenet",
            ("resnet20", _, Shortcut::A) => "-A",
            ("resnet20", _, Shortcut::B) => "-B",
            _ => "",
        };
        let bypass = if architecture.bypass { "-bypass" } else { "" };
        let name = format!("{}{variant}{bypass}-{kind}", architecture.name);
        let sparse = kind == "sparse";
        Case { name, network: network(&architecture, sparse), architecture, sparse }
    })
}

/// Builds a network with scales, shifts and statistics that matter, and a tenth of its weights if it is sparse.
fn network(architecture: &Architecture, sparse: bool) -> Network {
    let device = Device::flex();
    let mut stream = bonsai_random::stream(0, "parameters", &architecture.name);
    let mut noise = move || stream.next_u32() as f32 / u32::MAX as f32;
    map(Network::new(architecture, 0, &device).unwrap(), |info, old| {
        let mut values = to_host(old);
        for value in &mut values {
            let random = noise();
            match info.name.rsplit('.').next().unwrap() {
                "running_var" | "gamma" => *value = random + 0.5,
                "running_mean" | "beta" | "bias" => *value = random - 0.5,
                "weight" if sparse && random > 0.1 => *value = 0.0,
                _ => *value += 0.02 * (random - 0.5),
            }
        }
        Some(to_device(values, &device))
    })
}

impl Case {
    /// Writes the network as ONNX.
    pub fn exported(&self) -> Result<Vec<u8>, String> {
        let tensors: Tensors = network_tensors(&self.network);
        let parameter = |name: &str| {
            let tensor = tensors.get(name)?;
            Some((&tensor.shape[..], tensor.as_f32().ok()?))
        };
        let channels = self.architecture.input[0];
        let meta = Meta {
            name: self.name.clone(),
            mean: [0.5, 0.25, 0.4][..channels].to_vec(),
            std: [0.2, 0.3, 0.25][..channels].to_vec(),
            entries: BTreeMap::from([("bonsai.data".to_string(), "random".to_string())]),
            sparse: self.sparse,
        };
        export(&self.architecture, &parameter, &meta)
    }

    /// Draws images with pixels from 0 to 1 and computes their logits.
    pub fn probe(&self, records: usize) -> (Vec<f32>, Vec<f32>) {
        let [channels, height, width] = self.architecture.input;
        let mut stream = bonsai_random::stream(0, "images", &self.name);
        let area = height * width;
        let pixels: Vec<f32> =
            (0..records * channels * area).map(|_| stream.next_u32() as f32 / u32::MAX as f32).collect();
        let (mean, std) = ([0.5, 0.25, 0.4], [0.2, 0.3, 0.25]);
        let channel = |place: usize| place / area % channels;
        let images: Vec<f32> =
            pixels.iter().enumerate().map(|(i, pixel)| (pixel - mean[channel(i)]) / std[channel(i)]).collect();
        let images = TensorData::new(images, [records, channels, height, width]);
        let logits = self.network.forward(Tensor::from_data(images, &Device::flex()));
        (pixels, to_host(logits.reshape([records * self.architecture.classes])))
    }
}
