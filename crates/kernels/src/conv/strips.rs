//! A [unit](super::unit) strip by strip: a few rows go through everything before the next rows are touched.
//!
//! A block of early layers is larger than the second cache. Rows that have just been normalised are convolved while that
//! cache holds them, and the rows after them are on their way from memory meanwhile ([`Ahead`]). Sums take rows in the same
//! order as over whole blocks, so results are the same to the last bit. Units of bf16 take whole blocks.

use super::Conv;
use super::ahead::Ahead;
use super::kept_gradient::{self, Sums};
use super::pattern::Entries;
use super::plan::{Plan, Start};
use super::unit::{Backward, Input};
use crate::batch_norm::planes::{Moments, Reduce, Running};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::profile::Part;
use crate::simd::Level;

/// Blocks whose rows together are smaller than this many bytes go through undivided.
const SMALL: usize = 384 * 1024;
/// Rows of a strip; sparse kernels take four at once.
const ROWS: usize = 4;

/// Tells whether a backward pass in `groups` tasks is worth doing by rows, without threads that share a task.
pub(super) fn fit(conv: &Conv, groups: usize) -> bool {
    let threads = rayon::current_num_threads();
    let same = conv.stride == 1 && 2 * conv.padding + 1 == conv.kernel[0] && conv.kernel[0] == conv.kernel[1];
    same && (groups.is_multiple_of(threads) || groups >= 4 * threads)
}

/// Returns the output rows of a strip.
fn rows(conv: &Conv) -> usize {
    let (from, to) = (conv.input, conv.output());
    let bytes = |maps: Maps| maps.block() * size_of::<f32>();
    let of = |maps: Maps| match bytes(maps) <= SMALL {
        true => maps.height,
        // No row is read for two rows, so strips of many channels may be low.
        false if conv.is_point() => (SMALL * maps.height / bytes(maps)).clamp(1, ROWS),
        false => ROWS,
    };
    match conv.is_point() {
        true => of(to).min(of(from).div_ceil(conv.stride)),
        false => of(to).max(of(from).div_ceil(conv.stride)),
    }
}

/// Which block of an activation this is.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub number: usize,
    /// Whether none comes after it.
    pub is_last: bool,
}

/// Normalises the input, convolves it, adds that to the residual if there is one, and takes the moments of the output.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    conv: &Conv,
    plan: &Plan,
    level: Level,
    block: Block,
    input: Input,
    residual: Option<&[f32]>,
    output: &mut [f32],
    moments: Option<&mut [(f64, f64)]>,
) {
    let (from, to) = (conv.input, conv.output());
    let Input { x, norm } = input;
    let height = rows(conv);
    // Input rows that the output rows before `end` read.
    let needed = |end: usize| match end < to.height {
        true => ((end - 1) * conv.stride + conv.kernel[0]).saturating_sub(conv.padding).min(from.height),
        false => from.height,
    };
    let mut applied = norm.map(|_| Buffer::any(from.block()));
    let mut running = vec![Running::new(); if moments.is_some() { to.channels } else { 0 }];
    let mut ready = 0;
    for start in (0..to.height).step_by(height) {
        let end = (start + height).min(to.height);
        if let (Some(norm), Some(applied)) = (norm, &mut applied) {
            let _timer = Part::Normalisation.time();
            for (channel, y) in applied.chunks_exact_mut(from.plane()).enumerate() {
                let x = x.plane(from, block.number, channel);
                norm.plane(level, from, block.number, channel, x, y, ready..needed(end));
            }
        }
        ready = needed(end);
        let mut ahead = Ahead::nothing();
        if end < to.height {
            let next = (end + height).min(to.height);
            ahead.add_planes(from, x, block.number, ready..needed(next));
            ahead.add(to, output.as_ptr(), end..next);
        } else if !block.is_last {
            ahead.add_planes(from, x, block.number + 1, 0..needed(height.min(to.height)));
            ahead.add(to, output.as_ptr().wrapping_add(to.block()), 0..height.min(to.height));
        }
        let x = applied.as_deref().unwrap_or_else(|| x.blocks(from, block.number..block.number + 1));
        let begin = match residual {
            None => Start::Zero,
            Some(residual) => {
                let _timer = Part::Normalisation.time();
                // With the zeros in front of each row, and behind the last.
                let first = if start == 0 { 0 } else { to.floats(start - 1).end };
                let last = if end == to.height { to.plane() } else { to.floats(end - 1).end };
                for (y, x) in output.chunks_exact_mut(to.plane()).zip(residual.chunks_exact(to.plane())) {
                    y[first..last].copy_from_slice(&x[first..last]);
                }
                Start::Output
            }
        };
        plan.rows(x, output, begin, start..end, ahead.among(1));
        let _timer = Part::Normalisation.time();
        for (plane, running) in output.chunks_exact(to.plane()).zip(&mut running) {
            level.run(Moments { maps: to, lanes: to.lanes(block.number), rows: start..end, plane, running });
        }
    }
    for (moments, running) in moments.into_iter().flatten().zip(&running) {
        *moments = running.moments(to, to.lanes(block.number));
    }
}

