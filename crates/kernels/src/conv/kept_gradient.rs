//! The gradient of kept weights only: 16 pixels of the output gradient in registers, one vector of sums for each kept weight
//! in memory, which takes the pixels in the order of the dense kernel. Input channels come in groups, so that a group's sums
//! and pixels stay in the first cache, or in the second where filters have few taps.
//!
//! Groups of blocks are cut by the size of the map and added in order, as for the dense gradient. A task sums for some output
//! channels: for many, since each reads all of the input, but so that there is a task for each thread. No sum depends on it.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use super::Conv;
use super::ahead::Ahead;
use super::pattern::{Entries, Pattern};
use super::weight_gradient::{Groups, size};
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{Direction, Part, Slot, section};
use crate::simd::{Kernel, Lanes, Level};

/// The fewest and the most output channels of a task.
const CHANNELS: [usize; 2] = [16, 128];
/// Tasks for each thread.
const TASKS: usize = 2;

pub(super) fn run(conv: &Conv, input: &[f32], gradient: &[f32], pattern: &Pattern) -> Buffer {
    pattern.check(conv);
    let level = Level::current();
    let entries = entries(conv, pattern);
    let Groups { blocks, .. } = Groups::of(conv);
    let groups = input.par_chunks(blocks * conv.input.block()).zip(gradient.par_chunks(blocks * conv.output().block()));
    let sums: Vec<_> = groups.map(|(input, gradient)| group(level, conv, &entries, input, gradient)).collect();
    total(conv, &entries, &sums)
}

/// Lists the kept weights by output channel.
pub(super) fn entries(conv: &Conv, pattern: &Pattern) -> Entries {
    let _section = section(Part::Around);
    pattern.places(conv.input)
}

/// Returns the sums over the blocks of a group, a list for each task.
pub(super) fn group(level: Level, conv: &Conv, entries: &Entries, input: &[f32], gradient: &[f32]) -> Vec<Vec<f32>> {
    let mut sums = Sums::new(conv, entries);
    let rows = 0..conv.output().height;
    let slot = slot(conv, entries, gradient.len() / conv.output().block());
    sums.0.par_iter_mut().enumerate().for_each(|(task, sums)| {
        let _timer = slot.time();
        let (channels, rows, mut ahead) = (channels(conv, task), rows.clone(), Ahead::nothing());
        let (from, to) = (conv.input, conv.output());
        level.run(Work { conv, from, to, input, gradient, rows, entries, channels, sums, ahead: &mut ahead });
    });
    sums.finish(level)
}

/// Sums of a group of blocks, which grow row by row: one vector for each kept weight, a list for each task.
pub(super) struct Sums(Vec<Vec<[f32; LANES]>>);

impl Sums {
    /// Returns zeros.
    pub fn new(conv: &Conv, entries: &Entries) -> Sums {
        let tasks = 0..conv.outputs.div_ceil(per_task(conv));
        Sums(tasks.map(|task| vec![[0.0; LANES]; count(entries, channels(conv, task))]).collect())
    }

    /// Adds some rows of a block of output gradients.
    pub fn add(
        &mut self,
        level: Level,
        conv: &Conv,
        entries: &Entries,
        [input, gradient]: [&[f32]; 2],
        rows: Range<usize>,
        ahead: &mut Ahead,
    ) {
        let (from, to) = (conv.input, conv.output());
        for (task, sums) in self.0.iter_mut().enumerate() {
            let (channels, rows) = (channels(conv, task), rows.clone());
            level.run(Work { conv, from, to, input, gradient, rows, entries, channels, sums, ahead });
        }
    }

    /// Adds up the lanes.
    pub fn finish(self, level: Level) -> Vec<Vec<f32>> {
        self.0.iter().map(|sums| level.run(Totals(sums))).collect()
    }
}

/// Returns where the time for `blocks` blocks is counted.
pub(super) fn slot(conv: &Conv, entries: &Entries, blocks: usize) -> Slot {
    let to = conv.output();
    Slot::new(conv, Direction::Weight, true, || blocks * LANES * to.height * to.width * entries.len())
}

