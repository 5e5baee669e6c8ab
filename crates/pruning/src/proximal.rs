//! Proximal maps, `prox(v) = argmin_x ½ (x − v)² + μ φ(x)`, in closed form.
//!
//! They pull a value towards zero, and to zero itself below a threshold. The nonconvex ones leave large values (almost)
//! as they are, which the absolute value does not. Sources: Xu, Chang, Xu, Zhang: "L1/2 regularization" (2012); Cao, Sun,
//! Xu: "Fast image deconvolution using closed-form thresholding formulas of Lq (q = 1/2, 2/3) regularization" (2013);
//! Zhang, Xin: "Minimization of transformed L1 penalty" (2018), <https://arxiv.org/abs/1411.5735>; Zhang: "Nearly
//! unbiased variable selection under minimax concave penalty" (2010), <https://arxiv.org/abs/1002.4734>; Fan, Li:
//! "Variable selection via nonconcave penalized likelihood" (2001).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// A penalty φ on one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// `|x|`.
    #[default]
    L1,
    /// 1 where `x` is not zero.
    L0,
    /// `|x|^(1/2)`.
    LHalf,
    /// `|x|^(2/3)`.
    LTwoThirds,
    /// The transformed absolute value, `(a + 1) |x| / (a + |x|)`.
    Tl1,
    /// The minimax concave penalty, flat from `a λ` on.
    Mcp,
    /// The smoothly clipped absolute deviation, flat from `a λ` on.
    Scad,
}

impl Penalty {
    /// Checks the shape `a` of the penalties that have one, or returns the usual one.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range.
    pub fn shape(self, a: Option<f64>) -> Result<f64, String> {
        let (usual, least) = match self {
            Penalty::L1 | Penalty::L0 | Penalty::LHalf | Penalty::LTwoThirds => {
                return a.map_or(Ok(0.0), |_| Err("`a` belongs to the penalties `tl1`, `mcp` and `scad`".to_string()));
            }
            Penalty::Tl1 => (1.0, 0.0),
            Penalty::Mcp => (3.0, 1.0),
            Penalty::Scad => (3.7, 2.0),
        };
        match a.unwrap_or(usual) {
            a if a > least && a < 1e9 => Ok(a),
            a => Err(format!("`a` is {a}, but must be above {least} and below 1e9")),
        }
    }

    /// Applies the proximal map of `μ φ` with the shape `a`. MCP and SCAD have `φ` for a unit threshold `λ = μ`: their
    /// strength is part of their shape.
    pub fn prox(self, v: f64, mu: f64, a: f64) -> f64 {
        let size = v.abs();
        let shrunk = match self {
            _ if mu == 0.0 => size,
            Penalty::L1 => (size - mu).max(0.0),
            Penalty::L0 if size <= (2.0 * mu).sqrt() => 0.0,
            Penalty::L0 => size,
            Penalty::LHalf if size <= 1.5 * mu.powf(2.0 / 3.0) => 0.0,
            Penalty::LHalf => {
                let phi = (mu / 4.0 * (size / 3.0).powf(-1.5)).acos();
                2.0 / 3.0 * size * (1.0 + (2.0 / 3.0 * (PI - phi)).cos())
            }
            Penalty::LTwoThirds => two_thirds(size, 2.0 * mu),
            Penalty::Tl1 => transformed(size, mu, a),
            Penalty::Mcp if size <= mu => 0.0,
            Penalty::Mcp if size <= a * mu => (size - mu) / (1.0 - 1.0 / a),
            Penalty::Scad if size <= 2.0 * mu => (size - mu).max(0.0),
            Penalty::Scad if size <= a * mu => ((a - 1.0) * size - a * mu) / (a - 2.0),
            Penalty::Mcp | Penalty::Scad => size,
        };
        shrunk.copysign(v)
    }

