//! Linear layers, attention, normalisation and GELU against burn's own: outputs and gradients.

use std::sync::Arc;

use bonsai_kernels::{Activation, Gradients, LinearPattern, Precision, Tokens, sparse_linear};
use burn::tensor::activation::softmax;
use burn::tensor::module::{layer_norm, linear};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use rand::RngExt;

#[allow(deprecated)] // ndarray stays selectable, and runs burn's own operations.
fn devices() -> [Device; 2] {
    [Device::flex().autodiff(), Device::ndarray().autodiff()]
}

fn random<const D: usize>(dims: [usize; D], purpose: &str, device: &Device) -> Tensor<D> {
    let len = dims.iter().product();
    let mut random = bonsai_random::stream(0, purpose, len);
    let values: Vec<f32> = (0..len).map(|_| random.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, dims), device).require_grad()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn close(ours: &[Vec<f32>], burns: &[Vec<f32>]) {
    assert_eq!(ours.len(), burns.len());
    for (i, (ours, burns)) in ours.iter().zip(burns).enumerate() {
        assert_eq!(ours.len(), burns.len(), "result {i}");
        // Inputs are of size 1: a sum that cancels to less keeps the rounding of its parts.
        let size = burns.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        for (j, (a, b)) in ours.iter().zip(burns).enumerate() {
            assert!((a - b).abs() <= 1e-5 * size, "result {i}, number {j}: {a} instead of {b} (of {size})");
        }
    }
}

/// The inputs of an operation, whose gradients are compared.
#[derive(Clone, Copy)]
struct Inputs<'a, const D: usize> {
    x: &'a [&'a Tensor<D>],
    weights: &'a [&'a Tensor<2>],
    vectors: &'a [&'a Tensor<1>],
}

impl<const D: usize> Inputs<'_, D> {
    /// Returns `y` and the gradients of all inputs for a random gradient of `y`.
    fn results<const E: usize>(self, y: Tensor<E>) -> Vec<Vec<f32>> {
        let gradient = random(y.dims(), "loss", &y.device());
        self.results_of(y, gradient)
    }

    /// Returns `y` and the gradients of all inputs for this gradient of `y`.
    fn results_of<const E: usize>(self, y: Tensor<E>, gradient: Tensor<E>) -> Vec<Vec<f32>> {
        let weights = gradient.detach();
        let gradients = (y.clone() * weights).sum().backward();
        let mut all = vec![floats(y)];
        all.extend(self.x.iter().map(|x| floats(x.grad(&gradients).unwrap())));
        all.extend(self.weights.iter().map(|weight| floats(weight.grad(&gradients).unwrap())));
        all.extend(self.vectors.iter().map(|vector| floats(vector.grad(&gradients).unwrap())));
        all
    }
}

fn mask(percent: usize, shape @ [outputs, inputs]: [usize; 2]) -> Vec<bool> {
    let mut random = bonsai_random::stream(0, "mask", percent);
    let mut mask: Vec<bool> = (0..shape.iter().product()).map(|_| random.random_range(0..100) < percent).collect();
    // An output without any input, and an input without any output.
    if percent < 100 && outputs > 1 {
        mask[..inputs].fill(false);
        mask[inputs..].iter_mut().step_by(inputs).for_each(|kept| *kept = false);
    }
    mask
}

/// Returns a weight `[in, out]` with zeros where `mask`, a flag for each of `[out, in]`, says so.
fn masked(mask: &[bool], [outputs, inputs]: [usize; 2], device: &Device) -> Tensor<2> {
    let flags: Vec<f32> = mask.iter().map(|kept| *kept as u8 as f32).collect();
    let flags = Tensor::<2>::from_data(TensorData::new(flags, [outputs, inputs]), device).transpose();
    (random([inputs, outputs], "weight", device) * flags).detach().require_grad()
}

/// Clears gradients of a weight `[in, out]` that is not kept: they may be there or not.
fn clear(gradient: &mut [f32], mask: &[bool], [outputs, inputs]: [usize; 2]) {
    for (i, gradient) in gradient.iter_mut().enumerate() {
        *gradient *= mask[i % outputs * inputs + i / outputs] as u8 as f32;
    }
}

