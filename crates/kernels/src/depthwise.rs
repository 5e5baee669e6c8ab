//! Depthwise convolution of 3×3 pixels with padding 1: each channel is convolved with a kernel of its own.
//!
//! There are nine multiplications for each output, so that reading and writing maps decides how long it takes. A task is
//! one plane of 16 images, whose three rows at a time stay in the first cache; the zeros around the maps spare the border
//! cases.

use rayon::prelude::*;

use crate::batch_norm::planes_per_task;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::profile::{Part, Timer};
use crate::simd::{Kernel, Lanes, Level};

/// Height and width of the kernels.
const SIDE: usize = 3;
/// Weights of a channel.
const AREA: usize = SIDE * SIDE;

/// A pixel of 16 images.
type Pixel = [f32; LANES];

/// The shape of a depthwise convolution of 3×3 pixels with padding 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// The shape of the input.
    pub input: Maps,
    /// The step of the kernels in both directions, 1 or 2.
    pub stride: usize,
}

impl Depthwise {
    /// Tells whether a convolution of this shape is one that the kernels here compute.
    pub fn fits(kernel: usize, stride: usize) -> bool {
        kernel == SIDE && (stride == 1 || stride == 2)
    }

    /// Returns the shape of the output.
    pub fn output(&self) -> Maps {
        let [images, channels, height, width] = self.input.dims();
        Maps::new([images, channels, height.div_ceil(self.stride), width.div_ceil(self.stride)])
    }

    /// Convolves the maps of `x` with `weight` `[channels, 3, 3]`.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of the shape.
    pub fn forward(&self, x: &[f32], weight: &[f32]) -> Buffer {
        self.check(x, weight);
        let (level, from, to) = (Level::current(), self.input, self.output());
        let mut y = Buffer::any(to.len());
        let tasks = y.par_chunks_mut(to.plane()).zip(x.par_chunks(from.plane())).enumerate();
        tasks.with_min_len(planes_per_task(from)).for_each_init(timer, |_, (i, (y, x))| {
            let weight = kernel_of(weight, i % from.channels);
            level.run(Forward { from, to, stride: self.stride, x, weight, y });
        });
        y
    }

    /// Returns the gradient of the input, given that of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of the shape.
    pub fn data_gradient(&self, gradient: &[f32], weight: &[f32]) -> Buffer {
        let (level, from, to) = (Level::current(), self.input, self.output());
        assert_eq!(gradient.len(), to.len(), "gradient of {:?}", to.dims());
        assert_eq!(weight.len(), from.channels * AREA, "a kernel for each of {} channels", from.channels);
        let mut out = Buffer::any(from.len());
        let tasks = out.par_chunks_mut(from.plane()).zip(gradient.par_chunks(to.plane())).enumerate();
        tasks.with_min_len(planes_per_task(from)).for_each_init(timer, |_, (i, (out, gradient))| {
            let mut weight = kernel_of(weight, i % from.channels);
            if self.stride == 1 {
                // The same convolution with the kernel turned around.
                weight.reverse();
                level.run(Forward { from: to, to: from, stride: 1, x: gradient, weight, y: out });
            } else {
                level.run(Scatter { from, to, weight, gradient, out });
            }
        });
        out
    }

    /// Returns the gradient of the weight `[channels, 3, 3]`, given that of the output.
    ///
    /// # Panics
    ///
    /// Panics if a length is not that of the shape.
    pub fn weight_gradient(&self, x: &[f32], gradient: &[f32]) -> Buffer {
        let (level, from, to) = (Level::current(), self.input, self.output());
        assert_eq!(x.len(), from.len(), "activation of {:?}", from.dims());
        assert_eq!(gradient.len(), to.len(), "gradient of {:?}", to.dims());
        let mut out = Buffer::any(from.channels * AREA);
        // A channel's sum belongs to one task, whatever the number of threads.
        out.par_chunks_mut(AREA).enumerate().for_each_init(timer, |_, (channel, out)| {
            let mut sums = [[0.0f32; LANES]; AREA];
            for block in 0..from.blocks() {
                let plane = |maps: Maps| block * maps.block() + channel * maps.plane()..;
                let (x, gradient) = (&x[plane(from)][..from.plane()], &gradient[plane(to)][..to.plane()]);
                level.run(Products { from, to, stride: self.stride, x, gradient, sums: &mut sums });
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                *out = sums.iter().sum();
            }
        });
        out
    }

