//! Normalisation of channels that are added to some channels of a wider residual, before a rectifier of all of them.

use rayon::prelude::*;

use super::joined::{Passed, joined, shut};
use super::planes::{Apply, Moments, Running};
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
    /// Returns `relu(residual + y)`, where `y` has the normalised channels of `x` at `places` and zeros elsewhere, and which
    /// pixels of it let a gradient through; `maps` is the shape of the residual.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of its shape.
    pub fn join_at(&self, maps: Maps, places: &[usize], x: &[f32], residual: &[f32]) -> (Buffer, Passed) {
        let own = Maps { channels: places.len(), ..maps };
        assert!(x.len() == own.len() && residual.len() == maps.len(), "activations of {:?}", maps.dims());
        let owners = owners(maps.channels, places);
        joined(maps, residual, |i| {
            let channel = owners[i % maps.channels]?;
            let at = i / maps.channels * own.block() + channel * own.plane();
            Some((self.channel(channel), &x[at..at + own.plane()]))
        })
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

    /// Sets the gradient to 0 where it does not pass the rectifier of [`Affine::join_at`]; returns that of the normalised
    /// channels, and its sums.
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
        passed: &Passed,
    ) -> (Buffer, Sums) {
        let own = Maps { channels: places.len(), ..maps };
        assert!(gradient.len() == maps.len() && x.len() == own.len(), "activations of {:?}", maps.dims());
        let owners = owners(maps.channels, places);
        let planes = shut(maps, gradient, passed, |i| {
            let channel = owners[i % maps.channels]?;
            let at = i / maps.channels * own.block() + channel * own.plane();
            Some((&x[at..at + own.plane()], self.mean[channel]))
        });
        let of_own = pick(maps, gradient, places);
        let owned: Vec<(f32, f32)> =
            planes.chunks_exact(maps.channels).flat_map(|block| places.iter().map(|place| block[*place])).collect();
        (of_own, Sums::merge(own, &owned))
    }
}
