//! Convolves with a tile of sums in each thread's registers.
//!
//! For each input channel a thread reads the pixels that its tile needs once, and each weight once, which all threads of a
//! cube share.

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to shorten.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments)]

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::tiles::{Constants, Tile, grid, last, places, position, store, window, zeros};
use super::{Conv, element};

#[cube(launch_unchecked)]
fn convolve<F: Float>(
    x: &Tensor<F>,
    weight: &Tensor<F>,
    y: &mut Tensor<F>,
    #[comptime] of: Constants,
    #[define(F)] _element: ElemType,
) {
    let tile = comptime![of.tile];
    let taps = comptime![of.kernel * of.kernel];
    let height = comptime![(of.tile.rows - 1) * of.stride + of.kernel];
    let width = comptime![(of.tile.pixels - 1) * of.stride + of.kernel];

    let (image, row, column) = position(of.output, tile);
    if image >= y.shape(0) as u32 {
        terminate!();
    }
    let first = CUBE_POS_Y * tile.filters;
    let rows = places(row * of.stride, x.stride(2) as u32, of.padding, of.input.rows, height);
    let columns = places(column * of.stride, x.stride(3) as u32, of.padding, of.input.columns, width);

    let mut sums = zeros(tile);
    let mut start = image * x.stride(0) as u32;
    for channel in 0..of.input.channels {
        let pixels = window::<F>(x, start, &rows, &columns, height, width);
        #[unroll]
        for f in 0..tile.filters {
            let filter = last(first + f, of.output.channels, tile.filters);
            #[unroll]
            for i in 0..of.kernel {
                #[unroll]
                for j in 0..of.kernel {
                    let tap = comptime![i * of.kernel + j];
                    let place = (filter * of.input.channels + channel) * taps + tap;
                    let weight = f32::cast_from(weight[place as usize]);
                    #[unroll]
                    for r in 0..tile.rows {
                        #[unroll]
                        for p in 0..tile.pixels {
                            let sum = comptime![((f * tile.rows + r) * tile.pixels + p) as usize];
                            let pixel = comptime![((r * of.stride + i) * width + p * of.stride + j) as usize];
                            sums[sum] = fma(weight, pixels[pixel], sums[sum]);
                        }
                    }
                }
            }
        }
        start += x.stride(1) as u32;
    }
    store::<F>(y, &sums, image, first, row, column, of.output, tile);
}

/// Convolves `x` with `weight`; `None` where the kernel does not run.
pub fn run(conv: Conv, tile: Tile, x: CubeTensor, weight: CubeTensor) -> Option<CubeTensor> {
    let of = Constants::of(conv, tile)?;
    let (count, threads) = grid(conv.images, of.output, tile)?;
    let weight = into_contiguous(weight);
    let shape = conv.output_shape().into();
    let y = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, x.dtype);
    let (client, element) = (x.client.clone(), element(x.dtype));
    // SAFETY: places are below the lengths of their tensors: padding and filters beyond the last one are read at a place
    // inside, and threads and sums beyond the output end or write nothing.
    unsafe {
        convolve::launch_unchecked(
            &client,
            count,
            threads,
            x.into_tensor_arg(),
            weight.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            of,
            element,
        );
    }
    Some(y)
}
