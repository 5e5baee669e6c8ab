//! The kernel of the forward pass and of the data gradient: each output pixel sums a rectangle of input pixels, weighted,
//! over all input channels.
#![allow(unsafe_code)]

use std::ops::Range;

use super::ahead::Ahead;
use super::plan::Start;
use crate::maps::{LANES, Maps};
use crate::simd::{Kernel, Lanes};

/// Output channels in a register tile.
pub(crate) const TILE: usize = 4;

/// The input pixels that an output pixel sums.
#[derive(Debug)]
pub(super) struct Taps {
    /// The first input row, relative to `step` times the output row.
    pub top: isize,
    /// The first input column, relative to `step` times the output column.
    pub left: isize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The step through the input from one output pixel to the next.
    pub step: usize,
}

impl Taps {
    /// Returns the margin that the input needs, so that no tap leaves its row; rows above and below are left out.
    pub fn margin(&self, place: &Place, width: usize) -> usize {
        if self.height == 0 || self.width == 0 {
            return 0;
        }
        let right = (self.step * (place.columns - 1) + self.width) as isize + self.left - width as isize;
        right.max(-self.left).max(0) as usize
    }

    /// Counts the rows of taps that lie on a map of `height`, over all output rows: those beyond it are left out.
    pub fn rows_on_map(&self, place: &Place, height: usize) -> usize {
        let rows = (0..place.rows).map(|y| {
            let first = self.top + (self.step * y) as isize;
            let end = (first + self.height as isize).min(height as isize);
            (end - first.max(0)).max(0) as usize
        });
        rows.sum()
    }

    /// Returns the margin that the input needs above and below, where rows outside of the map are read.
    pub fn margin_above(&self, place: &Place, height: usize) -> usize {
        if self.height == 0 || self.width == 0 {
            return 0;
        }
        let below = (self.step * (place.rows - 1) + self.height) as isize + self.top - height as isize;
        below.max(-self.top).max(0) as usize
    }
}

/// The output pixels to write: those of row `row + step * y` and column `column + step * x`.
#[derive(Debug)]
pub(crate) struct Place {
    /// The first row.
    pub row: usize,
    /// The first column.
    pub column: usize,
    /// The step from one pixel to the next.
    pub step: usize,
    /// How many rows.
    pub rows: usize,
    /// How many columns.
    pub columns: usize,
}

/// Some output channels of one block; with `BF16` each float of input and weights is a pair of bf16 numbers.
pub(super) struct Work<'a, const BF16: bool> {
    /// The shape of the input, where pairs count as one channel.
    pub from: Maps,
    /// The block of the input.
    pub input: &'a [f32],
    /// The shape of the output.
    pub to: Maps,
    /// Planes of the output.
    pub output: &'a mut [f32],
    /// What an output pixel sums.
    pub taps: &'a Taps,
    /// Which output pixels can be written.
    pub place: &'a Place,
    /// Those rows of them that are.
    pub rows: Range<usize>,
    /// Weights as [`super::pack::pack`] orders them, from the first channel of `output` on.
    pub weights: &'a [f32],
    /// What the sums start from.
    pub start: Start,
    /// What comes next.
    pub ahead: &'a mut Ahead,
}

impl<const BF16: bool> Kernel for Work<'_, BF16> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        self.check();
        let tiles = (self.output.len() / self.to.plane()).div_ceil(TILE);
        self.ahead.over(tiles * self.rows.len() * self.place.columns.div_ceil(4) * self.from.channels);
        match self.taps.width {
            1 => self.run_width::<L, 1>(),
            2 => self.run_width::<L, 2>(),
            3 => self.run_width::<L, 3>(),
            _ => self.run_width::<L, 0>(),
        }
    }
}

