//! The dense kernel of the forward pass and of the data gradient.
#![allow(unsafe_code)]

use super::{Start, TILE};
use crate::maps::LANES;
use crate::panels::even;
use crate::simd::{Kernel, Lanes};

/// Floats of a tile of inputs that the first cache holds beside weights and sums.
const CACHED: usize = 7 << 10;

/// Some outputs of one panel.
pub(super) struct Work<'a> {
    /// Features that are read.
    pub inputs: usize,
    /// Vectors of a feature.
    pub pixels: usize,
    /// The panel that is read.
    pub x: &'a [f32],
    /// Planes that are written.
    pub y: &'a mut [f32],
    /// Weights as [`super::pack`] orders them, from the first output of `y` on.
    pub weights: &'a [f32],
    /// What the sums start from, from the first output of `y` on.
    pub start: Start<'a>,
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let plane = self.pixels * LANES;
        let outputs = self.y.len() / plane;
        assert_eq!(self.x.len(), self.inputs * plane);
        assert_eq!(self.y.len(), outputs * plane);
        assert!(self.weights.len() >= outputs.div_ceil(TILE) * TILE * self.inputs);
        assert!(self.start.bias.is_none_or(|bias| bias.len() >= outputs));
        assert!(self.start.onto.is_none_or(|onto| onto.len() >= self.y.len()));
        // With 16 vector registers instead of 32, a tile is narrower.
        let most = if L::WIDTH == LANES { 6 } else { 2 };
        for (pixel, count) in even(self.pixels, most) {
            match count {
                6 if L::WIDTH == LANES => self.pixels::<L, 6>(pixel),
                5 if L::WIDTH == LANES => self.pixels::<L, 5>(pixel),
                4 if L::WIDTH == LANES => self.pixels::<L, 4>(pixel),
                3 if L::WIDTH == LANES => self.pixels::<L, 3>(pixel),
                2 => self.pixels::<L, 2>(pixel),
                _ => self.pixels::<L, 1>(pixel),
            }
        }
    }
}

impl Work<'_> {
    /// Writes `P` pixels of all outputs, a group of inputs at a time.
    #[inline(always)]
    fn pixels<L: Lanes, const P: usize>(&mut self, pixel: usize) {
        let outputs = self.y.len() / (self.pixels * LANES);
        if self.inputs == 0 {
            for tile in 0..outputs.div_ceil(TILE) {
                self.tile::<L, P>(tile, pixel, (0, 0));
            }
        }
        for group in even(self.inputs, CACHED / (P * LANES)) {
            for tile in 0..outputs.div_ceil(TILE) {
                self.tile::<L, P>(tile, pixel, group);
            }
        }
    }

    /// Writes, or after the first group adds to, `P` pixels of four outputs.
    #[inline(always)]
    fn tile<L: Lanes, const P: usize>(&mut self, tile: usize, pixel: usize, (first, count): (usize, usize)) {
        let plane = self.pixels * LANES;
        let outputs = (self.y.len() / plane - tile * TILE).min(TILE);
        for lane in (0..LANES).step_by(L::WIDTH) {
            // SAFETY: the asserts of `run` hold. Pixels `pixel..pixel + P` exist by the loop of `run`, inputs
            // `first..first + count` by that of `pixels`; an output that the last tile lacks is replaced by the last one
            // there is when sums are read, and is not written. `y` is borrowed alone.
            unsafe {
                let at = |o: usize| (tile * TILE + o.min(outputs - 1)) * plane + pixel * LANES + lane;
                let mut sums = [[L::splat(0.0); P]; TILE];
                if first > 0 {
                    for o in 0..TILE {
                        for p in 0..P {
                            sums[o][p] = L::load(self.y.as_ptr().add(at(o) + p * LANES));
                        }
                    }
                } else {
                    for o in 0..TILE {
                        let bias = self.start.bias.map_or(0.0, |bias| bias[tile * TILE + o.min(outputs - 1)]);
                        sums[o] = [L::splat(bias); P];
                        if let Some(onto) = self.start.onto {
                            for p in 0..P {
                                let onto = L::load(onto.as_ptr().add(at(o) + p * LANES));
                                sums[o][p] = onto.mul_add(L::splat(1.0), sums[o][p]);
                            }
                        }
                    }
                }
                let mut x = self.x.as_ptr().add(first * plane + pixel * LANES + lane);
                let mut weights = self.weights.as_ptr().add((tile * self.inputs + first) * TILE);
                for _ in 0..count {
                    let mut pixels = [L::splat(0.0); P];
                    for p in 0..P {
                        pixels[p] = L::load(x.add(p * LANES));
                    }
                    for o in 0..TILE {
                        let weight = L::splat(*weights.add(o));
                        for p in 0..P {
                            sums[o][p] = pixels[p].mul_add(weight, sums[o][p]);
                        }
                    }
                    x = x.wrapping_add(plane);
                    weights = weights.wrapping_add(TILE);
                }
                for o in 0..outputs {
                    for p in 0..P {
                        sums[o][p].store(self.y.as_mut_ptr().add(at(o) + p * LANES));
                    }
                }
            }
        }
    }
}