/// The sum over the lanes of each vector.
struct Totals<'a>(&'a [[f32; LANES]]);

impl Kernel for Totals<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        // SAFETY: a chunk has as many floats as a vector.
        let sum = |chunk: &[f32]| unsafe { L::load(chunk.as_ptr()).sum() };
        self.0.iter().map(|lanes| lanes.chunks_exact(L::WIDTH).fold(0.0, |total, chunk| total + sum(chunk))).collect()
    }
}

/// Adds the sums of the groups.
pub(super) fn total(conv: &Conv, entries: &Entries, groups: &[Vec<Vec<f32>>]) -> Buffer {
    let _section = section(Part::Around);
    let mut total = Buffer::any(size(conv));
    let filter = size(conv) / conv.outputs;
    let channels_of = per_task(conv);
    total.par_chunks_mut(channels_of * filter).enumerate().for_each(|(task, total)| {
        total.fill(0.0);
        let first = task * channels_of * filter;
        for sums in groups {
            let indices = (0..entries.groups).flat_map(|group| entries.indices(group, channels(conv, task)));
            for (index, sum) in indices.zip(&sums[task]) {
                total[*index as usize - first] += sum;
            }
        }
    });
    total
}

fn per_task(conv: &Conv) -> usize {
    let ([fewest, most], Groups { groups, .. }) = (CHANNELS, Groups::of(conv));
    let tasks = (TASKS * rayon::current_num_threads()).div_ceil(groups);
    conv.outputs.div_ceil(tasks).clamp(fewest, most)
}

fn channels(conv: &Conv, task: usize) -> Range<usize> {
    let count = per_task(conv);
    task * count..((task + 1) * count).min(conv.outputs)
}

fn count(entries: &Entries, channels: Range<usize>) -> usize {
    (0..entries.groups).map(|group| entries.of(group, channels.clone()).len()).sum()
}

/// Some output channels of some blocks.
struct Work<'a> {
    conv: &'a Conv,
    from: Maps,
    to: Maps,
    input: &'a [f32],
    gradient: &'a [f32],
    rows: Range<usize>,
    entries: &'a Entries,
    channels: Range<usize>,
    sums: &'a mut [[f32; LANES]],
    ahead: &'a mut Ahead,
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let Work { conv, from, to, .. } = self;
        let blocks = self.gradient.len() / to.block();
        assert!(self.input.len() >= blocks * from.block() && self.rows.end <= to.height);
        assert!(conv.padding <= from.margin && from.width == conv.input.width && to == conv.output());
        assert!(self.channels.end <= self.entries.channels() && self.channels.end <= to.channels);
        assert_eq!(self.sums.len(), count(self.entries, self.channels.clone()));
        let tiles = (self.rows.len() * to.width).div_ceil(16);
        self.ahead.over(self.entries.groups * blocks * tiles * self.channels.len());
        // Steps from pixel to pixel that the compiler knows cost no instructions.
        match conv.stride {
            1 => self.all::<L, 1>(blocks),
            2 => self.all::<L, 2>(blocks),
            _ => self.all::<L, 0>(blocks),
        }
    }
}

