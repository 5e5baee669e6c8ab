//! Means over seeds, and how far they can be trusted.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// What a few numbers say about the mean that they were drawn around.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// How many.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; absent for a single one.
    pub std: Option<f64>,
    /// Half the width of the 95 % interval of the mean after Student's t, 1.96 for many and 12.7 for two; absent for a single one.
    pub half: Option<f64>,
}

impl Sample {
    /// Summarises numbers; `None` where there are none or one is not finite.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        let n = numbers.len();
        if n == 0 || numbers.iter().any(|number| !number.is_finite()) {
            return None;
        }
        let mean = numbers.iter().sum::<f64>() / n as f64;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        let std = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        let half = std.map(|std| quantile(n - 1) * std / (n as f64).sqrt());
        Some(Self { n, mean, std, half })
    }

    /// The 95 % interval of the mean.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.half.map(|half| (self.mean - half, self.mean + half))
    }
}

/// The 97.5 % quantile of Student's t with so many degrees of freedom.
fn quantile(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).expect("at least one degree of freedom").inverse_cdf(0.975)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975.
        for (freedom, table) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (100, 1.984)]
        {
            assert!((quantile(freedom) - table).abs() < 6e-4, "{freedom}: {}", quantile(freedom));
        }
    }

    #[test]
    fn a_sample_is_summarised() {
        // SciPy 1.x: std(ddof=1) and stats.t.interval(0.95, 2, loc=mean, scale=sem).
        let sample = Sample::of(&[86.64, 86.41, 86.12]).unwrap();
        assert!((sample.mean - 86.39).abs() < 1e-9);
        assert!((sample.std.unwrap() - 0.260_576_3).abs() < 1e-6);
        let (low, high) = sample.interval().unwrap();
        assert!((low - 85.742_69).abs() < 1e-4 && (high - 87.037_31).abs() < 1e-4, "{low} {high}");
        assert_eq!(Sample::of(&[1.0]), Some(Sample { n: 1, mean: 1.0, std: None, half: None }));
        assert_eq!((Sample::of(&[]), Sample::of(&[1.0, f64::NAN])), (None, None));
    }
}
