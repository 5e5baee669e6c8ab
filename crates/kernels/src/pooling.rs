//! Pooling over maps and the parameter-free shortcut, with their gradients.

use rayon::prelude::*;

use crate::batch_norm::planes_per_task;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{Part, Timer};
use crate::simd::{Kernel, Lanes, Level};

/// Averages each map to one number: returns `[images, channels]`.
pub fn global_average(maps: Maps, x: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let share = 1.0 / (maps.height * maps.width) as f32;
    let mut averages = vec![0.0; maps.images * maps.channels];
    averages.par_chunks_mut(LANES * maps.channels).zip(x.par_chunks(maps.block())).for_each_init(
        timer,
        |_, (averages, block)| {
            for (channel, plane) in block.chunks_exact(maps.plane()).enumerate() {
                let mut sums = [0.0f32; LANES];
                for y in 0..maps.height {
                    for pixel in plane[maps.floats(y)].chunks_exact(LANES) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
                    }
                }
                for (average, sum) in averages[channel..].iter_mut().step_by(maps.channels).zip(sums) {
                    *average = sum * share;
                }
            }
        },
    );
    averages
}

/// Returns the gradient of the maps, given that of their averages.
pub fn global_average_gradient(maps: Maps, gradient: &[f32]) -> Buffer {
    assert_eq!(gradient.len(), maps.images * maps.channels);
    let share = 1.0 / (maps.height * maps.width) as f32;
    let mut out = Buffer::any(maps.len());
    out.par_chunks_mut(maps.plane()).with_min_len(planes_per_task(maps)).enumerate().for_each_init(
        timer,
        |_, (i, plane)| {
            let (block, channel) = (i / maps.channels, i % maps.channels);
            let mut pixel = [0.0f32; LANES];
            for (lane, value) in pixel.iter_mut().enumerate().take(maps.lanes(block)) {
                *value = gradient[(block * LANES + lane) * maps.channels + channel] * share;
            }
            maps.clear_margin(plane);
            for y in 0..maps.height {
                plane[maps.floats(y)].chunks_exact_mut(LANES).for_each(|out| out.copy_from_slice(&pixel));
            }
        },
    );
    out
}

/// Takes every second pixel and adds zero channels on both sides (half of those missing before) until there are
/// `channels`.
pub fn shortcut(maps: Maps, x: &[f32], channels: usize) -> Buffer {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let [images, inputs, height, width] = maps.dims();
    let to = Maps::new([images, channels, height.div_ceil(2), width.div_ceil(2)]);
    let before = channels.checked_sub(inputs).expect("a shortcut only widens") / 2;
    let mut out = Buffer::any(to.len());
    out.par_chunks_mut(to.plane()).with_min_len(planes_per_task(to)).enumerate().for_each_init(
        timer,
        |_, (i, plane)| {
            let (block, channel) = (i / channels, i % channels);
            if channel < before || channel >= before + inputs {
                return plane.fill(0.0);
            }
            let from = &x[block * maps.block() + (channel - before) * maps.plane()..][..maps.plane()];
            to.clear_margin(plane);
            for y in 0..to.height {
                let pixels = plane[to.floats(y)].chunks_exact_mut(LANES);
                pixels
                    .zip(from[maps.floats(2 * y)].chunks(2 * LANES))
                    .for_each(|(to, from)| to.copy_from_slice(&from[..LANES]));
            }
        },
    );
    out
}

/// Returns the gradient of a shortcut's input, given that of its output of shape `to`.
pub fn shortcut_gradient(maps: Maps, to: Maps, gradient: &[f32]) -> Buffer {
    assert_eq!(gradient.len(), to.len(), "gradient of {:?}", to.dims());
    let before = (to.channels - maps.channels) / 2;
    let mut out = Buffer::any(maps.len());
    out.par_chunks_mut(maps.plane()).with_min_len(planes_per_task(maps)).enumerate().for_each_init(
        timer,
        |_, (i, plane)| {
            let (block, channel) = (i / maps.channels, i % maps.channels);
            let from = &gradient[block * to.block() + (channel + before) * to.plane()..][..to.plane()];
            plane.fill(0.0);
            for y in 0..to.height {
                let pixels = plane[maps.floats(2 * y)].chunks_mut(2 * LANES);
                pixels
                    .zip(from[to.floats(y)].chunks_exact(LANES))
                    .for_each(|(to, from)| to[..LANES].copy_from_slice(from));
            }
        },
    );
    out
}

/// Averages every 2×2 pixels; an odd last row or column is left out.
pub fn average(maps: Maps, x: &[f32]) -> Buffer {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let [images, channels, height, width] = maps.dims();
    let to = Maps::new([images, channels, height / 2, width / 2]);
    let mut out = Buffer::any(to.len());
    let work = out.par_chunks_mut(to.plane()).zip(x.par_chunks(maps.plane()));
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (plane, x)| {
        to.clear_margin(plane);
        for y in 0..to.height {
            let [upper, lower] = [0, 1].map(|row| x[maps.floats(2 * y + row)].chunks_exact(2 * LANES));
            for ((out, upper), lower) in plane[to.floats(y)].chunks_exact_mut(LANES).zip(upper).zip(lower) {
                for lane in 0..LANES {
                    out[lane] = 0.25 * ((upper[lane] + upper[LANES + lane]) + (lower[lane] + lower[LANES + lane]));
                }
            }
        }
    });
    out
}

