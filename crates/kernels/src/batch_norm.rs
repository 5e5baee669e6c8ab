//! Batch normalisation, with the rectifier and the addition of a residual that usually follow it.
//!
//! Forward: one pass for the statistics, one for `y = relu((x - mean) · scale + shift + residual)`. Backward: one pass for
//! the sums over the gradient, one for the gradient of `x`. Nothing but `x` is kept (and a bit of each number of `y` where there
//! is a residual): which pixels the rectifier let through is found out again from `x`. Next to a convolution most of these passes happen block by
//! block within those of the convolution: see [`crate::conv::unit`].
//!
//! Mean and variance are taken per channel and block, of distances from the mean of the first row, and merged in the order
//! of the blocks as in Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
//! 1979, so they are exact for large means too and do not depend on the number of threads.

mod expanded;
mod joined;
mod picked;
pub(crate) mod planes;

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::profile::{Part, Timer};
use crate::simd::Level;
pub use joined::Passed;
use joined::{joined, shut};
pub use picked::Target;
use planes::{Apply, Backward, Channel, Moments, Reduce, Running};

/// Mean and biased variance of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The means.
    pub mean: Vec<f32>,
    /// The variances, divided by the number of samples.
    pub variance: Vec<f32>,
}

/// What normalisation does to each channel: `(x - mean) · scale + shift`.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Subtracted first.
    pub mean: Vec<f32>,
    /// Then multiplied.
    pub scale: Vec<f32>,
    /// Then added.
    pub shift: Vec<f32>,
}

/// Which pixels the rectifier let through.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a> {
    /// There was no rectifier.
    Open,
    /// Those where the normalised input is positive; there was no residual.
    Input,
    /// Those where this output is positive.
    Output(&'a [f32]),
}

/// The sums of the backward pass over all pixels of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// The gradient, which is that of the shift.
    pub gradient: Vec<f32>,
    /// The gradient times `x - mean`.
    pub product: Vec<f32>,
}

impl Statistics {
    /// Takes the statistics of `x` over its images and pixels.
    pub fn of(maps: Maps, x: &[f32]) -> Statistics {
        assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
        let level = Level::current();
        let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
        let work = x.par_chunks(maps.plane()).zip(&mut planes).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (plane, moments))| {
            let (lanes, mut running) = (maps.lanes(i / maps.channels), Running::new());
            level.run(Moments { maps, lanes, rows: 0..maps.height, plane, running: &mut running });
            *moments = running.moments(maps, lanes);
        });
        Statistics::merge(maps, &planes)
    }

    /// Merges mean and sum of squared distances of each channel of each block.
    pub(crate) fn merge(maps: Maps, planes: &[(f64, f64)]) -> Statistics {
        let merged = (0..maps.channels).map(|channel| {
            let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
            for block in 0..maps.blocks() {
                let more = (maps.lanes(block) * maps.height * maps.width) as f64;
                let (other_mean, other_squares) = planes[block * maps.channels + channel];
                let distance = other_mean - mean;
                count += more;
                mean += distance * more / count;
                squares += other_squares + distance * distance * more * (count - more) / count;
            }
            (mean as f32, (squares / count) as f32)
        });
        let (mean, variance) = merged.unzip();
        Statistics { mean, variance }
    }

    /// Returns what normalisation with these statistics does.
    pub fn affine(&self, gamma: &[f32], beta: &[f32], epsilon: f64) -> Affine {
        let scale =
            gamma.iter().zip(self.deviations(epsilon)).map(|(gamma, deviation)| (*gamma as f64 / deviation) as f32);
        Affine { mean: self.mean.clone(), scale: scale.collect(), shift: beta.to_vec() }
    }

    fn deviations(&self, epsilon: f64) -> impl Iterator<Item = f64> {
        self.variance.iter().map(move |variance| (*variance as f64 + epsilon).sqrt())
    }

    /// Returns the gradient of gamma from the sums of the backward pass.
    pub fn gamma_gradient(&self, sums: &Sums, epsilon: f64) -> Vec<f32> {
        sums.product
            .iter()
            .zip(self.deviations(epsilon))
            .map(|(sum, deviation)| (*sum as f64 / deviation) as f32)
            .collect()
    }
}

