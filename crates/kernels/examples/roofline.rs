//! Says how far the kernels of a training step of ResNet-20 (CIFAR shapes, batch 128) are from what the machine allows:
//! `cargo run --release -p bonsai-kernels --example roofline [0|0.8|0.9|0.95] [steps]`.
//!
//! All kernels run in the order of a step, on buffers of their own, so that they find the caches as a step leaves them;
//! loss, optimizer and burn's graph are left out. Three roofs are measured first: multiply-adds in registers (dense kernels
//! read several registers for each load), multiply-adds whose one operand comes from the first cache (a sparse kernel reads
//! a pixel for each), and reading from memory and from the last cache. The executed multiply-adds at the first or second
//! are the compute roof; all activations that a kernel reads and writes (a line that is written is read first) are its
//! memory roof, at best from the last cache and at worst from memory. Milliseconds of all threads together.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bonsai_kernels::Precision;
use bonsai_kernels::batch_norm::{Affine, Gate, Statistics};
use bonsai_kernels::buffer::Buffer;
use bonsai_kernels::conv::unit::{Backward, Input, Norm, Unit, Wanted};
use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::peak::flops;
use bonsai_kernels::planes::Planes;
use bonsai_kernels::pooling;
use bonsai_kernels::profile::{Direction, Part, Profile, record};
use bonsai_kernels::simd::Level;
use rand::RngExt;
use rayon::prelude::*;

const EPSILON: f64 = 1e-5;

struct Layer {
    conv: Conv,
    weight: Vec<f32>,
    pattern: Option<Pattern>,
}

impl Layer {
    fn new(dims: [usize; 4], outputs: usize, stride: usize, share: f64) -> Layer {
        let conv = Conv { input: Maps::new(dims), outputs, kernel: [3; 2], stride, padding: 1 };
        let mut random = bonsai_random::stream(0, "mask", outputs);
        let mut weight: Vec<f32> = (0..outputs * dims[1] * 9).map(|_| random.random_range(-0.1..0.1)).collect();
        let pattern = (share < 1.0).then(|| {
            let mask: Vec<bool> = weight.iter().map(|_| random.random_bool(share)).collect();
            weight.iter_mut().zip(&mask).filter(|(_, kept)| !**kept).for_each(|(weight, _)| *weight = 0.0);
            Pattern::new([outputs, dims[1], 3, 3], mask)
        });
        Layer { conv, weight, pattern }
    }

    fn unit(&self) -> Unit<'_> {
        Unit { conv: &self.conv, weight: &self.weight, pattern: self.pattern.as_ref(), precision: Precision::F32 }
    }

    fn wanted<'a>(&'a self, input: bool, onto: Option<&'a mut [f32]>) -> Wanted<'a> {
        Wanted { input, onto, weight: true, kept: self.pattern.as_ref() }
    }
}

/// What a convolution leaves for the backward pass.
struct Normed {
    z: Buffer,
    statistics: Statistics,
    affine: Affine,
}

impl Normed {
    fn of(layer: &Layer, input: Input) -> Normed {
        let (z, statistics) = layer.unit().forward(input, true);
        let statistics = statistics.expect("statistics are asked for");
        let channels = layer.conv.outputs;
        let affine = statistics.affine(&vec![1.0; channels], &vec![0.1; channels], EPSILON);
        Normed { z, statistics, affine }
    }
}

