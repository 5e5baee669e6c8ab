//! Attention of every token to every token, on panels of 16 images: Vaswani et al., "Attention is all you need", 2017,
//! <https://arxiv.org/abs/1706.03762>.
//!
//! A panel holds queries, keys and values, `[3 · width][tokens][16]`, and within each the heads one after the other. A few
//! queries at a time are compared with all keys, so that their weights stay in the first cache and are never stored;
//! the backward pass computes them again from the largest score and the sum of each query, as in Dao et al.,
//! "FlashAttention", 2022, <https://arxiv.org/abs/2205.14135>.

mod products;

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::elementwise::exp;
use crate::maps::LANES;
use crate::panels::{Panels, even};
use crate::simd::{Kernel, Lanes, Level};
use products::{Rows, multiply};

/// Queries at a time.
const QUERIES: usize = 5;

/// The shape of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// The batch: a pixel is a token.
    pub panels: Panels,
    /// Heads.
    pub heads: usize,
    /// Features of a head's queries, keys and values.
    pub features: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// The output `[width]` of attention and what its backward pass needs.
pub struct Attended {
    /// The output.
    pub output: Buffer,
    /// For each head and query the largest score and the reciprocal of the sum of all weights, of 16 images each.
    pub statistics: Buffer,
}

impl Attention {
    fn width(&self) -> usize {
        self.heads * self.features
    }

    /// Floats of a head's queries.
    fn head(&self) -> usize {
        self.features * self.panels.plane()
    }

    /// Attends to `qkv`.
    ///
    /// # Panics
    ///
    /// Panics if it has another length than the shape says.
    pub fn forward(&self, qkv: &[f32]) -> Attended {
        assert_eq!(qkv.len(), self.panels.len(3 * self.width()), "queries, keys and values of {self:?}");
        let level = Level::current();
        let mut output = Buffer::any(self.panels.len(self.width()));
        let mut statistics = Buffer::any(self.panels.len(2 * self.heads));
        let tasks = output.par_chunks_mut(self.head()).zip(statistics.par_chunks_mut(2 * self.panels.plane()));
        tasks.enumerate().for_each(|(task, (output, statistics))| {
            let qkv = self.parts(qkv, task);
            level.run(Forward { shape: *self, qkv, output, statistics });
        });
        Attended { output, statistics }
    }

    /// Returns the gradient of `qkv`, given that of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of the shape.
    pub fn backward(&self, qkv: &[f32], statistics: &[f32], gradient: &[f32]) -> Buffer {
        assert_eq!(qkv.len(), self.panels.len(3 * self.width()), "queries, keys and values of {self:?}");
        assert_eq!(statistics.len(), self.panels.len(2 * self.heads), "statistics of {self:?}");
        assert_eq!(gradient.len(), self.panels.len(self.width()), "gradient of {self:?}");
        let level = Level::current();
        let mut of_qkv = Buffer::any(qkv.len());
        let head = self.head();
        of_qkv.par_chunks_mut(3 * self.heads * head).enumerate().for_each(|(panel, of_qkv)| {
            let (of_q, rest) = of_qkv.split_at_mut(self.heads * head);
            let (of_k, of_v) = rest.split_at_mut(self.heads * head);
            let parts = of_q.par_chunks_mut(head).zip(of_k.par_chunks_mut(head)).zip(of_v.par_chunks_mut(head));
            parts.enumerate().for_each(|(number, ((of_q, of_k), of_v))| {
                let task = panel * self.heads + number;
                level.run(Backward {
                    shape: *self,
                    qkv: self.parts(qkv, task),
                    statistics: &statistics[task * 2 * self.panels.plane()..][..2 * self.panels.plane()],
                    gradient: &gradient[task * head..][..head],
                    of_qkv: [of_q, of_k, of_v],
                });
            });
        });
        of_qkv
    }

    /// Returns the queries, keys and values of a panel's head.
    fn parts<'a>(&self, qkv: &'a [f32], task: usize) -> [&'a [f32]; 3] {
        let (panel, head) = (task / self.heads, task % self.heads);
        [0, 1, 2].map(|part| &qkv[((3 * panel + part) * self.heads + head) * self.head()..][..self.head()])
    }
}

/// A head of a panel.
struct Forward<'a> {
    shape: Attention,
    qkv: [&'a [f32]; 3],
    output: &'a mut [f32],
    statistics: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Attention { panels, features, scale, .. } = self.shape;
        let (tokens, plane) = (panels.pixels, panels.plane());
        let [q, k, v] = self.qkv;
        let mut scores = vec![0.0f32; QUERIES * plane];
        for (first, count) in even(tokens, QUERIES) {
            let scores = &mut scores[..count * plane];
            let queries = Rows::new(&q[first * LANES..], plane, LANES);
            multiply::<L>(
                [tokens, count, features],
                Rows::new(k, plane, LANES),
                queries,
                scores,
                [LANES, plane],
                false,
            );
            let statistics = &mut self.statistics[first * 2 * LANES..];
            softmax::<L>(scores, plane, scale, statistics);
            // Output of query i and feature d: the sum over keys j of weight (i, j) times value (d, j).
            let weights = Rows::new(scores, LANES, plane);
            let output = &mut self.output[first * LANES..];
            multiply::<L>(
                [features, count, tokens],
                Rows::new(v, LANES, plane),
                weights,
                output,
                [plane, LANES],
                false,
            );
        }
    }
}