impl Affine {
    /// Returns `(x - mean) · scale + shift`, plus `residual`, rectified if `relu`.
    pub fn apply(&self, maps: Maps, x: &[f32], relu: bool, residual: Option<&[f32]>) -> Buffer {
        assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
        assert!(residual.is_none_or(|residual| residual.len() == x.len()));
        let level = Level::current();
        let mut y = Buffer::any(maps.len());
        let work = y.par_chunks_mut(maps.plane()).enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, y)| {
            let at = i * maps.plane()..(i + 1) * maps.plane();
            let channel = self.channel(i % maps.channels);
            maps.clear_margin(y);
            let (rows, residual) = (0..maps.height, residual.map(|all| &all[at.clone()]));
            level.run(Apply { maps, rows, channel, relu, x: &x[at], residual, y });
            maps.clear_missing(i / maps.channels, y);
        });
        y
    }

    /// Sums the gradient of the output, as far as the gate lets it through.
    pub fn sums(&self, maps: Maps, gradient: &[f32], x: &[f32], gate: Gate) -> Sums {
        assert!(gradient.len() == maps.len() && x.len() == maps.len(), "activation of {:?}", maps.dims());
        let level = Level::current();
        let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
        let work = planes.par_iter_mut().enumerate();
        work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, sums)| {
            let at = i * maps.plane()..(i + 1) * maps.plane();
            let channel = self.channel(i % maps.channels);
            let gate = gate.part(at.clone());
            let (rows, gradient, mut running) = (0..maps.height, &gradient[at.clone()], Running::new());
            level.run(Reduce { maps, rows, channel, gradient, x: &x[at], gate, running: &mut running });
            *sums = running.sums();
        });
        Sums::merge(maps, &planes)
    }

    /// Returns `relu((x - mean) · scale + shift + residual)`, and which pixels of it let a gradient through.
    pub fn join(&self, maps: Maps, x: &[f32], residual: &[f32]) -> (Buffer, Passed) {
        assert!(x.len() == maps.len() && residual.len() == maps.len(), "activation of {:?}", maps.dims());
        joined(maps, residual, |i| {
            Some((self.channel(i % maps.channels), &x[i * maps.plane()..(i + 1) * maps.plane()]))
        })
    }

    /// Sets the gradient to 0 where it does not pass the rectifier behind a residual, and sums it.
    pub fn shut(&self, maps: Maps, gradient: &mut [f32], x: &[f32], passed: &Passed) -> Sums {
        assert!(gradient.len() == maps.len() && x.len() == maps.len(), "activation of {:?}", maps.dims());
        let planes = shut(maps, gradient, passed, |i| {
            Some((&x[i * maps.plane()..(i + 1) * maps.plane()], self.mean[i % maps.channels]))
        });
        Sums::merge(maps, &planes)
    }

    /// Turns the gradient of the output into that of `x`, in place, and returns that of the residual if `residual`.
    ///
    /// With `sums`, mean and variance are functions of `x`, as in training; without, they are constants.
    pub fn backward(
        &self,
        maps: Maps,
        gradient: &mut [f32],
        x: &[f32],
        gate: Gate,
        training: Option<(&Statistics, &Sums, f64)>,
        residual: bool,
    ) -> Option<Buffer> {
        assert!(gradient.len() == maps.len() && x.len() == maps.len(), "activation of {:?}", maps.dims());
        let level = Level::current();
        let slopes = self.slopes(maps, training);
        let mut passed = residual.then(|| Buffer::any(maps.len()));
        let run = |i: usize, gradient: &mut [f32], mut passed: Option<&mut [f32]>| {
            let at = i * maps.plane()..(i + 1) * maps.plane();
            let (block, c) = (i / maps.channels, i % maps.channels);
            if let Some(passed) = &mut passed {
                maps.clear_margin(passed);
            }
            let gate = gate.part(at.clone());
            let (rows, channel, slope) = (0..maps.height, self.channel(c), slopes[c]);
            level.run(Backward { maps, rows, channel, slope, gradient: &mut *gradient, x: &x[at], gate, passed });
            maps.clear_missing(block, gradient);
        };
        let work = gradient.par_chunks_mut(maps.plane());
        match &mut passed {
            Some(passed) => work
                .zip(passed.par_chunks_mut(maps.plane()))
                .enumerate()
                .with_min_len(planes_per_task(maps))
                .for_each_init(timer, |_, (i, (gradient, passed))| run(i, gradient, Some(passed))),
            None => work
                .enumerate()
                .with_min_len(planes_per_task(maps))
                .for_each_init(timer, |_, (i, gradient)| run(i, gradient, None)),
        }
        passed
    }

    /// Returns for each channel what is added to the scaled gradient: slope times `x - mean`, and a constant.
    pub(crate) fn slopes(&self, maps: Maps, training: Option<(&Statistics, &Sums, f64)>) -> Vec<(f32, f32)> {
        let samples = (maps.images * maps.height * maps.width) as f64;
        // d x = scale · (g - mean of g - (x - mean) / (variance + epsilon) · mean of g (x - mean))
        match training {
            Some((statistics, sums, epsilon)) => (0..maps.channels)
                .map(|c| {
                    let scale = self.scale[c] as f64;
                    let variance = statistics.variance[c] as f64 + epsilon;
                    let slope = -scale * sums.product[c] as f64 / (samples * variance);
                    (slope as f32, (-scale * sums.gradient[c] as f64 / samples) as f32)
                })
                .collect(),
            None => vec![(0.0, 0.0); maps.channels],
        }
    }

    pub(crate) fn channel(&self, c: usize) -> Channel {
        Channel { mean: self.mean[c], scale: self.scale[c], shift: self.shift[c] }
    }
}

