//! Puts weights into the order in which the tap kernel reads them.

use rayon::prelude::*;

use super::plan::Weights;
use super::taps::TILE;
use crate::bf16::{Bf16, Precision};

/// Returns all weights as the tap kernel of `precision` reads them.
pub(super) fn dense(
    precision: Precision,
    outputs: usize,
    inputs: usize,
    taps: usize,
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
) -> Weights {
    match precision {
        Precision::F32 => Weights::Dense(pack(outputs, inputs, taps, weight)),
        Precision::Bf16 => Weights::Bf16(pack(outputs, inputs.div_ceil(2), taps, |out, pair, tap| {
            let rounded = |inp| if inp < inputs { Bf16::round(weight(out, inp, tap)) } else { Bf16::default() };
            Bf16::pair(rounded(2 * pair), rounded(2 * pair + 1))
        })),
    }
}

/// Returns `weight(out, in, tap)` as `[tile of 4 output channels][in][tap][4]`; channels that the last tile lacks are 0.
fn pack(outputs: usize, inputs: usize, taps: usize, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Vec<f32> {
    let tile = inputs * taps * TILE;
    let mut packed = vec![0.0; outputs.div_ceil(TILE) * tile];
    if tile == 0 {
        return packed;
    }
    packed.par_chunks_mut(tile).with_min_len((4096 / tile).max(1)).enumerate().for_each(|(index, packed)| {
        for lane in 0..TILE.min(outputs - index * TILE) {
            let weights = (0..inputs * taps).map(|i| weight(index * TILE + lane, i / taps, i % taps));
            for (slot, weight) in packed[lane..].iter_mut().step_by(TILE).zip(weights) {
                *slot = weight;
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
        let packed = pack(5, 2, 1, |out, inp, _| (10 * out + inp) as f32);
        assert_eq!(packed, [0., 10., 20., 30., 1., 11., 21., 31., 40., 0., 0., 0., 41., 0., 0., 0.]);
    }
}
