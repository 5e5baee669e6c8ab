//! What the sparse kernels read next, asked for a little with each output: rows of a panel lie too far apart for the
//! processor to guess.

use super::pattern::GROUP;
use crate::maps::LANES;
use crate::simd::Lanes;

/// `P` pixels of a group of features.
#[derive(Clone, Copy)]
pub(super) struct Next<const P: usize> {
    /// The first pixel of the first feature.
    first: *const f32,
    /// Floats from one feature to the next.
    plane: usize,
    /// Lines in all.
    lines: usize,
    /// Lines with each output.
    pace: usize,
}

impl<const P: usize> Next<P> {
    /// Takes the pixels from `pixel` on of `group` in the panel `x`, which has so many features and pixels.
    pub fn new(x: &[f32], [features, pixels]: [usize; 2], (group, pixel): (usize, usize), outputs: usize) -> Next<P> {
        let plane = pixels * LANES;
        let count = if pixel + P > pixels { 0 } else { (features - GROUP * group).min(GROUP) };
        let first = x.as_ptr().wrapping_add(GROUP * group * plane + pixel * LANES);
        Next { first, plane, lines: count * P, pace: (count * P).div_ceil(outputs.max(1)) }
    }

    /// Asks for the lines that belong to output `number`.
    #[inline(always)]
    pub fn ask<L: Lanes>(&self, number: usize) {
        for line in number * self.pace..((number + 1) * self.pace).min(self.lines) {
            L::prefetch(self.first.wrapping_add(line / P * self.plane + line % P * LANES));
        }
    }
}
