//! The small network and the short run that schedulers are tested on.

use bonsai_pruning::{Graph, Horizon, Kind, LayerSpec};

/// The length of the run: 4 epochs of 10 iterations.
pub const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

/// The name of the layer whose weights are all zero.
pub(crate) const ZEROS: &str = "zeros";

/// The name of the layer whose weights have few values.
pub(crate) const TIES: &str = "ties";

/// The network: two convolutions and three linear layers, 687 weights.
pub fn graph() -> Graph {
    let layer =
        |name: &str, kind, shape: &[usize], macs| LayerSpec { name: name.into(), kind, shape: shape.to_vec(), macs };
    let layers = vec![
        layer("stem", Kind::Conv, &[4, 3, 3, 3], 10_800),
        layer(TIES, Kind::Conv, &[8, 4, 3, 3], 7_200),
        layer(ZEROS, Kind::Linear, &[16, 8], 128),
        layer("tiny", Kind::Linear, &[1, 3], 3),
        layer("head", Kind::Linear, &[10, 16], 160),
    ];
    Graph { layers, parameters: 700, fixed_macs: 11, ..Graph::default() }
}

/// A number in [-1, 1) that depends on its arguments alone.
pub(crate) fn noise(t: u64, layer: &str, i: usize) -> f32 {
    let mut x = layer.bytes().fold(t + 1, |x, byte| x.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    x = (x ^ i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}
