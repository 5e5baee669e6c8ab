//! The gradient of a convolution's input with a tile of sums in each thread's registers.
//!
//! A pixel of the input gets something from every tap whose step leads back to a pixel of the output, which depends on the
//! remainders of its row and column by the stride. A tile holds all remainders alike, so that the taps of each of its pixels
//! are constants of the compiled kernel. For each output channel a thread reads the gradient's pixels that its tile needs once,
//! and each weight once.

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
fn data_gradient<F: Float>(
    gradient: &Tensor<F>,
    weight: &Tensor<F>,
    x: &mut Tensor<F>,
    #[comptime] of: Constants,
    #[define(F)] _element: ElemType,
) {
    let tile = comptime![of.tile];
    let taps = comptime![of.kernel * of.kernel];
    // Tap `i` leads from input row `r` back to output row `(r + ahead - i) / stride - kernel`, without negative numbers.
    let ahead = comptime![of.padding + of.stride * of.kernel];
    let lowest = comptime![(ahead + 1 - of.kernel).div_ceil(of.stride)];
    let height = comptime![(tile.rows - 1 + ahead) / of.stride + 1 - lowest];
    let width = comptime![(tile.pixels - 1 + ahead) / of.stride + 1 - lowest];

    let (image, row, column) = position(of.input, tile);
    if image >= x.shape(0) as u32 {
        terminate!();
    }
    let first = CUBE_POS_Y * tile.filters;
    let of_row = gradient.stride(2) as u32;
    let of_column = gradient.stride(3) as u32;
    let rows = places(row / of.stride + lowest, of_row, of.kernel, of.output.rows, height);
    let columns = places(column / of.stride + lowest, of_column, of.kernel, of.output.columns, width);

    let mut sums = zeros(tile);
    let mut start = image * gradient.stride(0) as u32;
    for channel in 0..of.output.channels {
        let pixels = window::<F>(gradient, start, &rows, &columns, height, width);
        #[unroll]
        for f in 0..tile.filters {
            let filter = last(first + f, of.input.channels, tile.filters);
            #[unroll]
            for i in 0..of.kernel {
                #[unroll]
                for j in 0..of.kernel {
                    let tap = comptime![i * of.kernel + j];
                    let place = (channel * of.input.channels + filter) * taps + tap;
                    let weight = f32::cast_from(weight[place as usize]);
                    #[unroll]
                    for r in 0..tile.rows {
                        #[unroll]
                        for p in 0..tile.pixels {
                            let leads_back = comptime![
                                (r + ahead - i).is_multiple_of(of.stride) && (p + ahead - j).is_multiple_of(of.stride)
                            ];
                            if leads_back {
                                let sum = comptime![((f * tile.rows + r) * tile.pixels + p) as usize];
                                let above = comptime![(r + ahead - i) / of.stride - lowest];
                                let beside = comptime![(p + ahead - j) / of.stride - lowest];
                                let pixel = comptime![(above * width + beside) as usize];
                                sums[sum] = fma(weight, pixels[pixel], sums[sum]);
                            }
                        }
                    }
                }
            }
        }
        start += gradient.stride(1) as u32;
    }
    store::<F>(x, &sums, image, first, row, column, of.input, tile);
}

/// Returns the gradient of the input; `None` where the kernel does not run.
pub fn run(conv: Conv, tile: Tile, gradient: CubeTensor, weight: CubeTensor) -> Option<CubeTensor> {
    let of = Constants::of(conv, tile)?;
    if !tile.rows.is_multiple_of(of.stride) || !tile.pixels.is_multiple_of(of.stride) {
        return None;
    }
    let (count, threads) = grid(conv.images, of.input, tile)?;
    let weight = into_contiguous(weight);
    let shape = conv.input_shape().into();
    let x = empty_device_contiguous_dtype(gradient.client.clone(), gradient.device.clone(), shape, gradient.dtype);
    let (client, element) = (gradient.client.clone(), element(gradient.dtype));
    // SAFETY: places are below the lengths of their tensors: what lies beyond the gradient and channels beyond the last one
    // are read at a place inside, and threads and sums beyond the input end or write nothing.
    unsafe {
        data_gradient::launch_unchecked(
            &client,
            count,
            threads,
            gradient.into_tensor_arg(),
            weight.into_tensor_arg(),
            x.clone().into_tensor_arg(),
            of,
            element,
        );
    }
    Some(x)
}
