//! What the convolution kernels share: a tile of sums in each thread's registers, and the pixels that it needs.
//!
//! A thread owns some neighbouring pixels of some neighbouring rows, and some filters. Everything that the shape says is a
//! constant of the compiled kernel. Sums are f32, whatever maps and weights are.

// A kernel's expansion by the macro is not ours to document, and ranges have no `contains` there.
#![allow(missing_docs, clippy::too_many_arguments, clippy::manual_range_contains)]

use cubecl::prelude::*;

use super::Conv;

/// Threads of a cube, at most.
const THREADS: u32 = 64;
/// Cubes that a device starts at most along one axis.
pub const MOST_CUBES: usize = 65_535;
/// Marks a pixel of the padding.
pub const OUTSIDE: u32 = u32::MAX;

/// What a thread sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Neighbouring rows.
    pub rows: u32,
    /// Neighbouring pixels of each row.
    pub pixels: u32,
    /// Filters.
    pub filters: u32,
}

/// The shape of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Maps {
    pub channels: u32,
    pub rows: u32,
    pub columns: u32,
}

/// The numbers of a convolution that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Constants {
    pub input: Maps,
    pub output: Maps,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub tile: Tile,
}

impl Constants {
    /// Returns them, or `None` for a kernel that is not square and for tensors of more elements than places are counted.
    pub fn of(conv: Conv, tile: Tile) -> Option<Constants> {
        let maps = |[_, channels, rows, columns]: [usize; 4]| Maps {
            channels: channels as u32,
            rows: rows as u32,
            columns: columns as u32,
        };
        let [kernel, other] = conv.kernel;
        let (input, output) = (conv.input_shape(), conv.output_shape());
        let elements = input.iter().product::<usize>().max(output.iter().product());
        (kernel == other && elements < OUTSIDE as usize).then_some(Constants {
            input: maps(input),
            output: maps(output),
            kernel: kernel as u32,
            stride: conv.stride as u32,
            padding: conv.padding as u32,
            tile,
        })
    }
}

/// Returns how a kernel that makes `maps` is started, or `None` if that takes too many cubes.
pub fn grid(images: usize, maps: Maps, tile: Tile) -> Option<(CubeCount, CubeDim)> {
    let tiles = images * (maps.rows.div_ceil(tile.rows) * maps.columns.div_ceil(tile.pixels)) as usize;
    let threads = THREADS.min(tiles.next_power_of_two() as u32);
    let cubes = tiles.div_ceil(threads as usize);
    let count = CubeCount::Static(cubes as u32, maps.channels.div_ceil(tile.filters), 1);
    (cubes <= MOST_CUBES).then_some((count, CubeDim::new_1d(threads)))
}

/// Returns image, first row and first column of a thread's tile of `maps`.
#[cube]
pub fn position(#[comptime] maps: Maps, #[comptime] tile: Tile) -> (u32, u32, u32) {
    let across = comptime![maps.columns.div_ceil(tile.pixels)];
    let per_image = comptime![maps.rows.div_ceil(tile.rows) * maps.columns.div_ceil(tile.pixels)];
    let place = ABSOLUTE_POS_X % per_image;
    (ABSOLUTE_POS_X / per_image, place / across * tile.rows, place % across * tile.pixels)
}

/// Returns where `count` neighbours lie along an axis of `size`, `step` apart in memory; `first` counts from `before`
/// places before the axis begins.
#[cube]
pub fn places(
    first: u32,
    step: u32,
    #[comptime] before: u32,
    #[comptime] size: u32,
    #[comptime] count: u32,
) -> Array<u32> {
    let mut places = Array::<u32>::new(comptime![count as usize]);
    #[unroll]
    for i in 0..count {
        let at = first + i;
        let inside = at >= before && at < before + size;
        places[i as usize] = select(inside, (at - before) * step, OUTSIDE);
    }
    places
}

/// Reads the pixels of a channel that begins at `start`, zero in the padding.
#[cube]
pub fn window<F: Float>(
    x: &Tensor<F>,
    start: u32,
    rows: &Array<u32>,
    columns: &Array<u32>,
    #[comptime] height: u32,
    #[comptime] width: u32,
) -> Array<f32> {
    let mut window = Array::<f32>::new(comptime![(height * width) as usize]);
    #[unroll]
    for i in 0..height {
        let row = rows[i as usize];
        #[unroll]
        for j in 0..width {
            let column = columns[j as usize];
            let inside = row != OUTSIDE && column != OUTSIDE;
            let place = select(inside, start + row + column, 0u32);
            window[comptime![(i * width + j) as usize]] = select(inside, f32::cast_from(x[place as usize]), 0.0f32);
        }
    }
    window
}

/// Returns the sums of a tile, all zero.
#[cube]
pub fn zeros(#[comptime] tile: Tile) -> Array<f32> {
    let count = comptime![tile.rows * tile.pixels * tile.filters];
    let mut sums = Array::<f32>::new(comptime![count as usize]);
    #[unroll]
    for i in 0..count {
        sums[i as usize] = 0.0f32;
    }
    sums
}

/// Returns `channel`, or the last one where a tile reaches beyond it.
#[cube]
pub fn last(channel: u32, #[comptime] channels: u32, #[comptime] filters: u32) -> u32 {
    if comptime![channels.is_multiple_of(filters)] { channel } else { min(channel, channels - 1) }
}

/// Writes the sums of a tile, except those beyond the maps.
#[cube]
pub fn store<F: Float>(
    y: &mut Tensor<F>,
    sums: &Array<f32>,
    image: u32,
    first: u32,
    row: u32,
    column: u32,
    #[comptime] maps: Maps,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for f in 0..tile.filters {
        let channel = first + f;
        #[unroll]
        for r in 0..tile.rows {
            #[unroll]
            for p in 0..tile.pixels {
                let inside = channel < maps.channels && row + r < maps.rows && column + p < maps.columns;
                if inside {
                    let map = image * maps.channels + channel;
                    let place = (map * maps.rows + row + r) * maps.columns + column + p;
                    let sum = sums[comptime![((f * tile.rows + r) * tile.pixels + p) as usize]];
                    y[place as usize] = F::cast_from(sum);
                }
            }
        }
    }
}
