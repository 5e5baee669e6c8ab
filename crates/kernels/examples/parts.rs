//! Says where the time of a training step of ResNet-20 goes (CIFAR shapes, batch 128), dense, in bf16 and sparse:
//! `cargo run --release -p bonsai-kernels --example parts`.
//!
//! Each part is timed alone, on three sets of buffers in turn so that they come from memory, and multiplied by how often a
//! step has it. The stem, the classifier, the loss and the optimizer are left out. Milliseconds.

use std::time::Instant;

use bonsai_kernels::Precision;
use bonsai_kernels::batch_norm::{Gate, Statistics};
use bonsai_kernels::buffer::Buffer;
use bonsai_kernels::conv::unit::{Backward, Input, Norm, Unit, Wanted};
use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::planes::Planes;
use rand::RngExt;

const PARTS: [&str; 7] =
    ["convolve", "+ norm, moments", "weight gradient", "data gradient", "+ norm, sums", "norm + residual", "its gate"];

fn main() {
    // Input, output channels, stride, convolutions of a step, and kept shares as in an ERK allocation.
    let layers = [
        ([128, 16, 32, 32], 16, 1, 6, [1.0, 0.302, 0.1475]),
        ([128, 16, 32, 32], 32, 2, 1, [1.0, 0.215, 0.105]),
        ([128, 32, 16, 16], 32, 1, 5, [1.0, 0.139, 0.0679]),
        ([128, 32, 16, 16], 64, 2, 1, [1.0, 0.101, 0.0495]),
        ([128, 64, 8, 8], 64, 1, 5, [1.0, 0.0666, 0.0325]),
    ];
    println!("{} threads; {PARTS:?}", rayon::current_num_threads());
    for (name, number, precision) in [
        ("dense", 0, Precision::F32),
        ("bf16", 0, Precision::Bf16),
        ("90 %", 1, Precision::F32),
        ("95 %", 2, Precision::F32),
    ] {
        let mut total = [0.0; PARTS.len()];
        for (dims, outputs, stride, count, shares) in layers {
            let conv = Conv { input: Maps::new(dims), outputs, kernel: [3; 2], stride, padding: 1 };
            let times = parts(conv, shares[number], precision).map(|time| time * count as f64);
            println!("  {name} {dims:?} to {outputs}, {count} times: {times:5.2?}");
            total.iter_mut().zip(times).for_each(|(total, time)| *total += time);
        }
        println!("{name}: {total:5.1?}, together {:.1}", total.iter().sum::<f64>());
    }
}

fn parts(conv: Conv, share: f64, precision: Precision) -> [f64; PARTS.len()] {
    let (from, to) = (conv.input, conv.output());
    let shape = [conv.outputs, from.channels, 3, 3];
    let mut random = bonsai_random::stream(0, "mask", conv.outputs);
    let weight: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-0.1..0.1)).collect();
    let pattern = (share < 1.0).then(|| Pattern::new(shape, weight.iter().map(|_| random.random_bool(share))));
    let unit = Unit { conv: &conv, weight: &weight, pattern: pattern.as_ref(), precision };
    let buffer = |maps: Maps| {
        let images: Vec<f32> = (0..maps.dims().iter().product::<usize>()).map(|i| (i % 7) as f32 - 3.0).collect();
        maps.from_nchw(&images)
    };
    let sets: Vec<_> = (0..3).map(|_| [buffer(from), buffer(to), buffer(to), buffer(to)]).collect();
    let statistics = [Statistics::of(from, &sets[0][0]), Statistics::of(to, &sets[0][1])];
    let [first, last] = statistics.each_ref().map(|statistics| {
        let channels = statistics.mean.len();
        statistics.affine(&vec![1.0; channels], &vec![0.0; channels], 1e-5)
    });
    let sums = last.sums(to, &sets[0][2], &sets[0][1], Gate::Input);
    let norm = Norm { affine: &first, relu: true };
    let backward = |set: &[Buffer; 4], fused: bool, input: bool, weight: bool| {
        let norm_before = fused.then_some(norm);
        let norm = Backward { z: &set[1], affine: &last, gate: Gate::Input, training: (&statistics[1], &sums, 1e-5) };
        let wanted = Wanted { input, onto: None, weight, kept: pattern.as_ref() };
        drop(unit.backward(
            Input { x: Planes::Whole(&set[0]), norm: norm_before },
            &set[2],
            fused.then_some(norm),
            wanted,
        ));
    };
    let mut sets = sets;
    let convolve = time(&mut sets, |set| drop(unit.forward(Input { x: Planes::Whole(&set[0]), norm: None }, false)));
    let fused = time(&mut sets, |set| drop(unit.forward(Input { x: Planes::Whole(&set[0]), norm: Some(norm) }, true)));
    let of_weight = time(&mut sets, |set| backward(set, false, false, true));
    let of_data = time(&mut sets, |set| backward(set, false, true, false));
    let both = time(&mut sets, |set| backward(set, true, true, true));
    // Every second convolution of a step is followed by these.
    let join = time(&mut sets, |set| drop(last.join(to, &set[1], &set[3]))) / 2.0;
    let (_, passed) = last.join(to, &sets[0][1], &sets[0][3]);
    let shut = time(&mut sets, |[_, z, gradient, _]| drop(last.shut(to, gradient, z, &passed))) / 2.0;
    [convolve, fused - convolve, of_weight, of_data, both - of_weight - of_data, join, shut]
}

fn time(sets: &mut [[Buffer; 4]], mut work: impl FnMut(&mut [Buffer; 4])) -> f64 {
    let count = sets.len();
    let mut times: Vec<f64> = (0..15)
        .map(|i| {
            let start = Instant::now();
            work(&mut sets[i % count]);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
