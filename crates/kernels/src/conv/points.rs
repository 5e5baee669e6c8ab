//! The dense kernel of the forward pass and of the data gradient for one tap: as [`super::taps`], but in the order of a
//! product of matrices.
//!
//! A tile of pixels of some input channels stays in the first cache while all output channels are computed from it; what
//! the next tile reads is asked for meanwhile. Each sum takes its input channels in order, as in the other kernel.
#![allow(unsafe_code)]

use std::ops::Range;

use super::ahead::Ahead;
use super::plan::Start;
use super::taps::{Place, TILE, Taps};
use crate::maps::{LANES, Maps};
use crate::simd::{Kernel, Lanes};

/// Floats of a tile of inputs that the first cache holds beside weights and sums.
const CACHED: usize = 6 << 10;

/// Some output channels of one block; with `BF16` each float of input and weights is a pair of bf16 numbers.
pub(crate) struct Work<'a, const BF16: bool> {
    /// The shape of the input, where pairs count as one channel.
    pub from: Maps,
    /// The block of the input.
    pub input: &'a [f32],
    /// The shape of the output.
    pub to: Maps,
    /// Planes of the output.
    pub output: &'a mut [f32],
    /// The first row and column of the input, and the step from one pixel to the next.
    pub corner: [usize; 2],
    /// See [`Work::corner`].
    pub step: usize,
    /// Which output pixels can be written.
    pub place: &'a Place,
    /// Those rows of them that are.
    pub rows: Range<usize>,
    /// Weights as [`super::pack::dense`] orders them, from the first channel of `output` on.
    pub weights: &'a [f32],
    /// What the sums start from.
    pub start: Start,
    /// What comes next.
    pub ahead: &'a mut Ahead,
}

/// Returns the first row and column of the input if there is one tap, which lies on the map for all pixels.
pub(super) fn corner(taps: &Taps, place: &Place, from: Maps) -> Option<[usize; 2]> {
    let [top, left] = [usize::try_from(taps.top).ok()?, usize::try_from(taps.left).ok()?];
    let reach = |first: usize, count: usize, size: usize| count > 0 && first + taps.step * (count - 1) < size;
    let lies = reach(top, place.rows, from.height) && reach(left, place.columns, from.width);
    (taps.height == 1 && taps.width == 1 && lies).then_some([top, left])
}

impl<const BF16: bool> Kernel for Work<'_, BF16> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let Work { from, to, corner: [top, left], step, place, .. } = self;
        assert_eq!(self.input.len(), from.block());
        let channels = self.output.len() / to.plane();
        assert_eq!(self.output.len(), channels * to.plane());
        assert!(self.weights.len() >= channels.div_ceil(TILE) * TILE * from.channels);
        assert!(self.rows.end <= place.rows && place.columns > 0);
        assert!(top + step * (place.rows - 1) < from.height && left + step * (place.columns - 1) < from.width);
        assert!(place.row + place.step * (place.rows - 1) < to.height);
        assert!(place.column + place.step * (place.columns - 1) < to.width);
        // With 16 vector registers instead of 32, a tile is narrower.
        let most = if L::WIDTH == LANES { 6 } else { 2 };
        let parts = place.columns.div_ceil(most);
        self.ahead
            .over(self.rows.len() * parts * from.channels.div_ceil(CACHED / (most * LANES)) * channels.div_ceil(TILE));
        for y in self.rows.clone() {
            for part in 0..parts {
                let x = part * place.columns / parts;
                match (part + 1) * place.columns / parts - x {
                    6 if L::WIDTH == LANES => self.pixels::<L, 6>(y, x),
                    5 if L::WIDTH == LANES => self.pixels::<L, 5>(y, x),
                    4 if L::WIDTH == LANES => self.pixels::<L, 4>(y, x),
                    3 if L::WIDTH == LANES => self.pixels::<L, 3>(y, x),
                    2 => self.pixels::<L, 2>(y, x),
                    _ => self.pixels::<L, 1>(y, x),
                }
            }
        }
    }
}

