//! Puts the models to the reference counts in `structured.json` and `unstructured.json`.
//!
//! The files lie in `$BONSAI_VECTORS`, by default in the project's own `crates/pruning/vectors`. Every key that names a
//! model of the zoo is checked; the others are listed on standard output (`--nocapture`). Another file of the same
//! layout may hold other keys: a key is read by its parts, such as `resnet56_B_c100` or `vgg19_cifar10_granet`.

mod common;

use std::path::PathBuf;

use bonsai_models::layers::{Activation, pad_shortcut};
use bonsai_models::{Architecture, Shortcut, Stem, names};
use bonsai_pruning::{Graph, Kind};
use burn::tensor::{Device, Tensor, TensorData};
use common::{build, parameters};
use serde_json::Value;

fn read(file: &str) -> Value {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../pruning/vectors");
    let path = std::env::var_os("BONSAI_VECTORS").map_or(own, PathBuf::from).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Models whose keys must not be skipped: what the zoo promises.
const PROMISED: &str =
    "resnet20 resnet32 resnet44 resnet56 resnet110 resnet18 resnet34 resnet50 densenet40 vgg11 vgg13 vgg16 vgg19";

/// Keys whose layers have the names that ours have.
const NAMED: [&str; 2] = ["resnet20_optionA", "vgg19_granet_cifar10"];

/// Reads out of a key which architectures it can mean: several where it leaves a choice open, none if the zoo does not
/// promise the network.
fn candidates(key: &str) -> Vec<Architecture> {
    let mut parts = key.split('_');
    let name = parts.next().unwrap_or_default();
    if !PROMISED.split(' ').any(|promised| promised == name) {
        return Vec::new();
    }
    let on_cifar = matches!(name, "resnet20" | "resnet32" | "resnet44" | "resnet56" | "resnet110");
    let mut shortcuts = if on_cifar { vec![Shortcut::A, Shortcut::B] } else { vec![Shortcut::A] };
    let mut images = vec![(Stem::Cifar, 10, 32), (Stem::Cifar, 100, 32)];
    for part in parts {
        match part {
            "A" | "optionA" => shortcuts = vec![Shortcut::A],
            "B" | "optionB" => shortcuts = vec![Shortcut::B],
            "c10" | "cifar10" => images = vec![(Stem::Cifar, 10, 32)],
            "c100" | "cifar100" => images = vec![(Stem::Cifar, 100, 32)],
            "imagenet" => images = vec![(Stem::ImageNet, 1000, 224)],
            // All of DenseNet-40's layers add 12 channels.
            "bn" | "granet" | "cifar" | "k12" => {}
            _ => return Vec::new(),
        }
    }
    let build = |shortcut, (stem, classes, side)| {
        Architecture::new(name, classes, [3, side, side]).with_shortcut(shortcut).with_stem(stem)
    };
    shortcuts.iter().flat_map(|shortcut| images.iter().map(|image| build(*shortcut, *image))).collect()
}

/// Returns the first architecture that `key` can mean and that `fits`, else the first: its figures then tell what is wrong.
fn choose(key: &str, fits: impl Fn(&Graph) -> bool) -> Option<Architecture> {
    let candidates = candidates(key);
    let fitting = candidates.iter().find(|architecture| fits(&graph(key, architecture)));
    fitting.or(candidates.first()).cloned()
}

/// Counts what was checked and lists what was not.
#[derive(Default)]
struct Tally {
    checked: usize,
    skipped: Vec<String>,
}

impl Tally {
    fn equal(&mut self, what: &str, expected: &Value, ours: u64) {
        assert_eq!(expected.as_u64(), Some(ours), "{what}");
        self.checked += 1;
    }

    fn skip(&mut self, what: impl Into<String>) {
        self.skipped.push(what.into());
    }

    fn report(self, part: &str) {
        println!("{part}: {} figures checked; skipped: {}", self.checked, self.skipped.join(", "));
        assert!(self.checked > 0, "{part}: nothing was checked");
    }
}

/// Says whether the file has the table `part`, which a file with other keys may leave out.
fn present(file: &Value, part: &str) -> bool {
    let present = !file[part].is_null();
    if !present {
        println!("{part}: not in the file");
    }
    present
}

fn entries<'a>(file: &'a Value, part: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    file[part].as_object().unwrap_or_else(|| panic!("no table {part:?}")).iter()
}

