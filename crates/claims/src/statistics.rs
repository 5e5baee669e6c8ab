//! Mean, spread and 95 % interval of a few runs that differ only in their seed.

/// The 97.5 % quantiles of Student's t with 1 to 30 degrees of freedom.
const T_975: [f64; 30] = [
    12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004, 2.262_157, 2.228_139,
    2.200_985, 2.178_813, 2.160_369, 2.144_787, 2.131_450, 2.119_905, 2.109_816, 2.100_922, 2.093_024, 2.085_963,
    2.079_614, 2.073_873, 2.068_658, 2.063_899, 2.059_539, 2.055_529, 2.051_831, 2.048_407, 2.045_230, 2.042_272,
];

/// Figures of `n` seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How many figures there are; one at least.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation with `n − 1` in the denominator; absent for one figure.
    pub std: Option<f64>,
}

impl Sample {
    /// Describes figures; `None` if there are none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let n = figures.len();
        if n == 0 {
            return None;
        }
        let mean = figures.iter().sum::<f64>() / n as f64;
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        let std = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n, mean, std })
    }

    /// Half the width of the 95 % confidence interval of the mean, `t · s / √n`; absent for one figure.
    pub fn half_width(&self) -> Option<f64> {
        self.std.map(|std| t_975(self.n - 1) * std / (self.n as f64).sqrt())
    }
}

/// The 97.5 % quantile of Student's t: half of a two-sided 95 % interval, in standard errors.
///
/// # Panics
///
/// There is no such distribution with 0 degrees of freedom.
pub fn t_975(degrees: usize) -> f64 {
    assert!(degrees > 0, "Student's t has at least one degree of freedom");
    if let Some(quantile) = T_975.get(degrees - 1) {
        return *quantile;
    }
    // The expansion of Cornish and Fisher around the normal quantile; four digits are right from here on.
    let (z, v) = (1.959_963_985_f64, degrees as f64);
    let first = (z.powi(3) + z) / (4.0 * v);
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v);
    z + first + second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_figures_have_these_moments() {
        let sample = Sample::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((sample.n, sample.mean), (4, 2.5));
        // The sum of squares is 5.
        assert!((sample.std.unwrap() - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Sample::of(&[]), None);
        assert_eq!(Sample::of(&[7.0]).unwrap(), Sample { n: 1, mean: 7.0, std: None });
        assert_eq!(Sample::of(&[7.0]).unwrap().half_width(), None);
    }

    /// The share of Student's t beyond ±x, by adding up its density, which for whole degrees needs no gamma function:
    /// the density is divided by its own sum.
    fn two_sided_tail(x: f64, degrees: usize) -> f64 {
        let v = degrees as f64;
        let density = |t: f64| (1.0 + t * t / v).powf(-(v + 1.0) / 2.0);
        // t = tan(u) brings infinity to π/2, where the integrand stays finite.
        let steps = 200_000;
        let area = |to: f64| -> f64 {
            let width = to / steps as f64;
            (0..steps)
                .map(|step| {
                    let u = (step as f64 + 0.5) * width;
                    density(u.tan()) / u.cos().powi(2) * width
                })
                .sum()
        };
        1.0 - area(x.atan()) / area(std::f64::consts::FRAC_PI_2)
    }

    #[test]
    fn quantiles_leave_five_percent_outside() {
        for degrees in [1, 2, 3, 4, 9, 29, 30, 31, 40, 100] {
            let outside = two_sided_tail(t_975(degrees), degrees);
            assert!((outside - 0.05).abs() < 2e-5, "{degrees}: {outside}");
        }
        assert!(T_975.windows(2).all(|pair| pair[0] > pair[1]));
        assert!(t_975(31) < t_975(30));
    }
}
