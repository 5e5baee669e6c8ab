//! The loops of batch normalisation over one channel of a block; the compiler vectorises them.

use std::ops::Range;

use super::Gate;
use crate::bf16::Stored;
use crate::maps::{LANES, Maps};
use crate::simd::{Kernel, Lanes};

/// What normalisation does to a channel.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub mean: f32,
    pub scale: f32,
    pub shift: f32,
}

impl Channel {
    #[inline(always)]
    fn normalise(self, x: f32) -> f32 {
        (x - self.mean) * self.scale + self.shift
    }

    /// Returns the function from the gradient of the output, and `x`, to that of `x`.
    #[inline(always)]
    fn backward(self, (slope, level): (f32, f32)) -> impl Fn(f32, f32) -> f32 + Copy {
        move |gradient, x| self.scale * gradient + (slope * (x - self.mean) + level)
    }
}

/// Returns 0 for negative numbers, and NaN for NaN, so that a run that diverges is seen to.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Pixels whose sums are side by side: enough additions in flight.
const PIXELS: usize = 4;
const WIDE: usize = PIXELS * LANES;

/// Two sums over a plane, which grow row by row.
#[derive(Clone)]
pub(crate) struct Running {
    /// What is subtracted first where distances are summed; found in the first row.
    from: f32,
    sums: [f32; WIDE],
    products: [f32; WIDE],
}

impl Running {
    /// Returns sums of nothing.
    pub fn new() -> Running {
        Running { from: 0.0, sums: [0.0; WIDE], products: [0.0; WIDE] }
    }

    /// Returns mean and sum of squared distances from it, once [`Moments`] has seen all rows.
    pub fn moments(&self, maps: Maps, lanes: usize) -> (f64, f64) {
        let total =
            |all: &[f32]| all.chunks_exact(LANES).flat_map(|all| &all[..lanes]).map(|sum| *sum as f64).sum::<f64>();
        let count = (lanes * maps.height * maps.width) as f64;
        let distance = total(&self.sums) / count;
        (self.from as f64 + distance, total(&self.products) - distance * distance * count)
    }

    /// Returns both sums, once [`Reduce`] has seen all rows.
    pub fn sums(&self) -> (f32, f32) {
        (self.sums.iter().sum(), self.products.iter().sum())
    }
}

/// Sums distances and squared distances of some rows of the first `lanes` images, from about the mean.
pub(crate) struct Moments<'a> {
    pub maps: Maps,
    pub lanes: usize,
    pub rows: Range<usize>,
    pub plane: &'a [f32],
    pub running: &'a mut Running,
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Moments { maps, lanes, rows, plane, running } = self;
        if rows.start == 0 && maps.height > 0 {
            // Any number near the mean serves: that of the first row. Images that are missing add nothing.
            let row = &plane[maps.floats(0)];
            let mut sums = [0.0f32; LANES];
            for pixel in row.chunks_exact(LANES) {
                sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
            }
            let total: f64 = sums.iter().map(|sum| *sum as f64).sum();
            running.from = (total / (maps.width * lanes) as f64) as f32;
        }
        // Copies, so that they stay in registers.
        let Running { from, mut sums, mut products } = *running;
        for y in rows {
            let chunks = plane[maps.floats(y)].chunks_exact(WIDE);
            let rest = chunks.remainder();
            for chunk in chunks {
                for i in 0..WIDE {
                    let distance = chunk[i] - from;
                    sums[i] += distance;
                    products[i] += distance * distance;
                }
            }
            for (i, x) in rest.iter().enumerate() {
                let distance = x - from;
                sums[i] += distance;
                products[i] += distance * distance;
            }
        }
        *running = Running { from, sums, products };
    }
}

/// Writes some rows of the normalised, maybe rectified plane.
pub(crate) struct Apply<'a, T> {
    pub maps: Maps,
    pub rows: Range<usize>,
    pub channel: Channel,
    pub relu: bool,
    pub x: &'a [f32],
    pub residual: Option<&'a [f32]>,
    pub y: &'a mut [T],
}

