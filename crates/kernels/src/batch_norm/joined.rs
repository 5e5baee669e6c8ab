//! The passes between two blocks of a residual network: the rectified sum with a residual, and the way back to both.
//!
//! They compute next to nothing, and move more memory than any other pass. So which of its pixels were positive is kept as a
//! bit of each, instead of reading the sum again.

use rayon::prelude::*;

use super::planes::{Channel, Join, Shut};
use super::{planes_per_task, timer};
use crate::buffer::{Buffer, Halves};
use crate::maps::Maps;
use crate::simd::Level;

/// Which pixels of an activation a rectifier lets a gradient through: those of positive numbers.
pub struct Passed {
    /// A bit for each image of a block, for each pixel without the margin, channel after channel.
    bits: Halves<u16>,
}

/// Returns the rectified sums of a residual and what is normalised for each plane, if anything, and which pixels are positive.
pub(super) fn joined<'a>(
    maps: Maps,
    residual: &[f32],
    normalised: impl Fn(usize) -> Option<(Channel, &'a [f32])> + Sync,
) -> (Buffer, Passed) {
    let level = Level::current();
    let (mut y, mut bits) = (Buffer::any(maps.len()), Halves::any(bits(maps)));
    let work = y.par_chunks_mut(maps.plane()).zip(residual.par_chunks(maps.plane()));
    let work = work.zip(bits.par_chunks_mut(maps.height * maps.width)).enumerate();
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, ((y, residual), passed))| {
        maps.clear_margin(y);
        level.run(Join { maps, normalised: normalised(i), residual, y, passed });
        maps.clear_missing(i / maps.channels, y);
    });
    (y, Passed { bits })
}

/// Sets the gradient to 0 where it does not pass, and returns its sums for each plane of which `x` returns the input and mean.
pub(super) fn shut<'a>(
    maps: Maps,
    gradient: &mut [f32],
    passed: &Passed,
    x: impl Fn(usize) -> Option<(&'a [f32], f32)> + Sync,
) -> Vec<(f32, f32)> {
    assert_eq!(passed.bits.len(), bits(maps), "pixels of {:?}", maps.dims());
    let level = Level::current();
    let mut planes = vec![(0.0, 0.0); maps.blocks() * maps.channels];
    let work = planes.par_iter_mut().zip(gradient.par_chunks_mut(maps.plane()));
    let work = work.zip(passed.bits.par_chunks(maps.height * maps.width)).enumerate();
    work.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, ((sums, gradient), passed))| {
        *sums = level.run(Shut { maps, gradient, x: x(i), passed });
    });
    planes
}

fn bits(maps: Maps) -> usize {
    maps.blocks() * maps.channels * maps.height * maps.width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch_norm::{Affine, Gate};

    #[test]
    fn bits_say_what_the_sum_says() {
        for dims in [[16, 2, 3, 4], [21, 3, 2, 7], [33, 1, 5, 1]] {
            let maps = Maps::new(dims);
            let floats = |seed: usize| -> Vec<f32> {
                (0..dims.iter().product()).map(|i: usize| ((i * 7919 + seed) % 31) as f32 - 15.0).collect()
            };
            let [mut x, residual, gradient] = [1, 2, 3].map(|seed| maps.from_nchw(&floats(seed)));
            x[maps.floats(1).start] = f32::NAN;
            let channel = |value: f32| vec![value; dims[1]];
            let affine = Affine { mean: channel(0.5), scale: channel(1.5), shift: channel(-0.25) };
            for level in Level::available() {
                level.during(|| {
                    let (y, passed) = affine.join(maps, &x, &residual);
                    let expected = affine.apply(maps, &x, true, Some(&residual));
                    assert!(y.iter().zip(&expected[..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?} {dims:?}");
                    // NaN times nothing would be NaN in the sums, so the one pixel is left out of what is summed.
                    let mut known = maps.from_nchw(&floats(1));
                    known[maps.floats(1).start] = 0.5;
                    let mut shut = maps.from_nchw(&floats(3));
                    let sums = affine.shut(maps, &mut shut, &known, &passed);
                    assert_eq!(sums, affine.sums(maps, &gradient, &known, Gate::Output(&y)), "{level:?} {dims:?}");
                    let gated = |(g, y): (&f32, &f32)| if *y > 0.0 { *g } else { 0.0 };
                    let expected: Vec<f32> = gradient.iter().zip(&y[..]).map(gated).collect();
                    assert_eq!(shut[..], expected, "{level:?} {dims:?}");
                });
            }
        }
    }
}