fn check_sparse<const D: usize>(dims: [usize; D], outputs: usize, percent: usize, gradients: Gradients, bias: bool) {
    let shape = [outputs, dims[D - 1]];
    let mask = mask(percent, shape);
    let pattern = Arc::new(LinearPattern::new(shape, &mask));
    for device in devices() {
        let x = random(dims, "x", &device);
        let weight = masked(&mask, shape, &device);
        let bias = bias.then(|| random([outputs], "bias", &device));
        let vectors: Vec<_> = bias.iter().collect();
        let inputs = Inputs { x: &[&x], weights: &[&weight], vectors: &vectors };
        let mut ours = inputs.results(sparse_linear(x.clone(), weight.clone(), bias.clone(), &pattern, gradients));
        let mut burns = inputs.results(linear(x.clone(), weight.clone(), bias.clone()));
        if gradients == Gradients::Kept {
            clear(&mut ours[2], &mask, shape);
            clear(&mut burns[2], &mask, shape);
        }
        close(&ours, &burns);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sparse_linear_layers_are_those_of_burn(
        (rows, more, inputs, outputs) in (1usize..250, 1usize..4, 1usize..120, 1usize..80),
        percent in prop_oneof![Just(0), Just(5), Just(40), Just(100)],
        gradients in prop_oneof![Just(Gradients::Kept), Just(Gradients::All)],
        bias in any::<bool>(),
    ) {
        check_sparse([rows, inputs], outputs, percent, gradients, bias);
        check_sparse([more, rows.div_ceil(3), inputs], outputs, percent, gradients, bias);
    }

    #[test]
    fn linear_layers_of_tokens_are_those_of_burn(
        (images, tokens, inputs, outputs) in (1usize..40, 1usize..30, 1usize..70, 1usize..40),
        percent in prop_oneof![Just(0), Just(10), Just(40), Just(100)],
        (dense, all, bias, added) in any::<(bool, bool, bool, bool)>(),
    ) {
        let shape = [outputs, inputs];
        let mask = mask(percent, shape);
        let pattern = Arc::new(LinearPattern::new(shape, &mask));
        let gradients = if all { Gradients::All } else { Gradients::Kept };
        for device in devices() {
            let x = random([images, tokens, inputs], "x", &device);
            let other = random([images, tokens, outputs], "onto", &device);
            let weight = masked(&mask, shape, &device);
            let bias = bias.then(|| random([outputs], "bias", &device));
            let vectors: Vec<_> = bias.iter().collect();
            let tensors = [&x, &other];
            let inputs = Inputs { x: &tensors[..1 + added as usize], weights: &[&weight], vectors: &vectors };
            let onto = added.then(|| Tokens::new(other.clone()));
            let tokens = Tokens::new(x.clone());
            let y = match dense {
                true => tokens.linear(weight.clone(), bias.clone(), onto),
                false => tokens.sparse_linear(weight.clone(), bias.clone(), onto, &pattern, gradients),
            };
            let mut ours = inputs.results(y.into_tensor());
            let y = linear(x.clone(), weight.clone(), bias.clone());
            let mut burns = inputs.results(if added { y + other.clone() } else { y });
            let at = 2 + added as usize;
            if !dense && !all {
                clear(&mut ours[at], &mask, shape);
                clear(&mut burns[at], &mask, shape);
            }
            close(&ours, &burns);
        }
    }

    #[test]
    fn bf16_linear_layers_are_those_of_burn_but_for_rounded_operands(
        (rows, inputs, outputs) in (1usize..250, 1usize..120, 1usize..80),
        percent in prop_oneof![Just(0), Just(10), Just(40), Just(100)],
        (tokens, sparse, all) in any::<(bool, bool, bool)>(),
    ) {
        let shape = [outputs, inputs];
        let mask = mask(if sparse { percent } else { 100 }, shape);
        let pattern = Arc::new(LinearPattern::new(shape, &mask));
        let gradients = if all { Gradients::All } else { Gradients::Kept };
        for device in devices() {
            let dims = [rows.div_ceil(3), 3, inputs];
            let (x, bias) = (random(dims, "x", &device), random([outputs], "bias", &device));
            let weight = masked(&mask, shape, &device);
            let inputs = Inputs { x: &[&x], weights: &[&weight], vectors: &[&bias] };
            let kept = sparse.then_some((&pattern, gradients));
            let y = match (tokens, sparse) {
                (false, _) => bonsai_kernels::linear(x.clone(), weight.clone(), Some(bias.clone()), kept, Precision::Bf16),
                (true, false) => {
                    let x = Tokens::new(x.clone()).with_precision(Precision::Bf16);
                    x.linear(weight.clone(), Some(bias.clone()), None).into_tensor()
                }
                (true, true) => {
                    let x = Tokens::new(x.clone()).with_precision(Precision::Bf16);
                    x.sparse_linear(weight.clone(), Some(bias.clone()), None, &pattern, gradients).into_tensor()
                }
            };
            let mut ours = inputs.results(y);
            let mut burns = inputs.results(linear(x.clone(), weight.clone(), Some(bias.clone())));
            // The same sums of absolute values: what each operand's rounding is relative to.
            let size = |tensor: &Tensor<3>| tensor.clone().abs().detach().require_grad();
            let (x, bias) = (size(&x), bias.abs().detach().require_grad());
            let weight = weight.abs().detach().require_grad();
            let inputs = Inputs { x: &[&x], weights: &[&weight], vectors: &[&bias] };
            let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
            let gradient = random(y.dims(), "loss", &device).abs();
            let mut sizes = inputs.results_of(y, gradient);
            if sparse && !all {
                [&mut ours, &mut burns, &mut sizes].into_iter().for_each(|all| clear(&mut all[2], &mask, shape));
            }
            // Each of two operands is off by at most 2⁻⁸ of itself; adding in f32 costs more than that only in long sums.
            for (i, (ours, (burns, sizes))) in ours.iter().zip(burns.iter().zip(&sizes)).enumerate() {
                for (j, (ours, (burns, size))) in ours.iter().zip(burns.iter().zip(sizes)).enumerate() {
                    let bound = (2f32.powi(-7) + 1e-4) * size;
                    assert!((ours - burns).abs() <= bound, "result {i}, number {j}: {ours}, not {burns} (of {size})");
                }
            }
        }
    }

    #[test]
    fn attention_is_that_of_burn(
        (images, tokens) in (1usize..36, 1usize..24),
        (heads, features) in (1usize..4, 1usize..9),
    ) {
        let width = heads * features;
        let device = Device::flex().autodiff();
        let x = random([images, tokens, 3 * width], "x", &device);
        let inputs = Inputs { x: &[&x], weights: &[], vectors: &[] };
        let ours = inputs.results(Tokens::new(x.clone()).attention(heads, 0.7).into_tensor());
        let [q, k, v] = [0, 1, 2].map(|i| {
            x.clone().narrow(2, i * width, width).reshape([images, tokens, heads, features]).swap_dims(1, 2)
        });
        let weights = softmax(q.matmul(k.swap_dims(2, 3)).mul_scalar(0.7), 3);
        let y = weights.matmul(v).swap_dims(1, 2).reshape([images, tokens, width]);
        close(&ours, &inputs.results(y));
    }

    #[test]
    fn layer_normalisations_are_those_of_burn(
        (images, tokens, features) in (1usize..36, 1usize..24, 2usize..40),
    ) {
        let device = Device::flex().autodiff();
        // Scaled so that no deviation is so small that rounding is magnified.
        let x = random([images, tokens, features], "x", &device);
        let (gamma, beta) = (random([features], "gamma", &device), random([features], "beta", &device));
        let inputs = Inputs { x: &[&x], weights: &[], vectors: &[&gamma, &beta] };
        let y = Tokens::new(x.clone()).layer_norm(gamma.clone(), beta.clone(), 1e-2);
        let ours = inputs.results(y.into_tensor());
        close(&ours, &inputs.results(layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), 1e-2)));
    }
}