impl<T: Stored> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let channel = self.channel;
        for y in self.rows {
            let at = self.maps.floats(y);
            let pixels = self.y[at.clone()].iter_mut().zip(&self.x[at.clone()]);
            match (self.residual, self.relu) {
                (None, false) => pixels.for_each(|(y, x)| *y = T::of(channel.normalise(*x))),
                (None, true) => pixels.for_each(|(y, x)| *y = T::of(relu(channel.normalise(*x)))),
                (Some(all), false) => {
                    pixels.zip(&all[at]).for_each(|((y, x), r)| *y = T::of(channel.normalise(*x) + r));
                }
                (Some(all), true) => {
                    pixels.zip(&all[at]).for_each(|((y, x), r)| *y = T::of(relu(channel.normalise(*x) + r)));
                }
            }
        }
    }
}

/// Sums some rows of the gradient, and of its product with `x - mean`.
pub(crate) struct Reduce<'a> {
    pub maps: Maps,
    pub rows: Range<usize>,
    pub channel: Channel,
    pub gradient: &'a [f32],
    pub x: &'a [f32],
    pub gate: Gate<'a>,
    pub running: &'a mut Running,
}

impl Reduce<'_> {
    #[inline(always)]
    fn sum(self, gate: impl Fn(f32, f32) -> bool + Copy, output: &[f32]) {
        let mean = self.channel.mean;
        // Copies, so that they stay in registers.
        let Running { from, mut sums, mut products } = *self.running;
        for y in self.rows {
            let at = self.maps.floats(y);
            let (g, x, output) = (&self.gradient[at.clone()], &self.x[at.clone()], &output[at]);
            let whole = g.len() / WIDE * WIDE;
            for ((g, x), output) in g.chunks_exact(WIDE).zip(x.chunks_exact(WIDE)).zip(output.chunks_exact(WIDE)) {
                for i in 0..WIDE {
                    let passed = if gate(x[i], output[i]) { g[i] } else { 0.0 };
                    sums[i] += passed;
                    products[i] += passed * (x[i] - mean);
                }
            }
            for (i, ((g, x), output)) in g[whole..].iter().zip(&x[whole..]).zip(&output[whole..]).enumerate() {
                let passed = if gate(*x, *output) { *g } else { 0.0 };
                sums[i] += passed;
                products[i] += passed * (x - mean);
            }
        }
        *self.running = Running { from, sums, products };
    }
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (channel, x) = (self.channel, self.x);
        match self.gate {
            Gate::Open => self.sum(|_, _| true, x),
            Gate::Input => self.sum(|x, _| channel.normalise(x) > 0.0, x),
            Gate::Output(output) => self.sum(|_, y| y > 0.0, output),
        }
    }
}

/// Writes the rectified sum of a residual and a normalised plane, if there is one, and which pixels let a gradient through.
pub(crate) struct Join<'a> {
    pub maps: Maps,
    pub normalised: Option<(Channel, &'a [f32])>,
    pub residual: &'a [f32],
    pub y: &'a mut [f32],
    /// A bit for each image, for each pixel without the margin.
    pub passed: &'a mut [u16],
}

impl Join<'_> {
    #[inline(always)]
    fn rows<L: Lanes>(self, x: &[f32], sum: impl Fn(f32, f32) -> f32 + Copy) {
        let Join { maps, residual, y, passed, .. } = self;
        for row in 0..maps.height {
            let at = maps.floats(row);
            let pixels = y[at.clone()].chunks_exact_mut(LANES).zip(x[at.clone()].chunks_exact(LANES));
            let pixels = pixels.zip(residual[at].chunks_exact(LANES));
            for (((y, x), residual), passed) in pixels.zip(&mut passed[row * maps.width..]) {
                let mut out = [0.0f32; LANES];
                for i in 0..LANES {
                    out[i] = relu(sum(x[i], residual[i]));
                }
                *passed = 0;
                for lane in (0..LANES).step_by(L::WIDTH) {
                    let lanes = L::read(&out[lane..]);
                    *passed |= lanes.positive() << lane;
                    lanes.write(&mut y[lane..]);
                }
            }
        }
    }
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.normalised {
            Some((channel, x)) => self.rows::<L>(x, |x, residual| channel.normalise(x) + residual),
            None => {
                let residual = self.residual;
                self.rows::<L>(residual, |_, residual| residual);
            }
        }
    }
}

