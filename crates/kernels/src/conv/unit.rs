//! A convolution together with the batch normalisations before and after it, block by block.
//!
//! Between two barriers (a normalisation needs the statistics of the whole batch, forward, and sums over it, backward) a
//! block of images goes through everything while the caches hold it:
//!
//! - forward: normalise and rectify the input, convolve, take the moments of the output;
//! - backward: through the normalisation of the output, weight gradient, data gradient, sums of the gradient for the
//!   normalisation of the input.
//!
//! So nothing is kept for the backward pass but what convolutions return: normalised inputs are computed again. The
//! results are, to the last bit, those of the operations one by one.

use std::ops::Range;

use rayon::prelude::*;

use super::plan::{Plan, Start};
use super::strips::{self, Block};
use super::weight_gradient::{self, Groups};
use super::{Conv, Pattern, kept_gradient, rounded};
use crate::batch_norm::planes::{Apply, Moments, Reduce, Running, Through};
use crate::batch_norm::{Affine, Gate, Statistics, Sums, planes_per_task, timer};
use crate::bf16::{Precision, Stored};
use crate::buffer::{Buffer, Halves};
use crate::maps::Maps;
use crate::planes::Planes;
use crate::profile::Direction;
use crate::simd::Level;

/// A convolution and its weights.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The shape.
    pub conv: &'a Conv,
    /// The weights, `[out, in, kernel, kernel]`.
    pub weight: &'a [f32],
    /// Those that are kept, if the sparse kernels are to run forward and for the gradient of the input.
    pub pattern: Option<&'a Pattern>,
    /// How exactly the dense kernels multiply.
    pub precision: Precision,
}

/// What a unit reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The maps; channels that are picked out of several activations must be normalised.
    pub x: Planes<'a>,
    /// What is done to them first.
    pub norm: Option<Norm<'a>>,
}

/// A normalisation that is computed when its input is read.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// What it does.
    pub affine: &'a Affine,
    /// Whether a rectifier follows.
    pub relu: bool,
}

/// The normalisation of a unit's output, on the way back.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    /// The unit's output.
    pub z: &'a [f32],
    /// What the normalisation did to it.
    pub affine: &'a Affine,
    /// Which pixels the rectifier let through.
    pub gate: Gate<'a>,
    /// Statistics of `z`, sums over its gradient, epsilon.
    pub training: (&'a Statistics, &'a Sums, f64),
}

/// The gradients that a unit returns.
pub struct Gradients {
    /// That of the input, after its normalisation if it has one, unless it has been added to another.
    pub input: Option<Buffer>,
    /// Sums over it, if the input is normalised.
    pub sums: Option<Sums>,
    /// That of the weights.
    pub weight: Option<Buffer>,
}

/// Which gradients a unit shall return.
pub struct Wanted<'a> {
    /// That of the input.
    pub input: bool,
    /// What the gradient of the input is added to, instead of being returned.
    pub onto: Option<&'a mut [f32]>,
    /// That of the weights.
    pub weight: bool,
    /// The only weights whose gradients are wanted, if the sparse kernels are to run; of others it may be zero.
    pub kept: Option<&'a Pattern>,
}

