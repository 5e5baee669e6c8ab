//! Exponential and GELU, in plain arithmetic that the compiler turns into vectors.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::simd::{Kernel, Lanes, Level};

/// Floats of a task.
const CHUNK: usize = 1 << 15;

/// Returns e to the power of `x`, for `x` up to 88; below -87 it is that of -87. The relative error is below 2·10⁻⁷.
///
/// Method and coefficients are those of Moshier's Cephes library, `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Written so that what is not a number stays so.
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding 1.5 · 2²³ rounds to a whole number, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut y = 1.987_569_2e-4;
    y = y * r + 1.398_199_9e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// Returns the normal distribution's cumulative probability and density at `x`; the error is below 3·10⁻⁷.
///
/// Half of 1 and the error function, whose rational approximation is that of the Eigen library (`generic_fast_erf_float`).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    // Beyond, the error function is ±1. Written so that what is not a number stays so.
    let z = if z > 4.0 { 4.0 } else { z };
    let z = if z < -4.0 { -4.0 } else { z };
    let square = z * z;
    let mut above = -2.726_142_3e-10;
    above = above * square + 2.770_681_4e-8;
    above = above * square - 2.101_024e-6;
    above = above * square - 5.692_506_4e-5;
    above = above * square - 7.349_906e-4;
    above = above * square - 2.954_6e-3;
    above = above * square - 1.609_603_3e-2;
    let mut below = -1.456_607_2e-5;
    below = below * square - 2.133_740_6e-4;
    below = below * square - 1.682_827e-3;
    below = below * square - 7.373_329e-3;
    below = below * square - 1.426_473_9e-2;
    // 1 / sqrt(2π).
    (0.5 + 0.5 * z * above / below, exp(-0.5 * x * x) * 0.398_942_3)
}

/// Returns the GELU of each number: Hendrycks, Gimpel, "Gaussian error linear units", 2016,
/// <https://arxiv.org/abs/1606.08415>.
pub fn gelu(x: &[f32]) -> Buffer {
    let level = Level::current();
    let mut y = Buffer::any(x.len());
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| level.run(Gelu { x, y }));
    y
}

/// Returns the gradient of the input of [`gelu`], given that of the output: exactly the derivative, where burn's is that of
/// an approximation.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn gelu_backward(x: &[f32], gradient: &[f32]) -> Buffer {
    assert_eq!(x.len(), gradient.len(), "a gradient for each number");
    let level = Level::current();
    let mut y = Buffer::any(x.len());
    let tasks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
    tasks.for_each(|((y, x), gradient)| level.run(GeluBackward { x, gradient, y }));
    y
}

struct Gelu<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = x * normal(*x).0;
        }
    }
}

struct GeluBackward<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for GeluBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for ((y, x), gradient) in self.y.iter_mut().zip(self.x).zip(self.gradient) {
            let (probability, density) = normal(*x);
            *y = gradient * (probability + x * density);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let (ours, exact) = (exp(x) as f64, (x as f64).exp());
            assert!((ours - exact).abs() <= 2e-7 * exact, "{x}: {ours} instead of {exact}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn gelu_is_x_times_the_cumulative_probability() {
        // From Python's statistics.NormalDist().
        let x = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0];
        let probability = [0.001_349_9, 0.158_655_3, 0.308_537_5, 0.5, 0.691_462_5, 0.841_344_7, 0.998_650_1];
        let density = [0.004_431_8, 0.241_970_7, 0.352_065_3, 0.398_942_3, 0.352_065_3, 0.241_970_7, 0.004_431_8];
        for level in Level::available() {
            let (y, slope) = level.during(|| (gelu(&x), gelu_backward(&x, &[2.0; 7])));
            for i in 0..x.len() {
                assert!((y[i] - x[i] * probability[i]).abs() < 1e-6, "{level:?} {}", x[i]);
                let expected = 2.0 * (probability[i] + x[i] * density[i]);
                assert!((slope[i] - expected).abs() < 2e-6, "{level:?} {}: {} not {expected}", x[i], slope[i]);
            }
        }
        assert!(gelu(&[f32::NAN])[0].is_nan());
    }
}
