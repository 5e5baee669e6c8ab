//! Which weights of a linear layer are kept, as lists that the sparse kernels walk.

use std::ops::Range;

use crate::conv::{Choices, Kernels, Races, Sides};
use crate::maps::LANES;
use crate::panels::Panels;

/// Features in a group, whose pixels of a tile the first cache holds.
pub(super) const GROUP: usize = 96;

/// The kept weights of a linear layer.
///
/// It is built once after a mask has changed; values and offsets are filled in at each step.
#[derive(Debug)]
pub struct LinearPattern {
    shape: [usize; 2],
    by_output: Lists,
    by_input: Lists,
    races: Races,
}

/// A list for each feature that is written and each group of features that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lists {
    /// Features that are written.
    pub targets: usize,
    /// Groups of features that are read.
    pub groups: usize,
    /// Where each list starts, group after group, and the end of the last.
    starts: Vec<usize>,
    /// The feature that each entry reads.
    sources: Vec<u32>,
    /// The index of each entry's weight in `[in, out]`.
    indices: Vec<u32>,
}

/// A weight and the float it is multiplied with, counted from a pixel of feature 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The float.
    pub offset: u32,
    /// The weight.
    pub weight: f32,
}

impl LinearPattern {
    /// Takes the pattern of `mask`, a flag for each weight of `shape` `[out, in]`, output after output.
    ///
    /// # Panics
    ///
    /// Panics if `mask` has another length than `shape` says, or more than 2³² flags.
    pub fn new(shape: [usize; 2], mask: &[bool]) -> LinearPattern {
        let [outputs, inputs] = shape;
        assert_eq!(mask.len(), outputs * inputs, "a flag for each weight of {shape:?}");
        assert!(u32::try_from(mask.len()).is_ok(), "fewer than 2^32 weights");
        let index = |out: usize, inp: usize| (inp * outputs + out) as u32;
        let kept = |out: usize, inp: usize| mask[out * inputs + inp];
        LinearPattern {
            shape,
            by_output: Lists::new(outputs, inputs, &kept, &index),
            by_input: Lists::new(inputs, outputs, &|inp, out| kept(out, inp), &|inp, out| index(out, inp)),
            races: Races::default(),
        }
    }

    /// Returns `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Counts the kept weights.
    pub fn kept(&self) -> usize {
        self.by_output.sources.len()
    }

    /// Returns the same pattern, which keeps the choices that were made for `before` if it is similar.
    pub fn after(mut self, before: &LinearPattern) -> LinearPattern {
        if self.shape == before.shape {
            self.races = before.races.inherited(before.kept(), self.kept());
        }
        self
    }

    /// Returns which kernels are faster in each direction, once training steps have shown it.
    pub fn choices(&self) -> Option<Choices> {
        self.races.choices()
    }

    /// Tells whether training steps have run with it.
    pub fn is_in_use(&self) -> bool {
        self.races.has_begun()
    }

    /// Runs a forward pass of `rows` with the faster kernels: `Some` is the sparse ones. It is timed if it is part of a
    /// training step.
    pub(crate) fn forward<T>(&self, rows: usize, training: bool, work: impl FnOnce(Option<&LinearPattern>) -> T) -> T {
        let pattern = |kernels| (kernels == Kernels::Sparse).then_some(self);
        match training {
            true => self.races.forward(rows, self.likely(), |kernels| work(pattern(kernels))),
            false => work(pattern(self.races.untimed(self.likely()))),
        }
    }

    /// Runs a backward pass of `rows` with the faster kernels of each side; where `all` weights want a gradient, that is
    /// dense.
    pub(crate) fn backward<T>(&self, rows: usize, all: bool, work: impl FnOnce(Sides) -> T) -> T {
        self.races.backward(rows, all, self.likely(), work)
    }

