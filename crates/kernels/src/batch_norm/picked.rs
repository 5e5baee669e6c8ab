//! Normalisation of channels that are picked out of several activations, without copying them first.

use rayon::prelude::*;

use super::planes::{Apply, Onto, Reduce, Running};
use super::{Affine, Gate, Statistics, Sums, planes_per_task, timer};
use crate::buffer::Buffer;
use crate::planes::Picked;
use crate::simd::Level;

/// Where the gradient of an activation goes.
pub enum Target<'a> {
    /// Into memory of any content; channels that nobody reads get zeros.
    New(&'a mut [f32]),
    /// Onto what has been added up of it; the planes of channels that nobody reads are left alone.
    Begun(&'a mut [f32]),
}

impl Affine {
    /// Returns the normalised channels, rectified if `relu`.
    pub fn apply_picked(&self, picked: Picked, relu: bool) -> Buffer {
        let maps = picked.maps();
        let level = Level::current();
        let mut y = Buffer::any(maps.len());
        let work = y.par_chunks_mut(maps.plane()).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, y)| {
            let (block, channel) = (i / maps.channels, i % maps.channels);
            let (x, rows) = (picked.plane(block, channel), 0..maps.height);
            maps.clear_margin(y);
            level.run(Apply { maps, rows, channel: self.channel(channel), relu, x, residual: None, y });
            maps.clear_missing(block, y);
        });
        y
    }

    /// Sums the gradient of the output, as far as the gate lets it through.
    ///
    /// # Panics
    ///
    /// Panics if the length is not that of the shape.
    pub fn sums_picked(&self, picked: Picked, gradient: &[f32], gate: Gate) -> Sums {
        let maps = picked.maps();
        assert_eq!(gradient.len(), maps.len(), "gradient of {:?}", maps.dims());
        let level = Level::current();
        let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
        let work = planes.par_iter_mut().enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, sums)| {
            let at = i * maps.plane()..(i + 1) * maps.plane();
            let (block, channel) = (i / maps.channels, i % maps.channels);
            let (gate, x) = (gate.part(at.clone()), picked.plane(block, channel));
            let (channel, gradient, mut running) = (self.channel(channel), &gradient[at], Running::new());
            level.run(Reduce { maps, rows: 0..maps.height, channel, gradient, x, gate, running: &mut running });
            *sums = running.sums();
        });
        Sums::merge(maps, &planes)
    }

    /// Returns the gradient of part `number` of what is picked in `target`; `gradient` is that of the output, and `training`
    /// as in [`Affine::backward`].
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn backward_picked(
        &self,
        picked: Picked,
        number: usize,
        gradient: &[f32],
        gate: Gate,
        training: Option<(&Statistics, &Sums, f64)>,
        target: Target,
    ) {
        let (from, to) = (picked.maps(), picked.part(number));
        let (add, out) = match target {
            Target::New(out) => (false, out),
            Target::Begun(out) => (true, out),
        };
        assert!(gradient.len() == from.len() && out.len() == to.len(), "gradient of {:?}", from.dims());
        let level = Level::current();
        let slopes = self.slopes(from, training);
        let readers = picked.readers(number);
        let work = out.par_chunks_mut(to.plane()).enumerate();
        work.with_min_len(planes_per_task(to)).for_each_init(timer, |_, (i, out)| {
            let (block, channel) = (i / to.channels, i % to.channels);
            let readers = &readers[channel];
            if readers.is_empty() {
                if !add {
                    out.fill(0.0);
                }
                return;
            }
            if !add {
                to.clear_margin(out);
            }
            for (turn, reader) in readers.iter().enumerate() {
                let at = block * from.block() + reader * from.plane();
                let at = at..at + from.plane();
                let (gate, x, add) = (gate.part(at.clone()), picked.plane(block, *reader), add || turn > 0);
                let (channel, slope, gradient) = (self.channel(*reader), slopes[*reader], &gradient[at]);
                level.run(Onto { maps: to, channel, slope, gradient, x, gate, add, out });
            }
            to.clear_missing(block, out);
        });
    }
}