/// Some blocks on their way back through a convolution whose input and output are of one size.
pub(super) struct Group<'a> {
    pub conv: &'a Conv,
    pub level: Level,
    /// The number of the first block.
    pub first: usize,
    /// The input.
    pub input: Input<'a>,
    /// The gradient of the output, or of its normalisation.
    pub gradient: &'a [f32],
    /// The normalisation of the output, and its slopes.
    pub through: Option<(Backward<'a>, &'a [(f32, f32)])>,
}

/// What a group leaves behind.
pub(super) struct Done {
    /// The normalised input, if it is normalised.
    pub x: Option<Buffer>,
    /// The gradient of the output, if it came through a normalisation.
    pub gradient: Option<Buffer>,
    /// The sums of kept weights, if asked for.
    pub kept: Option<Vec<Vec<f32>>>,
}

impl Group<'_> {
    /// Takes all blocks through both normalisations, the gradient of the kept weights in `entries`, and the data gradient.
    pub fn run(
        &self,
        plan: Option<&Plan>,
        entries: Option<&Entries>,
        mut of_input: Option<&mut [f32]>,
        start: Start,
        sums: &mut [(f32, f32)],
    ) -> Done {
        let Group { conv, level, first, input: Input { x: planes, norm }, .. } = *self;
        let (from, to) = (conv.input, conv.output());
        let blocks = self.gradient.len() / to.block();
        let mut applied = norm.map(|_| Buffer::any(blocks * from.block()));
        let mut through = self.through.as_ref().map(|_| Buffer::any(self.gradient.len()));
        let mut kept = entries.map(|entries| Sums::new(conv, entries));
        let slot = entries.map(|entries| kept_gradient::slot(conv, entries, blocks)).unwrap_or_default();
        let height = rows(conv).min(to.height);
        // A row of each gradient needs so many rows after it of the other's map.
        let needed = |end: usize| if end < to.height { (end + conv.padding).min(to.height) } else { to.height };
        for block in 0..blocks {
            let is_last = first + block + 1 == to.blocks();
            let (of_x, of_z) =
                (block * from.block()..(block + 1) * from.block(), block * to.block()..(block + 1) * to.block());
            let mut running = vec![Running::new(); from.channels];
            let mut ready = 0;
            for begin in (0..to.height).step_by(height) {
                let end = (begin + height).min(to.height);
                let timer = Part::Normalisation.time();
                if let (Some((norm, slopes)), Some(through)) = (&self.through, &mut through) {
                    for (i, out) in through[of_z.clone()].chunks_exact_mut(to.plane()).enumerate() {
                        let plane = block * to.channels + i;
                        norm.plane(level, to, first, plane, slopes, self.gradient, out, ready..needed(end));
                    }
                }
                if let (Some(norm), Some(applied)) = (norm, &mut applied) {
                    for (channel, y) in applied[of_x.clone()].chunks_exact_mut(from.plane()).enumerate() {
                        let x = planes.plane(from, first + block, channel);
                        norm.plane(level, from, first + block, channel, x, y, ready..needed(end));
                    }
                }
                drop(timer);
                ready = needed(end);
                let mut ahead = Ahead::nothing();
                let (over, next, output) = match end < to.height {
                    true => (0, ready..needed((end + height).min(to.height)), end..(end + height).min(to.height)),
                    false if is_last => (0, 0..0, 0..0),
                    false => (1, 0..needed(height), 0..height),
                };
                ahead.add_planes(from, planes, first + block + over, next.clone());
                ahead.add(to, self.gradient.as_ptr().wrapping_add(of_z.start + over * to.block()), next.clone());
                if let Some((norm, _)) = &self.through {
                    ahead.add(to, norm.z.as_ptr().wrapping_add(of_z.start + over * to.block()), next);
                }
                if let Some(of_input) = of_input.as_deref() {
                    ahead.add(from, of_input.as_ptr().wrapping_add(of_x.start + over * from.block()), output);
                }
                let x = match &applied {
                    Some(applied) => &applied[of_x.clone()],
                    None => planes.blocks(from, first + block..first + block + 1),
                };
                let gradient = &through.as_deref().unwrap_or(self.gradient)[of_z.clone()];
                if let (Some(kept), Some(entries)) = (&mut kept, entries) {
                    let _timer = slot.time();
                    kept.add(
                        level,
                        conv,
                        entries,
                        [x, gradient],
                        begin..end,
                        ahead.among(1 + usize::from(plan.is_some())),
                    );
                }
                let (Some(plan), Some(of_input)) = (plan, of_input.as_deref_mut()) else { continue };
                let of_input = &mut of_input[of_x.clone()];
                plan.rows(gradient, of_input, start, begin..end, ahead.among(1));
                let Some(norm) = norm else { continue };
                let _timer = Part::Normalisation.time();
                for (channel, (gradient, running)) in of_input.chunks_exact(from.plane()).zip(&mut running).enumerate()
                {
                    let x = planes.plane(from, first + block, channel);
                    let (channel, gate, rows) = (norm.affine.channel(channel), norm.gate(), begin..end);
                    level.run(Reduce { maps: from, rows, channel, gradient, x, gate, running });
                }
            }
            for (sums, running) in sums[block * from.channels..].iter_mut().zip(&running) {
                *sums = running.sums();
            }
        }
        Done { x: applied, gradient: through, kept: kept.map(|kept| kept.finish(level)) }
    }
}