/// Returns the gradient of an average pool's input, given that of its output of shape `to`.
pub fn average_gradient(maps: Maps, to: Maps, gradient: &[f32]) -> Buffer {
    assert_eq!(gradient.len(), to.len(), "gradient of {:?}", to.dims());
    let mut out = Buffer::any(maps.len());
    let work = out.par_chunks_mut(maps.plane()).zip(gradient.par_chunks(to.plane()));
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (plane, gradient)| {
        plane.fill(0.0);
        for y in 0..2 * to.height {
            let pixels = plane[maps.floats(y)].chunks_exact_mut(2 * LANES);
            for (out, gradient) in pixels.zip(gradient[to.floats(y / 2)].chunks_exact(LANES)) {
                for lane in 0..LANES {
                    let share = 0.25 * gradient[lane];
                    out[lane] = share;
                    out[LANES + lane] = share;
                }
            }
        }
    });
    out
}

/// Takes the largest of every 2×2 pixels; an odd last row or column is left out.
pub fn max(maps: Maps, x: &[f32]) -> Buffer {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let [images, channels, height, width] = maps.dims();
    let to = Maps::new([images, channels, height / 2, width / 2]);
    let mut out = Buffer::any(to.len());
    let work = out.par_chunks_mut(to.plane()).zip(x.par_chunks(maps.plane()));
    let level = Level::current();
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (plane, x)| {
        to.clear_margin(plane);
        level.run(Largest { maps, to, x, plane });
    });
    out
}

/// The largest pixels of a plane.
struct Largest<'a> {
    maps: Maps,
    to: Maps,
    x: &'a [f32],
    plane: &'a mut [f32],
}

impl Kernel for Largest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for y in 0..self.to.height {
            let [upper, lower] = [0, 1].map(|row| self.x[self.maps.floats(2 * y + row)].chunks_exact(2 * LANES));
            for ((out, upper), lower) in self.plane[self.to.floats(y)].chunks_exact_mut(LANES).zip(upper).zip(lower) {
                for lane in 0..LANES {
                    let mut max = upper[lane];
                    for x in [upper[LANES + lane], lower[lane], lower[LANES + lane]] {
                        max = if x > max { x } else { max };
                    }
                    out[lane] = max;
                }
            }
        }
    }
}

/// Returns the gradient of a max-pool's input, given its input, its output and the output's gradient; of equal pixels
/// the first one gets it.
pub fn max_gradient(maps: Maps, x: &[f32], to: Maps, output: &[f32], gradient: &[f32]) -> Buffer {
    assert!(output.len() == to.len() && gradient.len() == to.len(), "gradient of {:?}", to.dims());
    let mut out = Buffer::any(maps.len());
    let work = out.par_chunks_mut(maps.plane()).zip(x.par_chunks(maps.plane())).enumerate();
    let level = Level::current();
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (plane, x))| {
        let at = i * to.plane()..(i + 1) * to.plane();
        let (output, gradient) = (&output[at.clone()], &gradient[at]);
        plane.fill(0.0);
        level.run(ToFirst { maps, to, x, output, gradient, plane });
    });
    out
}

/// The gradients of a plane's pixels, each to the first pixel that was the largest.
struct ToFirst<'a> {
    maps: Maps,
    to: Maps,
    x: &'a [f32],
    output: &'a [f32],
    gradient: &'a [f32],
    plane: &'a mut [f32],
}

impl Kernel for ToFirst<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { maps, to, x, output, gradient, plane } = self;
        for y in 0..to.height {
            let [upper, lower] = [0, 1].map(|row| maps.floats(2 * y + row));
            let (above, below) = plane.split_at_mut(lower.start);
            let planes = above[upper.clone()].chunks_exact_mut(2 * LANES).zip(below.chunks_exact_mut(2 * LANES));
            let pixels = x[upper].chunks_exact(2 * LANES).zip(x[lower].chunks_exact(2 * LANES));
            let of_output = output[to.floats(y)].chunks_exact(LANES).zip(gradient[to.floats(y)].chunks_exact(LANES));
            for (((above, below), (upper, lower)), (output, gradient)) in planes.zip(pixels).zip(of_output) {
                for lane in 0..LANES {
                    let mut left = gradient[lane];
                    let mut share = |x: f32| {
                        let mine = if x == output[lane] { left } else { 0.0 };
                        left = if x == output[lane] { 0.0 } else { left };
                        mine
                    };
                    above[lane] = share(upper[lane]);
                    above[LANES + lane] = share(upper[LANES + lane]);
                    below[lane] = share(lower[lane]);
                    below[LANES + lane] = share(lower[LANES + lane]);
                }
            }
        }
    }
}

