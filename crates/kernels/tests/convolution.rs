//! Convolution against plain loops.

use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::simd::Level;
use proptest::prelude::*;
use rand::RngExt;

/// All three directions by the definition, in double precision.
struct Plain {
    output: Vec<f64>,
    data_gradient: Vec<f64>,
    weight_gradient: Vec<f64>,
}

fn plain(conv: &Conv, input: &[f32], weight: &[f32], gradient: &[f32]) -> Plain {
    let ([images, inputs, height, width], [_, outputs, rows, columns]) = (conv.input.dims(), conv.output().dims());
    let [kernel_height, kernel_width] = conv.kernel;
    let mut plain = Plain {
        output: vec![0.0; gradient.len()],
        data_gradient: vec![0.0; input.len()],
        weight_gradient: vec![0.0; weight.len()],
    };
    for image in 0..images {
        for out in 0..outputs {
            for y in 0..rows {
                for x in 0..columns {
                    let at = ((image * outputs + out) * rows + y) * columns + x;
                    for inp in 0..inputs {
                        for ky in 0..kernel_height {
                            for kx in 0..kernel_width {
                                let row = (y * conv.stride + ky).wrapping_sub(conv.padding);
                                let column = (x * conv.stride + kx).wrapping_sub(conv.padding);
                                if row < height && column < width {
                                    let from = ((image * inputs + inp) * height + row) * width + column;
                                    let tap = ((out * inputs + inp) * kernel_height + ky) * kernel_width + kx;
                                    plain.output[at] += weight[tap] as f64 * input[from] as f64;
                                    plain.data_gradient[from] += weight[tap] as f64 * gradient[at] as f64;
                                    plain.weight_gradient[tap] += input[from] as f64 * gradient[at] as f64;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    plain
}

fn numbers(len: usize, purpose: &str) -> Vec<f32> {
    let mut random = bonsai_random::stream(0, purpose, len);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn close(ours: &[f32], plain: &[f64], what: &str) {
    assert_eq!(ours.len(), plain.len(), "{what}");
    let size = plain.iter().fold(1e-3f64, |size, value| size.max(value.abs()));
    for (i, (ours, plain)) in ours.iter().zip(plain).enumerate() {
        assert!((*ours as f64 - plain).abs() <= 1e-5 * size, "{what} {i}: {ours} instead of {plain}");
    }
}

/// Checks all directions at all levels; margins and missing images of what comes out are zero.
fn check(conv: Conv) {
    let (from, to) = (conv.input, conv.output());
    let input = numbers(from.dims().iter().product(), "input");
    let gradient = numbers(to.dims().iter().product(), "gradient");
    let weight = numbers(conv.outputs * from.channels * conv.kernel[0] * conv.kernel[1], "weight");
    let plain = plain(&conv, &input, &weight, &gradient);
    let (input, gradient) = (from.from_nchw(&input), to.from_nchw(&gradient));
    for level in Level::available() {
        level.during(|| {
            let output = conv.forward(&input, &weight);
            close(&to.to_nchw(&output), &plain.output, &format!("{level:?} output of {conv:?}"));
            assert!(*to.from_nchw(&to.to_nchw(&output)) == *output, "{level:?} margins of {conv:?}");
            let data = conv.data_gradient(&gradient, &weight);
            close(&from.to_nchw(&data), &plain.data_gradient, &format!("{level:?} data gradient of {conv:?}"));
            assert!(*from.from_nchw(&from.to_nchw(&data)) == *data, "{level:?} gradient's margins of {conv:?}");
            let weights = conv.weight_gradient(&input, &gradient);
            close(&weights, &plain.weight_gradient, &format!("{level:?} weight gradient of {conv:?}"));
        });
    }
}

fn conv(dims: [usize; 4], outputs: usize, kernel: usize, stride: usize, padding: usize) -> Conv {
    Conv { input: Maps::new(dims), outputs, kernel: [kernel; 2], stride, padding }
}

#[test]
fn the_layers_of_the_zoo_agree_with_plain_loops() {
    check(conv([3, 3, 32, 32], 16, 3, 1, 1)); // stem of CIFAR
    check(conv([2, 3, 32, 32], 8, 7, 2, 3)); // stem of ImageNet
    check(conv([17, 16, 8, 8], 16, 3, 1, 1));
    check(conv([20, 16, 8, 8], 32, 3, 2, 1));
    check(conv([33, 8, 8, 8], 32, 1, 2, 0)); // shortcut B
    check(conv([5, 64, 4, 4], 16, 1, 1, 0)); // bottleneck
    check(conv([5, 32, 2, 2], 64, 3, 1, 1)); // tail of VGG
    check(conv([4, 1, 28, 28], 6, 5, 1, 2)); // LeNet
    check(conv([4, 6, 14, 14], 16, 5, 1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_agrees_with_plain_loops(
        (images, inputs, outputs) in (1usize..36, 1usize..11, 1usize..11),
        (height, width) in (1usize..11, 1usize..11),
        (kernel_height, kernel_width) in (1usize..6, 1usize..6),
        (stride, padding) in (1usize..4, 0usize..4),
    ) {
        let kernel = [kernel_height.min(height + 2 * padding), kernel_width.min(width + 2 * padding)];
        check(Conv { input: Maps::new([images, inputs, height, width]), outputs, kernel, stride, padding });
    }
}

#[test]
fn results_are_the_same_on_any_number_of_threads() {
    for conv in
        [conv([40, 13, 9, 9], 11, 3, 1, 1), conv([150, 16, 4, 4], 16, 3, 2, 1), conv([3, 32, 8, 8], 40, 1, 1, 0)]
    {
        let weight = numbers(conv.outputs * conv.input.channels * conv.kernel[0] * conv.kernel[1], "weight");
        let input = conv.input.from_nchw(&numbers(conv.input.dims().iter().product(), "input"));
        let gradient = conv.output().from_nchw(&numbers(conv.output().dims().iter().product(), "gradient"));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                [
                    conv.forward(&input, &weight).to_vec(),
                    conv.data_gradient(&gradient, &weight).to_vec(),
                    conv.weight_gradient(&input, &gradient).to_vec(),
                ]
            })
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            assert!(on(threads) == one, "{conv:?} on {threads} threads");
        }
    }
}

/// Checks that numbers are equal; the sign of a zero does not count.
fn same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let different = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(different.map(|i| (i, found[i], expected[i])), None, "{what}");
}

/// Checks that the sparse kernels return what the dense ones return for zeros, to the last bit.
fn check_kept(conv: Conv, percent: u32) {
    let shape = [conv.outputs, conv.input.channels, conv.kernel[0], conv.kernel[1]];
    let mut random = bonsai_random::stream(1, "mask", percent);
    let mask: Vec<bool> = (0..shape.iter().product()).map(|_| random.random_range(0..100) < percent).collect();
    let pattern = Pattern::new(shape, mask.iter().copied());
    let mut weight = numbers(mask.len(), "weight");
    weight.iter_mut().zip(&mask).for_each(|(weight, kept)| *weight *= *kept as u8 as f32);
    let input = conv.input.from_nchw(&numbers(conv.input.dims().iter().product(), "input"));
    let gradient = conv.output().from_nchw(&numbers(conv.output().dims().iter().product(), "gradient"));
    for level in Level::available() {
        level.during(|| {
            let what = format!("{level:?}, {percent} % of {conv:?}");
            let forward = conv.forward(&input, &weight);
            same(&conv.forward_kept(&input, &weight, &pattern), &forward, &what);
            let data = conv.data_gradient(&gradient, &weight);
            same(&conv.data_gradient_kept(&gradient, &weight, &pattern), &data, &what);
            let mut weights = conv.weight_gradient(&input, &gradient);
            weights.iter_mut().zip(&mask).for_each(|(weight, kept)| *weight *= *kept as u8 as f32);
            same(&conv.weight_gradient_kept(&input, &gradient, &pattern), &weights, &what);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sparse_kernels_equal_dense_ones(
        (images, inputs, outputs) in (1usize..36, 1usize..11, 1usize..20),
        (height, width) in (1usize..14, 1usize..14),
        (kernel_height, kernel_width) in (1usize..5, 1usize..5),
        (stride, padding) in (1usize..4, 0usize..3),
        percent in prop_oneof![Just(0u32), Just(100), 1u32..100],
    ) {
        let kernel = [kernel_height.min(height + 2 * padding), kernel_width.min(width + 2 * padding)];
        check_kept(Conv { input: Maps::new([images, inputs, height, width]), outputs, kernel, stride, padding }, percent);
    }
}

#[test]
fn empty_and_full_patterns_of_zoo_layers_agree() {
    for percent in [0, 5, 50, 100] {
        check_kept(conv([18, 16, 16, 16], 32, 3, 2, 1), percent);
        check_kept(conv([18, 24, 8, 8], 20, 3, 1, 1), percent);
        check_kept(conv([18, 24, 8, 8], 20, 1, 1, 0), percent);
    }
}

#[test]
fn sparse_results_are_the_same_on_any_number_of_threads() {
    let conv = conv([70, 13, 9, 9], 33, 3, 1, 1);
    let shape = [33, 13, 3, 3];
    let pattern = Pattern::new(shape, (0..33 * 13 * 9).map(|i| i % 7 == 0));
    let weight = numbers(33 * 13 * 9, "weight");
    let input = conv.input.from_nchw(&numbers(conv.input.dims().iter().product(), "input"));
    let gradient = conv.output().from_nchw(&numbers(conv.output().dims().iter().product(), "gradient"));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            [
                conv.forward_kept(&input, &weight, &pattern).to_vec(),
                conv.data_gradient_kept(&gradient, &weight, &pattern).to_vec(),
                conv.weight_gradient_kept(&input, &gradient, &pattern).to_vec(),
            ]
        })
    };
    let one = on(1);
    assert!(on(2) == one && on(5) == one);
}