#[test]
fn embedding_is_that_of_burn() {
    for device in devices() {
        for [images, features, height, width] in [[1, 3, 1, 1], [18, 5, 3, 4]] {
            let patches = random([images, features, height, width], "patches", &device);
            let class = random([1, 1, features], "class", &device);
            let positions = random([1, height * width + 1, features], "positions", &device);
            let inputs = Inputs { x: &[&class, &positions], weights: &[], vectors: &[] };
            let grow = |y: Tokens| y.clone().into_tensor() + y.first().reshape([images, 1, features]);
            let ours = Tokens::embed(Activation::new(patches.clone()), class.clone(), positions.clone());
            let ours = inputs.results(grow(ours));
            let rows = patches.clone().flatten::<3>(2, 3).swap_dims(1, 2);
            let y = Tensor::cat(vec![class.clone().repeat_dim(0, images), rows], 1) + positions.clone();
            let first = y.clone().narrow(1, 0, 1);
            close(&ours, &inputs.results(y + first));

            let patches_alone = Inputs { x: &[&patches], weights: &[], vectors: &[] };
            let ours = Tokens::embed(Activation::new(patches.clone()), class.clone(), positions.clone());
            let rows = patches.clone().flatten::<3>(2, 3).swap_dims(1, 2);
            let y = Tensor::cat(vec![class.clone().repeat_dim(0, images), rows], 1) + positions.clone();
            close(&patches_alone.results(ours.into_tensor()), &patches_alone.results(y));
        }
    }
}

