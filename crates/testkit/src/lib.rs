//! The contract of every scheduler, as a test for anyone's.
//!
//! A small network stands in for a real one: a layer with ties, one of zeros only and one of three weights are in it.
//! Training is imitated by a fixed noise on the weights that are kept. [`Contract::check`] takes a configuration through
//! whole runs of it, with floors, with excluded layers, interrupted and resumed, and panics with a sentence where a
//! promise is broken:
//!
//! - `due` follows from the clock alone, and the engine accepts every event;
//! - after an event that prunes, the network has exactly the sparsity that was asked for, and no layer is empty or below
//!   its floor; an event that only replaces leaves every layer's count as it was;
//! - what is removed is zero, with its moments, and what returns starts from zero;
//! - the same seed gives the same masks, and another one others exactly where the configuration says that chance has a say;
//! - a run that is saved and loaded after any iteration ends with the masks and weights of one that was left alone.
//!
//! [`ChannelContract`] is the same for methods that remove channels.
//!
//! # Example
//!
//! The whole contract test of a scheduler in a crate of its own; here of one that bonsai brings:
//!
//! ```
//! use bonsai_testkit::Contract;
//!
//! Contract::new("name = 'gmp'\nsparsity = 0.9\nend_epoch = 3\nevery = 15")
//!     .prunes_to(15, 0.9 - 0.9 * 0.125)
//!     .prunes_to(30, 0.9)
//!     .check();
//! ```

pub mod channels;
mod contract;
mod network;
mod training;

pub use channels::ChannelContract;
pub use contract::{Contract, Promise};
pub use network::{RUN, graph};
