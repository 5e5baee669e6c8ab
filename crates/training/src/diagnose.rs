//! Names the layer in which numbers stopped being finite.

use bonsai_models::Network;
use burn::tensor::Tensor;

use crate::parameters::{self, Gradients};

/// A training that produced a loss that is not a number, or infinite.
#[derive(Debug)]
pub struct NonFinite {
    /// The iteration at which it was seen, counted from 1.
    pub iteration: u64,
    /// What was found, with the layer's name.
    pub found: String,
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the loss of iteration {} is not finite: {}", self.iteration, self.found)
    }
}

impl std::error::Error for NonFinite {}

/// Looks for the first parameter, then the first gradient, that is not finite, in the order of the network.
pub fn diagnose(network: &Network, gradients: &Gradients, iteration: u64) -> NonFinite {
    let mut weights = None;
    let mut largest = (String::new(), 0.0);
    let mut first_gradient = None;
    parameters::visit(network, |info, values| {
        if weights.is_none() && !finite(values.clone()) {
            weights = Some(info.name.clone());
        }
        let magnitude = parameters::to_host(values.abs().max())[0];
        if magnitude > largest.1 {
            largest = (info.name.clone(), magnitude);
        }
        if let Some(gradient) = gradients.get(&info.name)
            && first_gradient.is_none()
            && !finite(gradient.clone())
        {
            first_gradient = Some(info.name.clone());
        }
    });
    let found = match (weights, first_gradient) {
        (Some(name), _) => format!("{name} holds values that are not finite since the step before"),
        (None, Some(name)) => format!(
            "all weights are finite, the first gradient that is not is that of {name}, and the largest weight, {:e}, is in {}",
            largest.1, largest.0
        ),
        (None, None) => format!(
            "weights and gradients are finite, the outputs overflow behind the largest weight, {:e}, in {}",
            largest.1, largest.0
        ),
    };
    NonFinite { iteration, found }
}

/// Sums `0 · x`, which is 0 unless an element is infinite or not a number.
fn finite(values: Tensor<1>) -> bool {
    parameters::to_host((values * 0.0).sum())[0] == 0.0
}
