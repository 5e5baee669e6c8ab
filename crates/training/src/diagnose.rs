//! Names the layers in which numbers stopped being finite.

use bonsai_models::Network;

use crate::parameters::{self, Gradients};

/// A training whose loss or weights are not numbers any more, or infinite.
#[derive(Debug)]
pub struct NonFinite {
    /// The iteration at which it was seen, counted from 1.
    pub iteration: u64,
    /// What was found, with the layer's name.
    pub found: String,
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the loss of iteration {} is not finite: {}; try a lower optimizer.lr, a warm-up or optimizer.clip_norm",
            self.iteration, self.found
        )
    }
}

impl std::error::Error for NonFinite {}

/// Looks at every parameter and gradient, on the host, where a comparison with NaN means what it says.
pub fn diagnose(network: &Network, gradients: &Gradients, iteration: u64) -> NonFinite {
    let mut parameters = Vec::new();
    let mut broken = Vec::new();
    let mut sound = 0;
    let mut largest = (String::new(), 0.0f32);
    parameters::visit(network, |info, values| {
        let values = parameters::to_host(values);
        if !all_finite(&values) {
            parameters.push(info.name.clone());
        }
        let magnitude = values.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        if magnitude > largest.1 {
            largest = (info.name.clone(), magnitude);
        }
        match gradients.get(&info.name).map(|gradient| all_finite(&parameters::to_host(gradient.clone()))) {
            Some(true) => sound += 1,
            Some(false) => broken.push(info.name.clone()),
            None => {}
        }
    });
    let found = if let Some(first) = parameters.first() {
        format!("the step before left {first} with values that are not finite ({} parameters in all)", parameters.len())
    } else if sound > 0 && !broken.is_empty() {
        // Backward goes from the last layer to the first: what broke last in the order of the network broke first.
        format!("all weights are finite, and the gradients are not from {} on down", broken[broken.len() - 1])
    } else {
        format!(
            "all weights are finite, the outputs overflow; the largest weight, {:e}, is in {}",
            largest.1, largest.0
        )
    };
    NonFinite { iteration, found }
}

/// Whether no value is infinite or not a number.
pub fn all_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}