impl Work<'_> {
    /// Adds all rows, for stride `S` or, where that is 0, any.
    #[inline(always)]
    fn all<L: Lanes, const S: usize>(&mut self, blocks: usize) {
        let mut first = 0;
        if !self.conv.is_point() {
            for group in 0..self.entries.groups {
                for block in 0..blocks {
                    self.block::<L, S>(first, group, block);
                }
                first += self.entries.of(group, self.channels.clone()).len();
            }
            return;
        }
        // The gradient of a block stays in the second cache for all groups.
        for block in 0..blocks {
            first = 0;
            for group in 0..self.entries.groups {
                self.block::<L, S>(first, group, block);
                first += self.entries.of(group, self.channels.clone()).len();
            }
        }
    }

    /// Adds all rows of a block to the sums of a group of input channels, from sum `first` on.
    #[inline(always)]
    fn block<L: Lanes, const S: usize>(&mut self, first: usize, group: usize, block: usize) {
        let to = self.to;
        let mut y = self.rows.start;
        while y < self.rows.end {
            let left = self.rows.end - y;
            // Pixels follow each other row by row, as in the dense kernel, so both sum in the same order.
            y += match to.width {
                8 if left >= 2 && L::WIDTH == LANES => self.tile::<L, S, 2, 8>(first, (group, block, y, 0)).0,
                4 if left >= 4 && L::WIDTH == LANES => self.tile::<L, S, 4, 4>(first, (group, block, y, 0)).0,
                4 if left >= 2 => self.tile::<L, S, 2, 4>(first, (group, block, y, 0)).0,
                2 if left >= 2 => self.tile::<L, S, 2, 2>(first, (group, block, y, 0)).0,
                width => self.row::<L, S>(first, (group, block, y), width),
            };
        }
    }

    /// Adds a row; returns 1.
    #[inline(always)]
    fn row<L: Lanes, const S: usize>(
        &mut self,
        first: usize,
        (group, block, y): (usize, usize, usize),
        width: usize,
    ) -> usize {
        let mut x = 0;
        while x < width {
            let at = (group, block, y, x);
            x += match width - x {
                16.. if L::WIDTH == LANES => self.tile::<L, S, 1, 16>(first, at).1,
                8.. => self.tile::<L, S, 1, 8>(first, at).1,
                4.. => self.tile::<L, S, 1, 4>(first, at).1,
                2.. => self.tile::<L, S, 1, 2>(first, at).1,
                _ => self.tile::<L, S, 1, 1>(first, at).1,
            };
        }
        1
    }

    /// Adds `R` rows of `P` pixels to the sums of all channels' kept weights, from sum `first` on; returns `(R, P)`.
    #[inline(always)]
    fn tile<L: Lanes, const S: usize, const R: usize, const P: usize>(
        &mut self,
        first: usize,
        (group, block, y, x): (usize, usize, usize, usize),
    ) -> (usize, usize) {
        let Work { conv, from, to, entries, .. } = *self;
        let [row, column] = [y, x].map(|at| conv.stride * at + from.margin - conv.padding);
        let stride = if S == 0 { conv.stride } else { S };
        let (down, right) = (stride * from.row() * LANES, stride * LANES);
        let mut rest = &mut self.sums[first..];
        for channel in self.channels.clone() {
            self.ahead.step::<L>();
            let list = entries.of(group, channel..channel + 1);
            let (sums, after) = rest.split_at_mut(list.len());
            rest = after;
            if list.is_empty() {
                continue;
            }
            for lane in (0..LANES).step_by(L::WIDTH) {
                // SAFETY: the asserts of `run` hold, so the taps of these output pixels lie within a plane of the input and
                // its margin, and the pixels themselves within the plane of `channel`; entries were built for `from`.
                unsafe {
                    let input =
                        self.input.as_ptr().add(block * from.block() + (row * from.row() + column) * LANES + lane);
                    let plane = block * to.block() + channel * to.plane() + to.floats(y).start;
                    let gradient = self.gradient.as_ptr().add(plane + x * LANES + lane);
                    let mut pixels = [[L::splat(0.0); P]; R];
                    for r in 0..R {
                        for p in 0..P {
                            pixels[r][p] = L::load(gradient.add((r * to.row() + p) * LANES));
                        }
                    }
                    for (entry, sum) in list.iter().zip(sums.iter_mut()) {
                        let input = input.add(entry.offset as usize);
                        let mut total = L::load(sum.as_ptr().add(lane));
                        for r in 0..R {
                            for p in 0..P {
                                total = pixels[r][p].mul_add(L::load(input.add(r * down + p * right)), total);
                            }
                        }
                        total.store(sum.as_mut_ptr().add(lane));
                    }
                }
            }
        }
        (R, P)
    }
}