/// Runs the kernels of a step.
fn step(stem: &Layer, blocks: &[[Layer; 2]], images: &[f32]) {
    let first = Normed::of(stem, Input { x: Planes::Whole(images), norm: None });
    let mut xs = vec![first.affine.apply(stem.conv.output(), &first.z, true, None)];
    let mut normed = Vec::new();
    for [one, two] in blocks {
        let x = xs.last().expect("there is an input");
        let a = Normed::of(one, Input { x: Planes::Whole(x), norm: None });
        let b = Normed::of(two, Input { x: Planes::Whole(&a.z), norm: Some(Norm { affine: &a.affine, relu: true }) });
        let to = two.conv.output();
        let (y, gate) = match one.conv.stride {
            1 => b.affine.join(to, &b.z, x),
            _ => b.affine.join(to, &b.z, &pooling::shortcut(one.conv.input, x, to.channels)),
        };
        normed.push(([a, b], gate));
        xs.push(y);
    }
    let last = blocks.last().expect("there are blocks")[1].conv.output();
    let mut gradient = pooling::global_average_gradient(last, &pooling::global_average(last, &xs[blocks.len()]));
    for (i, ([one, two], ([a, b], passed))) in blocks.iter().zip(&normed).enumerate().rev() {
        let (x, to) = (&xs[i], two.conv.output());
        let sums = b.affine.shut(to, &mut gradient, &b.z, passed);
        let training = (&b.statistics, &sums, EPSILON);
        let norm = Backward { z: &b.z, affine: &b.affine, gate: Gate::Open, training };
        let input = Input { x: Planes::Whole(&a.z), norm: Some(Norm { affine: &a.affine, relu: true }) };
        let of = two.unit().backward(input, &gradient, Some(norm), two.wanted(true, None));
        let (of, sums) = (of.input.expect("asked for"), of.sums.expect("the input is normalised"));
        let training = (&a.statistics, &sums, EPSILON);
        let norm = Backward { z: &a.z, affine: &a.affine, gate: Gate::Input, training };
        let mut onto = match one.conv.stride {
            1 => gradient,
            _ => pooling::shortcut_gradient(one.conv.input, to, &gradient),
        };
        drop(one.unit().backward(
            Input { x: Planes::Whole(x), norm: None },
            &of,
            Some(norm),
            one.wanted(true, Some(&mut onto)),
        ));
        gradient = onto;
    }
    let sums = first.affine.sums(stem.conv.output(), &gradient, &first.z, Gate::Input);
    let training = (&first.statistics, &sums, EPSILON);
    let norm = Backward { z: &first.z, affine: &first.affine, gate: Gate::Input, training };
    drop(stem.unit().backward(
        Input { x: Planes::Whole(images), norm: None },
        &gradient,
        Some(norm),
        stem.wanted(false, None),
    ));
}

/// The bytes of the activations that the three directions of a convolution with its normalisations move, the passes
/// between two convolutions aside: forward, data gradient, weight gradient.
fn bytes(conv: &Conv) -> [f64; 3] {
    let (from, to) = (size_of::<f32>() * conv.input.len(), size_of::<f32>() * conv.output().len());
    // z is written; then its gradient and z give the gradient of z, and x; the gradient of x is written.
    [from + 2 * to, 2 * from, from + 2 * to].map(|bytes| bytes as f64)
}

/// Bytes that all threads read in a second from buffers of `megabytes` together.
fn read_speed(megabytes: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let buffer = Buffer::zeros(megabytes * 1_000_000 / 4);
    let rounds = 800 / megabytes;
    let round = |part: &[f32]| {
        let mut sums = [0.0f32; 64];
        for chunk in part.chunks_exact(64) {
            sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
        }
        black_box(sums);
    };
    let time = || {
        let began = Instant::now();
        buffer.par_chunks(buffer.len().div_ceil(threads)).for_each(|part| (0..rounds).for_each(|_| round(part)));
        began.elapsed().as_secs_f64()
    };
    let best = (0..5).map(|_| time()).fold(f64::MAX, f64::min);
    (rounds * size_of_val(&buffer[..])) as f64 / best
}

