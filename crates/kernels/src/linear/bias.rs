//! The gradient of the bias: for each output, the sum over all rows.

use rayon::prelude::*;

use super::Linear;
use crate::maps::LANES;
use crate::simd::{Kernel, Lanes, Level};

/// Outputs of a task.
const OUTPUTS: usize = 48;

/// Returns the sum of each output's gradient over all rows; panels are added in order.
pub(super) fn run(level: Level, linear: &Linear, gradient: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0; linear.outputs];
    sums.par_chunks_mut(OUTPUTS).enumerate().for_each(|(task, sums)| {
        level.run(Work { linear, gradient, first: task * OUTPUTS, sums });
    });
    sums
}

/// Some outputs.
struct Work<'a> {
    linear: &'a Linear,
    gradient: &'a [f32],
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let plane = self.linear.panels.plane().max(1);
        for panel in 0..self.linear.panels.panels {
            let planes = &self.gradient[(panel * self.linear.outputs + self.first) * plane..];
            for (sum, plane) in self.sums.iter_mut().zip(planes.chunks_exact(plane)) {
                let mut lanes = [0.0f32; LANES];
                for pixel in plane.chunks_exact(LANES) {
                    for (lane, value) in lanes.iter_mut().zip(pixel) {
                        *lane += value;
                    }
                }
                *sum += lanes.iter().sum::<f32>();
            }
        }
    }
}
