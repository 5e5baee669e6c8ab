//! Linear layers over [`Panels`]: forward, data gradient, weight gradient, dense and sparse.
//!
//! Each works on 16 rows at once, one vector register a feature and pixel:
//!
//! | direction | tile | reads per step |
//! |---|---|---|
//! | forward, data gradient ([`dense`]) | 4 outputs × 6 pixels | 6 vectors, 4 weights for 24 multiply-adds |
//! | weight gradient ([`gradient`]) | 4 outputs × 6 inputs | 10 vectors for 24 multiply-adds |
//! | the first two, sparse ([`kept`]) | 1 output × 7 pixels | 7 vectors, 1 weight for 7 multiply-adds |
//! | the last, sparse ([`kept_gradient`]) | 7 pixels of 1 output | 7 vectors for 7 multiply-adds |
//!
//! Inputs come in groups whose tile stays in the first cache. The data gradient is a forward pass with turned weights.
//! Threads share outputs, never a sum: results do not depend on their number.

mod dense;
mod gradient;
mod kept;
mod kept_gradient;
mod pattern;

pub use pattern::LinearPattern;

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::panels::Panels;
use crate::simd::Level;
use pattern::Entry;

/// Outputs in a register tile of the dense kernels.
const TILE: usize = 4;

/// Pixels in a register tile of the sparse kernels.
const PIXELS: usize = 7;

/// A linear layer for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Length of an input vector.
    pub inputs: usize,
    /// Length of an output vector.
    pub outputs: usize,
    /// The batch.
    pub panels: Panels,
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
            None => Weights::Dense(pack(self.outputs, self.inputs, |out, inp| weight[inp * self.outputs + out])),
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
            None => Weights::Dense(pack(self.inputs, self.outputs, |inp, out| weight[inp * self.outputs + out])),
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
        match pattern {
            None => gradient::run(self, x, gradient),
            Some(pattern) => {
                assert_eq!(pattern.shape(), [self.outputs, self.inputs], "pattern of {self:?}");
                kept_gradient::run(self, x, gradient, pattern)
            }
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
        y.par_chunks_mut(outputs * plane).enumerate().for_each(|(panel, y)| {
            let x = &x[panel * inputs * plane..][..inputs * plane];
            let onto = start.onto.map(|onto| &onto[panel * outputs * plane..][..outputs * plane]);
            y.par_chunks_mut(chunk * plane).enumerate().for_each(|(task, y)| {
                let first = task * chunk;
                let start = Start {
                    bias: start.bias.map(|bias| &bias[first..]),
                    onto: onto.map(|onto| &onto[first * plane..]),
                };
                match weights {
                    Weights::Dense(packed) => {
                        let weights = &packed[first * inputs..];
                        level.run(dense::Work { inputs, pixels, x, y, weights, start });
                    }
                    Weights::Kept(lists, entries) => {
                        level.run(kept::Work { inputs, pixels, x, y, lists, entries, first, start });
                    }
                }
            });
        });
        y
    }
}

enum Weights<'a> {
    /// All weights, in the order of [`pack`].
    Dense(Vec<f32>),
    /// Kept weights.
    Kept(&'a pattern::Lists, Vec<Entry>),
}

/// Returns `weight(out, in)` as `[tile of 4 outputs][in][4]`; outputs that the last tile lacks are 0.
fn pack(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> f32 + Sync) -> Vec<f32> {
    let mut packed = vec![0.0; outputs.div_ceil(TILE) * inputs * TILE];
    if inputs > 0 {
        packed.par_chunks_mut(inputs * TILE).with_min_len((4096 / inputs).max(1)).enumerate().for_each(
            |(tile, packed)| {
                for (inp, packed) in packed.chunks_exact_mut(TILE).enumerate() {
                    for (i, slot) in packed.iter_mut().enumerate().take(outputs - tile * TILE) {
                        *slot = weight(tile * TILE + i, inp);
                    }
                }
            },
        );
    }
    packed
}