/// Sets the gradient to 0 where it does not pass, and returns the same sums as [`Reduce`] if there is an `x`.
pub(crate) struct Shut<'a> {
    pub maps: Maps,
    pub gradient: &'a mut [f32],
    /// What was normalised, and its mean.
    pub x: Option<(&'a [f32], f32)>,
    /// As [`Join`] wrote them.
    pub passed: &'a [u16],
}

impl Kernel for Shut<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<L: Lanes>(self) -> (f32, f32) {
        let Shut { maps, gradient, x, passed } = self;
        let (mut sums, mut products) = ([0.0f32; WIDE], [0.0f32; WIDE]);
        for row in 0..maps.height {
            let at = maps.floats(row);
            let gradient = &mut gradient[at.clone()];
            let passed = &passed[row * maps.width..][..maps.width];
            let Some((x, mean)) = x else {
                gradient.chunks_exact_mut(LANES).zip(passed).for_each(|(pixel, bits)| keep::<L>(pixel, *bits));
                continue;
            };
            let (wide, rest) = gradient.as_chunks_mut::<WIDE>();
            let ((wide_x, rest_x), (wide_bits, rest_bits)) = (x[at].as_chunks::<WIDE>(), passed.as_chunks::<PIXELS>());
            for ((g, x), bits) in wide.iter_mut().zip(wide_x).zip(wide_bits) {
                g.chunks_exact_mut(LANES).zip(bits).for_each(|(pixel, bits)| keep::<L>(pixel, *bits));
                for i in 0..WIDE {
                    sums[i] += g[i];
                    products[i] += g[i] * (x[i] - mean);
                }
            }
            rest.chunks_exact_mut(LANES).zip(rest_bits).for_each(|(pixel, bits)| keep::<L>(pixel, *bits));
            for (i, (g, x)) in rest.iter().zip(rest_x).enumerate() {
                sums[i] += g;
                products[i] += g * (x - mean);
            }
        }
        (sums.iter().sum(), products.iter().sum())
    }
}

/// Keeps the lanes of a pixel whose bit is 1.
#[inline(always)]
fn keep<L: Lanes>(pixel: &mut [f32], bits: u16) {
    for lane in (0..LANES).step_by(L::WIDTH) {
        L::read(&pixel[lane..]).keep(bits >> lane).write(&mut pixel[lane..]);
    }
}

/// Turns some rows of the gradient of the output into those of `x`, in place.
pub(crate) struct Backward<'a> {
    pub maps: Maps,
    pub rows: Range<usize>,
    pub channel: Channel,
    /// The gradient of `x` is `scale * gradient + slope.0 * (x - mean) + slope.1`.
    pub slope: (f32, f32),
    /// The gradient of the output, then that of `x`.
    pub gradient: &'a mut [f32],
    pub x: &'a [f32],
    pub gate: Gate<'a>,
    /// The gradient of the residual, to be written.
    pub passed: Option<&'a mut [f32]>,
}