    /// Returns the slope of `λ φ` at `x` with the shape `a`, and 0 at zero, where it has none; that of L0 is 0 everywhere.
    pub fn slope(self, x: f64, lambda: f64, a: f64) -> f64 {
        let size = x.abs();
        if size == 0.0 {
            return 0.0;
        }
        let slope = match self {
            Penalty::L1 => lambda,
            Penalty::L0 => 0.0,
            Penalty::LHalf => lambda / 2.0 / size.sqrt(),
            Penalty::LTwoThirds => lambda * 2.0 / 3.0 / size.cbrt(),
            Penalty::Tl1 => lambda * a * (a + 1.0) / (a + size).powi(2),
            Penalty::Mcp => (lambda - size / a).max(0.0),
            Penalty::Scad if size <= lambda => lambda,
            Penalty::Scad => ((a * lambda - size) / (a - 1.0)).max(0.0),
        };
        slope.copysign(x)
    }
}

fn two_thirds(size: f64, lambda: f64) -> f64 {
    if size <= 2.0 / 3.0 * (3.0 * lambda.powi(3)).powf(0.25) {
        return 0.0;
    }
    let phi = (27.0 * size * size * lambda.powf(-1.5) / 16.0).acosh();
    let a = 2.0 / 3f64.sqrt() * lambda.powf(0.25) * (phi / 3.0).cosh().sqrt();
    ((a + (2.0 * size / a - a * a).sqrt()) / 2.0).powi(3)
}

fn transformed(size: f64, mu: f64, a: f64) -> f64 {
    let threshold =
        if mu <= a * a / (2.0 * (a + 1.0)) { mu * (a + 1.0) / a } else { (2.0 * mu * (a + 1.0)).sqrt() - a / 2.0 };
    if size <= threshold {
        return 0.0;
    }
    let phi = (1.0 - 27.0 * mu * a * (a + 1.0) / (2.0 * (a + size).powi(3))).clamp(-1.0, 1.0).acos();
    2.0 / 3.0 * (a + size) * (phi / 3.0).cos() - 2.0 * a / 3.0 + size / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_finds_the_lowest_point_of_its_objective() {
        // The penalties once more, written as values rather than as maps.
        let phi = |penalty: Penalty, x: f64, mu: f64, a: f64| match penalty {
            Penalty::L1 => mu * x,
            Penalty::L0 if x > 0.0 => mu,
            Penalty::L0 => 0.0,
            Penalty::LHalf => mu * x.sqrt(),
            Penalty::LTwoThirds => mu * x.powf(2.0 / 3.0),
            Penalty::Tl1 => mu * (a + 1.0) * x / (a + x),
            Penalty::Mcp if x <= a * mu => mu * x - x * x / (2.0 * a),
            Penalty::Mcp => a * mu * mu / 2.0,
            Penalty::Scad if x <= mu => mu * x,
            Penalty::Scad if x <= a * mu => (2.0 * a * mu * x - x * x - mu * mu) / (2.0 * (a - 1.0)),
            Penalty::Scad => mu * mu * (a + 1.0) / 2.0,
        };
        for (penalty, a) in [
            (Penalty::L1, 0.0),
            (Penalty::L0, 0.0),
            (Penalty::LHalf, 0.0),
            (Penalty::LTwoThirds, 0.0),
            (Penalty::Tl1, 0.5),
            (Penalty::Tl1, 1.0),
            (Penalty::Mcp, 3.0),
            (Penalty::Scad, 3.7),
        ] {
            for mu in [0.01, 0.1, 0.4] {
                for v in [-2.0f64, -0.61, -0.05, 0.0, 0.13, 0.37, 0.9, 1.6] {
                    let objective = |x: f64| 0.5 * (x - v.abs()) * (x - v.abs()) + phi(penalty, x, mu, a);
                    let lowest = (0..=20_000).map(|i| objective(f64::from(i) * 1e-4)).fold(f64::INFINITY, f64::min);
                    let x = penalty.prox(v, mu, a);
                    assert!(x == 0.0 || x.signum() == f64::signum(v));
                    assert!(objective(x.abs()) <= lowest + 1e-7, "{penalty:?} {a} mu {mu} v {v}: {x}");
                }
            }
        }
    }
}