#[test]
fn gelu_is_the_exact_one_of_burn_and_so_is_its_gradient() {
    let device = Device::flex().autodiff();
    let x = (random([17, 3, 5], "x", &device) * 4.0).detach().require_grad();
    let inputs = Inputs { x: &[&x], weights: &[], vectors: &[] };
    let ours = inputs.results(Tokens::new(x.clone()).gelu().into_tensor());
    // burn's own gradient of `gelu` is that of an approximation.
    let y = x.clone() * ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    close(&ours, &inputs.results(y));
}

#[test]
fn whichever_linear_kernels_are_tried_the_bits_are_the_same() {
    let device = Device::flex().autodiff();
    let shape = [35, 49];
    for (percent, rows) in [(10, 210), (60, 33)] {
        let mask = mask(percent, shape);
        let pattern = Arc::new(LinearPattern::new(shape, &mask));
        let (x, bias) = (random([rows, 49], "x", &device), random([35], "bias", &device));
        let weight = masked(&mask, shape, &device);
        let step = |precision| {
            let kept = Some((&pattern, Gradients::Kept));
            let y = bonsai_kernels::linear(x.clone(), weight.clone(), Some(bias.clone()), kept, precision);
            let all = Inputs { x: &[&x], weights: &[&weight], vectors: &[&bias] }.results(y);
            all.into_iter()
                .map(|floats| floats.iter().map(|value| value.to_bits()).collect())
                .collect::<Vec<Vec<u32>>>()
        };
        let first = step(Precision::F32);
        assert!(pattern.choices().is_none() && pattern.is_in_use());
        assert!((0..12).all(|_| step(Precision::F32) == first), "{percent} %");
        assert!(pattern.choices().is_some(), "{percent} %");
        // In bf16 it follows from the kept share alone whether the sparse kernels, which are f32, run.
        assert_eq!(step(Precision::Bf16) == first, percent == 10, "{percent} %");
    }
}

/// A transformer block, in which every operation has a part.
fn block(device: &Device, pattern: &Arc<LinearPattern>) -> Vec<Vec<f32>> {
    let x = random([37, 7, 24], "x", device);
    let (qkv, proj) = (random([24, 72], "qkv", device), masked(&mask(30, [24, 24]), [24, 24], device));
    let (gamma, beta) = (random([24], "gamma", device), random([24], "beta", device));
    let y = Tokens::new(x.clone());
    let z = y.clone().layer_norm(gamma.clone(), beta.clone(), 1e-6).linear(qkv.clone(), None, None);
    let z = z.attention(3, 0.3).sparse_linear(proj.clone(), Some(beta.clone()), Some(y), pattern, Gradients::Kept);
    let z = z.clone().gelu().linear(proj.clone(), None, Some(z));
    let inputs = Inputs { x: &[&x], weights: &[&qkv, &proj], vectors: &[&gamma, &beta] };
    inputs.results(z.into_tensor())
}

#[test]
fn threads_change_no_bit() {
    let device = Device::flex().autodiff();
    let pattern = Arc::new(LinearPattern::new([24, 24], &mask(30, [24, 24])));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| block(&device, &pattern))
    };
    let one = run(1);
    for threads in [2, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
    assert!(run(1) == one, "a second backward pass");
}
