//! The gradient of the weights: for each pair of channels and each tap, the sum over images and pixels of input times
//! output gradient.
//!
//! A tile of sums stays in registers over the whole maps of a group of blocks. Groups are cut by the size of the map
//! alone, and their sums are added in order, so the result does not depend on the number of threads.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::Conv;
use crate::bf16::Bf16;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{Direction, Part, Slot, section};
use crate::simd::{Kernel, Lanes, Level};

/// Output channels in a register tile.
const TILE: usize = 4;
/// A vector of the input reads one pixel, or part of it.
const ONE: u8 = 1;
/// It reads two pixels side by side.
const TWO: u8 = 2;
/// It reads two pixels with others between them.
const APART: u8 = 3;
/// Pixels that a tile of sums runs over at least, so that adding up its lanes at the end costs little.
const PIXELS: usize = 512;

pub(super) fn run<T: Operand>(conv: &Conv, input: &[T], gradient: &[T]) -> Buffer {
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
pub(super) fn group<T: Operand>(level: Level, conv: &Conv, input: &[T], gradient: &[T], sums: &mut [f32]) {
    let (from, to) = (conv.input, conv.output());
    let filter = from.channels * conv.kernel[0] * conv.kernel[1];
    let slot = Slot::new(conv, Direction::Weight, false, || {
        let (taps, place) = conv.all_taps();
        let pixels = taps.rows_on_map(&place, from.height) * taps.width * to.width;
        gradient.len() / to.block() * LANES * pixels * from.channels * to.channels
    });
    sums.par_chunks_mut(TILE * filter).enumerate().for_each(|(tile, sums)| {
        let _timer = slot.time();
        T::run(level, Work { conv, from, to, input, gradient, first: tile * TILE, sums });
    });
}

/// What is multiplied: in an activation's layout, 16 images of a pixel side by side.
pub(super) trait Operand: Copy + Send + Sync {
    /// How many a lane holds.
    const PER_LANE: usize;

    /// Returns `sum` plus the product, or products.
    fn multiply<L: Lanes>(a: L, b: L, sum: L) -> L;

    /// Runs `kernel`, which multiplies.
    fn run<K: Kernel>(level: Level, kernel: K) -> K::Output;
}

impl Operand for f32 {
    const PER_LANE: usize = 1;

    #[inline(always)]
    fn multiply<L: Lanes>(a: L, b: L, sum: L) -> L {
        a.mul_add(b, sum)
    }

    fn run<K: Kernel>(level: Level, kernel: K) -> K::Output {
        level.run(kernel)
    }
}

impl Operand for Bf16 {
    const PER_LANE: usize = 2;

    #[inline(always)]
    fn multiply<L: Lanes>(a: L, b: L, sum: L) -> L {
        a.dot(b, sum)
    }

    fn run<K: Kernel>(level: Level, kernel: K) -> K::Output {
        level.run_bf16(kernel)
    }
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
struct Work<'a, T> {
    conv: &'a Conv,
    from: Maps,
    to: Maps,
    input: &'a [T],
    gradient: &'a [T],
    /// The first output channel.
    first: usize,
    /// The gradient of these channels' filters, `[channel][in][kernel][kernel]`.
    sums: &'a mut [f32],
}

impl<T: Operand> Kernel for Work<'_, T> {
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

impl<T: Operand> Work<'_, T> {
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
        // A vector holds part of a pixel, one pixel, or two of a row.
        let numbers = L::WIDTH * T::PER_LANE;
        let mut totals = [[[0.0f32; K]; I]; TILE];
        for image in (0..LANES).step_by(numbers) {
            let mut sums = [[[L::splat(0.0); K]; I]; TILE];
            for block in 0..self.input.len() / from.block() {
                for y in start..end {
                    let row = stride * y + ky + from.margin - conv.padding;
                    // SAFETY: the asserts of `run` hold, so the taps of an output row that `start..end` leaves over lie
                    // within a row of the input and its margin; input channels `i..i + I` exist by the loops of `run`.
                    // The rows together read the pixels of one row, and of each the images from `image` on.
                    unsafe {
                        let input = self.input.as_ptr().add(block * from.block() + i * from.plane());
                        let mut input = input.add((row * from.row() + column) * LANES + image);
                        let gradient = self.gradient.as_ptr().add(block * to.block() + self.first * to.plane());
                        let mut gradient = gradient.add(to.floats(y).start + image);
                        let mut left = to.width;
                        if numbers > LANES {
                            let pairs = to.width / 2;
                            match stride {
                                1 => self.row::<L, I, K, TWO>(channels, &mut sums, gradient, input, pairs),
                                _ => self.row::<L, I, K, APART>(channels, &mut sums, gradient, input, pairs),
                            }
                            gradient = gradient.wrapping_add(2 * pairs * LANES);
                            input = input.wrapping_add(2 * pairs * stride * LANES);
                            left %= 2;
                        }
                        self.row::<L, I, K, ONE>(channels, &mut sums, gradient, input, left);
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

    /// Adds what `count` vectors of pixels, from `gradient` and `input` on, contribute.
    ///
    /// # Safety
    ///
    /// They must be readable in `channels` planes of the gradient, and with `K - 1` pixels after them in `I` planes of the
    /// input.
    #[inline(always)]
    unsafe fn row<L: Lanes, const I: usize, const K: usize, const PIXELS: u8>(
        &self,
        channels: usize,
        sums: &mut [[[L; K]; I]; TILE],
        mut gradient: *const T,
        mut input: *const T,
        count: usize,
    ) {
        let (stride, step) = (self.conv.stride, if PIXELS == ONE { LANES } else { 2 * LANES });
        for _ in 0..count {
            // SAFETY: the caller vouches for these pixels; an output channel that the last tile lacks is replaced by the
            // last one there is.
            unsafe {
                let mut pixels = [L::splat(0.0); TILE];
                for o in 0..TILE {
                    let gradient = gradient.add(o.min(channels - 1) * self.to.plane());
                    pixels[o] = if PIXELS == ONE { one(gradient) } else { L::load(gradient.cast()) };
                }
                for j in 0..I {
                    for k in 0..K {
                        let input = input.add(j * self.from.plane() + k * LANES);
                        let pixel = match PIXELS {
                            ONE => one(input),
                            TWO => L::load(input.cast()),
                            _ => L::load_halves(input.cast(), input.add(stride * LANES).cast()),
                        };
                        for o in 0..TILE {
                            sums[o][j][k] = T::multiply(pixels[o], pixel, sums[o][j][k]);
                        }
                    }
                }
            }
            input = input.wrapping_add(stride * step);
            gradient = gradient.wrapping_add(step);
        }
    }
}

/// Reads a pixel, or as much of it as a vector holds.
///
/// # Safety
///
/// That must be readable.
#[inline(always)]
unsafe fn one<T: Operand, L: Lanes>(pixel: *const T) -> L {
    // SAFETY: the caller vouches for it.
    unsafe { if L::WIDTH * T::PER_LANE > LANES { L::load_half(pixel.cast()) } else { L::load(pixel.cast()) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16::Stored;
    use crate::buffer::Halves;

    /// Rounds `floats` into the middle of a slice that is NaN elsewhere.
    fn among_nan(floats: &[f32]) -> Halves {
        let mut all = Halves::any(floats.len() + 4 * LANES);
        all.fill(Bf16::of(f32::NAN));
        all[2 * LANES..].iter_mut().zip(floats).for_each(|(half, x)| *half = Bf16::of(*x));
        all
    }

    #[test]
    fn pairs_of_pixels_stay_within_their_rows() {
        for (dims, kernel, stride) in [
            ([17, 3, 7, 5], 3, 1),
            ([5, 4, 8, 8], 3, 2),
            ([16, 2, 9, 9], 1, 2),
            ([2, 5, 1, 1], 1, 1),
            ([3, 4, 2, 6], 3, 1),
        ] {
            let conv = Conv { input: Maps::new(dims), outputs: 5, kernel: [kernel; 2], stride, padding: kernel / 2 };
            let [from, to] = [conv.input, conv.output()].map(|maps| {
                let ones = maps.from_nchw(&vec![1.0; maps.dims().iter().product()]);
                (among_nan(&ones), 2 * LANES..2 * LANES + ones.len())
            });
            for level in Level::available() {
                let sums = level.during(|| run(&conv, &from.0[from.1.clone()], &to.0[to.1.clone()]));
                assert!(sums.iter().all(|sum| sum.is_finite()), "{level:?} {conv:?}");
            }
        }
    }
}