impl Unit<'_> {
    /// Returns the output and, if asked for, its statistics.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape, or the convolution needs a wider margin than maps have.
    pub fn forward(&self, input: Input, statistics: bool) -> (Buffer, Option<Statistics>) {
        self.forward_onto(input, None, statistics)
    }

    /// Returns the sum of the output and `residual`, which has its shape, and if asked for the statistics of the sum.
    ///
    /// # Panics
    ///
    /// Panics as [`Unit::forward`] does.
    pub fn forward_onto(
        &self,
        input: Input,
        residual: Option<&[f32]>,
        statistics: bool,
    ) -> (Buffer, Option<Statistics>) {
        let (from, to) = (self.conv.input, self.conv.output());
        assert!(residual.is_none_or(|residual| residual.len() == to.len()), "residual of {:?}", to.dims());
        let start = if residual.is_some() { Start::Output } else { Start::Zero };
        input.x.check(from);
        self.conv.check_weight(self.weight);
        assert!(self.conv.fits(), "margin for {:?}", self.conv);
        let level = Level::current();
        let precision = self.precision();
        let parts = self.conv.forward_parts(self.weight, self.pattern, precision);
        let plan = Plan::new(operand(from, precision), to, parts);
        let plan = plan.timed(self.conv, Direction::Forward);
        let by_rows = precision == Precision::F32 && plan.is_by_rows();
        let mut output = Buffer::any(to.len());
        let mut moments = vec![(0.0, 0.0); to.blocks() * to.channels];
        let blocks = output.par_chunks_mut(to.block()).zip(moments.par_chunks_mut(to.channels));
        blocks.enumerate().for_each(|(block, (output, moments))| {
            let residual = residual.map(|residual| &residual[block * to.block()..(block + 1) * to.block()]);
            if by_rows {
                let is_last = block + 1 == to.blocks();
                return strips::forward(
                    self.conv,
                    &plan,
                    level,
                    Block { number: block, is_last },
                    input,
                    residual,
                    output,
                    statistics.then_some(moments),
                );
            }
            let applied = match precision {
                Precision::F32 | Precision::F16 => input.applied(level, from, block..block + 1),
                Precision::Bf16 => Some(rounded::in_pairs(level, from, &input.rounded(level, from, block..block + 1))),
            };
            let x = applied.as_deref().unwrap_or_else(|| input.x.blocks(from, block..block + 1));
            if let Some(residual) = residual {
                output.copy_from_slice(residual);
            }
            plan.block(x, output, start, moments, |_, plane, moments| {
                if statistics {
                    let (lanes, mut running) = (to.lanes(block), Running::new());
                    level.run(Moments { maps: to, lanes, rows: 0..to.height, plane, running: &mut running });
                    *moments = running.moments(to, lanes);
                }
            });
        });
        (output, statistics.then(|| Statistics::merge(to, &moments)))
    }

    /// Returns the gradients, given that of the output, or that of the output's normalisation.
    ///
    /// # Panics
    ///
    /// Panics as [`Unit::forward`] does.
    pub fn backward(&self, input: Input, gradient: &[f32], norm: Option<Backward>, wanted: Wanted) -> Gradients {
        let conv = self.conv;
        let (from, to) = (conv.input, conv.output());
        input.x.check(from);
        conv.check_gradient(gradient, self.weight);
        assert!(conv.fits(), "margin for {conv:?}");
        assert!(wanted.onto.as_ref().is_none_or(|onto| onto.len() == from.len()));
        assert!(norm.is_none_or(|norm| norm.z.len() == to.len()));
        let level = Level::current();
        let precision = self.precision();
        let plan = wanted.input.then(|| {
            Plan::new(operand(to, precision), from, conv.gradient_parts(self.weight, self.pattern, precision))
        });
        let plan = plan.map(|plan| plan.timed(conv, Direction::Data));
        let start = if wanted.onto.is_some() { Start::Output } else { Start::Zero };
        let mut of_input = (wanted.input && wanted.onto.is_none()).then(|| Buffer::any(from.len()));
        let entries = wanted.kept.filter(|_| wanted.weight);
        let entries = entries.map(|pattern| kept_gradient::entries(conv, pattern));
        let Groups { blocks, groups } = Groups::of(conv);
        let size = weight_gradient::size(conv);
        let mut dense = (wanted.weight && entries.is_none()).then(|| Buffer::any(groups * size));
        let mut kept = vec![Vec::new(); groups];
        let mut sums = vec![(0.0, 0.0); from.blocks() * from.channels];
        let slopes = norm.map(|norm| norm.affine.slopes(to, Some(norm.training)));
        let by_rows =
            precision == Precision::F32 && strips::fit(conv, groups) && plan.as_ref().is_none_or(Plan::is_by_rows);

        let work: Vec<_> = {
            let mut of_inputs = parts(wanted.onto.or(of_input.as_deref_mut()), blocks * from.block());
            let mut denses = parts(dense.as_deref_mut(), size);
            (kept.iter_mut())
                .zip(sums.chunks_mut(blocks * from.channels))
                .map(|(kept, sums)| (of_inputs.next(), denses.next(), kept, sums))
                .collect()
        };
        work.into_par_iter().enumerate().for_each(|(group, (of_input, dense, kept, sums))| {
            let first = group * blocks;
            let gradient = part(gradient, blocks * to.block(), group);
            let these = first..(first + blocks).min(from.blocks());
            let of_output = OfOutput {
                gradient,
                norm: norm.zip(slopes.as_deref()).map(|(norm, slopes)| {
                    let at = first * to.block()..first * to.block() + gradient.len();
                    (Backward { z: &norm.z[at.clone()], gate: norm.gate.part(at), ..norm }, slopes)
                }),
            };
            if by_rows {
                let task = strips::Group { conv, level, first, input, gradient, through: of_output.norm };
                let done = task.run(plan.as_ref(), entries.as_ref(), of_input, start, sums);
                if let Some(sums) = done.kept {
                    *kept = sums;
                } else if let Some(dense) = dense {
                    let x = done.x.as_deref().unwrap_or_else(|| input.x.blocks(from, these));
                    let gradient = done.gradient.as_deref().unwrap_or(gradient);
                    weight_gradient::group(level, conv, x, gradient, dense);
                }
                return;
            }
            let back = |gradient: &[f32]| {
                let (Some(plan), Some(of_input)) = (&plan, of_input) else { return };
                let work =
                    of_input.par_chunks_mut(from.block()).zip(gradient.par_chunks(operand(to, precision).block()));
                work.zip(sums.par_chunks_mut(from.channels)).enumerate().for_each(
                    |(block, ((of_input, gradient), sums))| {
                        plan.block(gradient, of_input, start, sums, |channel, gradient, sums| {
                            if let Some(norm) = input.norm {
                                let x = input.x.plane(from, first + block, channel);
                                let (channel, gate) = (norm.affine.channel(channel), norm.gate());
                                let (rows, running) = (0..from.height, &mut Running::new());
                                level.run(Reduce { maps: from, rows, channel, gradient, x, gate, running });
                                *sums = running.sums();
                            }
                        });
                    },
                );
            };
            match precision {
                Precision::F32 | Precision::F16 => {
                    let through = of_output.through(level, to, first);
                    let gradient = through.as_deref().unwrap_or(gradient);
                    if wanted.weight {
                        let applied = input.applied(level, from, these.clone());
                        let applied = applied.as_deref().unwrap_or_else(|| input.x.blocks(from, these));
                        match (&entries, dense) {
                            (Some(entries), _) => *kept = kept_gradient::group(level, conv, entries, applied, gradient),
                            (None, Some(dense)) => weight_gradient::group(level, conv, applied, gradient, dense),
                            (None, None) => unreachable!("there is memory for the sums"),
                        }
                    }
                    back(gradient);
                }
                Precision::Bf16 => {
                    let gradient = of_output.rounded(level, to, first);
                    if let Some(dense) = dense {
                        let x = input.rounded(level, from, these);
                        weight_gradient::group(level, conv, &x, &gradient, dense);
                    }
                    if wanted.input {
                        back(&rounded::in_pairs(level, to, &gradient));
                    }
                }
            }
        });
        let weight = match (entries, dense) {
            (Some(entries), _) => Some(kept_gradient::total(conv, &entries, &kept)),
            (None, dense) => dense.map(|sums| weight_gradient::total(conv, sums)),
        };
        let sums = (wanted.input && input.norm.is_some()).then(|| Sums::merge(from, &sums));
        Gradients { input: of_input, sums, weight }
    }

    /// Returns how exactly the kernels multiply that run.
    fn precision(&self) -> Precision {
        if self.pattern.is_some() { Precision::F32 } else { self.precision }
    }
}

