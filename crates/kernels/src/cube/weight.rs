//! The gradient of a convolution's weight with a tile of sums in each thread's registers.
//!
//! A thread owns all taps between one input channel and some filters, over some of the images; the sums of these shares of the
//! batch are added at the end.

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to
// shorten, and ranges have no `contains` there.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments, clippy::manual_range_contains)]

use burn::backend::DType;
use burn::backend::ops::FloatTensorOps;
use burn_cubecl::CubeBackend;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::reshape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::tiles::{Constants, OUTSIDE, Tile};
use super::{Conv, element};

/// Input channels, one a thread, of a cube.
const THREADS: u32 = 32;
/// Shares of the batch.
const SHARES: usize = 32;
/// Sums of a thread, which are to stay in registers.
const MOST_SUMS: u32 = 100;

/// Writes `[shares, out, in, kernel, kernel]`.
#[cube(launch_unchecked)]
fn weight_gradient<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    partial: &mut Tensor<f32>,
    images: u32,
    #[comptime] of: Constants,
    #[define(F)] _element: ElemType,
) {
    let pixels = comptime![of.tile.pixels];
    let filters = comptime![of.tile.filters];
    let per_row = comptime![of.output.columns.div_ceil(of.tile.pixels)];
    let span = comptime![(of.tile.pixels - 1) * of.stride + of.kernel];
    let taps = comptime![of.kernel * of.kernel];

    let channel = ABSOLUTE_POS_X;
    if channel >= of.input.channels {
        terminate!();
    }
    let first = CUBE_POS_Y * filters;
    let share = CUBE_POS_Z;

    let mut sums = Array::<f32>::new(comptime![(filters * taps) as usize]);
    #[unroll]
    for i in 0..filters * taps {
        sums[i as usize] = 0.0f32;
    }

    for image in range_stepped(share, images, CUBE_COUNT_Z) {
        let of_x = image * x.stride(0) as u32 + channel * x.stride(1) as u32;
        let of_gradient = image * gradient.stride(0) as u32;
        for row in 0..of.output.rows {
            for group in 0..per_row {
                let column = group * pixels;
                let mut above = Array::<f32>::new(comptime![(pixels * filters) as usize]);
                #[unroll]
                for f in 0..filters {
                    let filter = min(first + f, of.output.channels - 1);
                    #[unroll]
                    for p in 0..pixels {
                        let inside = column + p < of.output.columns;
                        let at = of_gradient
                            + filter * gradient.stride(1) as u32
                            + row * gradient.stride(2) as u32
                            + min(column + p, of.output.columns - 1) * gradient.stride(3) as u32;
                        let value = f32::cast_from(gradient[at as usize]);
                        above[comptime![(f * pixels + p) as usize]] = select(inside, value, 0.0f32);
                    }
                }
                #[unroll]
                for i in 0..of.kernel {
                    let r = row * of.stride + i;
                    let in_rows = r >= of.padding && r < of.padding + of.input.rows;
                    let mut window = Array::<f32>::new(comptime![span as usize]);
                    #[unroll]
                    for j in 0..span {
                        let c = column * of.stride + j;
                        let inside = in_rows && c >= of.padding && c < of.padding + of.input.columns;
                        let at = of_x + (r - of.padding) * x.stride(2) as u32 + (c - of.padding) * x.stride(3) as u32;
                        let value = f32::cast_from(x[select(inside, at, 0u32) as usize]);
                        window[j as usize] = select(inside, value, 0.0f32);
                    }
                    #[unroll]
                    for f in 0..filters {
                        #[unroll]
                        for j in 0..of.kernel {
                            let sum = comptime![(f * taps + i * of.kernel + j) as usize];
                            #[unroll]
                            for p in 0..pixels {
                                sums[sum] = fma(
                                    above[comptime![(f * pixels + p) as usize]],
                                    window[comptime![(p * of.stride + j) as usize]],
                                    sums[sum],
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[unroll]
    for f in 0..filters {
        let filter = first + f;
        if filter < of.output.channels {
            let start = ((share * of.output.channels + filter) * of.input.channels + channel) * taps;
            #[unroll]
            for tap in 0..taps {
                partial[(start + tap) as usize] = sums[comptime![(f * taps + tap) as usize]];
            }
        }
    }
}

/// Returns the gradient `[out, in, kernel, kernel]` of the weight; `None` where the kernel does not run.
pub fn run(conv: Conv, tile: Tile, x: CubeTensor, gradient: CubeTensor) -> Option<CubeTensor> {
    let of = Constants::of(conv, tile)?;
    let shape = conv.weight_shape();
    let weights = shape.iter().product::<usize>();
    let shares = conv.images.min(SHARES);
    let fits = of.kernel * of.kernel * tile.filters <= MOST_SUMS && shares * weights < OUTSIDE as usize;
    // Another tile of one row runs the same kernel.
    if tile.rows > 1 || !fits {
        return None;
    }
    let (client, element) = (x.client.clone(), element(x.dtype));
    let partial = empty_device_contiguous_dtype(client.clone(), x.device.clone(), [shares, weights].into(), DType::F32);
    // SAFETY: places are below the lengths of their tensors: what lies in the padding or beyond the last filter or column is
    // read at a place inside, and threads and filters beyond the weight end or write nothing.
    unsafe {
        weight_gradient::launch_unchecked(
            &client,
            CubeCount::Static(
                of.input.channels.div_ceil(THREADS),
                of.output.channels.div_ceil(tile.filters),
                shares as u32,
            ),
            CubeDim::new_1d(THREADS.min(of.input.channels.next_power_of_two())),
            x.into_tensor_arg(),
            gradient.into_tensor_arg(),
            partial.clone().into_tensor_arg(),
            conv.images as u32,
            of,
            element,
        );
    }
    Some(reshape(CubeBackend::float_sum_dim(partial, 0), shape.into()))
}