impl Backward<'_> {
    #[inline(always)]
    fn apply(self, gate: impl Fn(f32, f32) -> bool + Copy, output: &[f32]) {
        let backward = self.channel.backward(self.slope);
        let mut passed = self.passed;
        for y in self.rows {
            let at = self.maps.floats(y);
            let pixels = self.gradient[at.clone()].iter_mut().zip(&self.x[at.clone()]).zip(&output[at.clone()]);
            match &mut passed {
                None => pixels.for_each(|((g, x), y)| *g = backward(if gate(*x, *y) { *g } else { 0.0 }, *x)),
                Some(passed) => pixels.zip(&mut passed[at]).for_each(|(((g, x), y), passed)| {
                    *passed = if gate(*x, *y) { *g } else { 0.0 };
                    *g = backward(*passed, *x);
                }),
            }
        }
    }
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (channel, x) = (self.channel, self.x);
        match self.gate {
            Gate::Open => self.apply(|_, _| true, x),
            Gate::Input => self.apply(|x, _| channel.normalise(x) > 0.0, x),
            Gate::Output(output) => self.apply(|_, y| y > 0.0, output),
        }
    }
}

/// Writes some rows of the gradient of `x`, given those of the output's, which go on to no residual.
pub(crate) struct Through<'a, T> {
    pub maps: Maps,
    pub rows: Range<usize>,
    pub channel: Channel,
    /// As in [`Backward`].
    pub slope: (f32, f32),
    pub gradient: &'a [f32],
    pub x: &'a [f32],
    pub gate: Gate<'a>,
    pub out: &'a mut [T],
}

impl<T: Stored> Through<'_, T> {
    #[inline(always)]
    fn apply(self, gate: impl Fn(f32, f32) -> bool + Copy, output: &[f32]) {
        let backward = self.channel.backward(self.slope);
        for y in self.rows {
            let at = self.maps.floats(y);
            let pixels = self.out[at.clone()].iter_mut().zip(&self.gradient[at.clone()]);
            let pixels = pixels.zip(&self.x[at.clone()]).zip(&output[at]);
            pixels.for_each(|(((out, g), x), y)| *out = T::of(backward(if gate(*x, *y) { *g } else { 0.0 }, *x)));
        }
    }
}

impl<T: Stored> Kernel for Through<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (channel, x) = (self.channel, self.x);
        match self.gate {
            Gate::Open => self.apply(|_, _| true, x),
            Gate::Input => self.apply(|x, _| channel.normalise(x) > 0.0, x),
            Gate::Output(output) => self.apply(|_, y| y > 0.0, output),
        }
    }
}

/// Writes the gradient of `x` in a plane, or adds it to what is there.
pub(crate) struct Onto<'a> {
    pub maps: Maps,
    pub channel: Channel,
    /// As in [`Backward`].
    pub slope: (f32, f32),
    pub gradient: &'a [f32],
    pub x: &'a [f32],
    pub gate: Gate<'a>,
    pub add: bool,
    pub out: &'a mut [f32],
}

impl Onto<'_> {
    #[inline(always)]
    fn apply(self, gate: impl Fn(f32, f32) -> bool + Copy, output: &[f32]) {
        let backward = self.channel.backward(self.slope);
        for y in 0..self.maps.height {
            let at = self.maps.floats(y);
            let pixels = self.out[at.clone()].iter_mut().zip(&self.gradient[at.clone()]);
            let pixels = pixels.zip(&self.x[at.clone()]).zip(&output[at]);
            if self.add {
                pixels.for_each(|(((out, g), x), y)| *out += backward(if gate(*x, *y) { *g } else { 0.0 }, *x));
            } else {
                pixels.for_each(|(((out, g), x), y)| *out = backward(if gate(*x, *y) { *g } else { 0.0 }, *x));
            }
        }
    }
}

impl Kernel for Onto<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (channel, x) = (self.channel, self.x);
        match self.gate {
            Gate::Open => self.apply(|_, _| true, x),
            Gate::Input => self.apply(|x, _| channel.normalise(x) > 0.0, x),
            Gate::Output(output) => self.apply(|_, y| y > 0.0, output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectifier_lets_nan_through() {
        assert!(relu(f32::NAN).is_nan());
        assert_eq!((relu(-1.0), relu(2.0)), (0.0, 2.0));
    }
}
