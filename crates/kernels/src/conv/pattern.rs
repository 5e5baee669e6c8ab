//! Which weights of a convolution are kept, as lists that the sparse kernels walk.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::Conv;
use super::choice::{Choices, Kernels, Races, Sides};
use crate::maps::{LANES, Maps};

/// The kept weights of a convolution, `[out, in, kernel, kernel]`.
///
/// It is built once after a mask has changed; its lists are built when a map of their size is first seen, and values are
/// filled in at each step.
#[derive(Debug)]
pub struct Pattern {
    shape: [usize; 4],
    /// The indices of kept weights, ascending: filter after filter.
    kept: Vec<u32>,
    /// The same, input channel after input channel.
    by_input: Vec<u32>,
    lists: Mutex<Vec<(Key, Arc<Lists>)>>,
    races: Races,
}

/// Kept weights and their values, for one list for each channel that is written.
pub(crate) struct Kept<'a> {
    pattern: &'a Pattern,
    weight: &'a [f32],
    side: Side,
}

/// What is summed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// For each output channel, what the forward pass sums.
    Output,
    /// The same, for which the weight gradient keeps sums.
    Sums,
    /// For each input channel, what the data gradient sums of these kernel rows and columns.
    Input { rows: Vec<usize>, columns: Vec<usize> },
}

/// Which lists these are: the side, and the pixels of a plane and of a row that is read.
type Key = (Side, usize, usize);

/// Lists of kept weights by the channel that is written, cut into groups of the channels that are read.
#[derive(Debug, Default)]
struct Lists {
    /// Groups of channels that are read; each has a list for each channel that is written.
    groups: usize,
    /// Where each list starts, group after group, and the end of the last.
    starts: Vec<usize>,
    /// The float that each weight is multiplied with, counted from the first tap of channel 0.
    offsets: Vec<u32>,
    /// The index of each weight.
    indices: Vec<u32>,
}

/// A weight, and what it is multiplied with: a channel, and a row and a column relative to the first tap.
#[derive(Clone, Copy)]
struct Tap {
    channel: u32,
    row: u32,
    column: u32,
    index: u32,
}

/// Input channels whose pixels around a tile the first cache holds.
const GROUP: usize = 16;
/// The same where there is one tap, and no pixels around a tile.
const POINT_GROUP: usize = 64;
/// The most input channels of a group, however short its lists are.
const LARGEST_GROUP: usize = 128;
/// Entries that a task fills in at least.
const FILLED: usize = 1 << 14;
/// Taps of a list that is worth being a group's own.
const LONG: usize = 8;

/// Lists with the values of a step.
#[derive(Default)]
pub(super) struct Entries {
    /// Groups of input channels; each has a list for each channel that is written.
    pub groups: usize,
    lists: Arc<Lists>,
    /// All lists.
    entries: Vec<Entry>,
}

/// A weight and the float it is multiplied with, counted from the first tap of channel 0.
#[derive(Clone, Copy, Default)]
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
        Pattern { shape, kept, by_input, lists: Mutex::default(), races: Races::default() }
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
    pub(super) fn by_output<'a>(&'a self, weight: &'a [f32]) -> Kept<'a> {
        Kept { pattern: self, weight, side: Side::Output }
    }

    /// Lists for each input channel what the data gradient sums, of kernel rows `rows` and columns `columns`.
    pub(super) fn by_input<'a>(&'a self, weight: &'a [f32], rows: Vec<usize>, columns: Vec<usize>) -> Kept<'a> {
        Kept { pattern: self, weight, side: Side::Input { rows, columns } }
    }

    /// Lists for each output channel which weights have a gradient, without values.
    pub(super) fn places(&self, from: Maps) -> Entries {
        let lists = self.lists(&Side::Sums, from);
        lists.entries(|_| 0.0)
    }

    /// Returns the lists of a side for blocks of `from`.
    fn lists(&self, side: &Side, from: Maps) -> Arc<Lists> {
        let is_it = |(known, plane, row): &Key| known == side && *plane == from.pixels() && *row == from.row();
        let mut all = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lists)) = all.iter().find(|(key, _)| is_it(key)) {
            return lists.clone();
        }
        let lists = Arc::new(self.listed(side, from));
        all.push(((side.clone(), from.pixels(), from.row()), lists.clone()));
        lists
    }

    /// Builds the lists of a side for blocks of `from`.
    fn listed(&self, side: &Side, from: Maps) -> Lists {
        let [outputs, inputs, height, width] = self.shape;
        let (order, written) = match side {
            Side::Output | Side::Sums => (&self.kept, outputs),
            Side::Input { .. } => (&self.by_input, inputs),
        };
        let mut starts = vec![0; written + 1];
        let mut taps = Vec::with_capacity(order.len());
        for index in order {
            let [out, inp, ky, kx] = position(self.shape, *index);
            let (list, channel, row, column) = match side {
                Side::Output | Side::Sums => (out, inp, ky, kx),
                Side::Input { rows, columns } => {
                    let place = |all: &[usize], k| all.iter().position(|other| *other == k);
                    match (place(rows, ky), place(columns, kx)) {
                        (Some(row), Some(column)) => (inp, out, row, column),
                        _ => continue,
                    }
                }
            };
            taps.push(Tap { channel: channel as u32, row: row as u32, column: column as u32, index: *index });
            starts[list + 1] = taps.len();
        }
        // An empty list starts where the one before it ends.
        for list in 1..starts.len() {
            starts[list] = starts[list].max(starts[list - 1]);
        }
        let mut group = match side {
            _ if height * width == 1 => POINT_GROUP,
            // The sums, a vector for each tap, share the cache with the pixels.
            Side::Sums => GROUP / 2,
            // Up to two groups fit well enough undivided.
            _ if from.channels > 2 * GROUP => GROUP,
            _ => from.channels.max(1),
        };
        // Each list is started anew in each group, which costs more than the first cache saves where lists are short.
        while group < LARGEST_GROUP && taps.len() < LONG * written * from.channels.div_ceil(group) {
            group *= 2;
        }
        grouped(&starts, &taps, from, group)
    }
}

