//! The gradient of the weights: for each pair of channels and each tap, the sum over images and pixels of input times
//! output gradient.
//!
//! Each weight has one vector of sums, which takes the pixels in order over the whole maps of a group of blocks. A task
//! computes some filters for some input channels at a time, so that their vectors stay in the second cache, and goes through the maps a few rows
//! at a time, so that the pixels do too; a tile of sums is in registers meanwhile. Groups are cut by the size of the map
//! alone, and their sums are added in order, so the result does not depend on the number of threads.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use super::Conv;
use super::ahead::Ahead;
use crate::bf16::{Bf16, Precision};
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
/// Pixels that a group of blocks has at least, so that its sums, which are kept, are few.
const PIXELS: usize = 512;
/// Vectors of sums of a task at a time: 384 KB of a second cache of 1 MB.
const VECTORS: usize = 6144;
/// Pixels of a strip, for one tap and for several.
const STRIPS: [usize; 2] = [32, 256];
/// Pixels of a map that is small enough for such strips, where taps overlap.
const SMALL: usize = 64;
/// Bytes of the input in a strip that the second cache holds beside the sums.
const INPUT: usize = 400 * 1024;

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
    let slot = Slot::of(conv, Direction::Weight, false, T::PRECISION, || {
        let (taps, place) = conv.all_taps();
        let pixels = taps.rows_on_map(&place, from.height) * taps.width * to.width;
        gradient.len() / to.block() * LANES * pixels * from.channels * to.channels
    });
    let Conv { kernel, stride, padding, .. } = *conv;
    let groups = Groups::of(conv).groups;
    products(level, Products { kernel, stride, padding, from, to, input, gradient }, groups, &slot, sums);
}

/// Sums over some blocks of products of the pixels of each channel of `gradient` and those that taps reach of each channel
/// of `input`.
#[derive(Clone, Copy)]
pub(crate) struct Products<'a, T> {
    /// Height and width of the rectangle of taps.
    pub kernel: [usize; 2],
    /// The step of the taps from one pixel of the gradient to the next.
    pub stride: usize,
    /// Rows and columns of taps before the first pixel of the input.
    pub padding: usize,
    /// The shape of the input.
    pub from: Maps,
    /// The shape of the gradient.
    pub to: Maps,
    /// The input.
    pub input: &'a [T],
    /// The gradient.
    pub gradient: &'a [T],
}

/// Writes the sums `[channel of the gradient][channel of the input][taps]`; `calls` such calls run side by side.
pub(crate) fn products<T: Operand>(level: Level, work: Products<T>, calls: usize, slot: &Slot, sums: &mut [f32]) {
    let taps = work.kernel[0] * work.kernel[1];
    let filter = work.from.channels * taps;
    // Enough tasks for all threads; how they are cut changes no sum.
    let most = if taps == 1 { 64 } else { 16 };
    let tasks = (4 * rayon::current_num_threads()).div_ceil(calls);
    let channels = work.to.channels.div_ceil(tasks).next_multiple_of(TILE).min(most);
    sums.par_chunks_mut(channels * filter).enumerate().for_each(|(task, sums)| {
        let _timer = slot.time();
        let inputs = (VECTORS / (channels * taps)).max(1);
        let mut vectors = Buffer::any(channels * inputs.min(work.from.channels) * taps * LANES);
        T::run(level, Work { products: work, first: task * channels, inputs, sums, vectors: &mut vectors });
    });
}

/// What is multiplied: in an activation's layout, 16 images of a pixel side by side.
pub(crate) trait Operand: Copy + Send + Sync {
    /// How many a lane holds.
    const PER_LANE: usize;
    /// What it is.
    const PRECISION: Precision;

    /// Returns `sum` plus the product, or products.
    fn multiply<L: Lanes>(a: L, b: L, sum: L) -> L;

    /// Runs `kernel`, which multiplies.
    fn run<K: Kernel>(level: Level, kernel: K) -> K::Output;
}

impl Operand for f32 {
    const PER_LANE: usize = 1;
    const PRECISION: Precision = Precision::F32;

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
    const PRECISION: Precision = Precision::Bf16;

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

/// Some output channels.
struct Work<'a, T> {
    products: Products<'a, T>,
    /// The first output channel.
    first: usize,
    /// Input channels at a time.
    inputs: usize,
    /// The gradient of these channels' filters, `[channel][in][kernel][kernel]`.
    sums: &'a mut [f32],
    /// Vectors of sums from one strip to the next, `[channel][in][kernel][kernel][16]`.
    vectors: &'a mut [f32],
}

/// Some rows of some blocks.
#[derive(Clone)]
struct Strip {
    blocks: Range<usize>,
    rows: Range<usize>,
    is_first: bool,
    is_last: bool,
}

/// Where a tile of sums is: output channels from `o` on, input channels from `i` on, and taps from `(ky, kx)` on.
#[derive(Clone, Copy)]
struct At {
    o: usize,
    i: usize,
    ky: usize,
    kx: usize,
}

