//! Keeps a curve of a run in bounded memory.

/// Points beyond which two neighbours become one.
const MOST: usize = 2048;

/// Points over epochs; long runs are thinned evenly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Adds a point to the right of the others; what is not finite leaves no mark.
    pub fn push(&mut self, at: f64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.points.push((at, value));
        if self.points.len() >= MOST {
            let middle =
                |pair: &[(f64, f64)]| (f64::midpoint(pair[0].0, pair[1].0), f64::midpoint(pair[0].1, pair[1].1));
            self.points = self.points.chunks_exact(2).map(middle).collect();
        }
    }

    /// The points, from left to right.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The last value.
    pub fn last(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_course() {
        let mut curve = Curve::default();
        (0..10_000).for_each(|i| curve.push(f64::from(i), 2.0 * f64::from(i)));
        curve.push(f64::NAN, f64::NAN);
        assert!(curve.points().len() < MOST && curve.last() == Some(19_998.0));
        assert!(curve.points().iter().all(|(x, y)| *y == 2.0 * x));
        assert!(curve.points().is_sorted_by(|a, b| a.0 < b.0));
    }
}
