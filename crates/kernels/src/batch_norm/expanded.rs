//! Normalisation of channels that are added to some channels of a wider residual, before a rectifier of all of them.

use rayon::prelude::*;

use super::planes::{Apply, Moments, Running, Shut};
use super::{Affine, Statistics, Sums, planes_per_task, timer};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::planes::pick;
use crate::simd::Level;

/// Where each of `wide` channels has its own among those at `places`.
fn owners(wide: usize, places: &[usize]) -> Vec<Option<usize>> {
    let mut owners = vec![None; wide];
    places.iter().enumerate().for_each(|(own, place)| owners[*place] = Some(own));
    owners
}

impl Affine {
    /// Returns `relu(residual + y)`, where `y` has the normalised channels of `x` at `places` and zeros elsewhere; `maps` is
    /// the shape of the residual.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn apply_at(&self, maps: Maps, places: &[usize], x: &[f32], residual: &[f32]) -> Buffer {
        let own = Maps { channels: places.len(), ..maps };
        assert!(x.len() == own.len() && residual.len() == maps.len(), "activations of {:?}", maps.dims());
        let level = Level::current();
        let owners = owners(maps.channels, places);
        let mut y = Buffer::any(maps.len());
        let work = y.par_chunks_mut(maps.plane()).zip(residual.par_chunks(maps.plane())).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (y, residual))| {
            let block = i / maps.channels;
            let Some(channel) = owners[i % maps.channels] else {
                // NaN is let through, as by all rectifiers here.
                return y.iter_mut().zip(residual).for_each(|(y, x)| *y = if *x < 0.0 { 0.0 } else { *x });
            };
            let x = &x[block * own.block() + channel * own.plane()..][..own.plane()];
            let (rows, channel, residual) = (0..maps.height, self.channel(channel), Some(residual));
            maps.clear_margin(y);
            level.run(Apply { maps, rows, channel, relu: true, x, residual, y });
            maps.clear_missing(block, y);
        });
        y
    }

    /// Returns the normalised channels of `x`, with those of `made` added at `places`, and the statistics of the sum.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn apply_onto(&self, maps: Maps, x: &[f32], places: &[usize], made: &[f32]) -> (Buffer, Statistics) {
        let own = Maps { channels: places.len(), ..maps };
        assert!(x.len() == maps.len() && made.len() == own.len(), "activations of {:?}", maps.dims());
        let level = Level::current();
        let owners = owners(maps.channels, places);
        let mut y = Buffer::any(maps.len());
        let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
        let work = y.par_chunks_mut(maps.plane()).zip(&mut planes).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (y, moments))| {
            let (block, channel) = (i / maps.channels, i % maps.channels);
            let residual = owners[channel].map(|own_channel| &made[block * own.block() + own_channel * own.plane()..]);
            let (x, rows, channel) =
                (&x[i * maps.plane()..(i + 1) * maps.plane()], 0..maps.height, self.channel(channel));
            maps.clear_margin(y);
            level.run(Apply { maps, rows: rows.clone(), channel, relu: false, x, residual, y });
            maps.clear_missing(block, y);
            let (lanes, mut running) = (maps.lanes(block), Running::new());
            level.run(Moments { maps, lanes, rows, plane: y, running: &mut running });
            *moments = running.moments(maps, lanes);
        });
        let statistics = Statistics::merge(maps, &planes);
        (y, statistics)
    }

    /// Sets the gradient to 0 where the rectifier behind [`Affine::apply_at`] did so to `output`; returns that of the
    /// normalised channels, and its sums.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn shut_at(
        &self,
        maps: Maps,
        places: &[usize],
        gradient: &mut [f32],
        x: &[f32],
        output: &[f32],
    ) -> (Buffer, Sums) {
        let own = Maps { channels: places.len(), ..maps };
        assert!(gradient.len() == maps.len() && x.len() == own.len() && output.len() == maps.len());
        let level = Level::current();
        let owners = owners(maps.channels, places);
        let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
        let work = planes.par_iter_mut().zip(gradient.par_chunks_mut(maps.plane())).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (sums, gradient))| {
            let output = &output[i * maps.plane()..(i + 1) * maps.plane()];
            let (x, mean) = match owners[i % maps.channels] {
                Some(channel) => {
                    let at = i / maps.channels * own.block() + channel * own.plane();
                    (&x[at..at + own.plane()], self.mean[channel])
                }
                // Nobody reads these sums.
                None => (output, 0.0),
            };
            *sums = level.run(Shut { maps, mean, gradient, x, output });
        });
        let of_own = pick(maps, gradient, places);
        let owned: Vec<(f32, f32)> =
            planes.chunks_exact(maps.channels).flat_map(|block| places.iter().map(|place| block[*place])).collect();
        (of_own, Sums::merge(own, &owned))
    }
}
