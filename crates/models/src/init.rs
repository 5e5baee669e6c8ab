//! Draws initial weights on the host.
//!
//! Each parameter has its own stream of random numbers, named by its path, so its values depend neither on the device
//! nor on what else the network holds.

mod normal;

use std::fmt::Display;

use bonsai_random::stream;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;

use normal::Normal;

/// How the weights of a layer are drawn; its biases start at zero unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheme {
    /// Normal with variance 2 / fan-in (He et al. 2015).
    KaimingNormalFanIn,
    /// Normal with variance 2 / fan-out (He et al. 2015).
    KaimingNormalFanOut,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, drawn again beyond two of them.
    TruncatedNormal(f64),
    /// Uniform within 1 / √fan-in, biases too: what PyTorch does unless told otherwise.
    Uniform,
}

/// How many inputs a unit sums, and how many outputs an input reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fans {
    /// Weights per unit.
    pub fan_in: usize,
    /// Weights per input channel.
    pub fan_out: usize,
}

/// Makes the initial parameters of the part of a network that lies at `path`.
#[derive(Clone, Debug)]
pub struct Init {
    seed: u64,
    device: Device,
    path: String,
}

impl Init {
    /// Starts at the root of a network.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { seed, device: device.clone(), path: String::new() }
    }

    /// Goes to the part called `name`.
    pub fn at(&self, name: impl Display) -> Self {
        Self { path: format!("{}{name}.", self.path), ..self.clone() }
    }

    /// Returns the device of the network.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the parameter `name`, drawn by `scheme`.
    pub fn weight<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        scheme: Scheme,
        fans: Fans,
    ) -> Param<Tensor<D>> {
        let values = scheme.draw(self.seed, &format!("{}{name}", self.path), shape.iter().product(), fans);
        self.parameter(values, shape)
    }

    /// Returns the parameter `bias` of a layer whose weights are drawn by `scheme`.
    pub fn bias(&self, units: usize, scheme: Scheme, fans: Fans) -> Param<Tensor<1>> {
        match scheme {
            Scheme::Uniform => self.weight("bias", [units], scheme, fans),
            _ => self.constant(units, 0.0),
        }
    }

    /// Returns a parameter of `units` equal values.
    pub fn constant(&self, units: usize, value: f32) -> Param<Tensor<1>> {
        self.parameter(vec![value; units], [units])
    }

    fn parameter<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_data(TensorData::new(values, shape), &self.device)
    }
}

impl Scheme {
    /// Draws `count` values for the parameter at `path`.
    pub fn draw(self, seed: u64, path: &str, count: usize, fans: Fans) -> Vec<f32> {
        let mut rng = stream(seed, "init", path);
        let std = match self {
            Scheme::KaimingNormalFanIn => (2.0 / fans.fan_in as f64).sqrt(),
            Scheme::KaimingNormalFanOut => (2.0 / fans.fan_out as f64).sqrt(),
            Scheme::Normal(std) => std,
            Scheme::TruncatedNormal(std) => {
                let mut normal = Normal::new(rng);
                return (0..count).map(|_| (std * normal.next_within(2.0)) as f32).collect();
            }
            Scheme::Uniform => {
                let bound = 1.0 / (fans.fan_in as f64).sqrt();
                return (0..count).map(|_| (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32).collect();
            }
        };
        let mut normal = Normal::new(rng);
        (0..count).map(|_| (std * normal.next()) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FANS: Fans = Fans { fan_in: 50, fan_out: 200 };

    fn mean_and_std(scheme: Scheme) -> (f64, f64) {
        let values = scheme.draw(0, "weight", 100_000, FANS);
        let mean = values.iter().map(|v| *v as f64).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn schemes_have_the_spread_they_name() {
        let close = |scheme, expected: f64| {
            let (mean, std) = mean_and_std(scheme);
            assert!(mean.abs() < 0.02 * expected && (std / expected - 1.0).abs() < 0.01, "{scheme:?}: {mean} {std}");
        };
        close(Scheme::KaimingNormalFanIn, 0.2);
        close(Scheme::KaimingNormalFanOut, 0.1);
        close(Scheme::Normal(0.01), 0.01);
        close(Scheme::TruncatedNormal(0.02), 0.02 * 0.8796);
        close(Scheme::Uniform, (1.0f64 / 50.0 / 3.0).sqrt());
    }

    #[test]
    fn bounds_hold() {
        let largest =
            |scheme: Scheme| scheme.draw(3, "w", 10_000, FANS).iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert!(largest(Scheme::TruncatedNormal(0.02)) <= 0.04);
        assert!(largest(Scheme::Uniform) <= 1.0 / 50f32.sqrt());
    }

    #[test]
    fn values_depend_on_seed_and_path_alone() {
        let draw = |seed, path: &str, count| Scheme::Normal(1.0).draw(seed, path, count, FANS);
        assert_eq!(draw(1, "a.weight", 5), draw(1, "a.weight", 9)[..5]);
        assert_ne!(draw(1, "a.weight", 5), draw(2, "a.weight", 5));
        assert_ne!(draw(1, "a.weight", 5), draw(1, "b.weight", 5));
    }
}