impl<const BF16: bool> Work<'_, BF16> {
    /// Writes `P` pixels of all output channels, a group of input channels at a time.
    #[inline(always)]
    fn pixels<L: Lanes, const P: usize>(&mut self, y: usize, x: usize) {
        let from = self.from;
        let tiles = (self.output.len() / self.to.plane()).div_ceil(TILE);
        let groups = from.channels.div_ceil(CACHED / (P * LANES)).max(1);
        for group in 0..groups {
            let channels = group * from.channels / groups..(group + 1) * from.channels / groups;
            // The same pixels of the next group, or the pixels beside these of the first.
            let (next, right) = match group + 1 < groups {
                true => (channels.end, 0),
                false => (0, P),
            };
            let first = next * from.plane() + self.pixel(y, x) + right * self.step * LANES;
            let (lines, pace) = (channels.len() * P, (channels.len() * P).div_ceil(tiles));
            for tile in 0..tiles {
                for line in tile * pace..((tile + 1) * pace).min(lines) {
                    let float = first + line / P * from.plane() + line % P * self.step * LANES;
                    L::prefetch(self.input.as_ptr().wrapping_add(float));
                }
                self.ahead.step::<L>();
                self.tile::<L, P>(tile, y, x, channels.clone());
            }
        }
    }

    /// Returns where a pixel of the input is in its plane.
    #[inline(always)]
    fn pixel(&self, y: usize, x: usize) -> usize {
        let Work { from, corner: [top, left], step, .. } = *self;
        ((top + step * y + from.margin) * from.row() + left + step * x + from.margin) * LANES
    }

    /// Writes, or after the first channels adds to, `P` pixels of four output channels.
    #[inline(always)]
    fn tile<L: Lanes, const P: usize>(&mut self, tile: usize, y: usize, x: usize, inputs: Range<usize>) {
        let Work { from, to, step, place, .. } = *self;
        let plane = to.plane();
        let channels = (self.output.len() / plane - tile * TILE).min(TILE);
        let row = place.row + place.step * y + to.margin;
        let pixel = row * to.row() + place.column + place.step * x + to.margin;
        let adds = inputs.start > 0 || self.start == Start::Output;
        for lane in (0..LANES).step_by(L::WIDTH) {
            // SAFETY: the asserts of `run` hold: the pixels read lie on the map of the input, and those written on that of
            // the output, of whose planes `channels` follow; input channels `inputs` exist, and their weights. The output
            // is borrowed alone. A channel that the last tile lacks is replaced by the last one there is when sums are
            // read, and is not written.
            unsafe {
                let at = |o: usize, p: usize| o * plane + place.step * p * LANES;
                let output = self.output.as_mut_ptr().add(tile * TILE * plane + pixel * LANES + lane);
                let mut sums = [[L::splat(0.0); P]; TILE];
                if adds {
                    for o in 0..TILE {
                        for p in 0..P {
                            sums[o][p] = L::load(output.add(at(o.min(channels - 1), p)));
                        }
                    }
                }
                let mut input = self.input.as_ptr().wrapping_add(inputs.start * from.plane() + self.pixel(y, x) + lane);
                let mut weights = self.weights.as_ptr().wrapping_add((tile * from.channels + inputs.start) * TILE);
                for _ in inputs.clone() {
                    let mut pixels = [L::splat(0.0); P];
                    for p in 0..P {
                        pixels[p] = L::load(input.add(step * p * LANES));
                    }
                    for o in 0..TILE {
                        let weight = L::splat(*weights.add(o));
                        for p in 0..P {
                            sums[o][p] = match BF16 {
                                true => pixels[p].dot(weight, sums[o][p]),
                                false => pixels[p].mul_add(weight, sums[o][p]),
                            };
                        }
                    }
                    input = input.wrapping_add(from.plane());
                    weights = weights.wrapping_add(TILE);
                }
                for o in 0..TILE {
                    if o < channels {
                        for p in 0..P {
                            sums[o][p].store(output.add(at(o, p)));
                        }
                    }
                }
            }
        }
    }
}