fn graph(key: &str, architecture: &Architecture) -> Graph {
    architecture.graph().unwrap_or_else(|error| panic!("{key}: {error}"))
}

fn macs(graph: &Graph, kind: Kind) -> u64 {
    graph.layers.iter().filter(|layer| layer.kind == kind).map(|layer| layer.macs).sum()
}

#[test]
fn parameters_and_macs_of_the_models() {
    let file = read("structured.json");
    let mut tally = Tally::default();
    for (key, figures) in entries(&file, "models") {
        let Some(architecture) = choose(key, |graph| figures["params"] == graph.parameters) else {
            tally.skip(key);
            continue;
        };
        let graph = graph(key, &architecture);
        for (figure, expected) in figures.as_object().unwrap() {
            let norms = || -> u64 {
                let all = parameters(&build(&architecture, 0));
                all.iter().filter(|p| p.is_norm()).map(|p| p.values.len() as u64).sum()
            };
            let ours = match figure.as_str() {
                "params" => graph.parameters,
                "params_bn" => norms(),
                "params_no_bn" => graph.parameters - norms(),
                "macs" => graph.macs(),
                "macs_conv" => macs(&graph, Kind::Conv),
                "macs_linear" => macs(&graph, Kind::Linear),
                _ => {
                    tally.skip(format!("{key}.{figure}"));
                    continue;
                }
            };
            tally.equal(&format!("{key}.{figure}"), expected, ours);
        }
    }
    tally.report("models");
}

#[test]
fn parameters_and_macs_of_the_vision_transformers() {
    let file = read("structured.json");
    if !present(&file, "vit") {
        return;
    }
    let mut tally = Tally::default();
    for (key, figures) in entries(&file, "vit") {
        let name = match key.trim_start_matches("vit_") {
            "cifar_p4_d192_l9_h12_mlp384" => "vit-cifar".to_string(),
            other if names().contains(&&*format!("vit-{other}")) => format!("vit-{other}"),
            _ => {
                tally.skip(key);
                continue;
            }
        };
        let side = if name == "vit-cifar" { 32 } else { 224 };
        // The key does not tell the classes: the head's multiply-accumulates do.
        let width = Architecture::new(&*name, 1, [3, side, side]).graph().unwrap().layers.last().unwrap().width();
        let classes = figures["macs_head"].as_u64().expect("macs_head") as usize / width;
        let graph = graph(key, &Architecture::new(&*name, classes, [3, side, side]));
        let head = graph.layers.last().unwrap().macs;
        for (figure, expected) in figures.as_object().unwrap() {
            let ours = match figure.as_str() {
                "params" => graph.parameters,
                "macs" => graph.macs(),
                "macs_no_attn" => graph.macs() - graph.fixed_macs,
                "macs_attention_matmul" => graph.fixed_macs,
                "macs_head" => head,
                "macs_patch" => macs(&graph, Kind::Conv),
                "macs_block_linear" => macs(&graph, Kind::Linear) - head,
                "tokens" => graph.layers[1].macs / graph.layers[1].weights() as u64,
                _ => {
                    tally.skip(format!("{key}.{figure}"));
                    continue;
                }
            };
            tally.equal(&format!("{key}.{figure}"), expected, ours);
        }
    }
    tally.report("vit");
}

#[test]
fn shapes_that_were_searched() {
    let file = read("structured.json");
    if !present(&file, "tas_shapes") {
        return;
    }
    let mut tally = Tally::default();
    for (key, case) in entries(&file, "tas_shapes") {
        let (classes, name) = match key.split_once("-ResNet") {
            Some(("C010", depth)) => (10, format!("tas-c10-resnet{depth}")),
            Some(("C100", depth)) => (100, format!("tas-c100-resnet{depth}")),
            _ => panic!("{key}: which network is meant?"),
        };
        let graph = graph(key, &Architecture::new(name, classes, [3, 32, 32]));
        // The channels of the image, of the first convolution, and of both convolutions of the blocks that are left of as many
        // in every stage.
        let numbers = |field: &str| -> Vec<usize> { serde_json::from_value(case[field].clone()).expect(field) };
        let (channels, left) = (numbers("xchannels"), numbers("xblocks"));
        let (ends, stage) = (&channels[..2], (channels.len() - 2) / 3);
        let stages = channels[2..].chunks(stage).zip(&left).flat_map(|(stage, left)| &stage[..2 * left]);
        let expected: Vec<usize> = ends[1..].iter().chain(stages).copied().collect();
        let convs = graph.layers.iter().filter(|layer| layer.shape.ends_with(&[3, 3])).map(|layer| layer.shape[0]);
        assert_eq!(convs.collect::<Vec<_>>(), expected, "{key}");
        tally.equal(&format!("{key}.infer_net_macs"), &case["infer_net_macs"], graph.macs());
        tally.equal(&format!("{key}.infer_net_params"), &case["infer_net_params"], graph.parameters);
    }
    tally.report("tas_shapes");
}

