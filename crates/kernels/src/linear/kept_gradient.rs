//! The gradient of kept weights only: a tile of the output gradient in registers, one vector of sums for each kept weight
//! in memory, which takes the pixels in the order of the dense kernel.
//!
//! Tasks are cut by the shape alone, and panels are added in order.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::bias;
use super::next::Next;
use super::pattern::{Entry, LinearPattern, Lists};
use super::{Linear, PIXELS, WeightGradient};
use crate::buffer::Buffer;
use crate::maps::LANES;
use crate::panels::even;
use crate::simd::{Kernel, Lanes, Level};

/// Outputs of a task: many, so that inputs are read few times.
const OUTPUTS: usize = 96;

pub(super) fn run(linear: &Linear, x: &[f32], gradient: &[f32], pattern: &LinearPattern) -> WeightGradient {
    let level = Level::current();
    let lists = pattern.by_output();
    let entries = &lists.places(linear.panels)[..];
    let tasks: Vec<usize> = (0..linear.outputs).step_by(OUTPUTS).collect();
    let work = |first: &usize| {
        let outputs = OUTPUTS.min(linear.outputs - first);
        level.run(Work { linear, x, gradient, lists, entries, first: *first, outputs })
    };
    let parts: Vec<Vec<f32>> = tasks.par_iter().map(work).collect();
    let mut weight = Buffer::zeros(linear.inputs * linear.outputs);
    for (first, sums) in tasks.iter().zip(&parts) {
        let outputs = OUTPUTS.min(linear.outputs - first);
        let indices = (0..lists.groups).flat_map(|group| &lists.indices()[lists.range(group, *first..first + outputs)]);
        for (index, sum) in indices.zip(sums) {
            weight[*index as usize] = *sum;
        }
    }
    WeightGradient { weight, bias: bias::run(level, linear, gradient) }
}

/// Some outputs.
struct Work<'a> {
    linear: &'a Linear,
    x: &'a [f32],
    gradient: &'a [f32],
    lists: &'a Lists,
    entries: &'a [Entry],
    first: usize,
    outputs: usize,
}

impl Kernel for Work<'_> {
    /// The gradients of the entries, group after group.
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        let Linear { inputs, outputs: all, panels, .. } = *self.linear;
        assert!(self.first + self.outputs <= all && self.lists.targets == all);
        assert_eq!(self.x.len(), panels.len(inputs));
        assert_eq!(self.gradient.len(), panels.len(all));
        assert!(self.lists.reads_below(inputs));
        let targets = self.first..self.first + self.outputs;
        let count: usize = (0..self.lists.groups).map(|group| self.lists.range(group, targets.clone()).len()).sum();
        let mut sums = vec![[0.0f32; LANES]; count];
        for panel in 0..panels.panels {
            for (pixel, count) in even(panels.pixels, PIXELS) {
                match count {
                    6 => self.tile::<L, 6>(&mut sums, panel, pixel),
                    5 => self.tile::<L, 5>(&mut sums, panel, pixel),
                    4 => self.tile::<L, 4>(&mut sums, panel, pixel),
                    3 => self.tile::<L, 3>(&mut sums, panel, pixel),
                    2 => self.tile::<L, 2>(&mut sums, panel, pixel),
                    _ => self.tile::<L, 1>(&mut sums, panel, pixel),
                }
            }
        }
        let sum =
            |lanes: &[f32; LANES]| lanes.chunks_exact(L::WIDTH).fold(0.0, |total, part| total + L::read(part).sum());
        sums.iter().map(sum).collect()
    }
}

impl Work<'_> {
    /// Adds `P` pixels to the sums of all entries.
    #[inline(always)]
    fn tile<L: Lanes, const P: usize>(&self, sums: &mut [[f32; LANES]], panel: usize, pixel: usize) {
        let Linear { inputs, outputs: all, panels, .. } = *self.linear;
        let plane = panels.plane();
        let mut rest = sums;
        for group in 0..self.lists.groups {
            let next = if group + 1 < self.lists.groups { (group + 1, pixel) } else { (0, pixel + P) };
            let x = &self.x[panel * inputs * plane..];
            let next = Next::<P>::new(x, [inputs, panels.pixels], next, self.outputs);
            for output in self.first..self.first + self.outputs {
                next.ask::<L>(output - self.first);
                let list = &self.entries[self.lists.range(group, output..output + 1)];
                let (sums, after) = rest.split_at_mut(list.len());
                rest = after;
                if list.is_empty() {
                    continue;
                }
                for lane in (0..LANES).step_by(L::WIDTH) {
                    // SAFETY: the asserts of `run` hold, so that entries, which `Lists::places` made for planes of this
                    // size, read features that are there; panel and pixels `pixel..pixel + P` exist by the loops of `run`.
                    unsafe {
                        let x = self.x.as_ptr().add(panel * inputs * plane + pixel * LANES + lane);
                        let gradient =
                            self.gradient.as_ptr().add((panel * all + output) * plane + pixel * LANES + lane);
                        let mut gradients = [L::splat(0.0); P];
                        for p in 0..P {
                            gradients[p] = L::load(gradient.add(p * LANES));
                        }
                        for (entry, sum) in list.iter().zip(sums.iter_mut()) {
                            let x = x.add(entry.offset as usize);
                            let mut total = L::load(sum.as_ptr().add(lane));
                            for p in 0..P {
                                total = gradients[p].mul_add(L::load(x.add(p * LANES)), total);
                            }
                            total.store(sum.as_mut_ptr().add(lane));
                        }
                    }
                }
            }
        }
    }
}
