//! Memory that comes next, asked for a little at a time while a kernel computes.
//!
//! A layer's activations are larger than the caches, so the first touch of each line waits for the memory, which two
//! cores of a small machine saturate. Kernels have arithmetic to do meanwhile. Lines come into the second cache: the first
//! one is full of what a kernel reads over and over.

use std::ops::Range;

use crate::maps::{LANES, Maps};
use crate::planes::Planes;
use crate::simd::Lanes;

/// Rows of some blocks that will be read or written next.
#[derive(Default)]
pub(crate) struct Ahead {
    runs: Vec<Lines>,
    /// Lines that are asked for in each step.
    pace: usize,
    /// Kernels that share what is left.
    kernels: usize,
}

/// The same lines of some planes.
struct Lines {
    /// The first line of the next plane.
    first: *const f32,
    plane: usize,
    lines: usize,
    /// Planes that are left.
    planes: usize,
    /// The next line, within its plane.
    line: usize,
}

impl Ahead {
    /// Returns nothing to ask for.
    pub fn nothing() -> Ahead {
        Ahead::default()
    }

    /// Adds rows of all channels of the block at `block`, with the margin before each.
    pub fn add(&mut self, maps: Maps, block: *const f32, rows: Range<usize>) {
        if rows.is_empty() || maps.is_empty() {
            return;
        }
        let start = maps.floats(rows.start).start - LANES * maps.margin;
        let lines = (maps.floats(rows.end - 1).end - start) / LANES;
        let (first, planes) = (block.wrapping_add(start), maps.channels);
        self.runs.push(Lines { first, plane: maps.plane(), lines, planes, line: 0 });
    }

    /// Adds rows of all channels of a block, if there is such a block.
    pub fn add_planes(&mut self, maps: Maps, planes: Planes, block: usize, rows: Range<usize>) {
        if block >= maps.blocks() {
            return;
        }
        match planes {
            Planes::Whole(x) => self.add(maps, x[block * maps.block()..].as_ptr(), rows),
            Planes::Picked(picked) => {
                let one = Maps { channels: 1, ..maps };
                (0..maps.channels).rev().for_each(|i| self.add(one, picked.plane(block, i).as_ptr(), rows.clone()));
            }
        }
    }

    /// Says how many kernels, the next one included, share what is left.
    pub fn among(&mut self, kernels: usize) -> &mut Ahead {
        self.kernels = kernels;
        self
    }

    /// Says how many steps the next kernel has.
    pub fn over(&mut self, steps: usize) {
        let left: usize = self.runs.iter().map(|Lines { lines, planes, line, .. }| lines * planes - line).sum();
        self.pace = left.div_ceil(self.kernels.max(1) * steps.max(1));
    }

    /// Asks for the next lines.
    #[inline(always)]
    pub fn step<L: Lanes>(&mut self) {
        let mut left = self.pace;
        while left > 0 {
            let Some(lines) = self.runs.last_mut() else { return };
            let count = left.min(lines.lines - lines.line);
            let first = lines.first.wrapping_add(lines.line * LANES);
            for line in 0..count {
                L::prefetch_into_second(first.wrapping_add(line * LANES));
            }
            left -= count;
            lines.line += count;
            if lines.line == lines.lines {
                lines.line = 0;
                lines.first = lines.first.wrapping_add(lines.plane);
                lines.planes -= 1;
                if lines.planes == 0 {
                    self.runs.pop();
                }
            }
        }
    }
}
