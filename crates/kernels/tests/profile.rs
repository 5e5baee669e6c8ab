//! What a recording counts; alone in its process, since other threads would be counted too.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use bonsai_kernels::profile::{Direction, Part, Profile, Recording, record, section};
use bonsai_kernels::{
    Activation, Gradients, Pattern, Precision, Then, batch_norm_train, conv2d, global_average, sparse_conv2d, timed,
};
use burn::tensor::{Device, Tensor};

const NAP: Duration = Duration::from_millis(20);

fn part(profile: &Profile, part: Part) -> Duration {
    profile.parts[part as usize]
}

/// A stem of stride 1, a sparse convolution of stride 2 with every third weight, and their gradients.
fn step() {
    let device = Device::flex().autodiff();
    let stem = Tensor::ones([8, 3, 3, 3], &device).require_grad();
    let mask: Vec<bool> = (0..16 * 8 * 9).map(|i| i % 3 == 0).collect();
    let floats: Vec<f32> = mask.iter().map(|kept| *kept as u8 as f32).collect();
    let weight = Tensor::<1>::from_floats(floats.as_slice(), &device).reshape([16, 8, 3, 3]).require_grad();
    let pattern = Arc::new(Pattern::new([16, 8, 3, 3], mask));
    let norm = |x, channels| {
        let (gamma, beta) = (Tensor::ones([channels], &device), Tensor::zeros([channels], &device));
        batch_norm_train(x, gamma, beta, 1e-5, Then::Relu).output
    };
    let images = Tensor::random([32, 3, 10, 6], burn::tensor::Distribution::Default, &device);
    let x = norm(conv2d(Activation::new(images), stem, None, 1, 1), 8);
    let x = norm(sparse_conv2d(x, weight, None, 2, 1, &pattern, Gradients::Kept), 16);
    global_average(x).sum().backward();
}

/// A convolution of three channels in bf16 behind one of a single channel, and their gradients.
fn bf16_step() {
    let device = Device::flex().autodiff();
    let conv = |x: Activation, [outputs, inputs]: [usize; 2]| {
        let weight = Tensor::ones([outputs, inputs, 3, 3], &device).require_grad();
        conv2d(x.with_precision(Precision::Bf16), weight, None, 1, 1)
    };
    let images = Tensor::random([32, 1, 10, 6], burn::tensor::Distribution::Default, &device);
    let x = conv(Activation::new(images), [3, 1]);
    global_average(conv(x, [8, 3])).sum().backward();
}

#[test]
fn a_recording_counts_every_part_once() {
    // Sections within sections: what the inner one counts is not the outer one's.
    let (_, profile) = record(|| {
        let _outer = section(Part::Optimizer);
        sleep(NAP);
        let _inner = section(Part::Masks);
        sleep(2 * NAP);
    });
    let threads = profile.threads as u32;
    let (optimizer, masks) = (part(&profile, Part::Optimizer), part(&profile, Part::Masks));
    assert!(optimizer >= NAP * threads && masks >= 2 * NAP * threads, "{profile:?}");
    assert!(optimizer + masks <= profile.wall * threads, "{profile:?}");

    // Taps by hand. The stem: 10 × 6 pixels of 3 × 3 taps, but the rows above the first and below the last are left out.
    let (_, profile) = record(step);
    let convolutions: Vec<_> = profile.convolutions.iter().map(|one| (one.shape.sparse, one.calls)).collect();
    assert_eq!(convolutions, [(false, 1), (true, 1)]);
    let macs = |i: usize, direction| profile.convolutions[i].directions[direction as usize].macs;
    let stem = 32 * 8 * 3 * (10 * 3 - 2) * 3 * 6;
    assert_eq!(macs(0, Direction::Forward), stem);
    assert_eq!(macs(0, Direction::Weight), stem);
    assert_eq!(macs(0, Direction::Data), 0, "images want no gradient");
    // The sparse one: each kept weight meets all 5 × 3 pixels of the output in every direction.
    let kept = 16 * 8 * 9 / 3;
    for direction in Direction::ALL {
        assert_eq!(macs(1, direction), 32 * kept * 5 * 3, "{direction:?}");
    }
    for present in [Part::ForwardDense, Part::WeightDense, Part::ForwardSparse, Part::DataSparse, Part::WeightSparse] {
        assert!(!part(&profile, present).is_zero(), "{present:?}");
    }
    assert!(!part(&profile, Part::Normalisation).is_zero() && !part(&profile, Part::Pooling).is_zero());
    assert!(part(&profile, Part::DataDense).is_zero() && part(&profile, Part::Optimizer).is_zero());
    let all: Duration = profile.parts.iter().sum();
    assert_eq!(all + profile.other(), profile.wall * profile.threads as u32);

    // In bf16 a missing channel of a pair counts, too; the weight gradient has no such pairs.
    let (_, profile) = record(bf16_step);
    let [_, convolution] = profile.convolutions[..] else { panic!("{profile:?}") };
    let macs = convolution.directions.map(|direction| direction.macs);
    assert_eq!((macs[0], macs[1], macs[2]), (stem / 3 * 4, stem, stem));
    for present in [Part::ForwardDense, Part::DataDense, Part::WeightDense, Part::Around] {
        assert!(!part(&profile, present).is_zero(), "{present:?}");
    }
    let all: Duration = profile.parts.iter().sum();
    assert_eq!(all + profile.other(), profile.wall * profile.threads as u32);

    // An operation of burn, forward and backward.
    let x = (Tensor::<2>::ones([64, 64], &Device::flex().autodiff()) * 0.01).require_grad();
    let slow = |x: Tensor<2>| {
        let y = timed(Part::Linear, x, |x| {
            sleep(NAP);
            x.clone().matmul(x)
        });
        timed(Part::Gelu, y, |y| y.exp()).sum()
    };
    let (gradient, profile) = record(|| x.grad(&slow(x.clone()).backward()).unwrap());
    assert!(part(&profile, Part::Linear) >= NAP * profile.threads as u32 && !part(&profile, Part::Gelu).is_zero());
    let alone = slow(x.clone());
    let floats = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(floats(gradient), floats(x.grad(&alone.backward()).unwrap()));

    // A recording may end in another function; meanwhile there is no other, and one that is dropped leaves nothing behind.
    let recording = Recording::try_start().unwrap();
    assert!(Recording::try_start().is_none());
    drop(recording);
    step();
    let recording = Recording::try_start().unwrap();
    step();
    let once = recording.finish();
    assert_eq!((once.convolutions[0].directions[0].macs, once.convolutions[0].calls), (stem, 1));

    // Twice the same work is twice as much, and nothing is counted where nobody records.
    step();
    let twice = Profile::sum([0, 1].map(|_| record(step).1)).unwrap();
    assert_eq!(twice.convolutions[0].directions[0].macs, 2 * stem);
    assert_eq!(twice.convolutions[0].calls, 2);
}
