//! Times the sparse convolution kernels against the dense ones: `cargo run --release -p bonsai-kernels --example sparse`.
//!
//! Prints medians in milliseconds for forward, data gradient and weight gradient; inputs are warm.

use std::time::Instant;

use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::simd::Level;
use rand::RngExt;

fn main() {
    println!("{:?}, {} threads", Level::current(), rayon::current_num_threads());
    for (dims, outputs, kernel, stride) in [
        ([128, 16, 32, 32], 16, 3, 1),
        ([128, 16, 32, 32], 32, 3, 2),
        ([128, 32, 16, 16], 32, 3, 1),
        ([128, 64, 8, 8], 64, 3, 1),
        ([128, 512, 4, 4], 512, 3, 1),
        ([32, 256, 8, 8], 1024, 1, 1),
        ([32, 1024, 8, 8], 256, 1, 1),
    ] {
        let conv = Conv { input: Maps::new(dims), outputs, kernel: [kernel; 2], stride, padding: kernel / 2 };
        let input = conv.input.from_nchw(&vec![0.5; dims.iter().product()]);
        let gradient = conv.output().from_nchw(&vec![0.5; conv.output().dims().iter().product()]);
        let shape = [outputs, dims[1], kernel, kernel];
        let weight = vec![0.1; shape.iter().product()];
        let dense = [
            time(|| drop(conv.forward(&input, &weight))),
            time(|| drop(conv.data_gradient(&gradient, &weight))),
            time(|| drop(conv.weight_gradient(&input, &gradient))),
        ];
        println!("{dims:?} to {outputs}, {kernel}x{kernel}/{stride}: dense {dense:.2?}");
        for percent in [60, 40, 20, 10, 5, 3, 1] {
            let mut random = bonsai_random::stream(0, "mask", percent);
            let pattern = Pattern::new(shape, weight.iter().map(|_| random.random_range(0..100) < percent));
            let times = [
                time(|| drop(conv.forward_kept(&input, &weight, &pattern))),
                time(|| drop(conv.data_gradient_kept(&gradient, &weight, &pattern))),
                time(|| drop(conv.weight_gradient_kept(&input, &gradient, &pattern))),
            ];
            let faster: Vec<f64> = dense.iter().zip(times).map(|(dense, time)| dense / time).collect();
            println!("  {percent:2} % kept {times:6.2?}, {faster:4.1?} times as fast");
        }
    }
}

fn time(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