    /// Sets the gradient `[in, out]` of all weights that are not kept to 0, as the sparse kernels return it.
    pub(crate) fn clear_removed(&self, gradient: &mut [f32]) {
        let kept: Vec<(u32, f32)> =
            self.by_output.indices.iter().map(|index| (*index, gradient[*index as usize])).collect();
        gradient.fill(0.0);
        kept.into_iter().for_each(|(index, value)| gradient[index as usize] = value);
    }

    /// Returns the kernels that are faster at usual sizes, for what comes before any measurement.
    fn likely(&self) -> Kernels {
        if self.keeps_at_most(45) { Kernels::Sparse } else { Kernels::Dense }
    }

    /// Tells whether the sparse kernels, which are f32, are faster than dense ones in bf16.
    ///
    /// The answer follows from the kept share alone, as for convolutions: both round differently.
    pub(crate) fn pays_against_bf16(&self) -> bool {
        self.keeps_at_most(15)
    }

    fn keeps_at_most(&self, percent: usize) -> bool {
        self.kept() * 100 <= self.shape.iter().product::<usize>() * percent
    }

    pub(super) fn by_output(&self) -> &Lists {
        &self.by_output
    }

    pub(super) fn by_input(&self) -> &Lists {
        &self.by_input
    }
}

impl Lists {
    fn new(
        targets: usize,
        sources: usize,
        kept: &impl Fn(usize, usize) -> bool,
        index: &impl Fn(usize, usize) -> u32,
    ) -> Lists {
        let groups = sources.div_ceil(GROUP);
        let mut lists = Lists { targets, groups, starts: vec![0], sources: Vec::new(), indices: Vec::new() };
        for group in 0..groups {
            for target in 0..targets {
                for source in (group * GROUP..sources.min((group + 1) * GROUP)).filter(|source| kept(target, *source)) {
                    lists.sources.push(source as u32);
                    lists.indices.push(index(target, source));
                }
                lists.starts.push(lists.sources.len());
            }
        }
        lists
    }

    /// Returns all entries for `panels`.
    pub fn entries(&self, weight: &[f32], panels: Panels) -> Vec<Entry> {
        let entry = |(source, index): (&u32, &u32)| Entry {
            offset: self.offset(*source, panels),
            weight: weight[*index as usize],
        };
        self.sources.iter().zip(&self.indices).map(entry).collect()
    }

    /// Returns all entries for `panels`, without weights.
    pub fn places(&self, panels: Panels) -> Vec<Entry> {
        self.sources.iter().map(|source| Entry { offset: self.offset(*source, panels), weight: 0.0 }).collect()
    }

    fn offset(&self, source: u32, panels: Panels) -> u32 {
        u32::try_from(source as usize * panels.plane()).expect("a panel has fewer than 2^32 floats")
    }

    /// Returns where the entries of `targets` in a group of sources are.
    pub fn range(&self, group: usize, targets: Range<usize>) -> Range<usize> {
        let first = group * self.targets;
        self.starts[first + targets.start]..self.starts[first + targets.end]
    }

    /// Returns the index of each entry's weight.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Tells whether all sources are below `sources`.
    pub fn reads_below(&self, sources: usize) -> bool {
        self.groups == sources.div_ceil(GROUP) && self.sources.iter().all(|source| (*source as usize) < sources)
    }
}

const _: () = assert!(GROUP * super::PIXELS * LANES * size_of::<f32>() <= 40 << 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_follow_the_feature_that_is_written() {
        // Two outputs of three inputs; the weights lie as [in, out].
        let pattern = LinearPattern::new([2, 3], &[true, false, true, false, false, true]);
        assert_eq!(pattern.kept(), 3);
        assert_eq!((&pattern.by_output.starts[..], &pattern.by_output.sources[..]), (&[0, 2, 3][..], &[0, 2, 2][..]));
        assert_eq!(pattern.by_output.indices, [0, 4, 5]);
        assert_eq!((&pattern.by_input.starts[..], &pattern.by_input.sources[..]), (&[0, 1, 1, 3][..], &[0, 0, 1][..]));
        assert_eq!(pattern.by_input.indices, [0, 4, 5]);
    }
}