    fn check(&self, x: &[f32], weight: &[f32]) {
        assert_eq!(x.len(), self.input.len(), "activation of {:?}", self.input.dims());
        assert_eq!(weight.len(), self.input.channels * AREA, "a kernel for each of {} channels", self.input.channels);
    }
}

fn kernel_of(weight: &[f32], channel: usize) -> [f32; AREA] {
    weight[channel * AREA..][..AREA].try_into().expect("nine weights a channel")
}

/// Counts the time of a task.
fn timer() -> Timer<'static> {
    Part::Depthwise.time()
}

/// Returns the stored pixels of row `y` less 1, from the zero before it to the one behind it.
#[inline(always)]
fn row(maps: Maps, plane: &[f32], y: usize) -> &[Pixel] {
    let (pixels, _) = plane[y * maps.row() * LANES..][..(maps.width + 2) * LANES].as_chunks();
    pixels
}

struct Forward<'a> {
    from: Maps,
    to: Maps,
    stride: usize,
    x: &'a [f32],
    weight: [f32; AREA],
    y: &'a mut [f32],
}

impl Forward<'_> {
    #[inline(always)]
    fn strided<const STRIDE: usize>(self) {
        let Self { from, to, x, weight, y: out, .. } = self;
        to.clear_margin(out);
        for y in 0..to.height {
            let rows = [0, 1, 2].map(|k| row(from, x, y * STRIDE + k));
            let (pixels, _) = out[to.floats(y)].as_chunks_mut::<LANES>();
            for (at, pixel) in pixels.iter_mut().enumerate() {
                let mut sum = [0.0f32; LANES];
                for k in 0..SIDE {
                    for j in 0..SIDE {
                        let (from, weight) = (&rows[k][at * STRIDE + j], weight[k * SIDE + j]);
                        for lane in 0..LANES {
                            sum[lane] += weight * from[lane];
                        }
                    }
                }
                *pixel = sum;
            }
        }
    }
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.stride == 1 { self.strided::<1>() } else { self.strided::<2>() }
    }
}

/// The gradient of the input where the stride is 2.
struct Scatter<'a> {
    from: Maps,
    to: Maps,
    weight: [f32; AREA],
    gradient: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { from, to, weight, gradient, out } = self;
        out.fill(0.0);
        for y in 0..to.height {
            let (pixels, _) = gradient[to.floats(y)].as_chunks::<LANES>();
            for k in 0..SIDE {
                let start = (2 * y + k) * from.row() * LANES;
                let (row, _) = out[start..][..(from.width + 2) * LANES].as_chunks_mut::<LANES>();
                for (at, gradient) in pixels.iter().enumerate() {
                    for j in 0..SIDE {
                        let (to, weight) = (&mut row[2 * at + j], weight[k * SIDE + j]);
                        for lane in 0..LANES {
                            to[lane] += weight * gradient[lane];
                        }
                    }
                }
            }
        }
        from.clear_margin(out);
    }
}

/// Products of the gradient with the inputs of each weight, summed.
struct Products<'a> {
    from: Maps,
    to: Maps,
    stride: usize,
    x: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [Pixel; AREA],
}

impl Products<'_> {
    #[inline(always)]
    fn strided<const STRIDE: usize>(self) {
        let Self { from, to, x, gradient, sums, .. } = self;
        for y in 0..to.height {
            let rows = [0, 1, 2].map(|k| row(from, x, y * STRIDE + k));
            let (pixels, _) = gradient[to.floats(y)].as_chunks::<LANES>();
            // Each row is summed alone: one long chain of additions would lose digits.
            let mut of_row = [[0.0f32; LANES]; AREA];
            for (at, gradient) in pixels.iter().enumerate() {
                for k in 0..SIDE {
                    for j in 0..SIDE {
                        let (sum, x) = (&mut of_row[k * SIDE + j], &rows[k][at * STRIDE + j]);
                        for lane in 0..LANES {
                            sum[lane] += gradient[lane] * x[lane];
                        }
                    }
                }
            }
            for (sum, of_row) in sums.iter_mut().zip(of_row) {
                for lane in 0..LANES {
                    sum[lane] += of_row[lane];
                }
            }
        }
    }
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.stride == 1 { self.strided::<1>() } else { self.strided::<2>() }
    }
}