impl<T: Operand> Kernel for Work<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let Products { kernel: [height, width], padding, from, to, input, gradient, stride } = self.products;
        let blocks = gradient.len() / to.block();
        assert!(input.len() == blocks * from.block() && gradient.len() == blocks * to.block());
        // Every tap of every pixel lies within its row and the margin of it.
        assert!(padding <= from.margin && stride > 0);
        assert!(stride * (to.width - 1) + width <= from.width + padding + from.margin);
        let filter = from.channels * height * width;
        let channels = self.sums.len() / filter;
        assert!(self.sums.len() == channels * filter && self.first + channels <= to.channels);
        assert!(self.inputs > 0);
        // Where taps overlap, whole maps are faster, whose pixels are read several times; of small ones, several, so that sums
        // are read and written less often, and fewer channels of them.
        let map = to.width * to.height;
        let pixels = match height * width {
            1 => STRIPS[0],
            _ if stride == 1 && map > SMALL => usize::MAX,
            _ => {
                let of_channel = from.plane() * size_of::<T>() * STRIPS[1].min(blocks * map) / map;
                self.inputs = self.inputs.min((INPUT / of_channel.max(1) / 2 * 2).max(2));
                STRIPS[1]
            }
        };
        let strips = || {
            let at_once = pixels / (to.width * to.height);
            let rows = if at_once > 0 { to.height } else { (pixels / to.width).max(1) };
            let at_once = at_once.max(1);
            (0..blocks).step_by(at_once).flat_map(move |block| {
                (0..to.height).step_by(rows).map(move |row| {
                    let (blocks_end, rows_end) = ((block + at_once).min(blocks), (row + rows).min(to.height));
                    Strip {
                        blocks: block..blocks_end,
                        rows: row..rows_end,
                        is_first: block == 0 && row == 0,
                        is_last: blocks_end == blocks && rows_end == to.height,
                    }
                })
            })
        };
        // Tiles are as large as the registers allow: 24 sums of 32 registers, 8 of 16.
        let wide = L::WIDTH == LANES;
        for first in (0..from.channels).step_by(self.inputs) {
            let inputs = first..(first + self.inputs).min(from.channels);
            assert!(self.vectors.len() >= channels.next_multiple_of(TILE) * inputs.len() * height * width * LANES);
            let mut strips = strips().peekable();
            while let Some(strip) = strips.next() {
                let mut ahead = strips.peek().map_or_else(Ahead::nothing, |next| self.ahead(&inputs, channels, next));
                let mut kx = 0;
                while kx < width {
                    let three = wide && kx + 3 <= width;
                    self.columns::<L>(&inputs, &strip, channels, kx, three, &mut ahead);
                    kx += if three { 3 } else { 1 };
                }
            }
        }
    }
}

