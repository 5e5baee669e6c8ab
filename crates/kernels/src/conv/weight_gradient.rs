//! The gradient of the weights: for each pair of channels and each tap, the sum over images and pixels of input times
//! output gradient.
//!
//! A tile of sums stays in registers over the whole maps of a group of blocks. Groups are cut by the size of the map
//! alone, and their sums are added in order, so the result does not depend on the number of threads.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::Conv;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{Direction, Part, Slot, section};
use crate::simd::{Kernel, Lanes, Level};

/// Output channels in a register tile.
const TILE: usize = 4;
/// Pixels that a tile of sums runs over at least, so that adding up its lanes at the end costs little.
const PIXELS: usize = 512;

pub(super) fn run(conv: &Conv, input: &[f32], gradient: &[f32]) -> Buffer {
    let Groups { blocks, groups } = Groups::of(conv);
    let size = size(conv);
    let level = Level::current();
    let mut sums = Buffer::any(groups * size);
    let tasks = sums.par_chunks_mut(size).zip(input.par_chunks(blocks * conv.input.block()));
    tasks.zip(gradient.par_chunks(blocks * conv.output().block())).for_each(|((sums, input), gradient)| {
        group(level, conv, input, gradient, sums);
    });
    total(conv, sums)
}

/// How blocks are grouped: the maps of a group are summed in one go.
pub(super) struct Groups {
    /// Blocks of a group; the last may have fewer.
    pub blocks: usize,
    /// Groups.
    pub groups: usize,
}

impl Groups {
    /// Groups the blocks of `conv` by the size of its output.
    pub fn of(conv: &Conv) -> Groups {
        let to = conv.output();
        let blocks = PIXELS.div_ceil(to.height * to.width).min(to.blocks());
        Groups { blocks, groups: to.blocks().div_ceil(blocks) }
    }
}

/// Counts the weights.
pub(super) fn size(conv: &Conv) -> usize {
    conv.outputs * conv.input.channels * conv.kernel[0] * conv.kernel[1]
}

/// Writes the sums over the blocks of a group.
pub(super) fn group(level: Level, conv: &Conv, input: &[f32], gradient: &[f32], sums: &mut [f32]) {
    let (from, to) = (conv.input, conv.output());
    let filter = from.channels * conv.kernel[0] * conv.kernel[1];
    let slot = Slot::new(conv, Direction::Weight, false, || {
        let (taps, place) = conv.all_taps();
        let pixels = taps.rows_on_map(&place, from.height) * taps.width * to.width;
        gradient.len() / to.block() * LANES * pixels * from.channels * to.channels
    });
    sums.par_chunks_mut(TILE * filter).enumerate().for_each(|(tile, sums)| {
        let _timer = slot.time();
        level.run(Work { conv, from, to, input, gradient, first: tile * TILE, sums });
    });
}

/// Adds the sums of the groups.
pub(super) fn total(conv: &Conv, sums: Buffer) -> Buffer {
    let _section = section(Part::Around);
    let size = size(conv);
    let groups = sums.len() / size;
    if groups == 1 {
        return sums;
    }
    let mut total = Buffer::any(size);
    total.par_iter_mut().with_min_len(4096).enumerate().for_each(|(i, total)| {
        *total = (0..groups).map(|group| sums[group * size + i]).sum();
    });
    total
}

