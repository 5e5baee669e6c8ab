//! The backward pass: sums of the gradient, then the gradients that follow from them.
//!
//! With `g` what the rectifier lets through of the output's gradient, `n` elements of a channel and `d = √(variance + ε)`:
//!
//! ```text
//! of β = Σ g      of γ = Σ g (x − mean) / d      of the residual = g
//! of x = γ / d · (g − Σ g / n − (x − mean) / d² · Σ g (x − mean) / n)
//! ```

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to shorten.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::element;
use super::forward::{affine, gated, rounded};
use super::shared::{Found, across, gather_parts, merge, place, read};
use super::{Cut, Norm, Order, THREADS, empty, vector};

/// What decides where a rectifier lets the gradient through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Gate {
    /// There is none, or its gate has been applied.
    Open,
    /// The normalised input, computed anew.
    Input,
}

/// Writes number, `Σ g` and `Σ g (x − mean)` of each share, `[channels, shares, 3]`, and `g` if the output is given.
#[cube(launch_unchecked)]
fn norm_sums<F: Float, N: Size>(
    gradient: &Tensor<Vector<F, N>>,
    x: &Tensor<Vector<F, N>>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    gamma: &Tensor<f32>,
    beta: &Tensor<f32>,
    output: ComptimeOption<&Tensor<Vector<F, N>>>,
    mut passed: ComptimeOption<&mut Tensor<Vector<F, N>>>,
    partial: &mut Tensor<f32>,
    epsilon: f32,
    total: u32,
    share: u32,
    #[comptime] of: Order,
    #[comptime] gate: Gate,
    #[define(F)] _element: ElemType,
) {
    let threads = comptime![THREADS / of.lanes];
    let thread = UNIT_POS / of.lanes;
    let channel = CUBE_POS_X * of.lanes + UNIT_POS % of.lanes;
    let first = CUBE_POS_Y * share + thread;
    let end = min(CUBE_POS_Y * share + share, total);

    let mut count = 0.0f32;
    let mut sum = 0.0f32;
    let mut product = 0.0f32;
    if channel < of.channels && first < end {
        let c = channel as usize;
        let of_mean = mean[c];
        let scale = gamma[c] / f32::sqrt(variance[c] + epsilon);
        let shift = beta[c];
        let mut sums = Vector::<f32, N>::new(0.0f32);
        let mut products = Vector::<f32, N>::new(0.0f32);
        for i in range_stepped(first, end, threads) {
            let at = place(channel, i, of);
            let pixels = read::<F, N>(x, at);
            let given = read::<F, N>(gradient, at);
            #[comptime]
            let through = match output {
                ComptimeOption::Some(output) => gated::<N>(given, read::<F, N>(output, at)),
                ComptimeOption::None => open::<F, N>(given, pixels, of_mean, scale, shift, gate),
            };
            #[comptime]
            match passed.as_mut() {
                ComptimeOption::Some(passed) => passed[at] = Vector::cast_from(through),
                ComptimeOption::None => {}
            }
            sums += through;
            products += through * (pixels - Vector::new(of_mean));
        }
        let length = x.vector_size();
        count = f32::cast_from((end - first).div_ceil(threads) * comptime!(length as u32));
        sum = across::<N>(sums);
        product = across::<N>(products);
    }
    let all = merge((count, sum, product), Found::Sums, of.lanes, threads);
    if thread == 0 && channel < of.channels {
        let at = ((channel * CUBE_COUNT_Y + CUBE_POS_Y) * 3) as usize;
        partial[at] = all.0;
        partial[at + 1] = all.1;
        partial[at + 2] = all.2;
    }
}

/// Returns what the gate lets through, by what maps hold of the normalised input.
#[cube]
fn open<F: Float, N: Size>(
    gradient: Vector<f32, N>,
    x: Vector<f32, N>,
    mean: f32,
    scale: f32,
    shift: f32,
    #[comptime] gate: Gate,
) -> Vector<f32, N> {
    if comptime![gate == Gate::Input] {
        gated::<N>(gradient, rounded::<F, N>(affine::<N>(x, mean, scale, shift)))
    } else {
        gradient
    }
}

