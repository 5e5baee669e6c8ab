//! The gradient of kept weights only: a tile of the output gradient in registers, one vector of sums for each kept weight
//! in memory.
//!
//! Tasks are cut by the shape alone, and panels are added in order.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::gradient::bias;
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
    let parts: Vec<(Vec<f32>, Vec<f32>)> = tasks.par_iter().map(work).collect();
    let mut weight = Buffer::zeros(linear.inputs * linear.outputs);
    for (first, (sums, _)) in tasks.iter().zip(&parts) {
        let outputs = OUTPUTS.min(linear.outputs - first);
        let indices = (0..lists.groups).flat_map(|group| &lists.indices()[lists.range(group, *first..first + outputs)]);
        for (index, sum) in indices.zip(sums) {
            weight[*index as usize] = *sum;
        }
    }
    WeightGradient { weight, bias: parts.into_iter().flat_map(|(_, bias)| bias).collect() }
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
    /// The gradients of the entries, group after group, and of the bias.
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run<L: Lanes>(self) -> (Vec<f32>, Vec<f32>) {
        let Linear { inputs, outputs: all, panels } = *self.linear;
        assert!(self.first + self.outputs <= all && self.lists.targets == all);
        assert_eq!(self.x.len(), panels.len(inputs));
        assert_eq!(self.gradient.len(), panels.len(all));
        assert!(self.lists.reads_below(inputs));
        let targets = self.first..self.first + self.outputs;
        let count: usize = (0..self.lists.groups).map(|group| self.lists.range(group, targets.clone()).len()).sum();
        let mut sums = vec![[0.0f32; LANES]; count];
        let mut of_bias = vec![0.0f32; self.outputs];
        for panel in 0..panels.panels {
            bias(self.linear, self.gradient, (panel, 1), self.first, &mut of_bias);
            for (pixel, count) in even(panels.pixels, PIXELS) {
                match count {
                    7 => self.tile::<L, 7>(&mut sums, panel, pixel),
                    6 => self.tile::<L, 6>(&mut sums, panel, pixel),
                    5 => self.tile::<L, 5>(&mut sums, panel, pixel),
                    4 => self.tile::<L, 4>(&mut sums, panel, pixel),
                    3 => self.tile::<L, 3>(&mut sums, panel, pixel),
                    2 => self.tile::<L, 2>(&mut sums, panel, pixel),
                    _ => self.tile::<L, 1>(&mut sums, panel, pixel),
                }
            }
        }
        let sums = sums.iter().map(|lanes| lanes.iter().sum()).collect();
        (sums, of_bias)
    }
}

impl Work<'_> {
    /// Adds `P` pixels to the sums of all entries.
    #[inline(always)]
    fn tile<L: Lanes, const P: usize>(&self, sums: &mut [[f32; LANES]], panel: usize, pixel: usize) {
        let Linear { inputs, outputs: all, panels } = *self.linear;
        let plane = panels.plane();
        let mut rest = sums;
        for group in 0..self.lists.groups {
            for output in self.first..self.first + self.outputs {
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
                            let mut even = L::load(sum.as_ptr().add(lane));
                            let mut odd = L::splat(0.0);
                            for p in 0..P {
                                let value = L::load(x.add(p * LANES));
                                match p % 2 {
                                    0 => even = gradients[p].mul_add(value, even),
                                    _ => odd = gradients[p].mul_add(value, odd),
                                }
                            }
                            even.mul_add(L::splat(1.0), odd).store(sum.as_mut_ptr().add(lane));
                        }
                    }
                }
            }
        }
    }
}
