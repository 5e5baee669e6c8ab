//! Channels put behind each other and picked out.

use burn::tensor::{Int, Tensor, TensorData};

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, run_as};
use crate::maps::Maps;
use crate::planes;
use crate::profile::Part;

/// Puts the channels of `b` behind those of `a`.
///
/// # Panics
///
/// Panics if the numbers of images or the sizes of the maps differ.
pub fn concat(a: Activation, b: Activation) -> Activation {
    let Blocks { tensor: a, maps, .. } = match a.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => return Activation::of_nchw(Tensor::cat(vec![images, b.into_nchw()], 1)),
    };
    let [images, channels, height, width] = b.dims();
    let behind = Maps { channels, ..maps };
    assert_eq!([images, height, width], [maps.images, maps.height, maps.width], "maps that are put behind each other");
    let b = b.blocks_of(behind).tensor;
    let to = Maps { channels: maps.channels + channels, ..maps };
    let y = run_as(Part::Layout, [a.into(), b.into()], |[a, b]| {
        let (to, y) = planes::concat(maps, &a, behind, &b);
        let backward = move |gradient, [of_a, of_b]: [bool; 2]| {
            let gradient = Floats::new(&gradient);
            let part = |maps, first: usize, count: usize| {
                in_blocks(maps, planes::select(to, &gradient, &(first..first + count).collect::<Vec<_>>()).1)
            };
            [of_a.then(|| part(maps, 0, maps.channels)), of_b.then(|| part(behind, maps.channels, channels))]
        };
        (in_blocks(to, y), Box::new(backward))
    });
    Activation::of_blocks(y, to)
}

/// Picks the channels `places` out of `x`, in this order; they are all different.
///
/// # Panics
///
/// Panics if there is no such channel.
pub fn select(x: Activation, places: &[usize]) -> Activation {
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => {
            let indices: Vec<i32> = places.iter().map(|place| *place as i32).collect();
            let indices = TensorData::new(indices, [places.len()]);
            let indices = Tensor::<1, Int>::from_data(indices, &images.device());
            return Activation::of_nchw(images.select(1, indices));
        }
    };
    let to = Maps { channels: places.len(), ..maps };
    let places = places.to_vec();
    let y = run_as(Part::Layout, [x.into()], |[x]| {
        let (to, y) = planes::select(maps, &x, &places);
        let backward =
            move |gradient, _| [Some(in_blocks(maps, planes::select_gradient(maps, &places, &Floats::new(&gradient))))];
        (in_blocks(to, y), Box::new(backward))
    });
    Activation::of_blocks(y, to)
}
