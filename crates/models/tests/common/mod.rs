//! Reads the parameters of a network with their paths.

use bonsai_models::{Architecture, Network};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

/// A float parameter or buffer of a network.
#[derive(Debug, PartialEq)]
pub struct Parameter {
    /// Its path, without the variant of the enum.
    pub path: String,
    /// Its shape in burn's layout.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

// Each test binary uses its part.
#[allow(dead_code)]
impl Parameter {
    /// Says whether it is a running statistic, which is not learned.
    pub fn is_statistic(&self) -> bool {
        self.path.ends_with("running_mean") || self.path.ends_with("running_var")
    }

    /// Says whether it belongs to a batch normalisation.
    pub fn is_norm(&self) -> bool {
        self.path.ends_with("gamma") || self.path.ends_with("beta")
    }
}

/// Lists the float parameters of `network` in the order of a visit.
pub fn parameters(network: &Network) -> Vec<Parameter> {
    let mut visitor = Visitor { path: Vec::new(), found: Vec::new() };
    network.visit(&mut visitor);
    visitor.found
}

/// Builds the network of `architecture` on flex.
#[allow(dead_code)]
pub fn build(architecture: &Architecture, seed: u64) -> Network {
    Network::new(architecture, seed, &Device::flex()).expect("a valid architecture")
}

struct Visitor {
    path: Vec<String>,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Visitor {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // The first part is the variant of `Network`.
        let path = self.path[1..].join(".");
        let data = param.val().into_data();
        self.found.push(Parameter { path, shape: data.shape().to_vec(), values: data.try_to_vec().unwrap() });
    }
}
