//! The layers that the models are made of.
//!
//! They are ours rather than burn's so that masks and sparse kernels have one place to hang on, and so that batch
//! normalisation counts as PyTorch does. Weights keep burn's layout: convolution `[out, in, kernel, kernel]`, linear
//! `[in, out]`. Maps travel as an [`Activation`] and sequences as [`Tokens`], which know their layout; no model indexes
//! axes.

mod batch_norm;
mod bypass;
mod conv;
mod depthwise;
mod gate;
mod linear;
mod pre_activation;
mod sequential;
mod shortcut;
mod sparsity;

pub use batch_norm::{BatchNorm, NORM_EPSILON, NORM_MOMENTUM};
pub use bonsai_kernels::{Activation, Then, Tokens, average_pool, concat, global_average, max_pool};
pub use bypass::{Bypass, BypassConfig};
pub use conv::{Conv2d, Conv2dConfig};
pub use depthwise::{Depthwise, DepthwiseConfig};
pub use gate::{Gate, GateConfig, Gates, is_of_gate};
pub use linear::{Linear, LinearConfig};
pub use pre_activation::PreActivation;
pub(crate) use pre_activation::PreActivationConfig;
pub use sequential::Step;
pub use shortcut::pad_shortcut;
pub use sparsity::Sparsity;
