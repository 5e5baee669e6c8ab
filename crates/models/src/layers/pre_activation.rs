//! What stands in front of a convolution in networks that normalise first: a choice of channels, batch normalisation and a
//! rectifier.
//!
//! The choice is the "channel selection" of network slimming: the value that is read, a stream, stays whole, and each layer
//! picks the channels that it needs. A network that is whole picks all of them, which costs nothing.

use burn::module::Module;

use super::{Activation, BatchNorm, Then};
use crate::architecture::Architecture;
use crate::init::Init;
use crate::ledger::{Ledger, Value};

/// The shape of a [`PreActivation`].
#[derive(Clone, Debug)]
pub(crate) struct PreActivationConfig {
    /// Its path in the network; what it picks is the channel group `{path}.select`.
    path: String,
    /// The number of channels that it returns.
    pub(crate) width: usize,
    /// The channels that it picks, where some were removed.
    places: Option<Vec<usize>>,
}

impl PreActivationConfig {
    /// Says what is picked at `path` from a stream of `width` channels.
    pub(crate) fn new(architecture: &Architecture, path: String, width: usize) -> Self {
        let places = architecture.kept.get(&format!("{path}.select")).cloned();
        Self { width: places.as_ref().map_or(width, Vec::len), path, places }
    }

    /// Lists the choice, the normalisation and the rectifier.
    pub(crate) fn list(&self, ledger: &mut Ledger, x: Value) -> Value {
        let x = ledger.select(&format!("{}.select", self.path), self.places.as_deref(), x);
        let x = ledger.batch_norm(&format!("{}.norm", self.path), x);
        ledger.relu(x)
    }

    /// Builds the layer.
    pub(crate) fn init(&self, init: &Init) -> PreActivation {
        PreActivation { norm: BatchNorm::new(self.width, init), places: self.places.clone() }
    }
}

/// A choice of channels, batch normalisation and a rectifier.
#[derive(Module, Debug)]
pub struct PreActivation {
    norm: BatchNorm,
    /// The channels that are picked, where some were removed.
    places: Option<Vec<usize>>,
}

impl PreActivation {
    /// Picks channels of `x` and normalises them.
    pub fn forward(&self, x: Activation) -> Activation {
        let x = match &self.places {
            Some(places) => bonsai_kernels::gather_maps(x, places.iter().copied().map(Some).collect(), 1),
            None => x,
        };
        self.norm.forward(x, Then::Relu)
    }
}
