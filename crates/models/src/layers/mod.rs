//! The layers that the models are made of.
//!
//! They are ours rather than burn's so that masks and sparse kernels have one place to hang on, and so that batch
//! normalisation counts as PyTorch does. Weights keep burn's layout: convolution `[out, in, kernel, kernel]`, linear
//! `[in, out]`.

mod batch_norm;
mod conv;
mod linear;
mod pad_shortcut;
mod pool;
mod sequential;

pub use batch_norm::BatchNorm;
pub use conv::{Conv2d, Conv2dConfig};
pub use linear::{Linear, LinearConfig};
pub use pad_shortcut::pad_shortcut;
pub use pool::{global_average, max_pool};
pub use sequential::Step;
