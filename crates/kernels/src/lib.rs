//! Trains convolutional networks and transformers fast on CPUs.
//!
//! Models call the operations at the root of this crate: [`conv2d`], [`batch_norm_train`], [`global_average`] and so on,
//! which take and return an [`Activation`]; transformers call the methods of [`Tokens`]. On burn's flex backend they run
//! on kernels of our own; on GPUs convolutions run in the fastest of several ways, and training batch normalisation and the
//! optimizer's step on ours ([`cube`]); all else is burn's own operations.
//! Gradients come from burn's autodiff in all cases.
//!
//! ```
//! use bonsai_kernels::{Activation, Then, batch_norm_train, conv2d, global_average};
//! use burn::tensor::{Device, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let weight = Tensor::ones([8, 3, 3, 3], &device).require_grad();
//! let (gamma, beta) = (Tensor::ones([8], &device), Tensor::zeros([8], &device));
//! let images = Tensor::ones([5, 3, 32, 32], &device);
//!
//! let x = conv2d(Activation::new(images), weight.clone(), None, 1, 1);
//! let normalised = batch_norm_train(x, gamma, beta, 1e-5, Then::Relu);
//! let features = global_average(normalised.output);
//! assert_eq!(features.dims(), [5, 8]);
//! let gradient = weight.grad(&features.sum().backward()).unwrap();
//! assert_eq!(gradient.dims(), [8, 3, 3, 3]);
//! ```
//!
//! On flex, a convolution, the normalisation behind it and the next convolution become one operation of the graph: what
//! [`batch_norm_train`] returns is computed by whatever comes next, block by block. Models need not know.
//!
//! Below them lie kernels on slices, without burn: [`maps`] is the layout (blocks of 16 images), [`conv`],
//! [`mod@depthwise`], [`mod@batch_norm`], [`pooling`] and [`planes`] do the work, [`simd`] chooses the instructions (`BONSAI_SIMD` forces some), and
//! [`buffer`] is the memory. [`profile`] tells where a step's time goes. Results do not depend on the number of threads, but differ between instruction sets in the
//! last bits.

// A loop over the rows and columns of a register tile is clearest as indices.
#![allow(clippy::needless_range_loop)]
// An activation is a handle that moves once a layer: its size costs nothing, and a box would only add an allocation.
#![allow(clippy::result_large_err, clippy::large_enum_variant)]

pub mod attention;
pub mod batch_norm;
mod bf16;
pub mod buffer;
pub mod conv;
pub mod cube;
pub mod depthwise;
pub mod elementwise;
pub mod embedding;
pub mod layer_norm;
pub mod linear;
pub mod maps;
mod ops;
pub mod optimizer;
pub mod panels;
pub mod peak;
pub mod planes;
pub mod pooling;
pub mod profile;
pub mod simd;

pub use bf16::Precision;
pub use conv::{Choice, Choices, Kernels, Pattern};
pub use linear::LinearPattern;
pub use ops::{
    Activation, Awake, Gradients, Normalised, Then, Tokens, adamw_step, add_around, average_pool, awake, batch_norm,
    batch_norm_train, concat, conv2d, depthwise, gather_maps, global_average, is_timed, linear, max_pool, pad_shortcut,
    scale_maps, sgd_step, sparse_conv2d, sparse_linear, timed,
};
