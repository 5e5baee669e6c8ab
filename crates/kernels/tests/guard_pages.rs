//! Kernels read nothing outside of their inputs: each input lies between pages that must not be touched.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

use std::ops::Deref;

use bonsai_kernels::attention::Attention;
use bonsai_kernels::batch_norm::{Affine, Gate, Statistics};
use bonsai_kernels::conv::unit::{Backward, Input, Norm, Unit, Wanted};
use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::linear::{Linear, Start};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::panels::Panels;
use bonsai_kernels::planes::Planes;
use bonsai_kernels::pooling;
use bonsai_kernels::simd::Level;
use bonsai_kernels::{LinearPattern, Precision};

/// Floats that end, or start, at a page whose touch ends the process.
struct Guarded {
    map: *mut libc::c_void,
    bytes: usize,
    floats: *const f32,
    len: usize,
}

impl Guarded {
    fn new(floats: &[f32], at_end: bool) -> Guarded {
        let page = 4096;
        let size = size_of_val(floats).next_multiple_of(page);
        let bytes = size + 2 * page;
        // SAFETY: a fresh private mapping; `floats` fit between its first and its last page.
        unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            let start = map.cast::<u8>().add(page + if at_end { size - size_of_val(floats) } else { 0 }).cast::<f32>();
            start.copy_from_nonoverlapping(floats.as_ptr(), floats.len());
            assert_eq!(libc::mprotect(map, page, libc::PROT_NONE), 0);
            assert_eq!(libc::mprotect(map.cast::<u8>().add(page + size).cast(), page, libc::PROT_NONE), 0);
            Guarded { map, bytes, floats: start, len: floats.len() }
        }
    }
}

impl Deref for Guarded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `new` has written `len` floats there.
        unsafe { std::slice::from_raw_parts(self.floats, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.map, self.bytes) };
    }
}

#[test]
fn convolutions_stay_within_their_inputs() {
    for (dims, outputs, kernel, stride, padding) in [
        ([17, 3, 7, 5], 5, [3, 3], 1, 1),
        ([5, 4, 8, 8], 6, [3, 3], 2, 1),
        ([16, 2, 9, 9], 3, [1, 1], 2, 0),
        ([3, 5, 6, 10], 7, [5, 2], 1, 2),
        ([1, 3, 12, 13], 4, [7, 7], 2, 3),
        ([2, 33, 1, 1], 9, [1, 1], 1, 0),
        ([2, 35, 4, 3], 5, [2, 3], 3, 1),
    ] {
        let conv = Conv { input: Maps::new(dims), outputs, kernel, stride, padding };
        let shape = [outputs, dims[1], kernel[0], kernel[1]];
        let weights: usize = shape.iter().product();
        for at_end in [false, true] {
            let input = Guarded::new(&vec![1.0; conv.input.len()], at_end);
            let gradient = Guarded::new(&vec![1.0; conv.output().len()], at_end);
            let weight = Guarded::new(&vec![1.0; weights], at_end);
            let pattern = Pattern::new(shape, (0..weights).map(|i| i % 3 == 0));
            for level in Level::available() {
                level.during(|| {
                    conv.forward(&input, &weight);
                    conv.data_gradient(&gradient, &weight);
                    conv.weight_gradient(&input, &gradient);
                    conv.forward_bf16(&input, &weight);
                    conv.data_gradient_bf16(&gradient, &weight);
                    conv.weight_gradient_bf16(&input, &gradient);
                    conv.forward_kept(&input, &weight, &pattern);
                    conv.data_gradient_kept(&gradient, &weight, &pattern);
                    conv.weight_gradient_kept(&input, &gradient, &pattern);
                });
            }
        }
    }
}