/// Turns the scores of queries into weights; writes for each the largest score and the reciprocal of the sum.
#[inline(always)]
fn softmax<L: Lanes>(scores: &mut [f32], plane: usize, scale: f32, statistics: &mut [f32]) {
    for (scores, statistics) in scores.chunks_exact_mut(plane).zip(statistics.chunks_exact_mut(2 * LANES)) {
        for lane in (0..LANES).step_by(L::WIDTH) {
            let mut largest = L::splat(f32::NEG_INFINITY);
            for score in scores.chunks_exact(LANES) {
                largest = largest.max(L::read(&score[lane..]));
            }
            largest.write(&mut statistics[lane..]);
        }
        subtract::<L>(scores, statistics);
    }
    exponentials(scores, scale);
    for (scores, statistics) in scores.chunks_exact_mut(plane).zip(statistics.chunks_exact_mut(2 * LANES)) {
        for lane in (0..LANES).step_by(L::WIDTH) {
            let mut sum = L::splat(0.0);
            for score in scores.chunks_exact(LANES) {
                sum = sum.plus(L::read(&score[lane..]));
            }
            sum.write(&mut statistics[LANES + lane..]);
        }
        statistics[LANES..].iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        for lane in (0..LANES).step_by(L::WIDTH) {
            let reciprocal = L::read(&statistics[LANES + lane..]);
            for weight in scores.chunks_exact_mut(LANES) {
                L::read(&weight[lane..]).times(reciprocal).write(&mut weight[lane..]);
            }
        }
    }
}

/// Subtracts the first vector of `statistics` from each of `scores`.
#[inline(always)]
fn subtract<L: Lanes>(scores: &mut [f32], statistics: &[f32]) {
    for lane in (0..LANES).step_by(L::WIDTH) {
        let largest = L::read(&statistics[lane..]);
        for score in scores.chunks_exact_mut(LANES) {
            L::read(&score[lane..]).minus(largest).write(&mut score[lane..]);
        }
    }
}

/// One long loop, which the compiler turns into vectors; it would not do so with one of sixteen steps.
#[inline(always)]
fn exponentials(scores: &mut [f32], scale: f32) {
    for score in scores {
        *score = exp(scale * *score);
    }
}

/// A head of a panel.
struct Backward<'a> {
    shape: Attention,
    qkv: [&'a [f32]; 3],
    statistics: &'a [f32],
    gradient: &'a [f32],
    of_qkv: [&'a mut [f32]; 3],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Attention { panels, features, scale, .. } = self.shape;
        let (tokens, plane) = (panels.pixels, panels.plane());
        let [q, k, v] = self.qkv;
        let [of_q, of_k, of_v] = self.of_qkv;
        let mut weights = vec![0.0f32; QUERIES * plane];
        let mut of_weights = vec![0.0f32; QUERIES * plane];
        for (first, count) in even(tokens, QUERIES) {
            let weights = &mut weights[..count * plane];
            let of_weights = &mut of_weights[..count * plane];
            let queries = &q[first * LANES..];
            let gradient = &self.gradient[first * LANES..];
            let [across, along] = [plane, LANES];
            let keys = Rows::new(k, across, along);
            multiply::<L>(
                [tokens, count, features],
                keys,
                Rows::new(queries, across, along),
                weights,
                [LANES, plane],
                false,
            );
            let values = Rows::new(v, across, along);
            let rows = Rows::new(gradient, across, along);
            multiply::<L>([tokens, count, features], values, rows, of_weights, [LANES, plane], false);
            let statistics = &self.statistics[first * 2 * LANES..];
            softmax_backward::<L>(weights, of_weights, plane, scale, statistics);
            // Sums over keys, then sums over these queries that are added up.
            let of_scores = Rows::new(of_weights, LANES, plane);
            let to = &mut of_q[first * LANES..];
            multiply::<L>([features, count, tokens], Rows::new(k, LANES, plane), of_scores, to, [plane, LANES], false);
            let adds = first > 0;
            let of_scores = Rows::new(of_weights, plane, LANES);
            let rows = Rows::new(queries, LANES, plane);
            multiply::<L>([features, tokens, count], rows, of_scores, of_k, [plane, LANES], adds);
            let rows = Rows::new(gradient, LANES, plane);
            multiply::<L>(
                [features, tokens, count],
                rows,
                Rows::new(weights, plane, LANES),
                of_v,
                [plane, LANES],
                adds,
            );
        }
    }
}

/// Turns scores into weights, and the gradients of weights into those of the scores before they were scaled.
#[inline(always)]
fn softmax_backward<L: Lanes>(
    weights: &mut [f32],
    of_weights: &mut [f32],
    plane: usize,
    scale: f32,
    statistics: &[f32],
) {
    for (scores, statistics) in weights.chunks_exact_mut(plane).zip(statistics.chunks_exact(2 * LANES)) {
        subtract::<L>(scores, statistics);
    }
    exponentials(weights, scale);
    let rows = weights.chunks_exact_mut(plane).zip(of_weights.chunks_exact_mut(plane));
    for ((weights, of_weights), statistics) in rows.zip(statistics.chunks_exact(2 * LANES)) {
        for lane in (0..LANES).step_by(L::WIDTH) {
            let reciprocal = L::read(&statistics[LANES + lane..]);
            let mut sum = L::splat(0.0);
            for (weight, of_weight) in weights.chunks_exact_mut(LANES).zip(of_weights.chunks_exact(LANES)) {
                let share = L::read(&weight[lane..]).times(reciprocal);
                share.write(&mut weight[lane..]);
                sum = share.mul_add(L::read(&of_weight[lane..]), sum);
            }
            for (weight, of_weight) in weights.chunks_exact(LANES).zip(of_weights.chunks_exact_mut(LANES)) {
                let distance = L::read(&of_weight[lane..]).minus(sum);
                let share = L::read(&weight[lane..]).times(L::splat(scale));
                share.times(distance).write(&mut of_weight[lane..]);
            }
        }
    }
}
