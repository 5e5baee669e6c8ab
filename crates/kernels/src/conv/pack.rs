//! Puts weights into the order in which the tap kernel reads them.

use rayon::prelude::*;

use super::plan::Weights;
use super::taps::TILE;
use crate::bf16::{Bf16, Precision};
use crate::buffer::Buffer;

/// Weights as a kernel sums them, wherever they are.
pub(crate) struct Strided<'a> {
    /// All weights of the convolution.
    pub weight: &'a [f32],
    /// Channels that are written.
    pub outputs: usize,
    /// Channels that are read.
    pub inputs: usize,
    /// Floats from one channel to the next, of those written and of those read.
    pub steps: [usize; 2],
    /// Where each tap is, for the first channel of both.
    pub taps: Vec<usize>,
}

/// Returns all weights as the tap kernel of `precision` reads them.
pub(crate) fn dense(precision: Precision, from: &Strided) -> Weights<'static> {
    match precision {
        Precision::F32 | Precision::F16 => {
            Weights::Dense(pack(from, from.inputs, |channel, inp, tap| channel[inp * from.steps[1] + tap]))
        }
        Precision::Bf16 => Weights::Bf16(pack(from, from.inputs.div_ceil(2), |channel, pair, tap| {
            let rounded = |inp: usize| match inp < from.inputs {
                true => Bf16::round(channel[inp * from.steps[1] + tap]),
                false => Bf16::default(),
            };
            Bf16::pair(rounded(2 * pair), rounded(2 * pair + 1))
        })),
    }
}

/// Returns `weight(channel, in, tap)`, of the weights from an output channel's first on, as
/// `[tile of 4 output channels][in][tap][4]`; channels that the last tile lacks are 0.
fn pack(from: &Strided, inputs: usize, weight: impl Fn(&[f32], usize, usize) -> f32 + Sync) -> Buffer {
    let tile = inputs * from.taps.len() * TILE;
    let mut packed = Buffer::any(from.outputs.div_ceil(TILE) * tile);
    if tile == 0 {
        return packed;
    }
    packed.par_chunks_mut(tile).with_min_len((4096 / tile).max(1)).enumerate().for_each(|(index, packed)| {
        let channels = TILE.min(from.outputs - index * TILE);
        let of = |lane: usize| &from.weight[(index * TILE + lane.min(channels - 1)) * from.steps[0]..];
        let filters: [&[f32]; TILE] = [of(0), of(1), of(2), of(3)];
        for (inp, packed) in packed.chunks_exact_mut(from.taps.len() * TILE).enumerate() {
            for (packed, tap) in packed.chunks_exact_mut(TILE).zip(&from.taps) {
                for (lane, (packed, filter)) in packed.iter_mut().zip(filters).enumerate() {
                    *packed = if lane < channels { weight(filter, inp, *tap) } else { 0.0 };
                }
            }
        }
    });
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_channels_lie_side_by_side() {
        let weight = [0., 1., 10., 11., 20., 21., 30., 31., 40., 41.];
        let from = |outputs, inputs, steps| Strided { weight: &weight, outputs, inputs, steps, taps: vec![0] };
        let Weights::Dense(packed) = dense(Precision::F32, &from(5, 2, [2, 1])) else { panic!("f32 was asked for") };
        assert_eq!(packed[..], [0., 10., 20., 30., 1., 11., 21., 31., 40., 0., 0., 0., 41., 0., 0., 0.]);
        // Turned, as for the data gradient.
        let Weights::Dense(packed) = dense(Precision::F32, &from(2, 5, [1, 2])) else { panic!("f32 was asked for") };
        assert_eq!(packed[..8], [0., 1., 0., 0., 10., 11., 0., 0.]);
    }
}
