//! Reads images and labels and hands them out in augmented batches.
//!
//! A run needs three calls: [`locate`] finds the files of a [`DataSet`], [`Source::train`] and [`Source::test`] read
//! them into [`Images`], and a [`Loader`] makes batches out of these on threads of its own. [`fetch::fetch`] downloads
//! what is missing.
//!
//! Whatever is random comes from `bonsai_random::stream` and is named by (seed, epoch, record). A batch is therefore a
//! pure function of its place in the run: a resumed run and another number of threads see the same pixels.
//!
//! # Example
//!
//! ```
//! use bonsai_data::{Augmentation, DataSet, Loader, Padding, locate};
//! use std::sync::Arc;
//!
//! let source = locate(DataSet::Shapes10, None)?;
//! let info = source.set().info();
//! let (mut train, valid) = source.train()?.split_validation(info.validation);
//! train.truncate(256);
//! assert_eq!(valid.len(), 1_000);
//!
//! let augmentation = Augmentation { crop: 4, padding: Padding::Zero, flip: true };
//! let loader = Loader::new(Arc::new(train), 128, info.mean, info.std, Some(augmentation), 0, 2);
//! for batch in loader.epoch(0, 0) {
//!     assert_eq!(batch.shape, [128, 3, 32, 32]);
//! }
//! # Ok::<(), bonsai_data::Error>(())
//! ```

mod augment;
mod cifar;
mod error;
pub mod fetch;
mod files;
mod idx;
mod images;
mod loader;
mod published;
mod set;
mod shapes;
mod source;

pub use augment::{Augmentation, Padding, View};
pub use error::Error;
pub use images::Images;
pub use loader::{Batch, Batches, Loader};
pub use set::{DataSet, Info};
pub use source::{Source, locate, search_path};