/// Operations per second of all threads in a sparse convolution whose pixels stay in the first cache.
fn sparse_peak() -> f64 {
    // A map of 4 × 4 pixels: 16 channels take 31 KB. Long lists, so that little time goes to their ends.
    let layer = Layer::new([16 * 64, 16, 4, 4], 16, 1, 0.9);
    let x = layer.conv.input.from_nchw(&vec![0.5; layer.conv.input.dims().iter().product()]);
    let pattern = layer.pattern.as_ref().expect("a share is kept");
    let profiles = (0..20).map(|_| record(|| drop(layer.conv.forward_kept(&x, &layer.weight, pattern))).1);
    let speeds = profiles.map(|profile| profile.convolutions[0].directions[Direction::Forward as usize].flops());
    speeds.fold(0.0, f64::max) * rayon::current_num_threads() as f64
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sparsity: &str = arguments.first().map_or("0.9", String::as_str);
    let steps: usize = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    // Kept shares of 16, 16 to 32, 32, 32 to 64 and 64 channels, as in an ERK allocation.
    let shares = match sparsity {
        "0" => [1.0; 5],
        "0.8" => [0.604, 0.43, 0.278, 0.202, 0.133],
        "0.9" => [0.302, 0.215, 0.139, 0.101, 0.0666],
        "0.95" => [0.1475, 0.105, 0.0679, 0.0495, 0.0325],
        other => panic!("the sparsity is '{other}'; it may be 0, 0.8, 0.9 or 0.95"),
    };
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("no threads have been started yet");

    let stem = Layer::new([128, 3, 32, 32], 16, 1, 1.0);
    let blocks: Vec<[Layer; 2]> = (0..9)
        .map(|i| {
            let (stage, channels, side) = (i / 3, 16 << (i / 3), 32 >> (i / 3));
            let first = match i {
                3 | 6 => Layer::new([128, channels / 2, 2 * side, 2 * side], channels, 2, shares[2 * stage - 1]),
                _ => Layer::new([128, channels, side, side], channels, 1, shares[2 * stage]),
            };
            [first, Layer::new([128, channels, side, side], channels, 1, shares[2 * stage])]
        })
        .collect();
    let images: Vec<f32> = (0..128 * 3 * 1024).map(|i| (i % 7) as f32 - 3.0).collect();
    let images = stem.conv.input.from_nchw(&images);

    let threads = rayon::current_num_threads();
    let (dense, sparse) = (flops(Level::current(), true), sparse_peak());
    let (memory, cache) = (read_speed(160), read_speed(16));
    println!(
        "{threads} threads, all together: {:.0} GF/s in registers, {:.0} GF/s from the first cache, \
         {:.0} GB/s from memory, {:.0} GB/s from the last cache\n",
        dense / 1e9,
        sparse / 1e9,
        memory / 1e9,
        cache / 1e9
    );
    let mut profiles = Vec::new();
    for i in 0..steps + 3 {
        let (_, profile) = record(|| step(&stem, &blocks, &images));
        if i >= 3 {
            profiles.push(profile);
        }
    }
    profiles.sort_by_key(|profile| profile.wall);
    profiles.truncate(steps.div_ceil(2));
    let count = profiles.len() as f64;
    let profile = Profile::sum(profiles).expect("there are steps");
    let of_step = |time: Duration| time.as_secs_f64() * 1e3 / count;
    let of_threads = |time: Duration| of_step(time) / threads as f64;

    println!("{:28} {:16} {:>8} {:>8} {:>9} {:>15} {:>9}", "", "", "GFLOP", "MB", "compute", "memory", "measured");
    let mut roofs = [0.0; 4];
    let mut row = |name: &str, part: &str, work: f64, peak: f64, bytes: f64, measured: f64| {
        let (compute, best, worst) = (work / peak * 1e3, bytes / cache * 1e3, bytes / memory * 1e3);
        let ranges = format!("{best:.2} to {worst:.2}");
        let (gigaflop, megabytes) = (work / 1e9, bytes / 1e6);
        println!("{name:28} {part:16} {gigaflop:8.2} {megabytes:8.1} {compute:9.2} {ranges:>15} {measured:9.2}");
        let roof = [compute, best, worst, measured];
        roofs.iter_mut().zip(roof).for_each(|(sum, roof)| *sum += roof);
    };
    let layers = || blocks.iter().flatten().chain([&stem]);
    for convolutions in &profile.convolutions {
        let shape = convolutions.shape;
        let conv = |layer: &&Layer| {
            let Conv { input, outputs, stride, .. } = layer.conv;
            ([input.channels, input.height, input.width], outputs, stride) == (shape.input, shape.outputs, shape.stride)
        };
        let name = format!("{:?} to {}, stride {}", shape.input, shape.outputs, shape.stride);
        let names = ["forward", "data gradient", "weight gradient"];
        for (i, (work, part)) in convolutions.directions.iter().zip(names).enumerate() {
            if work.macs > 0 {
                let bytes: f64 = layers().filter(conv).map(|layer| bytes(&layer.conv)[i]).sum();
                let peak = if shape.sparse { sparse } else { dense };
                row(&name, part, 2.0 * work.macs as f64 / count, peak, bytes, of_threads(work.time));
            }
        }
    }
    // The passes between two convolutions: the residual is added, and shut on the way back, by a bit of each pixel.
    let maps = |layer: &Layer| (size_of::<f32>() * layer.conv.output().len()) as f64;
    let between = 7.0 * blocks.iter().map(|[_, two]| maps(two)).sum::<f64>() + 5.0 * maps(&stem);
    let part = |part: Part| of_threads(profile.parts[part as usize]);
    row("batch norm, residual", "", 0.0, dense, between, part(Part::Normalisation));
    row("pooling, lists, sums", "", 0.0, dense, 0.0, part(Part::Pooling) + part(Part::Around));
    row("waiting", "", 0.0, dense, 0.0, of_threads(profile.other()));
    let [compute, best, worst, measured] = roofs;
    println!("{:28} {:43} {compute:9.2} {:>15} {measured:9.2}", "step", "", format!("{best:.2} to {worst:.2}"));
}
