//! The operations that models and the optimizer call: our kernels on flex and, for convolution, batch normalisation and the
//! optimizer's step, on GPUs; burn's own operations elsewhere.
//!
//! An [`Activation`] knows its layout. Images enter it once, pass through any number of layers in blocks, and leave it as
//! a vector for each image, so that nothing is converted in between.

mod activation;
mod around;
mod awake;
mod batch_norm;
mod bytes;
mod conv2d;
mod cube;
mod depthwise;
mod flex;
mod gating;
mod linear;
mod optimizer;
mod pending;
mod planes;
mod pooling;
mod precision;
mod reductions;
mod timed;
mod tokens;

pub use activation::Activation;
pub use around::add_around;
pub use awake::{Awake, awake};
pub use batch_norm::{Normalised, Then, batch_norm, batch_norm_train};
pub use conv2d::{Gradients, conv2d, sparse_conv2d};
pub use depthwise::depthwise;
pub use gating::scale_maps;
pub use linear::{linear, sparse_linear};
pub use optimizer::{adamw_step, sgd_step};
pub use planes::{concat, gather_maps};
pub use pooling::{average_pool, global_average, max_pool, pad_shortcut};
pub use timed::{is_timed, timed};
pub use tokens::Tokens;
