//! The layers that the models are made of.
//!
//! They are ours rather than burn's so that masks and sparse kernels have one place to hang on, and so that batch
//! normalisation counts as PyTorch does. Weights keep burn's layout: convolution `[out, in, kernel, kernel]`, linear
//! `[in, out]`. Maps travel as an [`Activation`] and sequences as [`Tokens`], which know their layout; no model indexes
//! axes.

mod batch_norm;
mod conv;
mod linear;
mod sequential;
mod shortcut;
mod sparsity;

pub use batch_norm::{BatchNorm, NORM_EPSILON};
pub use bonsai_kernels::{Activation, Then, Tokens, global_average, max_pool};
pub use conv::{Conv2d, Conv2dConfig};
pub use linear::{Linear, LinearConfig};
pub use sequential::Step;
pub use shortcut::pad_shortcut;
pub use sparsity::Sparsity;