#[test]
fn fused_convolutions_stay_within_their_inputs() {
    for (dims, outputs, kernel, stride) in
        [([17, 3, 7, 5], 5, 3, 1), ([5, 4, 8, 8], 6, 3, 2), ([16, 2, 9, 9], 3, 1, 2), ([2, 33, 1, 1], 9, 1, 1)]
    {
        let conv = Conv { input: Maps::new(dims), outputs, kernel: [kernel; 2], stride, padding: kernel / 2 };
        let shape = [outputs, dims[1], kernel, kernel];
        let weights: usize = shape.iter().product();
        let kept = Pattern::new(shape, (0..weights).map(|i| i % 3 == 0));
        let kinds = [(None, Precision::F32), (None, Precision::Bf16), (Some(&kept), Precision::F32)];
        for (at_end, (pattern, precision)) in kinds.into_iter().flat_map(|kind| [(false, kind), (true, kind)]) {
            let x = Guarded::new(&vec![1.0; conv.input.len()], at_end);
            let gradient = Guarded::new(&vec![1.0; conv.output().len()], at_end);
            let weight = Guarded::new(&vec![1.0; weights], at_end);
            let affine = |channels| Statistics { mean: vec![0.5; channels], variance: vec![1.0; channels] };
            let (before, after) = (affine(dims[1]), affine(outputs));
            let [first, last] = [&before, &after].map(|statistics| {
                let channels = statistics.mean.len();
                statistics.affine(&vec![1.0; channels], &vec![0.0; channels], 1e-5)
            });
            for level in Level::available() {
                level.during(|| {
                    let unit = Unit { conv: &conv, weight: &weight, pattern, precision };
                    let input = Input { x: Planes::Whole(&x), norm: Some(Norm { affine: &first, relu: true }) };
                    unit.forward(input, true);
                    let (_, passed) = last.join(conv.output(), &gradient, &gradient);
                    let sums = last.shut(conv.output(), &mut gradient.to_vec(), &gradient, &passed);
                    let training = (&after, &sums, 1e-5);
                    let norm = Some(Backward { z: &gradient, affine: &last, gate: Gate::Input, training });
                    for onto in [None, Some(&mut x.to_vec()[..])] {
                        let wanted = Wanted { input: true, onto, weight: true, kept: pattern };
                        unit.backward(input, &gradient, norm, wanted);
                    }
                });
            }
        }
    }
}

#[test]
fn the_other_kernels_stay_within_their_inputs() {
    for dims in [[1, 1, 1, 1], [17, 3, 5, 7], [32, 2, 8, 4]] {
        let maps = Maps::new(dims);
        let x = Guarded::new(&vec![1.0; maps.len()], true);
        for level in Level::available() {
            level.during(|| {
                let statistics = Statistics::of(maps, &x);
                let affine: Affine = statistics.affine(&vec![1.0; dims[1]], &vec![0.0; dims[1]], 1e-5);
                affine.apply(maps, &x, true, Some(&x));
                let sums = affine.sums(maps, &x, &x, Gate::Output(&x));
                let training = Some((&statistics, &sums, 1e-5));
                affine.backward(maps, &mut x.to_vec(), &x, Gate::Output(&x), training, true);
                pooling::global_average(maps, &x);
                pooling::shortcut(maps, &x, dims[1] + 2);
                if dims[2] > 1 {
                    pooling::max(maps, &x);
                }
                maps.to_nchw(&x);
            });
        }
    }
}

#[test]
fn linear_layers_stay_within_their_inputs() {
    for (panels, inputs, outputs) in
        [(Panels::of_rows(1), 1, 1), (Panels::of_rows(500), 49, 35), (Panels::of_tokens(17, 7), 100, 6)]
    {
        let mask: Vec<bool> = (0..inputs * outputs).map(|i| i % 3 == 0).collect();
        let pattern = LinearPattern::new([outputs, inputs], &mask);
        for at_end in [false, true] {
            let x = Guarded::new(&vec![1.0; panels.len(inputs)], at_end);
            let gradient = Guarded::new(&vec![1.0; panels.len(outputs)], at_end);
            let weight = Guarded::new(&vec![1.0; inputs * outputs], at_end);
            let bias = Guarded::new(&vec![1.0; outputs], at_end);
            let [f32, bf16] = [Precision::F32, Precision::Bf16];
            let cases = |l| [(l, None, f32), (l, None, bf16), (l, Some(&pattern), f32)];
            for (level, pattern, precision) in Level::available().into_iter().flat_map(cases) {
                let layer = Linear { inputs, outputs, panels, precision };
                level.during(|| {
                    layer.forward(&x, &weight, pattern, Start { bias: Some(&bias), onto: Some(&gradient) });
                    layer.data_gradient(&gradient, &weight, pattern);
                    layer.weight_gradient(&x, &gradient, pattern);
                });
            }
        }
    }
}

#[test]
fn attention_stays_within_its_inputs() {
    for (images, tokens, heads, features) in [(1, 1, 1, 1), (17, 7, 2, 5), (3, 11, 3, 4)] {
        let panels = Panels::of_tokens(images, tokens);
        let shape = Attention { panels, heads, features, scale: 0.5 };
        for at_end in [false, true] {
            let qkv = Guarded::new(&vec![1.0; panels.len(3 * heads * features)], at_end);
            let gradient = Guarded::new(&vec![1.0; panels.len(heads * features)], at_end);
            for level in Level::available() {
                level.during(|| {
                    let statistics = Guarded::new(&shape.forward(&qkv).statistics, at_end);
                    shape.backward(&qkv, &statistics, &gradient);
                });
            }
        }
    }
}
