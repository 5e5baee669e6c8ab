//! Channels put behind each other, picked out, and gathered with zeros between them.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, s};

use super::Activation;
use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, Input, run, run_as};
use crate::maps::Maps;
use crate::planes::{Part, Picked, Place};
use crate::{pooling, profile};

/// Activations that one operation of the graph reads channels of.
pub(super) const PARTS: usize = 13;

/// Channels of some activations, which are copied only for an operation that cannot read them where they are.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The activations, of equal images and sizes.
    pub parts: Vec<Blocks>,
    /// Where each channel is.
    pub places: Vec<Place>,
}

impl View {
    /// Returns all channels of `blocks`.
    pub fn whole(blocks: Blocks) -> View {
        let places = (0..blocks.maps.channels).map(|channel| Place { part: 0, channel }).collect();
        View { parts: vec![blocks], places }
    }

    /// Returns the shape.
    pub fn maps(&self) -> Maps {
        Maps { channels: self.places.len(), ..self.parts[0].maps }
    }

    /// Puts the channels of `other` behind these.
    fn followed_by(mut self, other: View) -> View {
        let (ours, theirs) = (self.maps(), other.maps());
        assert_eq!(Maps { channels: ours.channels, ..theirs }, ours, "maps that are put behind each other");
        let before = self.parts.len();
        self.places.extend(other.places.iter().map(|place| Place { part: before + place.part, ..*place }));
        self.parts.extend(other.parts);
        self
    }

    /// Picks channels, and leaves out the activations that none of them is in.
    fn pick(self, channels: impl Iterator<Item = usize>) -> View {
        let places: Vec<Place> = channels.map(|channel| self.places[channel]).collect();
        let mut numbers = vec![None; self.parts.len()];
        let mut parts = Vec::new();
        for (number, part) in self.parts.into_iter().enumerate() {
            // One is kept for its shape even where nothing is picked.
            if places.iter().any(|place| place.part == number) || (places.is_empty() && number == 0) {
                numbers[number] = Some(parts.len());
                parts.push(part);
            }
        }
        let number = |part: usize| numbers[part].expect("a part that is read is kept");
        View { places: places.iter().map(|place| Place { part: number(place.part), ..*place }).collect(), parts }
    }

    /// Returns the same channels in [`PARTS`] activations at most: the first ones are copied where there are more.
    pub fn of_few_parts(mut self) -> View {
        while self.parts.len() > PARTS {
            let rest = self.parts.split_off(PARTS);
            let (old, counts) =
                (self.parts.len(), self.parts.iter().map(|part| part.maps.channels).collect::<Vec<_>>());
            let first = self.parts.into_iter().map(View::whole).reduce(View::followed_by).expect("there are parts");
            let place = |Place { part, channel }: &Place| match part.checked_sub(old) {
                None => Place { part: 0, channel: counts[..*part].iter().sum::<usize>() + channel },
                Some(behind) => Place { part: 1 + behind, channel: *channel },
            };
            let places = self.places.iter().map(place).collect();
            self = View { parts: [first.settle()].into_iter().chain(rest).collect(), places };
        }
        self
    }

    /// Tells whether these are all channels of one activation, in their order.
    pub fn is_whole(&self) -> bool {
        self.parts.len() == 1
            && self.places.len() == self.parts[0].maps.channels
            && self.places.iter().enumerate().all(|(number, place)| place.channel == number)
    }

    /// Copies the channels, unless they are all those of one activation.
    pub fn settle(self) -> Blocks {
        if self.is_whole() {
            return self.parts.into_iter().next().expect("there is one part");
        }
        let View { parts, places } = self.of_few_parts();
        let shapes: Vec<Maps> = parts.iter().map(|part| part.maps).collect();
        let to = Maps { channels: places.len(), ..shapes[0] };
        let mut inputs: [Input; PARTS] = std::array::from_fn(|_| Input::none());
        for (input, part) in inputs.iter_mut().zip(parts) {
            *input = part.tensor.into();
        }
        let tensor = run_as(profile::Part::Layout, inputs, |floats| {
            let y = in_blocks(to, Picked::new(&parts_of(&shapes, &floats), &places).gather());
            let backward = move |gradient, wanted: [bool; PARTS]| {
                let (gradient, parts) = (Floats::new(&gradient), parts_of(&shapes, &floats));
                let picked = Picked::new(&parts, &places);
                std::array::from_fn(|number| {
                    let maps = shapes.get(number).filter(|_| wanted[number])?;
                    Some(in_blocks(*maps, picked.gather_gradient(number, &gradient)))
                })
            };
            (y, Box::new(backward))
        });
        Blocks::new(tensor, to)
    }
}

/// Returns the activations that channels are picked from.
pub(super) fn parts_of<'a>(maps: &[Maps], floats: &'a [Floats]) -> Vec<Part<'a>> {
    maps.iter().zip(floats).map(|(maps, x)| Part { maps: *maps, x }).collect()
}

/// Puts the channels of `b` behind those of `a`.
///
/// # Panics
///
/// Panics if the numbers of images or the sizes of the maps differ.
pub fn concat(a: Activation, b: Activation) -> Activation {
    let a = match a.into_view() {
        Ok(view) => view,
        Err(images) => return Activation::of_nchw(Tensor::cat(vec![images, b.into_nchw()], 1)),
    };
    let b = b.into_view().or_else(|images| Activation::new(images).into_view());
    Activation::of_view(a.followed_by(b.expect("both activations are f32 and on flex")))
}

/// Takes for every channel of the result the map of one of `x`, every `stride`-th pixel of it, or zeros.
///
/// # Panics
///
/// Panics if a source is no channel of `x` or the stride is 0.
pub fn gather_maps(x: Activation, sources: Vec<Option<usize>>, stride: usize) -> Activation {
    let [images, channels, ..] = x.dims();
    assert!(sources.iter().flatten().all(|source| *source < channels) && stride > 0, "sources are channels");
    let view = match x.into_view() {
        Ok(view) => view,
        Err(x) => {
            let step = stride as isize;
            let x = if stride == 1 { x } else { x.slice(s![.., .., ..;step, ..;step]) };
            let [_, _, height, width] = x.dims();
            let places: Vec<i32> = sources.iter().map(|source| source.unwrap_or(channels) as i32).collect();
            let count = places.len();
            let places: Tensor<1, Int> = Tensor::from_data(TensorData::new(places, [count]), &x.device());
            let x = match sources.contains(&None) {
                true => Tensor::cat(vec![x.clone(), Tensor::zeros([images, 1, height, width], &x.device())], 1),
                false => x,
            };
            return Activation::of_nchw(x.select(1, places));
        }
    };
    if stride == 1 && !sources.contains(&None) {
        return Activation::of_view(view.pick(sources.into_iter().flatten()));
    }
    let Blocks { tensor: x, maps, .. } = view.settle();
    let to = pooling::gathered(maps, sources.len(), stride);
    let sources: Arc<[Option<usize>]> = sources.into();
    let y = run([x.into()], |[x]| {
        let y = in_blocks(to, pooling::gather(maps, &x, &sources, stride));
        let backward = move |gradient, _| {
            let gradient = Floats::new(&gradient);
            [Some(in_blocks(maps, pooling::gather_gradient(maps, &sources, stride, &gradient)))]
        };
        (y, Box::new(backward))
    });
    Activation::of_blocks(y, to)
}
