//! Which weights of a convolution are kept, as lists that the sparse kernels walk.

use std::cmp::Reverse;
use std::ops::Range;

use super::Conv;
use super::choice::{Choices, Kernels, Races, Sides};
use crate::maps::{LANES, Maps};

/// The kept weights of a convolution, `[out, in, kernel, kernel]`.
///
/// It is built once after a mask has changed; values and offsets are filled in at each step.
#[derive(Debug)]
pub struct Pattern {
    shape: [usize; 4],
    /// The indices of kept weights, ascending: filter after filter.
    kept: Vec<u32>,
    /// The same, input channel after input channel.
    by_input: Vec<u32>,
    races: Races,
}

/// Lists of taps, one list for each channel that is written.
pub(super) struct Kept {
    starts: Vec<usize>,
    taps: Vec<Tap>,
}

/// A weight and what it is multiplied with: a channel, and a row and a column relative to the first tap.
struct Tap {
    channel: usize,
    row: usize,
    column: usize,
    weight: f32,
    index: u32,
}

/// Input channels whose pixels around a tile the first cache holds.
const GROUP: usize = 16;
/// Taps of a list that is worth being a group's own.
const LONG: usize = 8;

/// [`Kept`] with the places in memory, cut into groups of input channels.
#[derive(Default)]
pub(super) struct Entries {
    /// Groups of input channels; each has a list for each channel that is written.
    pub groups: usize,
    /// Where each list starts, group after group, and the end of the last.
    starts: Vec<usize>,
    /// All lists.
    entries: Vec<Entry>,
    /// The index of the weight of each entry.
    indices: Vec<u32>,
}

/// A weight and the float it is multiplied with, counted from the first tap of channel 0.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The float.
    pub offset: u32,
    /// The weight.
    pub weight: f32,
}

impl Pattern {
    /// Takes the pattern of `mask`, a flag for each weight of `shape` `[out, in, kernel, kernel]`.
    ///
    /// # Panics
    ///
    /// Panics if `mask` has another length than `shape` says, or more than 2³² flags.
    pub fn new(shape: [usize; 4], mask: impl IntoIterator<Item = bool>) -> Pattern {
        let flags: Vec<bool> = mask.into_iter().collect();
        assert_eq!(flags.len(), shape.iter().product::<usize>(), "a flag for each weight of {shape:?}");
        assert!(u32::try_from(flags.len()).is_ok(), "fewer than 2^32 weights");
        let kept: Vec<u32> = (0..).zip(flags).filter_map(|(index, kept)| kept.then_some(index)).collect();
        let mut by_input = kept.clone();
        // In the order of the dense kernel, whose taps are turned.
        by_input.sort_by_key(|index| {
            let [out, inp, row, column] = position(shape, *index);
            (inp, out, Reverse(row), Reverse(column))
        });
        Pattern { shape, kept, by_input, races: Races::default() }
    }

    /// Returns the same pattern, which keeps the choices that were made for `before` if it is similar.
    pub fn after(mut self, before: &Pattern) -> Pattern {
        if self.shape == before.shape {
            self.races = before.races.inherited(before.kept(), self.kept());
        }
        self
    }

    /// Returns `[out, in, kernel, kernel]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Counts the kept weights.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Returns which kernels are faster in each direction, once training steps have shown it.
    pub fn choices(&self) -> Option<Choices> {
        self.races.choices()
    }

    /// Tells whether training steps have run with it.
    pub fn is_in_use(&self) -> bool {
        self.races.has_begun()
    }

    /// Runs a forward pass with the faster kernels: `Some` is the sparse ones. It is timed if it is part of a training step.
    pub(crate) fn forward<T>(&self, images: usize, training: bool, work: impl FnOnce(Option<&Pattern>) -> T) -> T {
        let pattern = |kernels| (kernels == Kernels::Sparse).then_some(self);
        match training {
            true => self.races.forward(images, self.likely(), |kernels| work(pattern(kernels))),
            false => work(pattern(self.races.untimed(self.likely()))),
        }
    }

    /// Runs a backward pass with the faster kernels of each side; where `all` weights want a gradient, that is dense.
    pub(crate) fn backward<T>(&self, images: usize, all: bool, work: impl FnOnce(Sides) -> T) -> T {
        self.races.backward(images, all, self.likely(), work)
    }

    /// Sets the gradient of all weights that are not kept to 0, as the sparse kernels return it.
    pub(crate) fn clear_removed(&self, gradient: &mut [f32]) {
        let mut next = 0;
        for kept in self.kept.iter().map(|kept| *kept as usize) {
            gradient[next..kept].fill(0.0);
            next = kept + 1;
        }
        gradient[next..].fill(0.0);
    }

    /// Returns the kernels that are faster at usual sizes, for what comes before any measurement.
    fn likely(&self) -> Kernels {
        let few = self.kept.len() * 100 <= self.shape.iter().product::<usize>() * 40;
        if few { Kernels::Sparse } else { Kernels::Dense }
    }

    /// Tells whether the sparse kernels, which are f32, are faster than dense ones in bf16.
    ///
    /// The answer follows from shape and kept share alone, and is not measured on the spot: both round differently, and a
    /// run that is resumed must take the same ones as before to get the same weights.
    pub(crate) fn pays_against_bf16(&self) -> bool {
        let [_, inputs, ..] = self.shape;
        // Measured by the example `parts` with up to 64 channels, beyond by analogy: with many channels the lists no longer
        // fit into the cache.
        let percent = if inputs > 128 { 14 } else { 25 };
        self.kept.len() * 100 <= self.shape.iter().product::<usize>() * percent
    }

