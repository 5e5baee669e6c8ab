//! The gradient of kept weights only: a tile of the output gradient in registers, one vector of sums for each kept weight
//! in memory. Input channels come in groups, so that a group's sums and pixels stay in the first cache.
//!
//! Groups of blocks are cut by the size of the map and added in order, as for the dense gradient.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::Conv;
use super::pattern::{Entries, Pattern};
use super::weight_gradient::{Groups, size};
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::simd::{Kernel, Lanes, Level};

/// Output channels of a task.
const CHANNELS: usize = 16;

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
    pattern.by_output(&vec![0.0; size(conv)]).entries(conv.input)
}

/// Returns the sums over the blocks of a group, a list for each task.
pub(super) fn group(level: Level, conv: &Conv, entries: &Entries, input: &[f32], gradient: &[f32]) -> Vec<Vec<f32>> {
    let (from, to) = (conv.input, conv.output());
    let tasks = conv.outputs.div_ceil(CHANNELS);
    (0..tasks)
        .into_par_iter()
        .map(|task| {
            let blocks = gradient.len() / to.block();
            level.run(Work { conv, from, to, input, gradient, blocks, entries, channels: channels(conv, task) })
        })
        .collect()
}

/// Adds the sums of the groups.
pub(super) fn total(conv: &Conv, entries: &Entries, groups: &[Vec<Vec<f32>>]) -> Buffer {
    let mut total = Buffer::zeros(size(conv));
    for sums in groups {
        for (task, sums) in sums.iter().enumerate() {
            let indices = (0..entries.groups).flat_map(|group| entries.indices(group, channels(conv, task)));
            for (index, sum) in indices.zip(sums) {
                total[*index as usize] += sum;
            }
        }
    }
    total
}

fn channels(conv: &Conv, task: usize) -> std::ops::Range<usize> {
    task * CHANNELS..((task + 1) * CHANNELS).min(conv.outputs)
}

/// Some output channels of a group of blocks.
struct Work<'a> {
    conv: &'a Conv,
    from: Maps,
    to: Maps,
    input: &'a [f32],
    gradient: &'a [f32],
    blocks: usize,
    entries: &'a Entries,
    channels: std::ops::Range<usize>,
}

impl Kernel for Work<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        let Work { conv, from, to, blocks, .. } = self;
        assert!(self.input.len() >= blocks * from.block() && self.gradient.len() >= blocks * to.block());
        assert!(conv.padding <= from.margin && from.width == conv.input.width && to == conv.output());
        assert!(self.channels.end <= self.entries.channels() && self.channels.end <= to.channels);
        let counts = (0..self.entries.groups).map(|group| self.entries.of(group, self.channels.clone()).len());
        let mut sums = vec![[0.0f32; LANES]; counts.sum()];
        let mut rest = &mut sums[..];
        for group in 0..self.entries.groups {
            let (sums, after) = rest.split_at_mut(self.entries.of(group, self.channels.clone()).len());
            rest = after;
            for block in 0..blocks {
                for y in (0..to.height).step_by(2) {
                    let two = y + 2 <= to.height;
                    let mut x = 0;
                    while x < to.width {
                        let at = (group, block, y, x);
                        x += match (to.width - x, two) {
                            (8.., true) if L::WIDTH == LANES => self.tile::<L, 2, 8>(sums, at),
                            (4.., true) => self.tile::<L, 2, 4>(sums, at),
                            (4.., false) => self.tile::<L, 1, 4>(sums, at),
                            (2.., true) => self.tile::<L, 2, 2>(sums, at),
                            (2.., false) => self.tile::<L, 1, 2>(sums, at),
                            (_, true) => self.tile::<L, 2, 1>(sums, at),
                            (_, false) => self.tile::<L, 1, 1>(sums, at),
                        };
                    }
                }
            }
        }
        sums.iter().map(|lanes| lanes.iter().sum()).collect()
    }
}

impl Work<'_> {
    /// Adds `R` rows of `P` pixels to the sums of all channels' kept weights; returns `P`.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const P: usize>(
        &self,
        sums: &mut [[f32; LANES]],
        (group, block, y, x): (usize, usize, usize, usize),
    ) -> usize {
        let Work { conv, from, to, entries, .. } = self;
        let [row, column] = [y, x].map(|at| conv.stride * at + from.margin - conv.padding);
        let (down, right) = (conv.stride * from.row() * LANES, conv.stride * LANES);
        let mut rest = sums;
        for channel in self.channels.clone() {
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
                        let mut even = L::load(sum.as_ptr().add(lane));
                        let mut odd = L::splat(0.0);
                        for r in 0..R {
                            for p in 0..P {
                                let pixel = L::load(input.add(r * down + p * right));
                                match p % 2 {
                                    0 => even = pixels[r][p].mul_add(pixel, even),
                                    _ => odd = pixels[r][p].mul_add(pixel, odd),
                                }
                            }
                        }
                        even.mul_add(L::splat(1.0), odd).store(sum.as_mut_ptr().add(lane));
                    }
                }
            }
        }
        P
    }
}
