//! Convolution in bf16 against plain loops in double precision, over operands that the crate `half` has rounded.

use std::sync::Arc;

use bonsai_kernels::conv::Conv;
use bonsai_kernels::maps::Maps;
use bonsai_kernels::simd::Level;
use bonsai_kernels::{Activation, Gradients, Pattern, Precision, conv2d, sparse_conv2d};
use burn::tensor::{Device, Tensor, TensorData, bf16};
use proptest::prelude::*;
use rand::RngExt;

/// A direction by its definition: sums of products, the sums of their absolute values, and how many there are.
struct Plain {
    sums: Vec<f64>,
    sizes: Vec<f64>,
    terms: Vec<f64>,
}

impl Plain {
    fn new(len: usize) -> Plain {
        Plain { sums: vec![0.0; len], sizes: vec![0.0; len], terms: vec![0.0; len] }
    }

    fn add(&mut self, at: usize, a: f32, b: f32) {
        let product = a as f64 * b as f64;
        self.sums[at] += product;
        self.sizes[at] += product.abs();
        self.terms[at] += 1.0;
    }

    /// Checks that each number is off by at most `relative` of its products, and as much as adding them in f32 may be.
    fn check(&self, ours: &[f32], relative: f64, what: &str) {
        assert_eq!(ours.len(), self.sums.len(), "{what}");
        for (i, ours) in ours.iter().enumerate() {
            let bound = (relative + self.terms[i] * f32::EPSILON as f64 / 2.0) * self.sizes[i] * 1.001;
            let off = (*ours as f64 - self.sums[i]).abs();
            assert!(off <= bound, "{what} {i}: {ours} instead of {}, off by {off}, not {bound}", self.sums[i]);
        }
    }
}

/// Returns output, data gradient and weight gradient.
fn plain(conv: &Conv, input: &[f32], weight: &[f32], gradient: &[f32]) -> [Plain; 3] {
    let ([images, inputs, height, width], [_, outputs, rows, columns]) = (conv.input.dims(), conv.output().dims());
    let [kernel_height, kernel_width] = conv.kernel;
    let mut all = [Plain::new(gradient.len()), Plain::new(input.len()), Plain::new(weight.len())];
    assert_eq!(gradient.len(), images * outputs * rows * columns);
    for (at, of_output) in gradient.iter().enumerate() {
        let (image, out) = (at / (outputs * rows * columns), at / (rows * columns) % outputs);
        let (y, x) = (at / columns % rows, at % columns);
        for tap in 0..inputs * kernel_height * kernel_width {
            let (inp, ky, kx) =
                (tap / (kernel_height * kernel_width), tap / kernel_width % kernel_height, tap % kernel_width);
            let row = (y * conv.stride + ky).wrapping_sub(conv.padding);
            let column = (x * conv.stride + kx).wrapping_sub(conv.padding);
            if row < height && column < width {
                let from = ((image * inputs + inp) * height + row) * width + column;
                let tap = out * inputs * kernel_height * kernel_width + tap;
                all[0].add(at, weight[tap], input[from]);
                all[1].add(from, weight[tap], *of_output);
                all[2].add(tap, input[from], *of_output);
            }
        }
    }
    all
}