/// Up to four output channels of a group of blocks.
struct Work<'a> {
    conv: &'a Conv,
    from: Maps,
    to: Maps,
    input: &'a [f32],
    gradient: &'a [f32],
    /// The first output channel.
    first: usize,
    /// The gradient of these channels' filters, `[channel][in][kernel][kernel]`.
    sums: &'a mut [f32],
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let Work { conv, from, to, .. } = self;
        assert_eq!(self.input.len() / from.block(), self.gradient.len() / to.block());
        assert!(conv.padding <= from.margin && from.width == conv.input.width && to == conv.output());
        let [height, width] = conv.kernel;
        let inputs = from.channels;
        // Tiles are as large as the registers allow: 24 sums of 32 registers, 8 of 16.
        let wide = L::WIDTH == LANES;
        for ky in 0..height {
            let mut kx = 0;
            while kx < width {
                let mut i = 0;
                if wide && kx + 3 <= width {
                    while i + 2 <= inputs {
                        self.tile::<L, 2, 3>(i, ky, kx);
                        i += 2;
                    }
                    if i < inputs {
                        self.tile::<L, 1, 3>(i, ky, kx);
                    }
                    kx += 3;
                } else {
                    while wide && i + 4 <= inputs {
                        self.tile::<L, 4, 1>(i, ky, kx);
                        i += 4;
                    }
                    while i + 2 <= inputs {
                        self.tile::<L, 2, 1>(i, ky, kx);
                        i += 2;
                    }
                    if i < inputs {
                        self.tile::<L, 1, 1>(i, ky, kx);
                    }
                    kx += 1;
                }
            }
        }
    }
}

impl Work<'_> {
    /// Sums over all pixels for four output channels, `I` input channels from `i` on and `K` taps from `kx` on.
    #[inline(always)]
    fn tile<L: Lanes, const I: usize, const K: usize>(&mut self, i: usize, ky: usize, kx: usize) {
        let Work { conv, from, to, .. } = *self;
        let [height, width] = conv.kernel;
        let filter = from.channels * height * width;
        let channels = self.sums.len() / filter;
        let stride = conv.stride;
        // Output rows whose tap lies on the map.
        let start = conv.padding.saturating_sub(ky).div_ceil(stride);
        let end = (from.height + conv.padding).saturating_sub(ky).div_ceil(stride).min(to.height);
        let column = kx + from.margin - conv.padding;
        let mut totals = [[[0.0f32; K]; I]; TILE];
        for lane in (0..LANES).step_by(L::WIDTH) {
            let mut sums = [[[L::splat(0.0); K]; I]; TILE];
            for block in 0..self.input.len() / from.block() {
                for y in start..end {
                    let row = stride * y + ky + from.margin - conv.padding;
                    // SAFETY: the asserts of `run` hold, so the taps of an output row that `start..end` leaves over lie
                    // within a row of the input and its margin; input channels `i..i + I` exist by the loops of `run`,
                    // and an output channel that the last tile lacks is replaced by the last one there is.
                    unsafe {
                        let input = self.input.as_ptr().add(block * from.block() + i * from.plane());
                        let mut input = input.add((row * from.row() + column) * LANES + lane);
                        let gradient = self.gradient.as_ptr().add(block * to.block() + self.first * to.plane());
                        let mut gradient = gradient.add(to.floats(y).start + lane);
                        for _ in 0..to.width {
                            let mut pixels = [L::splat(0.0); TILE];
                            for o in 0..TILE {
                                pixels[o] = L::load(gradient.add(o.min(channels - 1) * to.plane()));
                            }
                            for j in 0..I {
                                for k in 0..K {
                                    let pixel = L::load(input.add(j * from.plane() + k * LANES));
                                    for o in 0..TILE {
                                        sums[o][j][k] = pixels[o].mul_add(pixel, sums[o][j][k]);
                                    }
                                }
                            }
                            input = input.wrapping_add(stride * LANES);
                            gradient = gradient.wrapping_add(LANES);
                        }
                    }
                }
            }
            for o in 0..TILE {
                for j in 0..I {
                    for k in 0..K {
                        totals[o][j][k] += sums[o][j][k].sum();
                    }
                }
            }
        }
        for (o, totals) in totals.iter().enumerate().take(channels) {
            for (j, totals) in totals.iter().enumerate() {
                let at = o * filter + ((i + j) * height + ky) * width + kx;
                self.sums[at..at + K].copy_from_slice(totals);
            }
        }
    }
}
