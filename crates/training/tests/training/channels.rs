//! Channels that go: the masked network and the smaller one are the same, and stay so while they train.

use bonsai_data::Batch;
use bonsai_models::{Architecture, Network, Shortcut, Sparsity};
use bonsai_pruning::channels::{GroupKind, Role};
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::graph::Kind;
use bonsai_pruning::mask::Mask;
use bonsai_pruning::{ChannelOptions, registry};
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::{Optimizer, Rule};
use bonsai_training::parameters::{self, to_device, to_host};
use bonsai_training::trainee::{StepOptions, Trainee};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::rand_core::Rng;

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };
const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: true };
const ADAM: Rule = Rule::AdamW { betas: (0.9, 0.999), epsilon: 1e-8 };
/// Removes channels when told to, and never by itself before the run ends.
const ON_DEMAND: &str = "name = 'group-magnitude'\nmacs = 0.99\nstart_epoch = 1\nend_epoch = 2\nevery = 10";

fn trainee(architecture: Architecture, rule: Rule, scheduler: &str, groups: &[GroupKind]) -> Trainee {
    let (scheduler, common) = registry::build(&scheduler.parse().unwrap(), HORIZON).unwrap();
    let channels = ChannelOptions { compact: false, groups: groups.to_vec(), ..common.channels };
    let engine =
        Engine::new(&architecture.graph().unwrap(), scheduler, Options { seed: 3, channels, ..Options::default() })
            .unwrap();
    let options = StepOptions {
        label_smoothing: 0.0,
        clip_norm: Some(1.0),
        accumulate: 1,
        precision: Default::default(),
        decayed: Default::default(),
    };
    let device = Device::flex().autodiff();
    let mut trainee = Trainee::new(architecture, 3, engine, Optimizer::new(rule, 5e-4), options, device).unwrap();
    let mut names = Vec::new();
    parameters::visit(&trainee.network, |info, _| names.push(info.name.clone()));
    trainee.options_mut().decayed = names.into_iter().collect();
    trainee.begin();
    trainee
}

/// Gives every parameter other values, variances above zero, so that no normalisation is the identity.
fn shake(trainee: &mut Trainee) {
    let mut stream = bonsai_random::stream(0, "shake", 0);
    trainee.network = parameters::map(trainee.network.clone(), |info, old| {
        let noise: Vec<f32> = (0..old.dims()[0]).map(|_| stream.next_u32() as f32 / u32::MAX as f32).collect();
        let noise = to_device(noise, &Device::flex());
        Some(match info.name.rsplit('.').next().unwrap() {
            "running_var" | "gamma" => noise + 0.5,
            "running_mean" | "beta" | "bias" => noise - 0.5,
            _ => old + (noise - 0.5) * 0.02,
        })
    });
}

/// Keeps about half of the units of every group, by chance.
fn half(trainee: &Trainee, seed: u64) -> Vec<Mask> {
    let mut stream = bonsai_random::stream(seed, "half", 0);
    let mut mask = |units: usize| {
        let mut mask = Mask::from_bools((0..units).map(|_| stream.next_u32() >> 31 == 1).collect());
        mask.set(units / 2, true);
        mask
    };
    trainee.engine.groups().map(|(group, _)| mask(group.units)).collect()
}

fn batch(input: [usize; 3], records: usize, key: u64) -> Batch {
    let mut stream = bonsai_random::stream(0, "channel batch", key);
    let [channels, height, width] = input;
    let pixels = records * channels * height * width;
    Batch {
        images: (0..pixels).map(|_| stream.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect(),
        labels: (0..records).map(|i| (i % 10) as i32).collect(),
        shape: [records, channels, height, width],
        ..Batch::default()
    }
}

fn logits(network: &Network, sparsity: &Sparsity, batch: &Batch) -> Vec<f32> {
    let images = Tensor::<4>::from_data(TensorData::new(batch.images.clone(), batch.shape), &Device::flex());
    let logits = network.valid().forward_sparse(images, sparsity);
    let length = logits.dims().iter().product::<usize>();
    to_host(logits.reshape([length]))
}

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(1.0f32, |max, x| max.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= tolerance * largest, "{what}: {a} and {b}");
    }
}

/// Channels that go from all that read them; which kinds a method prunes does not matter here.
const COUPLED: &[GroupKind] = &[GroupKind::Inner, GroupKind::Stream];
/// Channels that single layers pick from streams.
const SELECTED: &[GroupKind] = &[GroupKind::Selection];

