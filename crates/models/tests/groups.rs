//! Channel groups of every model: what is coupled, what it costs, and the shapes that are left.

use bonsai_models::{Architecture, Network, Shortcut, names};
use bonsai_pruning::channels::{Channels, Group, GroupKind, Role};
use bonsai_pruning::graph::{Node, Op};
use bonsai_pruning::{Graph, Mask};
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use serde_json::Value;

fn cifar(name: &str) -> Architecture {
    Architecture::new(name, 10, [3, 32, 32])
}

fn channels(architecture: &Architecture) -> Channels {
    Channels::derive(&architecture.graph().unwrap()).unwrap()
}

fn group<'a>(channels: &'a Channels, name: &str) -> &'a Group {
    channels.groups.iter().find(|group| group.name == name).unwrap_or_else(|| panic!("no group {name}"))
}

/// The weights of a group, with the places of some units: `conv.weight out 0`.
fn places(group: &Group, units: &[usize]) -> Vec<(String, Vec<usize>)> {
    let weights = group.members.iter().filter(|member| member.role == Role::Weight);
    let side = |axis| if axis == 0 { "out" } else { "in" };
    let mut all: Vec<_> = weights
        .map(|member| {
            let mut at: Vec<usize> = units.iter().flat_map(|unit| member.places[*unit].clone()).collect();
            at.sort_unstable();
            (format!("{} {}", member.parameter, side(member.axis)), at)
        })
        .collect();
    all.sort();
    all
}

