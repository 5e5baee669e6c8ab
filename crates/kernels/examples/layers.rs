//! Times convolution kernels alone: `cargo run --release -p bonsai-kernels --example layers [bf16]`. Those of bf16 round
//! their operands first, which is part of the time.
//!
//! Prints the median of some repeats and GF/s, counting taps that lie on the map only.

use std::time::Instant;

use bonsai_kernels::conv::Conv;
use bonsai_kernels::maps::Maps;
use bonsai_kernels::simd::Level;

fn main() {
    let rounded = std::env::args().any(|argument| argument == "bf16");
    println!(
        "{:?}, {} threads, {}",
        Level::current(),
        rayon::current_num_threads(),
        if rounded { "bf16" } else { "f32" }
    );
    println!("{:34} {:>17} {:>17} {:>17}", "", "forward", "data gradient", "weight gradient");
    for (dims, outputs, kernel, stride) in [
        ([128, 3, 32, 32], 16, 3, 1),
        ([128, 16, 32, 32], 16, 3, 1),
        ([128, 16, 32, 32], 32, 3, 2),
        ([128, 32, 16, 16], 32, 3, 1),
        ([128, 32, 16, 16], 64, 3, 2),
        ([128, 64, 8, 8], 64, 3, 1),
        ([128, 64, 16, 16], 256, 1, 1),
        ([128, 256, 16, 16], 64, 1, 1),
        ([128, 512, 2, 2], 512, 3, 1),
        ([128, 13, 32, 32], 15, 3, 1),
    ] {
        let conv = Conv { input: Maps::new(dims), outputs, kernel: [kernel; 2], stride, padding: kernel / 2 };
        let weight = vec![0.1; outputs * dims[1] * kernel * kernel];
        let input = conv.input.from_nchw(&vec![0.5; dims.iter().product()]);
        let gradient = conv.output().from_nchw(&vec![0.5; conv.output().dims().iter().product()]);
        let work = 2.0 * taps(&conv) * (outputs * dims[1] * dims[0]) as f64;
        let times = match rounded {
            false => [
                time(|| drop(conv.forward(&input, &weight))),
                time(|| drop(conv.data_gradient(&gradient, &weight))),
                time(|| drop(conv.weight_gradient(&input, &gradient))),
            ],
            true => [
                time(|| drop(conv.forward_bf16(&input, &weight))),
                time(|| drop(conv.data_gradient_bf16(&gradient, &weight))),
                time(|| drop(conv.weight_gradient_bf16(&input, &gradient))),
            ],
        };
        let columns = times.map(|time| format!("{:6.2} ms {:5.0} GF", time * 1e3, work / time / 1e9));
        println!("{:34} {}", format!("{dims:?} to {outputs}, {kernel}x{kernel}/{stride}"), columns.join("  "));
    }
}

/// Counts, for one pair of channels and one image, the taps that lie on the map in their row.
fn taps(conv: &Conv) -> f64 {
    let [_, _, height, width] = conv.output().dims();
    let inside = |y: &usize| y.checked_sub(conv.padding).is_some_and(|y| y < conv.input.height);
    let rows = (0..height).flat_map(|y| (0..conv.kernel[0]).map(move |k| y * conv.stride + k)).filter(inside).count();
    (rows * width * conv.kernel[1]) as f64
}

fn time(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