impl<T: Operand> Work<'_, T> {
    /// Returns what strip `next` reads.
    fn ahead(&self, inputs: &Range<usize>, channels: usize, next: &Strip) -> Ahead {
        let Products { kernel: [height, _], padding, from, to, stride, .. } = self.products;
        let mut ahead = Ahead::nothing();
        // Of bf16, whose blocks are half as large, nothing is asked for.
        if T::PER_LANE > 1 {
            return ahead;
        }
        let end = (stride * (next.rows.end - 1) + height).saturating_sub(padding).min(from.height);
        let rows = (stride * next.rows.start).saturating_sub(padding).min(end)..end;
        for block in next.blocks.clone() {
            let input = self.products.input.as_ptr().cast::<f32>().wrapping_add(block * from.block());
            let maps = Maps { channels: inputs.len(), ..from };
            ahead.add(maps, input.wrapping_add(inputs.start * from.plane()), rows.clone());
            let gradient = self.products.gradient.as_ptr().cast::<f32>().wrapping_add(block * to.block());
            let maps = Maps { channels, ..to };
            ahead.add(maps, gradient.wrapping_add(self.first * to.plane()), next.rows.clone());
        }
        ahead
    }

    /// Takes a strip through all tiles of column `kx` of the taps, or of `three` columns.
    #[inline(always)]
    fn columns<L: Lanes>(
        &mut self,
        inputs: &Range<usize>,
        strip: &Strip,
        channels: usize,
        kx: usize,
        three: bool,
        ahead: &mut Ahead,
    ) {
        let wide = L::WIDTH == LANES;
        let tiles = channels.div_ceil(TILE);
        let parts = inputs.len().div_ceil(if wide && !three { 6 } else { 2 });
        ahead.among(1).over(tiles * parts);
        for number in 0..tiles * parts {
            ahead.step::<L>();
            // What a tile reads of one side stays in the first cache while the other side goes through it: with three
            // columns the output channels, of which a pixel is read once, else the input channels, which are more.
            let (tile, part) = if three { (number / parts, number % parts) } else { (number % tiles, number / tiles) };
            let start = part * inputs.len() / parts;
            let count = (part + 1) * inputs.len() / parts - start;
            for ky in 0..self.products.kernel[0] {
                let at = At { o: tile * TILE, i: inputs.start + start, ky, kx };
                match (three, count) {
                    (true, 2) => self.tile::<L, 2, 3>(inputs, strip, channels, at),
                    (true, 1) => self.tile::<L, 1, 3>(inputs, strip, channels, at),
                    (false, 6) if wide => self.tile::<L, 6, 1>(inputs, strip, channels, at),
                    (false, 5) if wide => self.tile::<L, 5, 1>(inputs, strip, channels, at),
                    (false, 4) if wide => self.tile::<L, 4, 1>(inputs, strip, channels, at),
                    (false, 3) if wide => self.tile::<L, 3, 1>(inputs, strip, channels, at),
                    (false, 2) => self.tile::<L, 2, 1>(inputs, strip, channels, at),
                    (false, 1) => self.tile::<L, 1, 1>(inputs, strip, channels, at),
                    _ => unreachable!("parts have no more channels than a tile"),
                }
            }
        }
    }

    /// Takes a strip through the sums of four output channels, `I` input channels and `K` taps.
    #[inline(always)]
    fn tile<L: Lanes, const I: usize, const K: usize>(
        &mut self,
        inputs: &Range<usize>,
        strip: &Strip,
        channels: usize,
        At { o: first, i, ky, kx }: At,
    ) {
        let Products { kernel: [height, width], stride, padding, from, to, .. } = self.products;
        let (taps, filter) = (height * width, from.channels * height * width);
        let channels = (channels - first).min(TILE);
        // Output rows whose tap lies on the map.
        let start = padding.saturating_sub(ky).div_ceil(stride).max(strip.rows.start);
        let end = (from.height + padding).saturating_sub(ky).div_ceil(stride).min(strip.rows.end);
        let column = kx + from.margin - padding;
        // A vector holds part of a pixel, one pixel, or two of a row.
        let numbers = L::WIDTH * T::PER_LANE;
        let mut totals = [[[0.0f32; TILE]; K]; I];
        for image in (0..LANES).step_by(numbers) {
            let vector = |o: usize, j: usize, k: usize| {
                let weight = ((first + o) * inputs.len() + i - inputs.start + j) * taps + ky * width + kx + k;
                weight * LANES + image / T::PER_LANE
            };
            let mut sums = [[[L::splat(0.0); K]; I]; TILE];
            if !strip.is_first {
                for o in 0..TILE {
                    for j in 0..I {
                        for k in 0..K {
                            // SAFETY: `run` has found that there are vectors for all of a last tile and these inputs.
                            sums[o][j][k] = unsafe { L::load(self.vectors.as_ptr().add(vector(o, j, k))) };
                        }
                    }
                }
            }
            for block in strip.blocks.clone() {
                for y in start..end {
                    let row = stride * y + ky + from.margin - padding;
                    // SAFETY: the asserts of `run` hold, so the taps of an output row that `start..end` leaves over lie
                    // within a row of the input and its margin; input channels `i..i + I` exist by the loops of `run`.
                    // The rows together read the pixels of one row, and of each the images from `image` on.
                    unsafe {
                        let input = self.products.input.as_ptr().add(block * from.block() + i * from.plane());
                        let mut input = input.add((row * from.row() + column) * LANES + image);
                        let plane = block * to.block() + (self.first + first) * to.plane();
                        let gradient = self.products.gradient.as_ptr().add(plane);
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
            for j in 0..I {
                for k in 0..K {
                    let four = [sums[0][j][k], sums[1][j][k], sums[2][j][k], sums[3][j][k]];
                    if strip.is_last {
                        totals[j][k].iter_mut().zip(L::sums(four)).for_each(|(total, sum)| *total += sum);
                        continue;
                    }
                    for o in 0..TILE {
                        // SAFETY: as above; the vectors are borrowed alone.
                        unsafe { four[o].store(self.vectors.as_mut_ptr().add(vector(o, j, k))) };
                    }
                }
            }
        }
        if strip.is_last {
            for o in 0..channels {
                let filter = &mut self.sums[(first + o) * filter..(first + o + 1) * filter];
                for (j, totals) in totals.iter().enumerate() {
                    for (k, totals) in totals.iter().enumerate() {
                        filter[((i + j) * height + ky) * width + kx + k] = totals[o];
                    }
                }
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
        let (stride, step) = (self.products.stride, if PIXELS == ONE { LANES } else { 2 * LANES });
        for _ in 0..count {
            // SAFETY: the caller vouches for these pixels; an output channel that the last tile lacks is replaced by the
            // last one there is.
            unsafe {
                let mut pixels = [L::splat(0.0); TILE];
                for o in 0..TILE {
                    let gradient = gradient.add(o.min(channels - 1) * self.products.to.plane());
                    pixels[o] = if PIXELS == ONE { one(gradient) } else { L::load(gradient.cast()) };
                }
                for j in 0..I {
                    for k in 0..K {
                        let input = input.add(j * self.products.from.plane() + k * LANES);
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
