//! Linear layers over [`Panels`]: forward, data gradient, weight gradient, dense and sparse.
//!
//! Each works on 16 rows at once, one vector register a feature and pixel:
//!
//! | direction | tile | reads per step |
//! |---|---|---|
//! | forward, data gradient ([`dense`]; [`points`] in bf16) | 4 outputs × 6 pixels | 6 vectors, 4 weights for 24 multiply-adds |
//! | weight gradient ([`weight_gradient`]) | 4 inputs × 6 outputs | 10 vectors for 24 multiply-adds |
//! | the first two, sparse ([`kept`]) | 1 output × 6 pixels | 6 vectors, 1 weight for 6 multiply-adds |
//! | the last, sparse ([`kept_gradient`]) | 6 pixels of 1 output | 6 vectors for 6 multiply-adds |
//!
//! Panels are maps of one row without a margin, so the weight gradient, and all of bf16, is that of a convolution with one
//! tap. Inputs come in groups whose tile stays in the first cache. The data gradient is a forward pass with turned weights.
//! Threads share outputs, never a sum: results do not depend on their number.

mod bias;
mod dense;
mod kept;
mod kept_gradient;
mod next;
mod pattern;

pub use pattern::LinearPattern;

use rayon::prelude::*;

use crate::bf16::Precision;
use crate::buffer::Buffer;
use crate::conv::ahead::Ahead;
use crate::conv::pack::{self, Strided};
use crate::conv::plan;
use crate::conv::taps::{Place, TILE};
use crate::conv::weight_gradient::{self, Products, products};
use crate::conv::{points, rounded};
use crate::maps::{LANES, Maps};
use crate::panels::Panels;
use crate::profile::Slot;
use crate::simd::Level;
use pattern::Entry;

/// What the weight gradient says of calls beside it, so that its tasks are large: each reads all of the output's gradient.
const CALLS: usize = 2;

/// Pixels in a register tile of the sparse kernels.
const PIXELS: usize = 6;

/// A linear layer for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Length of an input vector.
    pub inputs: usize,
    /// Length of an output vector.
    pub outputs: usize,
    /// The batch.
    pub panels: Panels,
    /// How exactly the dense kernels multiply.
    pub precision: Precision,
}

/// What a sum starts from, beside zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// A number for each output.
    pub bias: Option<&'a [f32]>,
    /// Panels of the output's shape.
    pub onto: Option<&'a [f32]>,
}

/// The gradients of weight `[in, out]` and bias `[out]`.
pub struct WeightGradient {
    /// The gradient of the weight.
    pub weight: Buffer,
    /// The gradient of the bias.
    pub bias: Vec<f32>,
}