    /// Makes sure that this is a pattern for `conv`.
    pub(super) fn check(&self, conv: &Conv) {
        let [height, width] = conv.kernel;
        assert_eq!(self.shape, [conv.outputs, conv.input.channels, height, width], "pattern of {conv:?}");
    }

    /// Lists for each output channel what the forward pass sums.
    pub(super) fn by_output(&self, weight: &[f32]) -> Kept {
        let mut lists = Kept { starts: vec![0; self.shape[0] + 1], taps: Vec::with_capacity(self.kept.len()) };
        for index in &self.kept {
            let [out, inp, row, column] = position(self.shape, *index);
            lists.push(out, Tap { channel: inp, row, column, weight: weight[*index as usize], index: *index });
        }
        lists.finish()
    }

    /// Lists for each input channel what the data gradient sums, of kernel rows `rows` and columns `columns`.
    pub(super) fn by_input(&self, weight: &[f32], rows: &[usize], columns: &[usize]) -> Kept {
        let mut lists = Kept { starts: vec![0; self.shape[1] + 1], taps: Vec::with_capacity(self.kept.len()) };
        for index in &self.by_input {
            let [out, inp, ky, kx] = position(self.shape, *index);
            let place = |all: &[usize], k| all.iter().position(|other| *other == k);
            if let (Some(row), Some(column)) = (place(rows, ky), place(columns, kx)) {
                let weight = weight[*index as usize];
                lists.push(inp, Tap { channel: out, row, column, weight, index: *index });
            }
        }
        lists.finish()
    }
}

impl Kept {
    fn push(&mut self, list: usize, tap: Tap) {
        self.taps.push(tap);
        self.starts[list + 1] = self.taps.len();
    }

    /// Closes empty lists: each starts where the one before it ends.
    fn finish(mut self) -> Kept {
        for list in 1..self.starts.len() {
            self.starts[list] = self.starts[list].max(self.starts[list - 1]);
        }
        self
    }

    /// Returns where the taps are in a block of `from`, for a kernel whose sums stay in registers.
    pub fn entries(&self, from: Maps) -> Entries {
        // Up to two groups fit well enough undivided.
        self.grouped(from, if from.channels > 2 * GROUP { GROUP } else { from.channels })
    }

    /// Returns the same for a kernel whose sums, a vector for each tap, share the cache with the pixels: groups are half as
    /// large where their lists are still long enough.
    pub fn entries_of_sums(&self, from: Maps) -> Entries {
        let lists = (self.starts.len() - 1) * from.channels.div_ceil(GROUP / 2);
        self.grouped(from, if self.taps.len() >= LONG * lists { GROUP / 2 } else { GROUP })
    }

    /// Cuts the lists into groups of `group` input channels.
    fn grouped(&self, from: Maps, group: usize) -> Entries {
        let group = group.max(1);
        let groups = from.channels.div_ceil(group).max(1);
        let mut all = Entries { groups, starts: vec![0], entries: Vec::new(), indices: Vec::new() };
        let mut next = self.starts.clone();
        for end in (1..=groups).map(|number| number * group) {
            for (next, last) in next.iter_mut().zip(&self.starts[1..]) {
                // Each list is ordered by the channel that it reads.
                let length = self.taps[*next..*last].partition_point(|tap| tap.channel < end);
                for tap in &self.taps[*next..*next + length] {
                    let offset = tap.channel * from.plane() + (tap.row * from.row() + tap.column) * LANES;
                    let offset = u32::try_from(offset).expect("a block has fewer than 2^32 floats");
                    all.entries.push(Entry { offset, weight: tap.weight });
                    all.indices.push(tap.index);
                }
                *next += length;
                all.starts.push(all.entries.len());
            }
        }
        all
    }
}

impl Entries {
    /// Counts the entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counts the channels that are written.
    pub fn channels(&self) -> usize {
        (self.starts.len() - 1) / self.groups
    }

    /// Returns the entries of `channels` in a group of input channels.
    pub fn of(&self, group: usize, channels: Range<usize>) -> &[Entry] {
        &self.entries[self.range(group, channels)]
    }

    /// Returns the indices of the weights of `channels` in a group of input channels.
    pub fn indices(&self, group: usize, channels: Range<usize>) -> &[u32] {
        &self.indices[self.range(group, channels)]
    }

    fn range(&self, group: usize, channels: Range<usize>) -> Range<usize> {
        let first = group * self.channels();
        self.starts[first + channels.start]..self.starts[first + channels.end]
    }
}

/// Returns output channel, input channel, row and column of a weight.
fn position([_, inputs, height, width]: [usize; 4], index: u32) -> [usize; 4] {
    // There are fewer than 2^32 weights, and divisions of 32 bits are faster.
    let [inputs, taps, width] = [inputs, height * width, width].map(|count| count as u32);
    let (channel, tap) = (index / taps, index % taps);
    [channel / inputs, channel % inputs, tap / width, tap % width].map(|count| count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_follow_the_channel_that_is_written() {
        // Two filters over two channels of a 1×2 kernel.
        let mask = [true, false, false, true, false, false, true, false];
        let pattern = Pattern::new([2, 2, 1, 2], mask);
        assert_eq!(pattern.kept(), 3);
        let weight: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let weights = |kept: Kept| (kept.starts.clone(), kept.taps.iter().map(|tap| tap.weight).collect::<Vec<_>>());
        assert_eq!(weights(pattern.by_output(&weight)), (vec![0, 2, 3], vec![0.0, 3.0, 6.0]));
        assert_eq!(weights(pattern.by_input(&weight, &[0], &[0])), (vec![0, 1, 2], vec![0.0, 6.0]));
        assert_eq!(weights(pattern.by_input(&weight, &[0], &[1])), (vec![0, 0, 1], vec![3.0]));
    }
}
