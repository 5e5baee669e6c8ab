//! Channels picked out of several activations, as if they lay behind each other.
//!
//! A channel of a block is one plane of memory, whichever activation it belongs to. So nothing needs to be copied to put
//! channels behind each other or to leave some out: a kernel that reads plane by plane is told where each of them is.

use rayon::prelude::*;

use crate::batch_norm::planes_per_task;
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::profile::{self, Timer};

/// Where a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its activation.
    pub part: usize,
    /// Its number within that.
    pub channel: usize,
}

/// One of the activations that channels are picked from.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The shape; images and sizes of all parts are equal.
    pub maps: Maps,
    /// The activation.
    pub x: &'a [f32],
}

/// Channels of several activations; one may be picked more than once.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    parts: &'a [Part<'a>],
    places: &'a [Place],
}

/// What a kernel reads plane by plane.
#[derive(Clone, Copy, Debug)]
pub enum Planes<'a> {
    /// One activation.
    Whole(&'a [f32]),
    /// Channels of several.
    Picked(Picked<'a>),
}

impl<'a> Picked<'a> {
    /// Picks the channels at `places`, in this order.
    ///
    /// # Panics
    ///
    /// Panics if there is no such channel, a length is not that of its shape, or the maps differ in images or size.
    pub fn new(parts: &'a [Part<'a>], places: &'a [Place]) -> Picked<'a> {
        let first = parts.first().expect("channels are picked from something").maps;
        for Part { maps, x } in parts {
            assert_eq!(Maps { channels: first.channels, ..*maps }, first, "maps that are put behind each other");
            assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
        }
        for Place { part, channel } in places {
            assert!(*channel < parts[*part].maps.channels, "channel {channel} of {}", parts[*part].maps.channels);
        }
        Picked { parts, places }
    }

    /// Returns the shape of what is picked.
    pub fn maps(&self) -> Maps {
        Maps { channels: self.places.len(), ..self.parts[0].maps }
    }

    /// Returns the shape of part `number`.
    pub(crate) fn part(&self, number: usize) -> Maps {
        self.parts[number].maps
    }

    /// Returns the plane of a picked channel in a block.
    #[inline]
    pub(crate) fn plane(&self, block: usize, channel: usize) -> &'a [f32] {
        let Place { part, channel } = self.places[channel];
        let Part { maps, x } = self.parts[part];
        &x[block * maps.block() + channel * maps.plane()..][..maps.plane()]
    }

    /// Copies the channels.
    pub fn gather(&self) -> Buffer {
        let maps = self.maps();
        let mut out = Buffer::any(maps.len());
        let work = out.par_chunks_mut(maps.plane()).with_min_len(planes_per_task(maps)).enumerate();
        work.for_each_init(timer, |_, (i, out)| {
            out.copy_from_slice(self.plane(i / maps.channels, i % maps.channels));
        });
        out
    }

    /// Returns for each channel of part `number` the picked channels that are copies of it.
    pub(crate) fn readers(&self, number: usize) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.parts[number].maps.channels];
        let of_part = self.places.iter().enumerate().filter(|(_, place)| place.part == number);
        of_part.for_each(|(reader, place)| readers[place.channel].push(reader));
        readers
    }

    /// Returns the gradient of part `number`, given that of the copies.
    ///
    /// # Panics
    ///
    /// Panics if the length is not that of the shape.
    pub fn gather_gradient(&self, number: usize, gradient: &[f32]) -> Buffer {
        let (from, to) = (self.maps(), self.parts[number].maps);
        assert_eq!(gradient.len(), from.len(), "gradient of {:?}", from.dims());
        let readers = self.readers(number);
        let mut out = Buffer::any(to.len());
        let work = out.par_chunks_mut(to.plane()).with_min_len(planes_per_task(to)).enumerate();
        work.for_each_init(timer, |_, (i, out)| {
            let (block, channel) = (i / to.channels, i % to.channels);
            let of = |reader: usize| &gradient[block * from.block() + reader * from.plane()..][..from.plane()];
            let Some((first, more)) = readers[channel].split_first() else { return out.fill(0.0) };
            out.copy_from_slice(of(*first));
            for reader in more {
                out.iter_mut().zip(of(*reader)).for_each(|(out, gradient)| *out += gradient);
            }
        });
        out
    }
}

impl<'a> Planes<'a> {
    /// Returns the plane of a channel in a block of maps of shape `maps`.
    #[inline]
    pub(crate) fn plane(&self, maps: Maps, block: usize, channel: usize) -> &'a [f32] {
        match self {
            Planes::Whole(x) => &x[block * maps.block() + channel * maps.plane()..][..maps.plane()],
            Planes::Picked(picked) => picked.plane(block, channel),
        }
    }

    /// Returns some blocks of one activation.
    ///
    /// # Panics
    ///
    /// Panics if channels are picked: these are read plane by plane.
    pub(crate) fn blocks(&self, maps: Maps, blocks: std::ops::Range<usize>) -> &'a [f32] {
        match self {
            Planes::Whole(x) => &x[blocks.start * maps.block()..blocks.end * maps.block()],
            Planes::Picked(_) => panic!("picked channels are normalised where they are read"),
        }
    }

    /// Checks the shape.
    ///
    /// # Panics
    ///
    /// Panics if it is not `maps`.
    pub(crate) fn check(&self, maps: Maps) {
        match self {
            Planes::Whole(x) => assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims()),
            Planes::Picked(picked) => assert_eq!(picked.maps(), maps, "the picked channels"),
        }
    }
}

/// Copies some channels of an activation.
///
/// # Panics
///
/// Panics if there is no such channel or the length is not that of the shape.
pub fn pick(maps: Maps, x: &[f32], channels: &[usize]) -> Buffer {
    let places: Vec<Place> = channels.iter().map(|&channel| Place { part: 0, channel }).collect();
    Picked::new(&[Part { maps, x }], &places).gather()
}

/// Counts the time of a task.
fn timer() -> Timer<'static> {
    profile::Part::Layout.time()
}
