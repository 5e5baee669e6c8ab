//! The forward pass: statistics, then what follows from them.

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to shorten.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::element;
use super::shared::{Found, across, gather_parts, merge, place, read};
use super::{Cut, Norm, Order, THREADS, empty, vector};

/// Writes number, mean and squared deviations of each share, `[channels, shares, 3]`.
#[cube(launch_unchecked)]
fn norm_statistics<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    partial: &mut Tensor<f32>,
    total: u32,
    share: u32,
    #[comptime] of: Order,
    #[define(F)] _element: ElemType,
) {
    let threads = comptime![THREADS / of.lanes];
    let thread = UNIT_POS / of.lanes;
    let channel = CUBE_POS_X * of.lanes + UNIT_POS % of.lanes;
    let first = CUBE_POS_Y * share + thread;
    let end = min(CUBE_POS_Y * share + share, total);

    // Squares of what is far from zero would lose their differences: each thread counts from the first number that it sees.
    let mut count = 0.0f32;
    let mut mean = 0.0f32;
    let mut spread = 0.0f32;
    if channel < of.channels && first < end {
        let origin = read::<F, N>(x, place(channel, first, of)).extract(0usize);
        let mut sums = Vector::<f32, N>::new(0.0f32);
        let mut squares = Vector::<f32, N>::new(0.0f32);
        for i in range_stepped(first, end, threads) {
            let apart = read::<F, N>(x, place(channel, i, of)) - Vector::new(origin);
            sums += apart;
            squares += apart * apart;
        }
        let length = x.vector_size();
        count = f32::cast_from((end - first).div_ceil(threads) * comptime!(length as u32));
        let sum = across::<N>(sums);
        mean = origin + sum / count;
        spread = max(across::<N>(squares) - sum * sum / count, 0.0f32);
    }
    let all = merge((count, mean, spread), Found::Statistics, of.lanes, threads);
    if thread == 0 && channel < of.channels {
        let at = ((channel * CUBE_COUNT_Y + CUBE_POS_Y) * 3) as usize;
        partial[at] = all.0;
        partial[at + 1] = all.1;
        partial[at + 2] = all.2;
    }
}

/// Returns normalised numbers; both passes compute them alike, to the last bit.
#[cube]
pub fn affine<N: Size>(x: Vector<f32, N>, mean: f32, scale: f32, shift: f32) -> Vector<f32, N> {
    fma(x - Vector::new(mean), Vector::new(scale), Vector::new(shift))
}

/// Returns numbers as maps hold them.
#[cube]
pub fn rounded<F: Float, N: Size>(numbers: Vector<f32, N>) -> Vector<f32, N> {
    Vector::cast_from(Vector::<F, N>::cast_from(numbers))
}

/// Returns `numbers` where `gate` is open: where it is not zero or less, as burn's rectifier has it.
#[cube]
pub fn gated<N: Size>(numbers: Vector<f32, N>, gate: Vector<f32, N>) -> Vector<f32, N> {
    let zero = Vector::<f32, N>::new(0.0f32);
    select_many(gate.less_equal(&zero), zero, numbers)
}

#[cube(launch_unchecked)]
fn norm_apply<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    partial: &Tensor<f32>,
    gamma: &Tensor<f32>,
    beta: &Tensor<f32>,
    residual: ComptimeOption<&Tensor<Vector<F, N>>>,
    y: &mut Tensor<Vector<F, N>>,
    mean: &mut Tensor<f32>,
    variance: &mut Tensor<f32>,
    epsilon: f32,
    total: u32,
    block: u32,
    #[comptime] of: Order,
    #[comptime] parts: u32,
    #[comptime] relu: bool,
    #[define(F)] _element: ElemType,
) {
    let threads = comptime![THREADS / of.lanes];
    let thread = UNIT_POS / of.lanes;
    let own = CUBE_POS_X * of.lanes + UNIT_POS % of.lanes;
    let channel = min(own, of.channels - 1);
    let statistics = gather_parts(partial, channel, Found::Statistics, of, parts);
    let of_mean = statistics.1;
    let of_variance = statistics.2 / statistics.0;
    let c = channel as usize;
    if own < of.channels {
        if CUBE_POS_Y == 0 && thread == 0 {
            mean[c] = of_mean;
            variance[c] = of_variance;
        }
        let scale = gamma[c] / f32::sqrt(of_variance + epsilon);
        let shift = beta[c];
        let end = min(CUBE_POS_Y * block + block, total);
        for i in range_stepped(CUBE_POS_Y * block + thread, end, threads) {
            let at = place(channel, i, of);
            let normalised = affine::<N>(read::<F, N>(x, at), of_mean, scale, shift);
            #[comptime]
            let sum = match residual {
                ComptimeOption::Some(residual) => normalised + read::<F, N>(residual, at),
                ComptimeOption::None => normalised,
            };
            if comptime![relu] {
                y[at] = Vector::cast_from(gated::<N>(sum, sum));
            } else {
                y[at] = Vector::cast_from(sum);
            }
        }
    }
}

/// What the forward pass makes.
pub struct Normalised {
    /// The maps, in the type of the input.
    pub output: CubeTensor,
    /// The mean of each channel.
    pub mean: CubeTensor,
    /// The biased variance of each channel.
    pub variance: CubeTensor,
}

/// Normalises each channel of `x` by its own mean and variance; maps are of one type, f32 or halves.
pub fn forward(
    norm: Norm,
    x: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    residual: Option<CubeTensor>,
) -> Normalised {
    let [images, channels, height, width] = norm.shape;
    let (of, length, x) = Order::of(x);
    let residual = residual.map(|residual| of.arrange(residual));
    let Cut { total, share, parts, block, blocks } = of.cut(images * height * width, length);
    let client = x.client.clone();
    let partial = vector(&x, &[channels, parts as usize, 3]);
    let (mean, variance) = (vector(&x, &[channels]), vector(&x, &[channels]));
    let y = empty(&x);
    let element = element(x.dtype);
    let threads = CubeDim::new_1d(THREADS);
    // SAFETY: shares and blocks end where their channels do, and threads beyond the last channel write nothing.
    unsafe {
        norm_statistics::launch_unchecked(
            &client,
            CubeCount::Static(of.groups(), parts, 1),
            threads,
            length,
            x.clone().into_tensor_arg(),
            partial.clone().into_tensor_arg(),
            total,
            share,
            of,
            element,
        );
        norm_apply::launch_unchecked(
            &client,
            CubeCount::Static(of.groups(), blocks, 1),
            threads,
            length,
            x.into_tensor_arg(),
            partial.into_tensor_arg(),
            gamma.into_tensor_arg(),
            beta.into_tensor_arg(),
            residual.map(CubeTensor::into_tensor_arg).into(),
            y.clone().into_tensor_arg(),
            mean.clone().into_tensor_arg(),
            variance.clone().into_tensor_arg(),
            norm.epsilon as f32,
            total,
            block,
            of,
            parts,
            norm.relu,
            element,
        );
    }
    Normalised { output: of.restore(y), mean, variance }
}
