//! Convolves with a tile of sums in each thread's registers.
//!
//! A thread owns some neighbouring pixels of a row and some filters. For each input channel and row of the kernel it reads the
//! pixels once, and each weight once, which all threads of a cube share. Everything that the shape says is a constant of the
//! compiled kernel. Maps and weights are f32 or halves of it; sums are f32.

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to
// shorten, and ranges have no `contains` there.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments, clippy::manual_range_contains)]

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Conv, element};

/// Threads of a cube.
const THREADS: u32 = 64;
/// Cubes that a device starts at most along one axis.
pub(super) const MOST_CUBES: usize = 65_535;
/// Marks a pixel of the padding.
const OUTSIDE: u32 = u32::MAX;

/// What a thread sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Neighbouring pixels of an output row.
    pub pixels: u32,
    /// Filters.
    pub filters: u32,
}

/// The numbers of a convolution that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Constants {
    pub inputs: u32,
    pub height: u32,
    pub width: u32,
    pub outputs: u32,
    pub rows: u32,
    pub columns: u32,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub tile: Tile,
}

impl Constants {
    /// Returns them, or `None` for a kernel that is not square.
    pub fn of(conv: Conv, tile: Tile) -> Option<Constants> {
        let [rows, columns] = conv.output_size()?;
        let [kernel, other] = conv.kernel;
        (kernel == other).then_some(Constants {
            inputs: conv.inputs as u32,
            height: conv.size[0] as u32,
            width: conv.size[1] as u32,
            outputs: conv.outputs as u32,
            rows: rows as u32,
            columns: columns as u32,
            kernel: kernel as u32,
            stride: conv.stride as u32,
            padding: conv.padding as u32,
            tile,
        })
    }
}

/// `weight` is `[out, in, kernel, kernel]`, or if `turned` `[in, out, kernel, kernel]` and read from the last tap to the first.
#[cube(launch_unchecked)]
fn convolve<F: Float>(
    x: &Tensor<F>,
    weight: &Tensor<F>,
    y: &mut Tensor<F>,
    #[comptime] of: Constants,
    #[comptime] turned: bool,
    #[define(F)] _element: ElemType,
) {
    let pixels = comptime![of.tile.pixels];
    let filters = comptime![of.tile.filters];
    let per_row = comptime![of.columns.div_ceil(of.tile.pixels)];
    let per_image = comptime![of.rows * of.columns.div_ceil(of.tile.pixels)];
    let span = comptime![(of.tile.pixels - 1) * of.stride + of.kernel];
    let taps = comptime![of.kernel * of.kernel];

    let group = ABSOLUTE_POS_X;
    if group >= y.shape(0) as u32 * per_image {
        terminate!();
    }
    let image = group / per_image;
    let row = (group % per_image) / per_row;
    let column = (group % per_row) * pixels;
    let first = CUBE_POS_Y * filters;

    let of_channel = x.stride(1) as u32;
    let of_row = x.stride(2) as u32;
    let of_column = x.stride(3) as u32;

    let mut rows = Array::<u32>::new(comptime![of.kernel as usize]);
    #[unroll]
    for i in 0..of.kernel {
        let at = row * of.stride + i;
        let inside = at >= of.padding && at < of.padding + of.height;
        rows[i as usize] = select(inside, (at - of.padding) * of_row, OUTSIDE);
    }
    let mut columns = Array::<u32>::new(comptime![span as usize]);
    #[unroll]
    for i in 0..span {
        let at = column * of.stride + i;
        let inside = at >= of.padding && at < of.padding + of.width;
        columns[i as usize] = select(inside, (at - of.padding) * of_column, OUTSIDE);
    }

    let mut sums = Array::<f32>::new(comptime![(pixels * filters) as usize]);
    #[unroll]
    for i in 0..pixels * filters {
        sums[i as usize] = 0.0f32;
    }

    let mut start = image * x.stride(0) as u32;
    for channel in 0..of.inputs {
        #[unroll]
        for i in 0..of.kernel {
            let row_start = rows[i as usize];
            let mut window = Array::<f32>::new(comptime![span as usize]);
            #[unroll]
            for j in 0..span {
                let at = columns[j as usize];
                let inside = row_start != OUTSIDE && at != OUTSIDE;
                let place = select(inside, start + row_start + at, 0u32);
                window[j as usize] = select(inside, f32::cast_from(x[place as usize]), 0.0f32);
            }
            #[unroll]
            for f in 0..filters {
                let filter = last_filter(first + f, of);
                #[unroll]
                for j in 0..of.kernel {
                    let tap = comptime![i * of.kernel + j];
                    let place = if turned {
                        (channel * of.outputs + filter) * taps + comptime![taps - 1 - tap]
                    } else {
                        (filter * of.inputs + channel) * taps + tap
                    };
                    let weight = f32::cast_from(weight[place as usize]);
                    #[unroll]
                    for p in 0..pixels {
                        let sum = comptime![(f * pixels + p) as usize];
                        sums[sum] = fma(weight, window[comptime![(p * of.stride + j) as usize]], sums[sum]);
                    }
                }
            }
        }
        start += of_channel;
    }

    let size = comptime![of.rows * of.columns];
    #[unroll]
    for f in 0..filters {
        let filter = first + f;
        #[unroll]
        for p in 0..pixels {
            let place = (image * of.outputs + filter) * size + row * of.columns + column + p;
            if filter < of.outputs && column + p < of.columns {
                y[place as usize] = F::cast_from(sums[comptime![(f * pixels + p) as usize]]);
            }
        }
    }
}

/// Returns `filter`, or the last one where a tile reaches beyond it.
#[cube]
fn last_filter(filter: u32, #[comptime] of: Constants) -> u32 {
    if comptime![of.outputs.is_multiple_of(of.tile.filters)] { filter } else { min(filter, of.outputs - 1) }
}

/// Convolves `x` with `weight`, which is transposed and turned if `turned` says so; `None` where the kernel does not run.
pub fn run(conv: Conv, tile: Tile, x: CubeTensor, weight: CubeTensor, turned: bool) -> Option<CubeTensor> {
    let of = Constants::of(conv, tile)?;
    let shape = conv.output_shape();
    let per_image = of.rows * of.columns.div_ceil(tile.pixels);
    let cubes = (conv.images * per_image as usize).div_ceil(THREADS as usize);
    let filters = of.outputs.div_ceil(tile.filters);
    let elements = conv.input_shape().iter().product::<usize>().max(shape.iter().product());
    if cubes > MOST_CUBES || elements >= OUTSIDE as usize {
        return None;
    }
    let weight = into_contiguous(weight);
    let y = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape.into(), x.dtype);
    let (client, element) = (x.client.clone(), element(x.dtype));
    // SAFETY: places are below the lengths of their tensors: padding and filters beyond the last one are read at a place
    // inside, and threads and sums beyond the output end or write nothing.
    unsafe {
        convolve::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, filters, 1),
            CubeDim::new_1d(THREADS),
            x.into_tensor_arg(),
            weight.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            of,
            turned,
            element,
        );
    }
    Some(y)
}