/// Returns the shape of what the kernel of taps reads.
fn operand(maps: Maps, precision: Precision) -> Maps {
    match precision {
        Precision::F32 | Precision::F16 => maps,
        Precision::Bf16 => maps.in_pairs(),
    }
}

impl Input<'_> {
    /// Returns some blocks as the convolution reads them, unless they are as they should be.
    fn applied(&self, level: Level, maps: Maps, blocks: Range<usize>) -> Option<Buffer> {
        self.norm.map(|norm| {
            let mut y = Buffer::any(blocks.len() * maps.block());
            norm.apply(level, maps, blocks.start, self.x, &mut y);
            y
        })
    }

    /// Returns the same in bf16.
    fn rounded(&self, level: Level, maps: Maps, blocks: Range<usize>) -> Halves {
        let Some(norm) = self.norm else { return rounded::round(level, maps, self.x.blocks(maps, blocks)) };
        let mut y = Halves::any(blocks.len() * maps.block());
        norm.apply(level, maps, blocks.start, self.x, &mut y);
        y
    }
}

impl Norm<'_> {
    /// Returns the gate of its backward pass.
    pub fn gate(&self) -> Gate<'static> {
        if self.relu { Gate::Input } else { Gate::Open }
    }

    /// Normalises the blocks of `x` from `first` on that fit into `y`.
    fn apply<T: Stored>(&self, level: Level, maps: Maps, first: usize, x: Planes, y: &mut [T]) {
        let planes = y.par_chunks_mut(maps.plane()).enumerate();
        planes.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, y)| {
            let (block, channel) = (first + i / maps.channels, i % maps.channels);
            self.plane(level, maps, block, channel, x.plane(maps, block, channel), y, 0..maps.height);
        });
    }

    /// Normalises some rows of a plane of block `block`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn plane<T: Stored>(
        &self,
        level: Level,
        maps: Maps,
        block: usize,
        channel: usize,
        x: &[f32],
        y: &mut [T],
        rows: Range<usize>,
    ) {
        let channel = self.affine.channel(channel);
        maps.clear_margin_of(rows.clone(), y);
        level.run(Apply { maps, rows: rows.clone(), channel, relu: self.relu, x, residual: None, y });
        maps.clear_missing_of(rows, block, y);
    }
}

