//! The gradient of weights and bias: for each pair of features, the sum over all rows of input times output gradient.
//!
//! Tasks are cut by the shape alone, and panels are added in order.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::{Linear, TILE, WeightGradient};
use crate::buffer::Buffer;
use crate::maps::LANES;
use crate::panels::even;
use crate::simd::{Kernel, Lanes, Level};

/// Outputs of a task, whose gradients stay in the second cache.
const OUTPUTS: usize = 48;
/// Pixels that a tile of sums runs over at least, so that adding up its lanes costs little; with more, the inputs of a tile
/// would not stay in the first cache from one tile of outputs to the next.
const PIXELS: usize = 64;

pub(super) fn run(linear: &Linear, x: &[f32], gradient: &[f32]) -> WeightGradient {
    let level = Level::current();
    let tasks: Vec<usize> = (0..linear.outputs).step_by(OUTPUTS).collect();
    let work = |first: &usize| {
        let outputs = OUTPUTS.min(linear.outputs - first);
        level.run(Work { linear, x, gradient, first: *first, outputs })
    };
    let parts: Vec<(Vec<f32>, Vec<f32>)> = tasks.par_iter().map(work).collect();
    let mut weight = Buffer::any(linear.inputs * linear.outputs);
    for (first, (sums, _)) in tasks.iter().zip(&parts) {
        let outputs = OUTPUTS.min(linear.outputs - first);
        for (row, sums) in weight.chunks_exact_mut(linear.outputs).zip(sums.chunks_exact(outputs)) {
            row[*first..first + outputs].copy_from_slice(sums);
        }
    }
    WeightGradient { weight, bias: parts.into_iter().flat_map(|(_, bias)| bias).collect() }
}

/// Some outputs.
struct Work<'a> {
    linear: &'a Linear,
    x: &'a [f32],
    gradient: &'a [f32],
    first: usize,
    outputs: usize,
}

impl Kernel for Work<'_> {
    /// The gradients of weights `[in, outputs]` and of the bias.
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run<L: Lanes>(self) -> (Vec<f32>, Vec<f32>) {
        let Linear { inputs, outputs: all, panels } = *self.linear;
        assert!(self.outputs > 0 && self.first + self.outputs <= all);
        assert_eq!(self.x.len(), panels.len(inputs));
        assert_eq!(self.gradient.len(), panels.len(all));
        let mut sums = vec![0.0f32; inputs * self.outputs];
        let most = if L::WIDTH == LANES { 6 } else { 2 };
        let mut of_bias = vec![0.0f32; self.outputs];
        for group in even(panels.panels, PIXELS.div_ceil(panels.pixels.max(1))) {
            // While the gradients are on their way into the cache.
            bias(self.linear, self.gradient, group, self.first, &mut of_bias);
            for (input, count) in even(inputs, most) {
                for output in (0..self.outputs).step_by(TILE) {
                    match count {
                        6 if L::WIDTH == LANES => self.tile::<L, 6>(&mut sums, group, input, output),
                        5 if L::WIDTH == LANES => self.tile::<L, 5>(&mut sums, group, input, output),
                        4 if L::WIDTH == LANES => self.tile::<L, 4>(&mut sums, group, input, output),
                        3 if L::WIDTH == LANES => self.tile::<L, 3>(&mut sums, group, input, output),
                        2 => self.tile::<L, 2>(&mut sums, group, input, output),
                        _ => self.tile::<L, 1>(&mut sums, group, input, output),
                    }
                }
            }
        }
        (sums, of_bias)
    }
}

impl Work<'_> {
    /// Adds a group of panels to the sums of `I` inputs and four outputs.
    #[inline(always)]
    fn tile<L: Lanes, const I: usize>(
        &self,
        sums: &mut [f32],
        (panel, panels): (usize, usize),
        input: usize,
        output: usize,
    ) {
        let Linear { inputs, outputs: all, panels: shape } = *self.linear;
        let plane = shape.plane();
        let outputs = (self.outputs - output).min(TILE);
        let mut totals = [[0.0f32; TILE]; I];
        for lane in (0..LANES).step_by(L::WIDTH) {
            let mut tile = [[L::splat(0.0); TILE]; I];
            for panel in panel..panel + panels {
                // SAFETY: the asserts of `run` hold; the panels, inputs `input..input + I` and pixels exist by its loops,
                // and an output that the last tile lacks is replaced by the last one there is.
                unsafe {
                    let x = self.x.as_ptr().add((panel * inputs + input) * plane + lane);
                    let gradient = self.gradient.as_ptr().add((panel * all + self.first + output) * plane + lane);
                    for pixel in 0..shape.pixels {
                        let mut gradients = [L::splat(0.0); TILE];
                        for o in 0..TILE {
                            gradients[o] = L::load(gradient.add(o.min(outputs - 1) * plane + pixel * LANES));
                        }
                        for i in 0..I {
                            let value = L::load(x.add(i * plane + pixel * LANES));
                            for o in 0..TILE {
                                tile[i][o] = value.mul_add(gradients[o], tile[i][o]);
                            }
                        }
                    }
                }
            }
            for i in 0..I {
                for o in 0..TILE {
                    totals[i][o] += tile[i][o].sum();
                }
            }
        }
        for (i, totals) in totals.iter().enumerate() {
            let at = (input + i) * self.outputs + output;
            for (sum, total) in sums[at..at + outputs].iter_mut().zip(totals) {
                *sum += total;
            }
        }
    }
}

/// Adds the gradients of the outputs from `first` on in some panels to `sums`.
#[inline(always)]
pub(super) fn bias(linear: &Linear, gradient: &[f32], (panel, panels): (usize, usize), first: usize, sums: &mut [f32]) {
    let plane = linear.panels.plane();
    for panel in panel..panel + panels {
        let planes = &gradient[(panel * linear.outputs + first) * plane..][..sums.len() * plane];
        for (sum, plane) in sums.iter_mut().zip(planes.chunks_exact(plane)) {
            let mut lanes = [0.0f32; LANES];
            for pixel in plane.chunks_exact(LANES) {
                for (lane, value) in lanes.iter_mut().zip(pixel) {
                    *lane += value;
                }
            }
            *sum += lanes.iter().sum::<f32>();
        }
    }
}
