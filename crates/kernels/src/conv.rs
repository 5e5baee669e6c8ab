//! Convolution over activations in blocks: forward, data gradient, weight gradient.
//!
//! All three work on 16 images at once, one vector register a pixel, with tiles of sums held in registers:
//!
//! | direction | tile | reads per step |
//! |---|---|---|
//! | forward, data gradient ([`taps`]) | 4 output channels × 4 pixels | 4 pixels, 4 weights for 16 multiply-adds |
//! | the same for one tap ([`points`]) | 4 output channels × 6 pixels | 6 pixels, 4 weights for 24 multiply-adds |
//! | weight gradient ([`weight_gradient`]) | 4 output × 2 input channels × 3 taps, or 6 × 1 | 4 + 6 pixels for 24 multiply-adds |
//! | the first two, sparse ([`kept_taps`]) | 1 output channel × 4 × 4 pixels | 16 pixels, 1 weight for 16 multiply-adds |
//! | the last, sparse ([`kept_gradient`]) | 2 × 8 pixels of 1 output channel | 16 pixels for 16 multiply-adds |
//!
//! A sparse filter is a list of its kept taps ([`Pattern`]); what is not in the list costs nothing. The dense kernels
//! multiply in f32 or, twice as fast where the processor has the instruction, in bf16 ([`rounded`]).
//!
//! [`unit`] runs them block by block, together with the batch normalisations around a convolution.
//!
//! The data gradient of stride 1 is a forward convolution with turned, transposed weights; of stride s it is s² of them,
//! one for each phase of the pixels it writes. Results do not depend on the number of threads: threads share outputs,
//! never a sum.

pub(crate) mod ahead;
mod choice;
mod kept_gradient;
mod kept_taps;
pub(crate) mod pack;
mod pattern;
pub(crate) mod plan;
pub(crate) mod points;
pub(crate) mod rounded;
mod strips;
pub(crate) mod taps;
pub mod unit;
pub(crate) mod weight_gradient;

pub use choice::{Choice, Choices, Kernels};
pub(crate) use choice::{Races, Sides};
pub use pattern::Pattern;

use crate::bf16::Precision;
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::profile::{self, Direction, section};
use crate::simd::Level;
use pack::Strided;
use plan::{Part, Weights, convolve};
use taps::{Place, Taps};

/// The shape of a convolution, without dilation, groups and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// The shape of the input.
    pub input: Maps,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step of the kernel in both directions.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
}

impl Conv {
    /// Tells whether the kernel is a single tap.
    pub(crate) fn is_point(&self) -> bool {
        self.kernel == [1, 1]
    }

    /// Returns the shape of the output.
    ///
    /// # Panics
    ///
    /// Panics if the kernel is larger than the padded input.
    pub fn output(&self) -> Maps {
        let side = |side: usize, kernel: usize| {
            let steps = (side + 2 * self.padding).checked_sub(kernel);
            steps.expect("a kernel fits into the padded input") / self.stride + 1
        };
        let [height, width] = [side(self.input.height, self.kernel[0]), side(self.input.width, self.kernel[1])];
        Maps::new([self.input.images, self.outputs, height, width])
    }