impl Sums {
    /// Adds the sums of each channel of each block.
    pub(crate) fn merge(maps: Maps, planes: &[(f32, f32)]) -> Sums {
        let total = |channel: usize, of: fn(&(f32, f32)) -> f32| {
            planes[channel..].iter().step_by(maps.channels).map(|sums| of(sums) as f64).sum::<f64>() as f32
        };
        Sums {
            gradient: (0..maps.channels).map(|channel| total(channel, |sums| sums.0)).collect(),
            product: (0..maps.channels).map(|channel| total(channel, |sums| sums.1)).collect(),
        }
    }
}

impl<'a> Gate<'a> {
    pub(crate) fn part(self, at: std::ops::Range<usize>) -> Gate<'a> {
        match self {
            Gate::Output(output) => Gate::Output(&output[at]),
            Gate::Open | Gate::Input => self,
        }
    }
}

/// Counts the time of a task.
pub(crate) fn timer() -> Timer<'static> {
    Part::Normalisation.time()
}

/// Returns how many planes make a task that is worth a thread's while.
pub(crate) fn planes_per_task(maps: Maps) -> usize {
    (32 * 1024 / maps.plane()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_exact_for_large_means_and_missing_images() {
        for images in [1, 16, 21, 48] {
            let maps = Maps::new([images, 2, 3, 5]);
            let values: Vec<f32> = (0..images * 30).map(|i| 1000.0 + (i * 7 % 11) as f32 * 0.01).collect();
            let statistics = Statistics::of(maps, &maps.from_nchw(&values));
            for channel in 0..2 {
                let mine = || values.chunks(15).skip(channel).step_by(2).flatten().map(|x| *x as f64);
                let mean = mine().sum::<f64>() / (images * 15) as f64;
                let variance = mine().map(|x| (x - mean).powi(2)).sum::<f64>() / (images * 15) as f64;
                assert!((statistics.mean[channel] as f64 - mean).abs() < 1e-4);
                assert!((statistics.variance[channel] as f64 / variance - 1.0).abs() < 1e-2, "{images} {channel}");
            }
        }
    }
}