fn numbers(len: usize, purpose: &str) -> Vec<f32> {
    let mut random = bonsai_random::stream(0, purpose, len);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn rounded(floats: &[f32]) -> Vec<f32> {
    floats.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// Checks all directions at all levels; margins and missing images of what comes out are zero.
fn check(conv: Conv) {
    let (from, to) = (conv.input, conv.output());
    let input = numbers(from.dims().iter().product(), "input");
    let gradient = numbers(to.dims().iter().product(), "gradient");
    let weight = numbers(conv.outputs * from.channels * conv.kernel[0] * conv.kernel[1], "weight");
    let exact = plain(&conv, &rounded(&input), &rounded(&weight), &rounded(&gradient));
    let unrounded = plain(&conv, &input, &weight, &gradient);
    // Each of two operands has eight bits: it is off by at most 2⁻⁸ of itself.
    let operands = 2f64.powi(-7) + 2f64.powi(-16);
    let (input, gradient) = (from.from_nchw(&input), to.from_nchw(&gradient));
    let mut first: Option<[Vec<f32>; 2]> = None;
    for level in Level::available() {
        level.during(|| {
            let output = conv.forward_bf16(&input, &weight);
            let data = conv.data_gradient_bf16(&gradient, &weight);
            let weights = conv.weight_gradient_bf16(&input, &gradient);
            assert!(*to.from_nchw(&to.to_nchw(&output)) == *output, "{level:?} margins of {conv:?}");
            assert!(*from.from_nchw(&from.to_nchw(&data)) == *data, "{level:?} gradient's margins of {conv:?}");
            let all = [to.to_nchw(&output).to_vec(), from.to_nchw(&data).to_vec(), weights.to_vec()];
            for (i, name) in ["output", "data gradient", "weight gradient"].iter().enumerate() {
                let what = format!("{level:?} {name} of {conv:?}");
                exact[i].check(&all[i], 0.0, &what);
                unrounded[i].check(&all[i], operands, &what);
            }
            // Products are exact and added in the same order, with or without instructions for them.
            let [output, data, _] = all;
            let first = first.get_or_insert_with(|| [output.clone(), data.clone()]);
            assert!(*first == [output, data], "{level:?} differs from the portable level, {conv:?}");
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
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
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

/// Returns the output of an operation on `input`, and the gradients of input and weight.
fn through_burn(
    conv: &Conv,
    [input, weight, gradient]: [&[f32]; 3],
    operation: impl FnOnce(Activation, Tensor<4>) -> Activation,
) -> [Vec<f32>; 3] {
    let device = Device::flex().autodiff();
    let tensor = |floats: &[f32], dims: [usize; 4]| {
        Tensor::<4>::from_data(TensorData::new(floats.to_vec(), dims), &device).require_grad()
    };
    let x = tensor(input, conv.input.dims());
    let weight = tensor(weight, [conv.outputs, conv.input.channels, conv.kernel[0], conv.kernel[1]]);
    let y = operation(Activation::new(x.clone()), weight.clone()).into_nchw();
    let gradients = (y.clone() * tensor(gradient, conv.output().dims())).sum().backward();
    let [of_x, of_weight] = [&x, &weight].map(|tensor| tensor.grad(&gradients).unwrap());
    [y.inner(), of_x, of_weight].map(|tensor| tensor.into_data().try_to_vec().unwrap())
}

#[test]
fn an_activation_carries_the_precision_to_the_kernels() {
    // The second needs wider margins than maps have, and so runs outside of a chain.
    for conv in [conv([5, 3, 9, 9], 6, 3, 1, 1), conv([5, 3, 9, 9], 6, 7, 2, 3)] {
        let [input, gradient] = [conv.input, conv.output()].map(|maps| numbers(maps.dims().iter().product(), "maps"));
        let weight = numbers(6 * 3 * conv.kernel[0] * conv.kernel[1], "weight");
        let all = [&input[..], &weight, &gradient];
        let (x, g) = (conv.input.from_nchw(&input), conv.output().from_nchw(&gradient));
        let expected = [
            conv.output().to_nchw(&conv.forward_bf16(&x, &weight)).to_vec(),
            conv.input.to_nchw(&conv.data_gradient_bf16(&g, &weight)).to_vec(),
            conv.weight_gradient_bf16(&x, &g).to_vec(),
        ];
        let dense = |precision| {
            let run =
                |x: Activation, w| conv2d(x.with_precision(precision).clone(), w, None, conv.stride, conv.padding);
            through_burn(&conv, all, run)
        };
        assert!(dense(Precision::Bf16) == expected, "{conv:?}");
        assert!(dense(Precision::F32) != expected, "{conv:?}");
        // Sparse kernels are f32 whatever is asked for.
        let sparse = |precision| {
            // A pattern of its own, so that both begin with the sparse kernels.
            let mask = (0..weight.len()).map(|i| i % 9 == 0);
            let pattern = Arc::new(Pattern::new([6, 3, conv.kernel[0], conv.kernel[1]], mask));
            through_burn(&conv, all, |x, w| {
                let x = x.with_precision(precision);
                sparse_conv2d(x, w, None, conv.stride, conv.padding, &pattern, Gradients::Kept)
            })
        };
        assert!(sparse(Precision::Bf16) == sparse(Precision::F32), "{conv:?}");
    }
}