fn reference(key: &str) -> Value {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../pruning/vectors");
    let folder = std::env::var("BONSAI_VECTORS").unwrap_or(own.to_string());
    let text = std::fs::read_to_string(format!("{folder}/structured.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[key].clone()
}

#[test]
fn with_a_bypass_every_convolution_of_a_block_may_lose_filters_by_itself() {
    for shortcut in [Shortcut::A, Shortcut::B] {
        let architecture = cifar("resnet20").with_shortcut(shortcut).with_bypass(true);
        let channels = channels(&architecture);
        let mut names: Vec<&str> = channels.groups.iter().map(|group| group.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<String> =
            (0..9).flat_map(|block| [1, 2].map(|conv| format!("blocks.{block}.conv{conv}"))).collect();
        expected.sort();
        assert_eq!(names, expected, "{shortcut:?}");
        assert_eq!(
            places(group(&channels, "blocks.4.conv2"), &[7]),
            [("blocks.4.conv2.weight out".to_string(), vec![7])]
        );

        // Counted by hand: per channel one weight, a scale and a shift; per pixel one multiply-accumulate.
        let (with, without) = (architecture.graph().unwrap(), architecture.clone().with_bypass(false).graph().unwrap());
        let outputs: u64 = [16, 32, 64].iter().map(|width| 6 * width).sum();
        assert_eq!(with.parameters - without.parameters, 3 * outputs);
        assert_eq!(with.macs() - without.macs(), 6 * (16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8));
    }
    let refused = |architecture: Architecture| architecture.check().unwrap_err();
    assert!(refused(cifar("vgg11").with_bypass(true)).contains("bypass = true must be false for vgg11"));
    assert!(refused(cifar("resnet20").with_bypass(true).with_gates(true)).contains("exclude each other"));
}

#[test]
fn residual_networks_have_one_group_a_block_and_one_a_stage() {
    for (name, blocks) in [("resnet20", 3), ("resnet56", 9)] {
        for shortcut in [Shortcut::A, Shortcut::B] {
            let channels = channels(&cifar(name).with_shortcut(shortcut));
            let count = |kind| channels.groups.iter().filter(|group| group.kind == kind).count();
            assert_eq!((count(GroupKind::Inner), count(GroupKind::Stream)), (3 * blocks, 3), "{name} {shortcut:?}");
            let inner = places(group(&channels, "blocks.1.conv1"), &[5]);
            assert_eq!(
                inner,
                [("blocks.1.conv1.weight out".to_string(), vec![5]), ("blocks.1.conv2.weight in".to_string(), vec![5])]
            );
            let stream = group(&channels, "conv");
            let norms: Vec<&str> = stream
                .members
                .iter()
                .filter(|member| member.role == Role::Scale)
                .map(|member| member.parameter.as_str())
                .collect();
            assert_eq!(norms[..2], ["bn.gamma", "blocks.0.bn2.gamma"]);
            assert_eq!(stream.units, 16);
        }
    }
}

#[test]
fn shortcut_a_carries_channels_on_behind_its_zero_channels() {
    let channels = channels(&cifar("resnet20"));
    let stem = places(group(&channels, "conv"), &[3]);
    let at = |what: &str| stem.iter().find(|(name, _)| name == what).unwrap().1.clone();
    assert_eq!(at("conv.weight out"), [3]);
    assert_eq!(at("blocks.3.conv1.weight in"), [3]);
    assert_eq!(at("blocks.3.conv2.weight out"), [3 + 8]);
    assert_eq!(at("blocks.6.conv2.weight out"), [3 + 8 + 16]);
    assert_eq!(at("fc.weight in"), [3 + 8 + 16]);
    // The channels that begin as zeros: eight on each side of sixteen, sixteen on each side of thirty-two.
    let second = group(&channels, "blocks.3.conv2");
    assert_eq!((second.units, group(&channels, "blocks.6.conv2").units), (16, 32));
    let rows = |units: &[usize]| {
        places(second, units).iter().find(|(name, _)| name == "blocks.4.conv2.weight out").unwrap().1.clone()
    };
    assert_eq!((rows(&[0, 7]), rows(&[8, 15])), (vec![0, 7], vec![24, 31]));
}

#[test]
fn a_bottleneck_has_two_groups_of_its_own_and_a_stream_one_a_stage() {
    let channels = channels(&cifar("resnet50"));
    let names: Vec<(&str, GroupKind)> =
        channels.groups.iter().take(5).map(|group| (group.name.as_str(), group.kind)).collect();
    let expected = [
        ("conv1", GroupKind::Inner),
        ("layer1.0.conv1", GroupKind::Inner),
        ("layer1.0.conv2", GroupKind::Inner),
        ("layer1.0.conv3", GroupKind::Stream),
        ("layer1.1.conv1", GroupKind::Inner),
    ];
    assert_eq!(names, expected);
    assert_eq!(channels.groups.iter().filter(|group| group.kind == GroupKind::Stream).count(), 4);
}

#[test]
fn heads_and_their_dimensions_are_groups_of_their_own() {
    // Two heads of four would be: queries 0 to 7, keys 8 to 15, values 16 to 23. Here twelve heads of sixteen.
    let channels = channels(&cifar("vit-cifar"));
    let head = places(group(&channels, "blocks.0.attn.heads"), &[1]);
    let thirds = |start: usize| (start..start + 16).chain(start + 192..start + 208).chain(start + 384..start + 400);
    assert_eq!(
        head,
        [
            ("blocks.0.attn.proj.weight in".to_string(), (16..32).collect::<Vec<_>>()),
            ("blocks.0.attn.qkv.weight out".to_string(), thirds(16).collect())
        ]
    );
    let every = |start: usize| (0..12).map(move |head| start + 16 * head);
    let keys = places(group(&channels, "blocks.0.attn.qk"), &[2]);
    assert_eq!(keys, [("blocks.0.attn.qkv.weight out".to_string(), every(2).chain(every(194)).collect::<Vec<_>>())]);
    let values = places(group(&channels, "blocks.0.attn.v"), &[2]);
    assert_eq!(
        values,
        [
            ("blocks.0.attn.proj.weight in".to_string(), every(2).collect::<Vec<_>>()),
            ("blocks.0.attn.qkv.weight out".to_string(), every(386).collect())
        ]
    );
    assert_eq!(group(&channels, "blocks.0.mlp.fc1").units, 384);
    // Besides four groups a block there is the embedding.
    assert_eq!(channels.groups.len(), 4 * 9 + 1);
    // The reference's three heads of four, and what goes with one of them or with a dimension.
    let small = heads_of_four();
    let coupling = reference("coupling");
    let numbers = |case: &Value, field: &str| -> Vec<usize> { serde_json::from_value(case[field].clone()).unwrap() };
    let at = |group: &str, units: &[usize], what: &str| {
        let all = places(small.groups.iter().find(|known| known.name == group).unwrap(), units);
        all.into_iter().find(|(name, _)| name == what).map(|(_, places)| places).unwrap()
    };
    let case = &coupling["vit_head_removal"];
    let heads = numbers(case, "remove_heads");
    assert_eq!(at("attn.heads", &heads, "qkv.weight out"), numbers(case, "qkv_out_pruned"));
    assert_eq!(at("attn.heads", &heads, "proj.weight in"), numbers(case, "proj_in_pruned"));
    let case = &coupling["vit_head_dim_pruning"];
    let dims = numbers(case, "dims_removed_in_every_head");
    assert_eq!(
        at("attn.qk", &dims, "qkv.weight out"),
        [numbers(case, "q_out_pruned"), numbers(case, "k_out_pruned")].concat()
    );
    assert_eq!(at("attn.v", &dims, "qkv.weight out"), numbers(case, "v_out_pruned"));
    assert_eq!(at("attn.v", &dims, "proj.weight in"), numbers(case, "proj_in_pruned"));
}

/// The channels of attention with three heads of four dimensions.
fn heads_of_four() -> Channels {
    let layer = |name: &str, shape: [usize; 2]| bonsai_pruning::LayerSpec {
        name: format!("{name}.weight"),
        kind: bonsai_pruning::Kind::Linear,
        shape: shape.to_vec(),
        macs: 0,
    };
    let linear = |path: &str| Op::Layer { path: path.into(), bias: true, padded: false };
    let attention = Op::Attention { path: "attn".into(), heads: 3, tokens: 5 };
    let nodes = [(Op::Input, 12), (linear("qkv"), 36), (attention, 12), (linear("proj"), 12), (Op::Output, 12)];
    let node = |(i, (op, width)): (usize, (Op, usize))| Node { op, inputs: (0..i).rev().take(1).collect(), width };
    let graph = Graph {
        layers: vec![layer("qkv", [36, 12]), layer("proj", [12, 12])],
        nodes: nodes.into_iter().enumerate().map(node).collect(),
        ..Graph::default()
    };
    Channels::derive(&graph).unwrap()
}

#[test]
fn the_embedding_is_one_group() {
    let channels = channels(&cifar("vit-cifar"));
    let embedding = group(&channels, "patch_embed.proj");
    assert_eq!((embedding.kind, embedding.units), (GroupKind::Embedding, 192));
    let mut members: Vec<(String, usize)> =
        embedding.members.iter().map(|member| (member.parameter.clone(), member.axis)).collect();
    members.sort();
    let mut expected: Vec<(String, usize)> = Vec::new();
    let mut expect = |parameter: String, axis| expected.push((parameter, axis));
    for (name, axis) in
        [("patch_embed.proj.weight", 0), ("patch_embed.proj.bias", 0), ("cls_token", 2), ("pos_embed", 2)]
    {
        expect(name.to_string(), axis);
    }
    for (name, axis) in [("norm.gamma", 0), ("norm.beta", 0), ("head.weight", 1)] {
        expect(name.to_string(), axis);
    }
    for i in 0..9 {
        for (name, axis) in [
            ("norm1.gamma", 0),
            ("norm1.beta", 0),
            ("attn.qkv.weight", 1),
            ("attn.proj.weight", 0),
            ("attn.proj.bias", 0),
            ("norm2.gamma", 0),
            ("norm2.beta", 0),
            ("mlp.fc1.weight", 1),
            ("mlp.fc2.weight", 0),
            ("mlp.fc2.bias", 0),
        ] {
            expect(format!("blocks.{i}.{name}"), axis);
        }
    }
    expected.sort();
    assert_eq!(members, expected);
}

#[test]
fn concatenated_channels_keep_their_place_in_every_later_layer() {
    // The offsets of the reference, which are those of the first layers of a DenseNet.
    let concat = &reference("coupling")["concat"];
    let channels = channels(&cifar("densenet40"));
    let makers = ["conv", "blocks.0.layers.0.conv", "blocks.0.layers.1.conv"];
    for case in concat["cases"].as_array().unwrap() {
        let numbers = |field: &str| -> Vec<usize> { serde_json::from_value(case[field].clone()).unwrap() };
        let group = group(&channels, makers[case["src"].as_u64().unwrap() as usize]);
        assert_eq!(group.kind, GroupKind::Stream);
        let found = places(group, &numbers("pruned"));
        let at = |what: &str| found.iter().find(|(name, _)| name == what).map(|(_, places)| places.clone());
        for later in ["blocks.0.layers.2.conv", "blocks.0.layers.11.conv", "blocks.0.transition.conv"] {
            assert_eq!(at(&format!("{later}.weight in")), Some(numbers("dst_pruned")), "{later}");
        }
        assert_eq!(at("blocks.1.layers.0.conv.weight in"), None, "the transition mixes all channels");
    }
    // All makers: the first convolution, 36 layers, two transitions.
    assert_eq!(channels.groups.len(), 1 + 36 + 2);
}

#[test]
fn layers_may_pick_from_streams_instead() {
    let kinds = |channels: &Channels, kind| channels.groups.iter().filter(|group| group.kind == kind).count();
    let dense = Channels::derive_whole(&cifar("densenet40").graph().unwrap()).unwrap();
    // Every layer, both transitions, and the normalisation in front of the classifier.
    assert_eq!((dense.groups.len(), kinds(&dense, GroupKind::Selection)), (39, 39));
    assert_eq!(dense.groups.iter().map(|group| group.units).sum::<usize>(), 9360, "the indices of network slimming");
    let residual = Channels::derive_whole(&cifar("preresnet164").graph().unwrap()).unwrap();
    let picked = residual.groups.iter().filter(|group| group.kind == GroupKind::Selection);
    assert_eq!(picked.map(|group| group.units).sum::<usize>(), 8080, "likewise");
    assert_eq!((kinds(&residual, GroupKind::Selection), kinds(&residual, GroupKind::Inner)), (55, 2 * 54));
    let coupled = channels(&cifar("preresnet164"));
    assert_eq!((kinds(&coupled, GroupKind::Stream), kinds(&coupled, GroupKind::Inner)), (4, 2 * 54));
    let first = places(group(&residual, "blocks.1.pre.select"), &[3]);
    assert_eq!(first, [("blocks.1.conv1.weight in".to_string(), vec![3])]);
}

#[test]
fn blocks_may_add_to_some_channels_of_a_stream_that_stays_whole() {
    for (shortcut, blocks) in [(Shortcut::A, 9), (Shortcut::B, 9)] {
        let architecture = cifar("resnet20").with_shortcut(shortcut);
        let channels = Channels::derive_whole(&architecture.graph().unwrap()).unwrap();
        let count = |kind| channels.groups.iter().filter(|group| group.kind == kind).count();
        // The regularised layers of polarization: both normalisations of every block, but not that of the stem.
        assert_eq!((count(GroupKind::Inner), count(GroupKind::Expansion)), (blocks, blocks), "{shortcut:?}");
        assert_eq!(channels.groups.len(), 2 * blocks);
        let added = group(&channels, "blocks.3.expand");
        let members: Vec<(&str, usize)> = added.members.iter().map(|m| (m.parameter.as_str(), m.axis)).collect();
        let expected = ["conv2.weight", "bn2.gamma", "bn2.beta", "bn2.running_mean", "bn2.running_var"];
        assert_eq!(
            members,
            expected.map(|name| format!("blocks.3.{name}")).iter().map(|m| (m.as_str(), 0)).collect::<Vec<_>>()
        );
        assert_eq!((added.units, added.mask_axis()), (32, 0));
    }
    // Counted by hand: 8 of 16 channels inside the first block, of which 3 of 16 are added to.
    let full = cifar("resnet20");
    let mut small = full.clone();
    small.kept.insert("blocks.0.conv1".to_string(), (0..8).collect());
    small.kept.insert("blocks.0.expand".to_string(), vec![1, 5, 15]);
    let (before, after) = (full.graph().unwrap(), small.graph().unwrap());
    let (pixels, gone) = (32 * 32, 9 * (2 * 16 * 16 - 16 * 8 - 8 * 3));
    assert_eq!(before.macs() - after.macs(), pixels * gone);
    assert_eq!(before.parameters - after.parameters, gone + 2 * 8 + 2 * 13);
    let sentence = Channels::derive(&after).unwrap_err();
    assert!(sentence.contains("`blocks.0.conv2.weight`") && sentence.contains("3 of its 16 channels"), "{sentence}");
    small.kept.insert("conv".to_string(), vec![0]);
    assert!(small.check().unwrap_err().contains("only one of the two can be cut"));
}

#[test]
fn a_depthwise_kernel_goes_with_its_channel() {
    let channels = channels(&cifar("mobilenetv2"));
    let hidden = group(&channels, "blocks.1.expand");
    assert_eq!((hidden.kind, hidden.units), (GroupKind::Inner, 96));
    let parameters: Vec<(&str, usize)> =
        hidden.members.iter().filter(|m| m.role == Role::Weight).map(|m| (m.parameter.as_str(), m.axis)).collect();
    let expected = [("blocks.1.expand.weight", 0), ("blocks.1.depthwise.weight", 0), ("blocks.1.project.weight", 1)];
    assert_eq!(parameters, expected);
    // The first block has nothing to widen: its kernels go with the channels of the first convolution.
    let first = places(group(&channels, "conv"), &[7]);
    assert!(first.contains(&("blocks.0.depthwise.weight out".to_string(), vec![7])), "{first:?}");
    assert_eq!(channels.groups.iter().filter(|group| group.kind == GroupKind::Stream).count(), 5);
}

#[test]
fn flattened_maps_go_with_their_channel() {
    for case in reference("coupling")["flatten_nchw"].as_array().unwrap() {
        let numbers = |field: &str| -> Vec<usize> {
            case[field].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
        };
        // LeNet-5 leaves 16 pixels at side 28; the map rule is the same for every area.
        let area = case["stride_hw"].as_u64().unwrap() as usize;
        if area != 4 {
            continue;
        }
        let channels = channels(&Architecture::new("lenet5", 10, [1, 20, 20]));
        let found = places(group(&channels, "conv2"), &numbers("channels_pruned"));
        assert_eq!(found[1], ("fc1.weight in".to_string(), numbers("linear_in_pruned")));
    }
}

/// Removes channels from every group by their widths and returns what is left.
fn with_widths(full: &Architecture, width: impl Fn(&Group) -> usize) -> Architecture {
    let channels = channels(full);
    let flags = channels.groups.iter().map(|group| {
        let left = width(group);
        (group.name.as_str(), (0..group.units).map(|unit| unit < left).collect())
    });
    full.narrowed(flags)
}

#[test]
fn published_shapes_have_their_published_counts() {
    let reference = reference("pruned");
    let share = |share: f64| {
        move |group: &Group| match group.kind {
            GroupKind::Inner => (group.units as f64 * share).round_ties_even() as usize,
            _ => group.units,
        }
    };
    let widths = |widths: &'static [usize]| {
        move |group: &Group| match group.units {
            16 if group.kind == GroupKind::Inner => widths[0],
            32 if group.kind == GroupKind::Inner => widths[1],
            64 if group.kind == GroupKind::Inner => widths[2],
            units => units,
        }
    };
    let cases: [(&str, Architecture); 4] = [
        ("inner_uniform_prune0.3_resnet20", with_widths(&cifar("resnet20"), widths(&[11, 22, 45]))),
        ("inner_uniform_prune0.5_resnet20", with_widths(&cifar("resnet20"), widths(&[8, 16, 32]))),
        ("inner_uniform_prune0.7_resnet56", with_widths(&cifar("resnet56"), widths(&[5, 10, 19]))),
        ("uniform_prune0.5_vgg16", with_widths(&cifar("vgg16"), share(0.5))),
    ];
    for (key, architecture) in cases {
        let graph = architecture.graph().unwrap();
        assert_eq!(reference[key]["params"].as_u64(), Some(graph.parameters), "{key}");
        assert_eq!(reference[key]["macs"].as_u64(), Some(graph.macs()), "{key}");
    }
    let l1 = &reference["l1norm_resnet56_A"];
    let inner: Vec<usize> = l1["inner"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let of_block = |group: &Group| match (group.kind, group.name.split('.').nth(1)) {
        (GroupKind::Inner, Some(block)) => inner[block.parse::<usize>().unwrap()],
        _ => group.units,
    };
    let graph = with_widths(&cifar("resnet56"), of_block).graph().unwrap();
    assert_eq!((l1["params"].as_u64(), l1["macs"].as_u64()), (Some(graph.parameters), Some(graph.macs())));
    // Every channel of a stage narrowed alike, streams included.
    let ucs = &reference["ucs_resnet56_0.45"];
    let stages = |group: &Group| match (group.kind, group.units) {
        (GroupKind::Inner, 16) => 8,
        (GroupKind::Inner, 32) => 14,
        (GroupKind::Inner, _) => 28,
        // A stream under shortcut A is what it carries on and what is its own: 8, 8 + 6 and 14 + 14.
        (_, 16) if group.name == "conv" => 8,
        (_, 16) => 6,
        _ => 14,
    };
    let graph = with_widths(&cifar("resnet56"), stages).graph().unwrap();
    assert_eq!((ucs["params"].as_u64(), ucs["macs"].as_u64()), (Some(graph.parameters), Some(graph.macs())));
}

#[test]
fn coupling_that_cannot_be_derived_names_the_layer() {
    let refused = |damage: &dyn Fn(&mut Graph)| {
        let mut graph = cifar("resnet20").graph().unwrap();
        damage(&mut graph);
        Channels::derive(&graph).unwrap_err()
    };
    let silent = refused(&|graph| graph.nodes.clear());
    assert_eq!(silent, "the coupling of `conv.weight` cannot be derived: the network does not say what it reads");
    let grouped = refused(&|graph| graph.layers[1].shape[1] = 8);
    assert_eq!(
        grouped,
        "the coupling of `blocks.0.conv1.weight` cannot be derived: it turns 16 channels into 16, but its weight is 16x8"
    );
    let alone = cifar("mobilenetv2").graph().unwrap();
    let depthwise = alone.layers.iter().position(|layer| layer.name == "blocks.0.depthwise.weight").unwrap();
    let mut grouped = alone;
    grouped.layers[depthwise].shape[1] = 2;
    let sentence = Channels::derive(&grouped).unwrap_err();
    assert!(sentence.starts_with("the coupling of `blocks.0.depthwise.weight` cannot be derived"), "{sentence}");
    let mismatched = refused(&|graph| {
        let sum = graph.nodes.iter().position(|node| node.op == Op::Add).unwrap();
        graph.nodes[sum].inputs[1] = 0;
    });
    assert_eq!(mismatched, "the coupling behind `blocks.0.conv2.weight` cannot be derived: 3 channels meet 16");
}

#[test]
fn a_shape_that_is_none_is_refused() {
    let with = |name: &str, kept: &[usize]| {
        let mut architecture = cifar("resnet20");
        architecture.kept.insert(name.to_string(), kept.to_vec());
        architecture.check().unwrap_err()
    };
    assert!(with("blocks.9.conv1", &[0]).contains("no channel group of resnet20"));
    for wrong in [&[][..], &[16], &[3, 3], &[2, 1]] {
        assert!(with("blocks.0.conv1", wrong).contains("from 0 to 15 in rising order"), "{wrong:?}");
    }
    let mut both = cifar("preresnet164");
    both.kept.insert("conv".to_string(), vec![0]);
    assert_eq!(both.check(), Ok(()));
    both.kept.insert("blocks.0.pre.select".to_string(), vec![1]);
    assert!(both.check().unwrap_err().contains("only one of the two can be cut"));
    both.kept.remove("conv");
    assert_eq!(both.check(), Ok(()));
    let sentence = Channels::derive(&both.graph().unwrap()).unwrap_err();
    assert!(sentence.contains("`conv.weight`") && sentence.contains("select 1 of its 16 channels"), "{sentence}");
}

#[test]
fn kinds_that_exclude_each_other_are_refused() {
    let refused = |model: &str, scheduler: &str, groups: &str| {
        let run = bonsai_pruning::Horizon { iterations_per_epoch: 10, epochs: 4 };
        let table = format!("name = '{scheduler}'\n{groups}").parse().unwrap();
        let (scheduler, common) = bonsai_pruning::build(&table, run).unwrap();
        let options = bonsai_pruning::Options { channels: common.channels, ..Default::default() };
        bonsai_pruning::Engine::new(&cifar(model).graph().unwrap(), scheduler, options).err().unwrap()
    };
    let slimming = "lambda = 0.1\nchannels = 0.5\nend_epoch = 2";
    let sentence = refused("densenet40", "slimming", slimming);
    assert!(sentence.ends_with("the layers of this network have, in `groups` of kind \"selection\""), "{sentence}");
    let sentence = refused("preresnet164", "slimming", &format!("{slimming}\ngroups = ['stream', 'selection']"));
    assert!(sentence.ends_with("name one of the two"), "{sentence}");
    let magnitude = "macs = 0.9\nend_epoch = 2\nevery = 5\ngroups";
    let sentence = refused("vit-cifar", "group-magnitude", &format!("{magnitude} = ['embedding']\ncompact = false"));
    assert!(sentence.ends_with("leave `compact` true"), "{sentence}");
    let sentence = refused("resnet20", "group-magnitude", &format!("{magnitude} = ['selection']"));
    assert!(sentence.contains("no channel group of kind selection"), "{sentence}");
    let sentence = refused("vgg11", "group-magnitude", &format!("{magnitude} = ['inner', 'expansion']"));
    assert!(sentence.contains("no channel group of kind expansion"), "{sentence}");
    let sentence = refused("resnet20", "group-magnitude", &format!("{magnitude} = ['stream', 'expansion']"));
    assert!(sentence.contains("name one of the two"), "{sentence}");
}

fn some_architecture() -> impl Strategy<Value = Architecture> {
    let all: Vec<Architecture> = names()
        .into_iter()
        .filter(|name| !["vit-s16", "vit-b16", "resnet110"].contains(name))
        .map(cifar)
        .chain(["resnet20", "resnet32"].map(|name| cifar(name).with_shortcut(Shortcut::B)))
        .collect();
    proptest::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_cost_of_some_units_is_that_of_the_smaller_network(architecture in some_architecture(), seed in any::<u64>()) {
        let graph = architecture.graph().unwrap();
        let selects = seed % 2 == 1;
        let derive = |graph: &Graph| match selects {
            true => Channels::derive_whole(graph),
            false => Channels::derive(graph),
        };
        let full = derive(&graph).unwrap();
        let mut state = seed;
        let mut some = |units: usize| {
            let mut mask = Mask::from_bools((0..units).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 63 == 1
            }).collect());
            mask.set(0, true);
            mask
        };
        let units: Vec<Mask> = full.groups.iter().map(|group| some(group.units)).collect();
        let flags = full.groups.iter().zip(&units).map(|(group, mask)| (group.name.as_str(), mask.iter().collect()));
        let smaller = architecture.narrowed(flags);
        prop_assert_eq!(full.macs(&graph, &units), smaller.graph().unwrap().macs());
        // Names stay, so that a smaller network can be cut again.
        let again = derive(&smaller.graph().unwrap()).unwrap();
        prop_assert!(again.groups.iter().map(|group| &group.name).eq(full.groups.iter().map(|group| &group.name)));
        prop_assert!(again.groups.iter().map(|group| group.units).eq(units.iter().map(Mask::kept)));
        if ["resnet20", "lenet5", "densenet40", "mobilenetv2"].contains(&&*architecture.name) {
            let network = Network::new(&smaller, 0, &Device::flex()).unwrap();
            prop_assert_eq!(network.forward(Tensor::ones([2, 3, 32, 32], &Device::flex())).dims(), [2, 10]);
        }
    }
}