/// Cuts lists into groups of `group` channels that they read.
fn grouped(starts: &[usize], taps: &[Tap], from: Maps, group: usize) -> Lists {
    let groups = from.channels.div_ceil(group).max(1);
    let mut all = Lists {
        groups,
        starts: vec![0],
        offsets: Vec::with_capacity(taps.len()),
        indices: Vec::with_capacity(taps.len()),
    };
    let mut next = starts.to_vec();
    for end in (1..=groups).map(|number| number * group) {
        for (next, last) in next.iter_mut().zip(&starts[1..]) {
            // Each list is ordered by the channel that it reads.
            let length = taps[*next..*last].partition_point(|tap| (tap.channel as usize) < end);
            for tap in &taps[*next..*next + length] {
                let pixel = tap.row as usize * from.row() + tap.column as usize;
                let offset = tap.channel as usize * from.plane() + pixel * LANES;
                all.offsets.push(u32::try_from(offset).expect("a block has fewer than 2^32 floats"));
                all.indices.push(tap.index);
            }
            *next += length;
            all.starts.push(all.offsets.len());
        }
    }
    all
}

impl Lists {
    /// Returns the entries with the value of each index.
    fn entries(self: Arc<Lists>, value: impl Fn(u32) -> f32 + Sync) -> Entries {
        let mut entries = vec![Entry::default(); self.offsets.len()];
        let filled = entries.par_iter_mut().zip(&self.offsets).zip(&self.indices).with_min_len(FILLED);
        filled.for_each(|((entry, offset), index)| *entry = Entry { offset: *offset, weight: value(*index) });
        Entries { groups: self.groups, lists: self, entries }
    }
}

impl Kept<'_> {
    /// Returns where the taps are in a block of `from`, with their weights.
    pub(super) fn entries(&self, from: Maps) -> Entries {
        self.pattern.lists(&self.side, from).entries(|index| self.weight[index as usize])
    }
}

impl Entries {
    /// Counts the entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counts the channels that are written.
    pub fn channels(&self) -> usize {
        (self.lists.starts.len() - 1) / self.groups
    }

    /// Returns the entries of `channels` in a group of input channels.
    pub fn of(&self, group: usize, channels: Range<usize>) -> &[Entry] {
        &self.entries[self.range(group, channels)]
    }

    /// Returns the indices of the weights of `channels` in a group of input channels.
    pub fn indices(&self, group: usize, channels: Range<usize>) -> &[u32] {
        &self.lists.indices[self.range(group, channels)]
    }

    fn range(&self, group: usize, channels: Range<usize>) -> Range<usize> {
        let first = group * self.channels();
        self.lists.starts[first + channels.start]..self.lists.starts[first + channels.end]
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
        let from = Maps::new([1, 2, 3, 3]);
        let weights = |kept: Kept| {
            let entries = kept.entries(from);
            let channels = 0..entries.channels();
            channels.map(|channel| entries.of(0, channel..channel + 1).iter().map(|e| e.weight).collect()).collect()
        };
        let lists: [Vec<Vec<f32>>; 3] = [
            weights(pattern.by_output(&weight)),
            weights(pattern.by_input(&weight, vec![0], vec![0])),
            weights(pattern.by_input(&weight, vec![0], vec![1])),
        ];
        assert_eq!(lists[0], [vec![0.0, 3.0], vec![6.0]]);
        assert_eq!(lists[1], [vec![0.0], vec![6.0]]);
        assert_eq!(lists[2], [vec![], vec![3.0]]);
        // A list is built once and filled in at each step.
        assert_eq!(weights(pattern.by_output(&[9.0; 8])), [vec![9.0, 9.0], vec![9.0]]);
        assert_eq!(pattern.lists.lock().unwrap().len(), 3);
    }
}
