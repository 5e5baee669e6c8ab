//! Runs the kernels of the forward pass and of the data gradient over the blocks of an activation.

use std::ops::Range;

use rayon::prelude::*;

use super::Conv;
use super::ahead::Ahead;
use super::kept_taps;
use super::pattern::{Entries, Kept};
use super::points;
use super::taps::{self, Place, TILE, Taps};
use crate::bf16::Precision;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{self, Direction, Slot, section};
use crate::simd::Level;

/// Some pixels of an output, and what they sum.
pub(super) struct Part<'a> {
    /// The taps.
    pub taps: Taps,
    /// The pixels.
    pub place: Place,
    /// The weights.
    pub weights: Weights<'a>,
}

pub(crate) enum Weights<'a> {
    /// All taps, in the order of [`super::pack::pack`].
    Dense(Buffer),
    /// The same with pairs of input channels in bf16, for an input of such pairs.
    Bf16(Buffer),
    /// Those taps that a pattern keeps.
    Kept(Kept<'a>),
}

impl Weights<'_> {
    /// Returns where the kept taps are in planes of `from`.
    fn entries(&self, from: Maps) -> Entries {
        match self {
            Weights::Dense(_) | Weights::Bf16(_) => Entries::default(),
            Weights::Kept(kept) => kept.entries(from),
        }
    }
}

/// Sums the taps of `from` into the pixels of a new activation `to`; the parts together write all its pixels, and the time
/// is that of `direction` of `conv`.
pub(super) fn convolve(
    from: Maps,
    input: &[f32],
    to: Maps,
    parts: Vec<Part>,
    (conv, direction): (&Conv, Direction),
) -> Buffer {
    let margin = margin(from, &parts);
    if margin > from.margin {
        let (wide, input) = from.with_margin(input, margin);
        return convolve(wide, &input, to, parts, (conv, direction));
    }
    let plan = Plan::new(from, to, parts).timed(conv, direction);
    let mut output = Buffer::any(to.len());
    output.par_chunks_mut(to.block()).zip(input.par_chunks(from.block())).for_each(|(output, input)| {
        plan.block(input, output, Start::Zero, &mut vec![(); to.channels], |_, _, ()| {});
    });
    output
}

/// Returns the margin that the parts need around maps of `from`.
fn margin(from: Maps, parts: &[Part]) -> usize {
    let margin = parts.iter().map(|part| part.taps.margin(&part.place, from.width)).max().unwrap_or(0);
    let above = parts.iter().filter(|part| matches!(part.weights, Weights::Kept(_)));
    above.map(|part| part.taps.margin_above(&part.place, from.height)).fold(margin, usize::max)
}

/// What a sum starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing.
    Zero,
    /// What the output holds already.
    Output,
}

/// Parts made ready for the blocks of an activation.
pub(super) struct Plan<'a> {
    level: Level,
    from: Maps,
    to: Maps,
    parts: Vec<Part<'a>>,
    lists: Vec<Entries>,
    /// Output channels of a task.
    channels: usize,
    slot: Slot,
}

impl<'a> Plan<'a> {
    /// Makes parts ready that read maps of `from` and write ones of `to`.
    pub fn new(from: Maps, to: Maps, parts: Vec<Part<'a>>) -> Plan<'a> {
        let _section = section(profile::Part::Around);
        let lists = parts.iter().map(|part| part.weights.entries(from)).collect();
        // Enough tasks for all threads even with few blocks; a task is some output channels of a block.
        let tiles = to.channels.div_ceil(TILE);
        let tasks = (4 * rayon::current_num_threads()).div_ceil(to.blocks().max(1)).min(tiles).max(1);
        Plan {
            level: Level::current(),
            from,
            to,
            parts,
            lists,
            channels: tiles.div_ceil(tasks) * TILE,
            slot: Slot::default(),
        }
    }

    /// Counts the time of the kernels as that of `direction` of `conv`.
    pub fn timed(self, conv: &Conv, direction: Direction) -> Plan<'a> {
        let sparse = self.parts.iter().any(|part| matches!(part.weights, Weights::Kept(_)));
        let is_bf16 = self.parts.iter().any(|part| matches!(part.weights, Weights::Bf16(_)));
        let precision = if is_bf16 { Precision::Bf16 } else { Precision::F32 };
        Plan { slot: Slot::of(conv, direction, sparse, precision, || self.macs()), ..self }
    }

