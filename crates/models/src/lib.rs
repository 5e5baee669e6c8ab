//! Turns a name into a network: layers, shapes, parameters and multiply-accumulates.
//!
//! An [`Architecture`] says which network is meant: a name of the zoo, the number of classes, the shape of an image and
//! the few choices a name leaves open. From it come the same network twice: as data ([`Architecture::graph`], no tensor
//! and no device needed, what `bonsai plan` and the schedulers read) and as a [`Network`] that can be trained. The tests
//! hold the two together: every layer of the graph is a parameter of the network, with the same path and shape.
//!
//! Nothing here can fail after [`Architecture::check`], nothing reads or writes files, and nothing knows of pruning beyond
//! `bonsai_pruning::graph`.
//!
//! ```
//! use bonsai_models::Architecture;
//! let graph = Architecture::new("resnet20", 10, [3, 32, 32]).graph().unwrap();
//! assert_eq!((graph.parameters, graph.macs()), (269_722, 40_551_040));
//! ```

pub mod densenet;
pub mod init;
pub mod layers;
pub mod lenet5;
pub mod mlp;
pub mod mobilenet;
pub mod operations;
pub mod preresnet;
pub mod resnet;
pub mod resnet_cifar;
pub mod tas;
pub mod vgg;
pub mod vit;

mod architecture;
mod ledger;
mod network;
mod zoo;

pub use bonsai_kernels::Precision;

pub use architecture::{Architecture, Shortcut, Stem};
pub use layers::Sparsity;
pub use network::Network;
pub use zoo::names;