    /// Convolves `input` with `weight`, which is `[out, in, kernel, kernel]`.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn forward(&self, input: &[f32], weight: &[f32]) -> Buffer {
        self.check(input, weight);
        convolve(
            self.input,
            input,
            self.output(),
            self.forward_parts(weight, None, Precision::F32),
            (self, Direction::Forward),
        )
    }

    /// Convolves `input` with `weight`, both rounded to bf16.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn forward_bf16(&self, input: &[f32], weight: &[f32]) -> Buffer {
        self.check(input, weight);
        let parts = self.forward_parts(weight, None, Precision::Bf16);
        convolve(self.input.in_pairs(), &in_pairs(self.input, input), self.output(), parts, (self, Direction::Forward))
    }

    /// Convolves `input` with the weights that `pattern` keeps.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn forward_kept(&self, input: &[f32], weight: &[f32], pattern: &Pattern) -> Buffer {
        self.check(input, weight);
        convolve(
            self.input,
            input,
            self.output(),
            self.forward_parts(weight, Some(pattern), Precision::F32),
            (self, Direction::Forward),
        )
    }

    /// Returns the gradient of the input, given that of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn data_gradient(&self, gradient: &[f32], weight: &[f32]) -> Buffer {
        self.check_gradient(gradient, weight);
        convolve(
            self.output(),
            gradient,
            self.input,
            self.gradient_parts(weight, None, Precision::F32),
            (self, Direction::Data),
        )
    }

    /// Returns the gradient of the input, given that of the output; it and `weight` are rounded to bf16.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn data_gradient_bf16(&self, gradient: &[f32], weight: &[f32]) -> Buffer {
        self.check_gradient(gradient, weight);
        let (to, parts) = (self.output(), self.gradient_parts(weight, None, Precision::Bf16));
        convolve(to.in_pairs(), &in_pairs(to, gradient), self.input, parts, (self, Direction::Data))
    }

    /// Returns the gradient of the input, given that of the output, through the weights that `pattern` keeps.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn data_gradient_kept(&self, gradient: &[f32], weight: &[f32], pattern: &Pattern) -> Buffer {
        self.check_gradient(gradient, weight);
        convolve(
            self.output(),
            gradient,
            self.input,
            self.gradient_parts(weight, Some(pattern), Precision::F32),
            (self, Direction::Data),
        )
    }

    /// Returns what the forward pass sums.
    fn forward_parts<'a>(
        &self,
        weight: &'a [f32],
        pattern: Option<&'a Pattern>,
        precision: Precision,
    ) -> Vec<Part<'a>> {
        let _section = section(profile::Part::Around);
        let [height, width] = self.kernel;
        let (taps, place) = self.all_taps();
        let weights = match pattern {
            None => {
                let [inputs, area] = [self.input.channels, height * width];
                let taps = (0..area).collect();
                let from = Strided { weight, outputs: self.outputs, inputs, steps: [inputs * area, area], taps };
                pack::dense(precision, &from)
            }
            Some(pattern) => {
                pattern.check(self);
                Weights::Kept(pattern.by_output(weight))
            }
        };
        vec![Part { taps, place, weights }]
    }

    /// Returns what the data gradient sums.
    fn gradient_parts<'a>(
        &self,
        weight: &'a [f32],
        pattern: Option<&'a Pattern>,
        precision: Precision,
    ) -> Vec<Part<'a>> {
        let _section = section(profile::Part::Around);
        let inputs = self.input.channels;
        let [height, width] = self.kernel;
        if let Some(pattern) = pattern {
            pattern.check(self);
        }
        let parts = self.phases().map(|Phase { taps, place, rows, columns }| {
            let weights = match pattern {
                None => {
                    let area = height * width;
                    let taps = rows.iter().flat_map(|ky| columns.iter().map(move |kx| ky * width + kx)).collect();
                    let (outputs, inputs) = (inputs, self.outputs);
                    pack::dense(precision, &Strided { weight, outputs, inputs, steps: [area, outputs * area], taps })
                }
                Some(pattern) => Weights::Kept(pattern.by_input(weight, rows, columns)),
            };
            Part { taps, place, weights }
        });
        parts.collect()
    }

    /// Returns all taps as the forward pass sees them.
    fn all_taps(&self) -> (Taps, Place) {
        let corner = -(self.padding as isize);
        let [height, width] = self.kernel;
        let output = self.output();
        let place = Place { row: 0, column: 0, step: 1, rows: output.height, columns: output.width };
        (Taps { top: corner, left: corner, height, width, step: self.stride }, place)
    }

    /// Returns the phases of the data gradient: input pixels that the same taps reach.
    fn phases(&self) -> impl Iterator<Item = Phase> {
        let corners = (0..self.stride.min(self.input.height))
            .flat_map(|row| (0..self.stride.min(self.input.width)).map(move |column| (row, column)));
        corners.map(|(row, column)| {
            let (top, rows) = self.phase(row, self.kernel[0]);
            let (left, columns) = self.phase(column, self.kernel[1]);
            let taps = Taps { top, left, height: rows.len(), width: columns.len(), step: 1 };
            let place = Place {
                row,
                column,
                step: self.stride,
                rows: (self.input.height - row).div_ceil(self.stride),
                columns: (self.input.width - column).div_ceil(self.stride),
            };
            Phase { taps, place, rows, columns }
        })
    }

    /// Returns the gradient of the weight, given the input and the gradient of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn weight_gradient(&self, input: &[f32], gradient: &[f32]) -> Buffer {
        assert_eq!(input.len(), self.input.len(), "input of {:?}", self.input.dims());
        assert_eq!(gradient.len(), self.output().len(), "gradient of {:?}", self.output().dims());
        if self.padding > self.input.margin {
            let (wide, input) = self.input.with_margin(input, self.padding);
            return weight_gradient::run(&Conv { input: wide, ..*self }, &input, gradient);
        }
        weight_gradient::run(self, input, gradient)
    }

    /// Returns the gradient of the weight, given the input and the gradient of the output, both rounded to bf16.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn weight_gradient_bf16(&self, input: &[f32], gradient: &[f32]) -> Buffer {
        assert_eq!(input.len(), self.input.len(), "input of {:?}", self.input.dims());
        assert_eq!(gradient.len(), self.output().len(), "gradient of {:?}", self.output().dims());
        let level = Level::current();
        let gradient = rounded::round(level, self.output(), gradient);
        if self.padding > self.input.margin {
            let (wide, input) = self.input.with_margin(input, self.padding);
            let input = rounded::round(level, wide, &input);
            return weight_gradient::run(&Conv { input: wide, ..*self }, &input, &gradient);
        }
        weight_gradient::run(self, &rounded::round(level, self.input, input), &gradient)
    }

    /// Returns the gradient of the weights that `pattern` keeps; that of the others is given as zero.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn weight_gradient_kept(&self, input: &[f32], gradient: &[f32], pattern: &Pattern) -> Buffer {
        assert_eq!(input.len(), self.input.len(), "input of {:?}", self.input.dims());
        assert_eq!(gradient.len(), self.output().len(), "gradient of {:?}", self.output().dims());
        if self.padding > self.input.margin {
            let (wide, input) = self.input.with_margin(input, self.padding);
            return kept_gradient::run(&Conv { input: wide, ..*self }, &input, gradient, pattern);
        }
        kept_gradient::run(self, input, gradient, pattern)
    }

    /// Tells whether the margin of its input and output is wide enough for all directions.
    pub(crate) fn fits(&self) -> bool {
        let (from, to) = (self.input, self.output());
        let fits = |taps: &Taps, place: &Place, maps: Maps| {
            taps.margin(place, maps.width).max(taps.margin_above(place, maps.height)) <= maps.margin
        };
        let (taps, place) = self.all_taps();
        self.padding <= from.margin
            && fits(&taps, &place, from)
            && self.phases().all(|Phase { taps, place, .. }| fits(&taps, &place, to))
    }

    /// Returns which kernel rows (or columns) reach the input rows `phase`, `phase + stride`, …, ordered by the output row
    /// they come from, and the first of those output rows relative to the number of the input row within the phase.
    fn phase(&self, phase: usize, kernel: usize) -> (isize, Vec<usize>) {
        // Input row y·stride + phase is read by output row y + offset through kernel row k if
        // offset · stride + k = phase + padding.
        let reaching: Vec<usize> =
            (0..kernel).rev().filter(|k| (phase + self.padding).abs_diff(*k).is_multiple_of(self.stride)).collect();
        let offset = |k: usize| (phase as isize + self.padding as isize - k as isize) / self.stride as isize;
        (reaching.first().map_or(0, |k| offset(*k)), reaching)
    }

    fn check_gradient(&self, gradient: &[f32], weight: &[f32]) {
        assert_eq!(gradient.len(), self.output().len(), "gradient of {:?}", self.output().dims());
        self.check_weight(weight);
    }

    fn check(&self, input: &[f32], weight: &[f32]) {
        assert_eq!(input.len(), self.input.len(), "input of {:?}", self.input.dims());
        self.check_weight(weight);
    }

    fn check_weight(&self, weight: &[f32]) {
        let weights = self.outputs * self.input.channels * self.kernel[0] * self.kernel[1];
        assert_eq!(weight.len(), weights, "weight of {self:?}");
    }
}

/// Rounds maps and puts two channels into each lane.
fn in_pairs(maps: Maps, x: &[f32]) -> Buffer {
    let level = Level::current();
    rounded::in_pairs(level, maps, &rounded::round(level, maps, x))
}

/// Input pixels that the same kernel rows and columns reach.
struct Phase {
    taps: Taps,
    place: Place,
    rows: Vec<usize>,
    columns: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_stride_two_share_the_taps() {
        let conv =
            |stride, padding| Conv { input: Maps::new([1, 1, 8, 8]), outputs: 1, kernel: [3, 3], stride, padding };
        assert_eq!(conv(2, 1).phase(0, 3), (0, vec![1]));
        assert_eq!(conv(2, 1).phase(1, 3), (0, vec![2, 0]));
        assert_eq!(conv(1, 1).phase(0, 3), (-1, vec![2, 1, 0]));
        assert_eq!(conv(2, 0).phase(1, 1), (0, vec![]));
    }

    #[test]
    fn outputs_have_the_usual_size() {
        let conv = Conv { input: Maps::new([2, 3, 9, 32]), outputs: 5, kernel: [7, 7], stride: 2, padding: 3 };
        assert_eq!(conv.output().dims(), [2, 5, 5, 16]);
    }
}