/// Multiplies every map by its factor in `factors`, `[images, channels]`.
pub fn scale(maps: Maps, x: &[f32], factors: &[f32]) -> Buffer {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    assert_eq!(factors.len(), maps.images * maps.channels, "a factor for every map");
    let mut out = Buffer::any(maps.len());
    let work = out.par_chunks_mut(maps.plane()).zip(x.par_chunks(maps.plane())).enumerate();
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, (plane, x))| {
        let (block, channel) = (i / maps.channels, i % maps.channels);
        let mut pixel = [0.0f32; LANES];
        for (lane, factor) in pixel.iter_mut().enumerate().take(maps.lanes(block)) {
            *factor = factors[(block * LANES + lane) * maps.channels + channel];
        }
        // Zeros around the maps stay zeros.
        for (out, x) in plane.chunks_exact_mut(LANES).zip(x.chunks_exact(LANES)) {
            for lane in 0..LANES {
                out[lane] = x[lane] * pixel[lane];
            }
        }
    });
    out
}

/// Sums the products of two activations over every map: returns `[images, channels]`.
pub fn products(maps: Maps, x: &[f32], y: &[f32]) -> Vec<f32> {
    assert!(x.len() == maps.len() && y.len() == maps.len(), "activations of {:?}", maps.dims());
    let mut sums = vec![0.0; maps.images * maps.channels];
    let work =
        sums.par_chunks_mut(LANES * maps.channels).zip(x.par_chunks(maps.block()).zip(y.par_chunks(maps.block())));
    work.for_each_init(timer, |_, (sums, (x, y))| {
        let planes = x.chunks_exact(maps.plane()).zip(y.chunks_exact(maps.plane()));
        for (channel, (x, y)) in planes.enumerate() {
            let mut pixel = [0.0f32; LANES];
            for row in 0..maps.height {
                let at = maps.floats(row);
                for (x, y) in x[at.clone()].chunks_exact(LANES).zip(y[at].chunks_exact(LANES)) {
                    for lane in 0..LANES {
                        pixel[lane] += x[lane] * y[lane];
                    }
                }
            }
            for (sum, value) in sums[channel..].iter_mut().step_by(maps.channels).zip(pixel) {
                *sum = value;
            }
        }
    });
    sums
}

/// Takes for every channel of the result the map of one of `x`, every `stride`-th pixel of it, or zeros.
pub fn gather(maps: Maps, x: &[f32], sources: &[Option<usize>], stride: usize) -> Buffer {
    assert_eq!(x.len(), maps.len(), "activation of {:?}", maps.dims());
    let to = gathered(maps, sources.len(), stride);
    let mut out = Buffer::any(to.len());
    let work = out.par_chunks_mut(to.plane()).with_min_len(planes_per_task(to)).enumerate();
    work.for_each_init(timer, |_, (i, plane)| {
        let (block, channel) = (i / sources.len(), i % sources.len());
        let Some(source) = sources[channel] else { return plane.fill(0.0) };
        let from = &x[block * maps.block() + source * maps.plane()..][..maps.plane()];
        if stride == 1 {
            return plane.copy_from_slice(from);
        }
        to.clear_margin(plane);
        for y in 0..to.height {
            let pixels = from[maps.floats(stride * y)].chunks(stride * LANES);
            plane[to.floats(y)].chunks_exact_mut(LANES).zip(pixels).for_each(|(to, from)| {
                to.copy_from_slice(&from[..LANES]);
            });
        }
    });
    out
}

/// Returns the gradient of the maps that were gathered from.
pub fn gather_gradient(maps: Maps, sources: &[Option<usize>], stride: usize, gradient: &[f32]) -> Buffer {
    let to = gathered(maps, sources.len(), stride);
    assert_eq!(gradient.len(), to.len(), "gradient of {:?}", to.dims());
    let mut out = Buffer::any(maps.len());
    let work = out.par_chunks_mut(maps.plane()).with_min_len(planes_per_task(maps)).enumerate();
    work.for_each_init(timer, |_, (i, plane)| {
        let (block, channel) = (i / maps.channels, i % maps.channels);
        plane.fill(0.0);
        for (reader, _) in sources.iter().enumerate().filter(|(_, source)| **source == Some(channel)) {
            let from = &gradient[block * to.block() + reader * to.plane()..][..to.plane()];
            for y in 0..to.height {
                let pixels = plane[maps.floats(stride * y)].chunks_mut(stride * LANES);
                for (to, from) in pixels.zip(from[to.floats(y)].chunks_exact(LANES)) {
                    to[..LANES].iter_mut().zip(from).for_each(|(to, from)| *to += from);
                }
            }
        }
    });
    out
}

/// Returns the shape of gathered maps.
pub fn gathered(maps: Maps, channels: usize, stride: usize) -> Maps {
    Maps::new([maps.images, channels, maps.height.div_ceil(stride), maps.width.div_ceil(stride)])
}

/// Counts the time of a task.
fn timer() -> Timer<'static> {
    Part::Pooling.time()
}
