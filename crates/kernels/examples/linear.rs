//! Times the parts of a vision transformer's training step (CIFAR shapes, batch 128, 65 tokens, width 192):
//! `cargo run --release -p bonsai-kernels --example linear`.
//!
//! Each part is timed alone, on three sets of buffers in turn so that they come from memory. Sparse layers count the
//! multiply-adds of kept weights.

use std::time::Instant;

use bonsai_kernels::attention::Attention;
use bonsai_kernels::buffer::Buffer;
use bonsai_kernels::linear::{Linear, Start};
use bonsai_kernels::panels::Panels;
use bonsai_kernels::{LinearPattern, Precision, elementwise, layer_norm};
use rand::RngExt;

const SETS: usize = 3;

fn main() {
    println!("{} threads; milliseconds (GF/s): forward, data gradient, weight gradient", rayon::current_num_threads());
    let panels = Panels::of_tokens(128, 65);
    for (inputs, outputs) in [(192, 576), (192, 192), (192, 384), (384, 192)] {
        let layer = Linear { inputs, outputs, panels, precision: Precision::F32 };
        for percent in [100, 50, 30, 20, 10, 5] {
            let mut random = bonsai_random::stream(0, "mask", percent);
            let mask: Vec<bool> = (0..inputs * outputs).map(|_| random.random_range(0..100) < percent).collect();
            let pattern = LinearPattern::new([outputs, inputs], &mask);
            let weight: Vec<f32> =
                (0..inputs * outputs).map(|i| mask[i % outputs * inputs + i / outputs] as u8 as f32 * 0.01).collect();
            let pattern = (percent < 100).then_some(&pattern);
            let (x, g) = (buffers(panels.len(inputs)), buffers(panels.len(outputs)));
            let kept = pattern.map_or(mask.len(), LinearPattern::kept);
            let flops = 2.0 * kept as f64 * panels.rows() as f64;
            let [forward, data, weights] = [
                time(|i| drop(layer.forward(&x[i], &weight, pattern, Start::default()))),
                time(|i| drop(layer.data_gradient(&g[i], &weight, pattern))),
                time(|i| drop(layer.weight_gradient(&x[i], &g[i], pattern))),
            ]
            .map(|ms| format!("{ms:.2} ({:.0})", flops / ms / 1e6));
            println!("{inputs} to {outputs}, {percent} % kept: {forward}, {data}, {weights}");
        }
    }
    let attention = Attention { panels, heads: 12, features: 16, scale: 0.25 };
    let (qkv, g) = (buffers(panels.len(576)), buffers(panels.len(192)));
    let statistics = attention.forward(&qkv[0]).statistics;
    println!("attention: {:.2}", time(|i| drop(attention.forward(&qkv[i]))));
    println!("attention, backward: {:.2}", time(|i| drop(attention.backward(&qkv[i], &statistics, &g[i]))));
    let (gamma, beta) = (vec![1.0; 192], vec![0.0; 192]);
    let statistics = layer_norm::forward(panels, &g[0], &gamma, &beta, 1e-6).statistics;
    println!("layer norm: {:.2}", time(|i| drop(layer_norm::forward(panels, &g[i], &gamma, &beta, 1e-6))));
    let backward = time(|i| drop(layer_norm::backward(panels, &g[i], &gamma, &statistics, &g[(i + 1) % SETS])));
    println!("layer norm, backward: {backward:.2}");
    let hidden = buffers(panels.len(384));
    println!("GELU: {:.2}", time(|i| drop(elementwise::gelu(&hidden[i]))));
    let backward = time(|i| drop(elementwise::gelu_backward(&hidden[i], &hidden[(i + 1) % SETS])));
    println!("GELU, backward: {backward:.2}");
}

fn buffers(len: usize) -> Vec<Buffer> {
    let buffer = || {
        let mut buffer = Buffer::any(len);
        buffer.iter_mut().enumerate().for_each(|(i, value)| *value = (i * 7 % 13) as f32 * 0.1 - 0.6);
        buffer
    };
    (0..SETS).map(|_| buffer()).collect()
}

fn time(mut work: impl FnMut(usize)) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|i| {
            let start = Instant::now();
            work(i % SETS);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