impl Linear {
    /// Multiplies `x` by `weight` `[in, out]`, or by those weights that `pattern` keeps, and adds `start`.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn forward(&self, x: &[f32], weight: &[f32], pattern: Option<&LinearPattern>, start: Start) -> Buffer {
        self.check(x, self.inputs, weight, pattern);
        let weights = match pattern {
            None => self.packed(weight, [self.inputs, self.outputs], [1, self.outputs]),
            Some(pattern) => Weights::Kept(pattern.by_output(), pattern.by_output().entries(weight, self.panels)),
        };
        self.multiply(x, [self.inputs, self.outputs], &weights, start)
    }

    /// Returns the gradient of the input, given that of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn data_gradient(&self, gradient: &[f32], weight: &[f32], pattern: Option<&LinearPattern>) -> Buffer {
        self.check(gradient, self.outputs, weight, pattern);
        let weights = match pattern {
            None => self.packed(weight, [self.outputs, self.inputs], [self.outputs, 1]),
            Some(pattern) => Weights::Kept(pattern.by_input(), pattern.by_input().entries(weight, self.panels)),
        };
        self.multiply(gradient, [self.outputs, self.inputs], &weights, Start::default())
    }

    /// Returns the gradients of weight and bias; with a pattern, that of weights it leaves out is given as zero.
    ///
    /// # Panics
    ///
    /// Panics if a length or the pattern is not that of its shape.
    pub fn weight_gradient(&self, x: &[f32], gradient: &[f32], pattern: Option<&LinearPattern>) -> WeightGradient {
        assert_eq!(x.len(), self.panels.len(self.inputs), "input of {self:?}");
        assert_eq!(gradient.len(), self.panels.len(self.outputs), "gradient of {self:?}");
        let level = Level::current();
        if let Some(pattern) = pattern {
            assert_eq!(pattern.shape(), [self.outputs, self.inputs], "pattern of {self:?}");
            return kept_gradient::run(self, x, gradient, pattern);
        }
        let bias = bias::run(level, self, gradient);
        if x.is_empty() || gradient.is_empty() {
            return WeightGradient { weight: Buffer::zeros(self.inputs * self.outputs), bias };
        }
        let mut weight = Buffer::any(self.inputs * self.outputs);
        let [from, to] = [self.outputs, self.inputs].map(|features| self.maps(features));
        match self.precision {
            Precision::F32 | Precision::F16 => sum_products(level, (from, gradient), (to, x), &mut weight),
            Precision::Bf16 => {
                let (gradient, x) = (rounded::round(level, from, gradient), rounded::round(level, to, x));
                sum_products(level, (from, &gradient[..]), (to, &x[..]), &mut weight);
            }
        }
        WeightGradient { weight, bias }
    }

    /// Returns panels of some features as maps of one row.
    fn maps(&self, features: usize) -> Maps {
        let Panels { panels, pixels, .. } = self.panels;
        Maps { images: panels * LANES, channels: features, height: 1, width: pixels, margin: 0 }
    }

    /// Returns all weights `[inputs, outputs]`, which are so many floats apart, as the dense kernel reads them.
    fn packed(&self, weight: &[f32], [inputs, outputs]: [usize; 2], [output, input]: [usize; 2]) -> Weights<'static> {
        let from = Strided { weight, outputs, inputs, steps: [output, input], taps: vec![0] };
        match pack::dense(self.precision, &from) {
            plan::Weights::Dense(packed) => Weights::Dense(packed),
            plan::Weights::Bf16(packed) => Weights::Bf16(packed),
            plan::Weights::Kept(_) => unreachable!("all weights were packed"),
        }
    }

    fn check(&self, floats: &[f32], features: usize, weight: &[f32], pattern: Option<&LinearPattern>) {
        assert_eq!(floats.len(), self.panels.len(features), "panels of {self:?}");
        assert_eq!(weight.len(), self.inputs * self.outputs, "weight of {self:?}");
        if let Some(pattern) = pattern {
            assert_eq!(pattern.shape(), [self.outputs, self.inputs], "pattern of {self:?}");
        }
    }

    fn multiply(&self, x: &[f32], [inputs, outputs]: [usize; 2], weights: &Weights, start: Start) -> Buffer {
        let Panels { panels, pixels, .. } = self.panels;
        let plane = self.panels.plane();
        let mut y = Buffer::any(self.panels.len(outputs));
        if y.is_empty() || outputs == 0 {
            return y;
        }
        assert!(start.bias.is_none_or(|bias| bias.len() == outputs), "bias of {self:?}");
        assert!(start.onto.is_none_or(|onto| onto.len() == y.len()), "what {self:?} is added to");
        // Enough tasks for all threads even with few panels; a task is some outputs of a panel.
        let tiles = outputs.div_ceil(TILE);
        let tasks = (4 * rayon::current_num_threads()).div_ceil(panels.max(1)).min(tiles).max(1);
        let chunk = tiles.div_ceil(tasks) * TILE;
        let level = Level::current();
        let pairs = match weights {
            Weights::Bf16(_) => {
                let maps = self.maps(inputs);
                Some(rounded::in_pairs(level, maps, &rounded::round(level, maps, x)))
            }
            Weights::Dense(_) | Weights::Kept(..) => None,
        };
        let (x, read) = match &pairs {
            Some(pairs) => (&pairs[..], inputs.div_ceil(2)),
            None => (x, inputs),
        };
        let (from, to) = (self.maps(read), self.maps(outputs));
        let place = &Place { row: 0, column: 0, step: 1, rows: 1, columns: pixels };
        y.par_chunks_mut(outputs * plane).enumerate().for_each(|(panel, y)| {
            let input = &x[panel * read * plane..][..read * plane];
            let onto = start.onto.map(|onto| &onto[panel * outputs * plane..][..outputs * plane]);
            y.par_chunks_mut(chunk * plane).enumerate().for_each(|(task, output)| {
                let first = task * chunk;
                let start = Start {
                    bias: start.bias.map(|bias| &bias[first..]),
                    onto: onto.map(|onto| &onto[first * plane..]),
                };
                let (corner, step, rows, ahead) = ([0, 0], 1, 0..1, &mut Ahead::nothing());
                match weights {
                    Weights::Dense(packed) => {
                        let weights = &packed[first * inputs..];
                        level.run(dense::Work { inputs, pixels, x: input, y: output, weights, start });
                    }
                    Weights::Bf16(packed) => {
                        let (weights, start) = (&packed[first * read..], start.write(plane, output));
                        level.run_bf16(points::Work::<true> {
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
                        });
                    }
                    Weights::Kept(lists, entries) => {
                        level.run(kept::Work { inputs, pixels, x: input, y: output, lists, entries, first, start });
                    }
                }
            });
        });
        y
    }
}

impl Start<'_> {
    /// Writes what the sums of the planes of `output` start from, if it is not zero.
    fn write(self, plane: usize, output: &mut [f32]) -> plan::Start {
        for (i, output) in output.chunks_exact_mut(plane).enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[i]);
            match self.onto {
                Some(onto) => {
                    let onto = &onto[i * plane..][..plane];
                    output.iter_mut().zip(onto).for_each(|(output, onto)| *output = onto + bias);
                }
                None if self.bias.is_some() => output.fill(bias),
                None => return plan::Start::Zero,
            }
        }
        plan::Start::Output
    }
}

/// Writes the sums over all rows `[feature of the second][feature of the first]`.
fn sum_products<T: weight_gradient::Operand>(
    level: Level,
    (from, input): (Maps, &[T]),
    (to, gradient): (Maps, &[T]),
    sums: &mut [f32],
) {
    let work = Products { kernel: [1, 1], stride: 1, padding: 0, from, to, input, gradient };
    products(level, work, CALLS, &Slot::default(), sums);
}

enum Weights<'a> {
    /// All weights.
    Dense(Buffer),
    /// The same with pairs of inputs in bf16.
    Bf16(Buffer),
    /// Kept weights.
    Kept(&'a pattern::Lists, Vec<Entry>),
}