impl<const BF16: bool> Work<'_, BF16> {
    /// Makes sure that no pointer of [`Work::tile`] leaves its slice.
    fn check(&self) {
        let Work { from, to, taps, place, rows, .. } = self;
        assert_eq!(self.input.len(), from.block());
        assert!(rows.end <= place.rows);
        assert_eq!(self.output.len() % to.plane(), 0);
        let tiles = (self.output.len() / to.plane()).div_ceil(TILE);
        assert!(self.weights.len() >= tiles * self.tile_weights());
        assert!(place.row + place.step * (place.rows - 1) < to.height);
        assert!(place.column + place.step * (place.columns - 1) < to.width);
        assert!(taps.margin(place, from.width) <= from.margin);
    }

    fn tile_weights(&self) -> usize {
        self.from.channels * self.taps.height * self.taps.width * TILE
    }

    #[inline(always)]
    fn run_width<L: Lanes, const K: usize>(&mut self) {
        let tiles = (self.output.len() / self.to.plane()).div_ceil(TILE);
        let weights = size_of::<f32>() * tiles * self.tile_weights();
        // What is larger, weights or maps, is read once.
        if weights > size_of_val(self.input) {
            for tile in 0..tiles {
                for y in self.rows.clone() {
                    self.row::<L, K>(tile, y);
                }
            }
        } else {
            for y in self.rows.clone() {
                for tile in 0..tiles {
                    self.row::<L, K>(tile, y);
                }
            }
        }
    }

    #[inline(always)]
    fn row<L: Lanes, const K: usize>(&mut self, tile: usize, y: usize) {
        let columns = self.place.columns;
        let mut x = 0;
        // With 16 vector registers instead of 32, a tile is half as wide.
        if L::WIDTH == LANES {
            while x + 4 <= columns {
                self.tile::<L, K, 4>(tile, y, x);
                x += 4;
            }
        }
        while x + 2 <= columns {
            self.tile::<L, K, 2>(tile, y, x);
            x += 2;
        }
        if x < columns {
            self.tile::<L, K, 1>(tile, y, x);
        }
    }

    /// Writes `P` pixels of four output channels.
    #[inline(always)]
    fn tile<L: Lanes, const K: usize, const P: usize>(&mut self, tile: usize, y: usize, x: usize) {
        let Work { from, to, taps, place, .. } = *self;
        // Rows of taps that lie on the map; those above and below it are zeros.
        let first = taps.top + (taps.step * y) as isize;
        let skipped = (-first).clamp(0, taps.height as isize) as usize;
        let end = (from.height as isize - first).clamp(skipped as isize, taps.height as isize) as usize;
        let row = first + skipped as isize + from.margin as isize;
        let column = taps.left + (taps.step * x + from.margin) as isize;
        let start = (row * from.row() as isize + column) * LANES as isize;
        let width = if K == 0 { taps.width } else { K };

        let channels = (self.output.len() / to.plane() - tile * TILE).min(TILE);
        let pixel = (place.row + place.step * y + to.margin) * to.row() + place.column + place.step * x + to.margin;
        let plane = to.plane();
        let tile_weights = tile * self.tile_weights();
        for lane in (0..LANES).step_by(L::WIDTH) {
            // SAFETY: `check` has found that rows `skipped..end` of the taps of this output pixel lie within the planes of
            // the input, that the weights of all tiles are there, and that the pixels written lie within the planes of
            // the output, of which `channels` follow; the output is borrowed alone by this task.
            unsafe {
                let output = self.output.as_mut_ptr().add(tile * TILE * plane + pixel * LANES + lane);
                let mut sums = [[L::splat(0.0); P]; TILE];
                if self.start == Start::Output {
                    for o in 0..TILE {
                        for p in 0..P {
                            // A channel that the last tile lacks is not written either.
                            let channel = o.min(channels - 1);
                            sums[o][p] = L::load(output.add(channel * plane + place.step * p * LANES));
                        }
                    }
                }
                let mut input = self.input.as_ptr().wrapping_offset(start).wrapping_add(lane);
                let mut weights = self.weights.as_ptr().wrapping_add(tile_weights + skipped * width * TILE);
                for _ in 0..from.channels {
                    self.ahead.step::<L>();
                    for r in 0..end - skipped {
                        let input = input.add(r * from.row() * LANES);
                        let weights = weights.add(r * width * TILE);
                        for k in 0..width {
                            let mut pixels = [L::splat(0.0); P];
                            for p in 0..P {
                                pixels[p] = L::load(input.add((taps.step * p + k) * LANES));
                            }
                            for o in 0..TILE {
                                let weight = L::splat(*weights.add(k * TILE + o));
                                for p in 0..P {
                                    sums[o][p] = match BF16 {
                                        true => pixels[p].dot(weight, sums[o][p]),
                                        false => pixels[p].mul_add(weight, sums[o][p]),
                                    };
                                }
                            }
                        }
                    }
                    input = input.wrapping_add(from.plane());
                    weights = weights.wrapping_add(taps.height * width * TILE);
                }
                for o in 0..TILE {
                    if o < channels {
                        for p in 0..P {
                            sums[o][p].store(output.add(o * plane + place.step * p * LANES));
                        }
                    }
                }
            }
        }
    }
}