    /// Counts the multiply-accumulates of all blocks.
    fn macs(&self) -> usize {
        let all = |taps: &Taps, place: &Place| {
            let taps = taps.rows_on_map(place, self.from.height) * taps.width * place.columns;
            taps * self.from.channels * self.to.channels
        };
        let pixel = |(Part { taps, place, weights }, entries): (&Part, &Entries)| match weights {
            Weights::Dense(_) => all(taps, place),
            // A channel of `from` is a pair.
            Weights::Bf16(_) => 2 * all(taps, place),
            Weights::Kept(_) => entries.len() * place.rows * place.columns,
        };
        self.to.blocks() * LANES * self.parts.iter().zip(&self.lists).map(pixel).sum::<usize>()
    }

    /// Tells whether a block is one task, and can be written row by row.
    pub fn is_by_rows(&self) -> bool {
        self.channels >= self.to.channels && self.parts.len() == 1 && self.parts[0].place.step == 1
    }

    /// Writes `rows` of all channels of a block, on this thread.
    ///
    /// # Panics
    ///
    /// Panics unless it [is by rows](Plan::is_by_rows).
    pub fn rows(&self, input: &[f32], output: &mut [f32], start: Start, rows: Range<usize>, ahead: &mut Ahead) {
        assert!(self.is_by_rows());
        let _timer = self.slot.time();
        if start == Start::Zero {
            for plane in output.chunks_exact_mut(self.to.plane()) {
                self.to.clear_margin_of(rows.clone(), plane);
            }
        }
        self.part(0, 0, input, output, start, rows, ahead);
    }

    /// Writes a block, and calls `after` with each channel, its finished plane and its item of `each`.
    pub fn block<T: Send>(
        &self,
        input: &[f32],
        output: &mut [f32],
        start: Start,
        each: &mut [T],
        after: impl Fn(usize, &[f32], &mut T) + Sync,
    ) {
        let Plan { to, channels, .. } = *self;
        let tasks = output.par_chunks_mut(channels * to.plane()).zip(each.par_chunks_mut(channels));
        tasks.enumerate().for_each(|(task, (output, each))| {
            let timer = self.slot.time();
            if start == Start::Zero {
                for plane in output.chunks_exact_mut(to.plane()) {
                    to.clear_margin(plane);
                }
            }
            for (number, part) in self.parts.iter().enumerate() {
                self.part(number, task * channels, input, output, start, 0..part.place.rows, &mut Ahead::nothing());
            }
            drop(timer);
            let _timer = profile::Part::Normalisation.time();
            for (i, (plane, item)) in output.chunks_exact(to.plane()).zip(each).enumerate() {
                after(task * channels + i, plane, item);
            }
        });
    }

    /// Writes some rows of a part, for the channels from `first` on whose planes are in `output`.
    #[allow(clippy::too_many_arguments)]
    fn part(
        &self,
        number: usize,
        first: usize,
        input: &[f32],
        output: &mut [f32],
        start: Start,
        rows: Range<usize>,
        ahead: &mut Ahead,
    ) {
        let Plan { level, from, to, .. } = *self;
        let (Part { taps, place, weights }, entries) = (&self.parts[number], &self.lists[number]);
        let tile = from.channels * taps.height * taps.width * TILE;
        let corner = points::corner(taps, place, from);
        let step = taps.step;
        match weights {
            Weights::Dense(packed) => {
                let weights = &packed[first / TILE * tile..];
                match corner {
                    Some(corner) => level.run(points::Work::<false> {
                        from,
                        input,
                        to,
                        output,
                        corner,
                        step,
                        place,
                        rows,
                        weights,
                        start,
                        ahead,
                    }),
                    None => level.run(taps::Work::<false> {
                        from,
                        input,
                        to,
                        output,
                        taps,
                        place,
                        rows,
                        weights,
                        start,
                        ahead,
                    }),
                }
            }
            Weights::Bf16(packed) => {
                let weights = &packed[first / TILE * tile..];
                match corner {
                    Some(corner) => level.run_bf16(points::Work::<true> {
                        from,
                        input,
                        to,
                        output,
                        corner,
                        step,
                        place,
                        rows,
                        weights,
                        start,
                        ahead,
                    }),
                    None => level.run_bf16(taps::Work::<true> {
                        from,
                        input,
                        to,
                        output,
                        taps,
                        place,
                        rows,
                        weights,
                        start,
                        ahead,
                    }),
                }
            }
            Weights::Kept(_) => {
                level.run(kept_taps::Work { from, input, to, output, taps, place, rows, entries, first, start, ahead });
            }
        }
    }
}
