//! Curves over training: pure functions of the share `progress` of the way, from 0 to 1.

use std::f64::consts::PI;

/// Falls steeply at first and flattens out, `s_t = s_f + (s_i - s_f) (1 - progress)^3`.
///
/// Michael Zhu, Suyog Gupta: "To prune, or not to prune" (2017), <https://arxiv.org/abs/1710.01878>.
pub fn cubic(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1.0 - progress).powi(3)
}

/// Follows half a period of a cosine, `to + (from - to) (1 + cos(pi progress)) / 2`.
///
/// Ilya Loshchilov, Frank Hutter: "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), <https://arxiv.org/abs/1608.03983>.
pub fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1.0 + (PI * progress).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: [f64; 4], expected: [f64; 4]) {
        assert!(actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-12), "{actual:?} is not {expected:?}");
    }

    #[test]
    fn the_cubic_curve_does_most_of_its_way_early() {
        close([0.0, 0.25, 0.5, 1.0].map(|x| cubic(0.5, 0.95, x)), [0.5, 0.76015625, 0.89375, 0.95]);
        assert_eq!(cubic(0.1, 0.9, 1.0), 0.9);
    }

    #[test]
    fn the_cosine_curve_is_half_way_in_the_middle() {
        close([0.0, 0.25, 0.5, 1.0].map(|x| cosine(0.5, 0.005, x)), [0.5, 0.42750892834367, 0.2525, 0.005]);
    }
}