/// Channels inside blocks, and those that single blocks add to streams.
const EXPANDED: &[GroupKind] = &[GroupKind::Inner, GroupKind::Expansion];

/// One of every kind of coupling that the zoo has.
fn zoo() -> Vec<(Architecture, &'static [GroupKind])> {
    let cifar = |name, side| Architecture::new(name, 10, [3, side, side]);
    vec![
        (cifar("resnet20", 16), COUPLED),
        (cifar("resnet20", 15).with_shortcut(Shortcut::B), COUPLED),
        (cifar("resnet20", 16), EXPANDED),
        (cifar("resnet20", 15).with_shortcut(Shortcut::B), EXPANDED),
        (cifar("resnet20", 16).with_bypass(true), COUPLED),
        (cifar("resnet20", 15).with_shortcut(Shortcut::B).with_bypass(true), COUPLED),
        (cifar("resnet18", 16), COUPLED),
        (cifar("resnet50", 16), COUPLED),
        (cifar("preresnet164", 12), COUPLED),
        (cifar("preresnet164", 12), SELECTED),
        (cifar("densenet40", 12), COUPLED),
        (cifar("densenet40", 12), SELECTED),
        (cifar("mobilenetv2", 16), COUPLED),
        (cifar("tas-c10-resnet20", 16), COUPLED),
        (cifar("vgg11", 32), COUPLED),
        (cifar("vgg16-linear", 32), COUPLED),
        (cifar("vit-cifar", 16), COUPLED),
        (Architecture::new("lenet5", 10, [1, 28, 28]), COUPLED),
        (Architecture::new("mlp", 10, [1, 28, 28]), COUPLED),
    ]
}

/// Says which network of the zoo is meant.
fn title((architecture, groups): &(Architecture, &[GroupKind])) -> String {
    let way = match *groups {
        SELECTED => "selected",
        EXPANDED => "expanded",
        _ => "coupled",
    };
    format!("{} {:?} {way}", architecture.name, architecture.shortcut)
}

#[test]
fn a_network_gives_the_same_logits_before_and_after_channels_are_cut_out() {
    for case in zoo() {
        let name = title(&case);
        let (architecture, groups) = case;
        let batch = batch(architecture.input, 4, 1);
        let mut trainee = trainee(architecture, SGD, ON_DEMAND, groups);
        shake(&mut trainee);
        // Twice, because the second cut starts from a network that was cut before.
        for round in 0..2 {
            let units = half(&trainee, round);
            trainee.set_units(units);
            let (macs, kept, parameters) = (trainee.engine.macs(), trainee.engine.kept(), trainee.engine.parameters());
            let masked = logits(&trainee.network, trainee.sparsity(), &batch);
            trainee.compact();
            assert_close(&logits(&trainee.network, trainee.sparsity(), &batch), &masked, 1e-5, &name);
            let graph = trainee.architecture().graph().unwrap();
            assert_eq!((macs, kept, parameters), (graph.macs(), graph.weights() as u64, graph.parameters), "{name}");
            assert_eq!((trainee.engine.macs(), trainee.engine.kept()), (macs, kept), "{name}");
        }
    }
}

