//! The shortcut without parameters, for networks that are whole and for pruned ones.

use burn::tensor::s;

use super::Activation;

/// Takes every second pixel of `x` and adds zero channels, `front` of them in front, until there are `channels`.
///
/// With equally many on both sides, as in a network that is whole, this is one kernel; else it goes through burn.
///
/// # Panics
///
/// Panics if `x` has more than `channels - front` channels.
pub fn pad_shortcut(x: Activation, front: usize, channels: usize) -> Activation {
    let missing = channels.checked_sub(x.dims()[1]).expect("a shortcut only widens");
    if front == missing / 2 {
        return bonsai_kernels::pad_shortcut(x, channels);
    }
    let behind = missing.checked_sub(front).expect("no more zero channels in front than are missing");
    x.through_nchw(|x| x.slice(s![.., .., ..;2, ..;2]).pad([(front, behind), (0, 0), (0, 0)], 0.0))
}