/// The gradient of some blocks of the output, and what it goes through with which slopes.
struct OfOutput<'a> {
    gradient: &'a [f32],
    norm: Option<(Backward<'a>, &'a [(f32, f32)])>,
}

impl OfOutput<'_> {
    /// Returns the gradient of the convolution's output, of whose blocks `first` is the first, unless it is at hand.
    fn through(&self, level: Level, maps: Maps, first: usize) -> Option<Buffer> {
        self.norm.map(|(norm, slopes)| {
            let mut out = Buffer::any(self.gradient.len());
            norm.through(level, maps, first, slopes, self.gradient, &mut out);
            out
        })
    }

    /// Returns the same in bf16.
    fn rounded(&self, level: Level, maps: Maps, first: usize) -> Halves {
        let Some((norm, slopes)) = self.norm else { return rounded::round(level, maps, self.gradient) };
        let mut out = Halves::any(self.gradient.len());
        norm.through(level, maps, first, slopes, self.gradient, &mut out);
        out
    }
}

impl Backward<'_> {
    /// Writes the gradient of `z` for some blocks, of which `first` is the first.
    fn through<T: Stored>(
        &self,
        level: Level,
        maps: Maps,
        first: usize,
        slopes: &[(f32, f32)],
        gradient: &[f32],
        out: &mut [T],
    ) {
        let planes = out.par_chunks_mut(maps.plane()).enumerate();
        planes.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, out)| {
            self.plane(level, maps, first, i, slopes, gradient, out, 0..maps.height);
        });
    }

    /// Writes the gradient of `z` for some rows of plane `i` of blocks of which `first` is the first.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn plane<T: Stored>(
        &self,
        level: Level,
        maps: Maps,
        first: usize,
        i: usize,
        slopes: &[(f32, f32)],
        gradient: &[f32],
        out: &mut [T],
        rows: Range<usize>,
    ) {
        let at = i * maps.plane()..(i + 1) * maps.plane();
        let (channel, slope) = (self.affine.channel(i % maps.channels), slopes[i % maps.channels]);
        let (gradient, x, gate) = (&gradient[at.clone()], &self.z[at.clone()], self.gate.part(at));
        maps.clear_margin_of(rows.clone(), out);
        level.run(Through { maps, rows: rows.clone(), channel, slope, gradient, x, gate, out });
        maps.clear_missing_of(rows, first + i / maps.channels, out);
    }
}

/// Cuts what there is into parts of `size`.
fn parts(all: Option<&mut [f32]>, size: usize) -> impl Iterator<Item = &mut [f32]> {
    all.into_iter().flat_map(move |all| all.chunks_mut(size))
}

fn part(all: &[f32], size: usize, number: usize) -> &[f32] {
    &all[number * size..all.len().min((number + 1) * size)]
}