#[test]
fn counts_that_others_published() {
    let file = read("structured.json");
    if !present(&file, "checks") {
        return;
    }
    let mut tally = Tally::default();
    for check in file["checks"]["counter_vs_published"].as_array().expect("checks.counter_vs_published") {
        let what = check["what"].as_str().expect("what");
        let cifar = |name| Architecture::new(name, 10, [3, 32, 32]);
        let architecture = match what {
            _ if what.contains("log ResNet-56") => cifar("resnet56").with_shortcut(Shortcut::B),
            _ if what.contains("README: VGG-19") => cifar("vgg19"),
            _ => {
                tally.skip(what);
                continue;
            }
        };
        tally.equal(what, &check["recomputed"][0], graph(what, &architecture).parameters);
    }
    tally.report("checks");
}

#[test]
fn the_zero_channels_of_shortcut_a() {
    let file = read("structured.json");
    if !present(&file, "coupling") {
        return;
    }
    let mut tally = Tally::default();
    for case in file["coupling"]["option_A_shortcut"].as_array().expect("coupling.option_A_shortcut") {
        let size = |field: &str| case[field].as_u64().expect(field) as usize;
        let (inputs, outputs, pad) = (size("cin"), size("cout"), size("pad_each_side"));
        let values: Vec<f32> = (1..=inputs).flat_map(|channel| [channel as f32; 4]).collect();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, inputs, 2, 2]), &Device::flex());
        let out = pad_shortcut(Activation::new(x), pad, outputs).into_nchw().into_data().try_to_vec::<f32>().unwrap();
        let expected: Vec<f32> =
            (0..outputs).map(|c| if (pad..pad + inputs).contains(&c) { (c - pad + 1) as f32 } else { 0.0 }).collect();
        assert_eq!(out, expected, "{case}");
        tally.checked += 1;
    }
    tally.report("coupling.option_A_shortcut");
}

#[test]
fn layers_of_the_networks_that_erk_and_flops_are_given() {
    let file = read("unstructured.json");
    let mut tally = Tally::default();
    for (key, case) in entries(&file, "erk") {
        let expected: Vec<(String, Vec<usize>)> = serde_json::from_value(case["layers"].clone()).expect("layers");
        let fits = |graph: &Graph| graph.layers.iter().map(|l| &l.shape).eq(expected.iter().map(|(_, shape)| shape));
        let Some(architecture) = choose(key, fits) else {
            tally.skip(format!("erk.{key}"));
            continue;
        };
        let graph = graph(key, &architecture);
        assert_eq!(graph.layers.len(), expected.len(), "{key}");
        for (layer, (name, shape)) in graph.layers.iter().zip(expected) {
            assert_eq!(layer.shape, shape, "{key} {name}");
            // Where other code has other names, the order of the shapes still tells the layer.
            match layer.name == name {
                true => tally.checked += 1,
                false if NAMED.contains(&&**key) => panic!("{key}: {} is called {name}", layer.name),
                false => tally.skip(format!("erk.{key}: the name {name}, ours is {}", layer.name)),
            }
        }
        tally.equal(&format!("erk.{key}.total_prunable"), &case["total_prunable"], graph.weights() as u64);
    }
    tally.report("erk");
    if !present(&file, "flops") {
        return;
    }
    let mut tally = Tally::default();
    for (key, case) in entries(&file, "flops") {
        let Some(architecture) = choose(key, |graph| case["prunable_params"] == graph.weights()) else {
            tally.skip(format!("flops.{key}"));
            continue;
        };
        let graph = graph(key, &architecture);
        for (figure, expected) in case.as_object().unwrap() {
            match figure.as_str() {
                "prunable_params" => tally.equal(&format!("flops.{key}"), expected, graph.weights() as u64),
                "dense_MACs" => tally.equal(&format!("flops.{key}"), expected, graph.macs()),
                _ => tally.skip(format!("flops.{key}.{figure}")),
            }
        }
    }
    tally.report("flops");
}