#[cube(launch_unchecked)]
fn norm_gradient<F: Float, N: Size>(
    gradient: &Tensor<Vector<F, N>>,
    x: &Tensor<Vector<F, N>>,
    partial: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    gamma: &Tensor<f32>,
    beta: &Tensor<f32>,
    of_x: &mut Tensor<Vector<F, N>>,
    of_gamma: &mut Tensor<f32>,
    of_beta: &mut Tensor<f32>,
    epsilon: f32,
    total: u32,
    block: u32,
    #[comptime] of: Order,
    #[comptime] parts: u32,
    #[comptime] gate: Gate,
    #[define(F)] _element: ElemType,
) {
    let threads = comptime![THREADS / of.lanes];
    let thread = UNIT_POS / of.lanes;
    let own = CUBE_POS_X * of.lanes + UNIT_POS % of.lanes;
    let channel = min(own, of.channels - 1);
    let sums = gather_parts(partial, channel, Found::Sums, of, parts);
    let c = channel as usize;
    if own < of.channels {
        let deviation = f32::sqrt(variance[c] + epsilon);
        if CUBE_POS_Y == 0 && thread == 0 {
            of_beta[c] = sums.1;
            of_gamma[c] = sums.2 / deviation;
        }
        let of_mean = mean[c];
        let scale = gamma[c] / deviation;
        let shift = beta[c];
        let average = sums.1 / sums.0;
        let slope = sums.2 / (sums.0 * deviation * deviation);
        let end = min(CUBE_POS_Y * block + block, total);
        for i in range_stepped(CUBE_POS_Y * block + thread, end, threads) {
            let at = place(channel, i, of);
            let pixels = read::<F, N>(x, at);
            let through = open::<F, N>(read::<F, N>(gradient, at), pixels, of_mean, scale, shift, gate);
            let along = (pixels - Vector::new(of_mean)) * Vector::new(slope);
            of_x[at] = Vector::cast_from(Vector::new(scale) * (through - Vector::new(average) - along));
        }
    }
}

/// What the backward pass makes.
pub struct Gradients {
    /// The gradient of the input.
    pub x: CubeTensor,
    /// The gradient of the scale.
    pub gamma: CubeTensor,
    /// The gradient of the shift.
    pub beta: CubeTensor,
    /// The gradient of the residual, if there is one.
    pub residual: Option<CubeTensor>,
}

/// Returns the gradients for one of the output, whose maps are of one type, f32 or halves; `output` is given if a residual was added.
pub fn backward(
    norm: Norm,
    gradient: CubeTensor,
    x: CubeTensor,
    [mean, variance]: [CubeTensor; 2],
    [gamma, beta]: [CubeTensor; 2],
    output: Option<CubeTensor>,
) -> Gradients {
    let [images, channels, height, width] = norm.shape;
    let (of, length, x) = Order::of(x);
    let gradient = of.arrange(gradient);
    let output = output.map(|output| of.arrange(output));
    let Cut { total, share, parts, block, blocks } = of.cut(images * height * width, length);
    let client = x.client.clone();
    let partial = vector(&x, &[channels, parts as usize, 3]);
    let (of_gamma, of_beta) = (vector(&x, &[channels]), vector(&x, &[channels]));
    let of_x = empty(&x);
    let passed = output.as_ref().map(empty);
    let element = element(x.dtype);
    let gate = if norm.relu && output.is_none() { Gate::Input } else { Gate::Open };
    let threads = CubeDim::new_1d(THREADS);
    // SAFETY: shares and blocks end where their channels do, and threads beyond the last channel write nothing.
    unsafe {
        norm_sums::launch_unchecked(
            &client,
            CubeCount::Static(of.groups(), parts, 1),
            threads,
            length,
            gradient.clone().into_tensor_arg(),
            x.clone().into_tensor_arg(),
            mean.clone().into_tensor_arg(),
            variance.clone().into_tensor_arg(),
            gamma.clone().into_tensor_arg(),
            beta.clone().into_tensor_arg(),
            output.map(CubeTensor::into_tensor_arg).into(),
            passed.clone().map(CubeTensor::into_tensor_arg).into(),
            partial.clone().into_tensor_arg(),
            norm.epsilon as f32,
            total,
            share,
            of,
            gate,
            element,
        );
        norm_gradient::launch_unchecked(
            &client,
            CubeCount::Static(of.groups(), blocks, 1),
            threads,
            length,
            passed.clone().unwrap_or(gradient).into_tensor_arg(),
            x.into_tensor_arg(),
            partial.into_tensor_arg(),
            mean.into_tensor_arg(),
            variance.into_tensor_arg(),
            gamma.into_tensor_arg(),
            beta.into_tensor_arg(),
            of_x.clone().into_tensor_arg(),
            of_gamma.clone().into_tensor_arg(),
            of_beta.clone().into_tensor_arg(),
            norm.epsilon as f32,
            total,
            block,
            of,
            parts,
            gate,
            element,
        );
    }
    Gradients { x: of.restore(of_x), gamma: of_gamma, beta: of_beta, residual: passed.map(|passed| of.restore(passed)) }
}
