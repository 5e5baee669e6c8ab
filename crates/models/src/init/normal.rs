//! Draws normal numbers after Box and Muller, "A note on the generation of random normal deviates", 1958: two uniform
//! numbers give two normal ones.

use rand::{Rng, RngExt};
use std::f64::consts::TAU;

/// A stream of normal numbers with mean 0 and deviation 1.
pub(super) struct Normal<R> {
    rng: R,
    second: Option<f64>,
}

impl<R: Rng> Normal<R> {
    /// Draws from `rng`.
    pub(super) fn new(rng: R) -> Self {
        Self { rng, second: None }
    }

    /// Returns the next number.
    pub(super) fn next(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        // `random` is in [0, 1), and the logarithm wants (0, 1].
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (TAU * self.rng.random::<f64>()).sin_cos();
        self.second = Some(radius * sine);
        radius * cosine
    }

    /// Returns the next number that is at most `bound` from 0.
    pub(super) fn next_within(&mut self, bound: f64) -> f64 {
        loop {
            let number = self.next();
            if number.abs() <= bound {
                return number;
            }
        }
    }
}
