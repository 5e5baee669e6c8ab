//! Channels put behind each other and picked out: copies of whole planes, with their gradients.

use rayon::prelude::*;

use crate::batch_norm::planes_per_task;
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::profile::{Part, Timer};

/// Puts the channels of `b` behind those of `a`; the maps have equal images and sizes.
///
/// # Panics
///
/// Panics if the shapes do not agree.
pub fn concat(a_maps: Maps, a: &[f32], b_maps: Maps, b: &[f32]) -> (Maps, Buffer) {
    let to = Maps { channels: a_maps.channels + b_maps.channels, ..a_maps };
    assert_eq!(Maps { channels: a_maps.channels, ..b_maps }, a_maps, "maps of one size are put behind each other");
    assert!(a.len() == a_maps.len() && b.len() == b_maps.len(), "activations of {:?}", to.dims());
    let mut out = Buffer::any(to.len());
    let plane = to.plane();
    out.par_chunks_mut(plane).with_min_len(planes_per_task(to)).enumerate().for_each_init(timer, |_, (i, out)| {
        let (block, channel) = (i / to.channels, i % to.channels);
        out.copy_from_slice(match channel.checked_sub(a_maps.channels) {
            None => &a[(block * a_maps.channels + channel) * plane..][..plane],
            Some(channel) => &b[(block * b_maps.channels + channel) * plane..][..plane],
        });
    });
    (to, out)
}

/// Picks the channels `places` out of `x`, in this order.
///
/// # Panics
///
/// Panics if the length is not that of the shape or there is no such channel.
pub fn select(maps: Maps, x: &[f32], places: &[usize]) -> (Maps, Buffer) {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let to = Maps { channels: places.len(), ..maps };
    let mut out = Buffer::any(to.len());
    let plane = to.plane();
    out.par_chunks_mut(plane).with_min_len(planes_per_task(to)).enumerate().for_each_init(timer, |_, (i, out)| {
        let (block, channel) = (i / places.len(), places[i % places.len()]);
        assert!(channel < maps.channels, "channel {channel} of {}", maps.channels);
        out.copy_from_slice(&x[(block * maps.channels + channel) * plane..][..plane]);
    });
    (to, out)
}

/// Returns the gradient of the input of [`select`], given that of its output; `places` are all different.
///
/// # Panics
///
/// Panics if the length is not that of the shape.
pub fn select_gradient(maps: Maps, places: &[usize], gradient: &[f32]) -> Buffer {
    let from = Maps { channels: places.len(), ..maps };
    assert_eq!(gradient.len(), from.len(), "gradient of {:?}", from.dims());
    let mut origin = vec![None; maps.channels];
    places.iter().enumerate().for_each(|(at, place)| origin[*place] = Some(at));
    let mut out = Buffer::any(maps.len());
    let plane = maps.plane();
    out.par_chunks_mut(plane).with_min_len(planes_per_task(maps)).enumerate().for_each_init(timer, |_, (i, out)| {
        match origin[i % maps.channels] {
            Some(at) => {
                out.copy_from_slice(&gradient[(i / maps.channels * places.len() + at) * plane..][..plane]);
            }
            None => out.fill(0.0),
        }
    });
    out
}

/// Counts the time of a task.
fn timer() -> Timer<'static> {
    Part::Layout.time()
}