#[test]
fn constants_of_removed_channels_are_absorbed() {
    // Around a bypass, a missing filter leaves no constant.
    for case in zoo().into_iter().filter(|(architecture, _)| !architecture.bypass) {
        let name = title(&case);
        let (architecture, groups) = case;
        let mut trainee = trainee(architecture.clone(), SGD, ON_DEMAND, groups);
        shake(&mut trainee);
        let mut units = half(&trainee, 0);
        // What a feature of the embedding says is no constant: layer normalisation changes with the others. What a block
        // adds to a stream is bent by the rectifier behind the sum.
        for ((group, _), units) in trainee.engine.groups().zip(&mut units) {
            if [GroupKind::Embedding, GroupKind::Expansion].contains(&group.kind) {
                *units = Mask::dense(group.units);
            }
        }
        // Weights and scales of the removed channels are zero, and their biases and shifts are not: nothing is lost.
        let gone = |roles: &'static [Role]| -> Vec<(String, Vec<usize>)> {
            let members = trainee.engine.groups().zip(&units).flat_map(|((group, _), mask)| {
                let members = group.members.iter().filter(|member| member.axis == 0 && roles.contains(&member.role));
                members.map(move |member| (member, mask))
            });
            let places = |mask: &Mask, places: &[Vec<usize>]| {
                (0..mask.len()).filter(|unit| !mask.get(*unit)).flat_map(|unit| places[unit].clone()).collect()
            };
            members.map(|(member, mask)| (member.parameter.clone(), places(mask, &member.places))).collect()
        };
        let (makers, constants) = (gone(&[Role::Weight, Role::Scale]), gone(&[Role::Bias, Role::Shift]));
        let layers = trainee.engine.layers().to_vec();
        let without = |network: &Network, gone: &[(String, Vec<usize>)]| {
            parameters::map(network.clone(), |info, old| {
                let mut values = to_host(old.clone());
                for (_, gone) in gone.iter().filter(|(parameter, _)| *parameter == info.name) {
                    // A linear weight is stored [in, out].
                    let place = |i: usize| match layers.iter().find(|layer| layer.name == info.name) {
                        Some(layer) if layer.kind == Kind::Linear => i % layer.units(),
                        Some(layer) => i / layer.width(),
                        None => i,
                    };
                    values
                        .iter_mut()
                        .enumerate()
                        .filter(|(i, _)| gone.contains(&place(*i)))
                        .for_each(|(_, value)| *value = 0.0);
                }
                Some(to_device(values, &Device::flex()))
            })
        };
        trainee.network = without(&trainee.network, &makers);
        let batch = batch(architecture.input, 4, 1);
        let before = logits(&trainee.network, trainee.sparsity(), &batch);
        let silent = logits(&without(&trainee.network, &constants), trainee.sparsity(), &batch);
        let [exact, nearly] = trainee.set_units(units);
        trainee.compact();
        let after = logits(&trainee.network, trainee.sparsity(), &batch);
        let scale = before.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let error = |other: &[f32]| before.iter().zip(other).fold(0.0f32, |max, (a, b)| max.max((a - b).abs())) / scale;
        let (with, without) = (error(&after), error(&silent));
        println!(
            "{name}: logits change by {with:.1e} of the largest with absorbed constants, by {without:.1e} without"
        );
        assert!(exact.max(nearly) > 1e-3, "{name}: nothing was there to absorb");
        // Without padding, as in perceptrons, LeNet-5 and transformers, absorbing is exact.
        assert!(with < if nearly > 0.0 { without } else { 1e-5 }, "{name}: {with} and {without}");
    }
}

fn train(trainee: &mut Trainee, lr: f64, iterations: std::ops::RangeInclusive<u64>) -> Vec<f64> {
    let input = trainee.architecture().input;
    let step = |iteration| {
        let mut meter = Meter::default();
        let gradients = trainee.gradients(&batch(input, 20, iteration), false, &mut meter);
        trainee.step(gradients, &Clock { iteration, horizon: HORIZON, lr });
        meter.read().mean_loss()
    };
    iterations.map(step).collect()
}

#[test]
fn training_goes_on_after_a_cut_as_with_masks() {
    // The larger VGG takes long, and has no coupling of its own but that of a perceptron.
    let zoo = zoo().into_iter().filter(|(architecture, _)| architecture.name != "vgg16-linear");
    for (case, rule) in zoo.zip([SGD, ADAM].into_iter().cycle()) {
        let name = title(&case);
        let (architecture, groups) = case;
        // Rounding errors flip rectifiers, and Adam divides them by their own size: large steps would drown the comparison.
        let lr = if rule == SGD { 1e-3 } else { 1e-4 };
        let [mut masked, mut cut] = [(); 2].map(|()| {
            let mut trainee = trainee(architecture.clone(), rule.clone(), ON_DEMAND, groups);
            train(&mut trainee, lr, 1..=2);
            let units = half(&trainee, 0);
            trainee.set_units(units);
            trainee
        });
        cut.compact();
        let (of_masked, of_cut) = (train(&mut masked, lr, 3..=4), train(&mut cut, lr, 3..=4));
        for (a, b) in of_cut.iter().zip(&of_masked) {
            assert!((a - b).abs() <= 2e-4 * b.abs().max(1.0), "{name}: {of_cut:?} and {of_masked:?}");
        }
        // Cut at last, the masked one holds what the other has trained.
        masked.compact();
        let ((ours, _), (theirs, _)) = (cut.save(), masked.save());
        assert!(ours.keys().eq(theirs.keys()), "{name}");
        for (key, tensor) in &ours {
            let Ok(values) = tensor.as_f32() else { continue };
            assert_eq!(tensor.shape, theirs[key].shape, "{name}: {key}");
            assert_close(values, theirs[key].as_f32().unwrap(), 2e-3, &format!("{name}: {key}"));
        }
    }
}
