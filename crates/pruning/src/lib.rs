//! Decides which weights stay: schedulers, allocation, masks and the engine that applies them.
//!
//! A pruning method is a [`Scheduler`]: from the clock it says when something is due, and from layers it says which
//! weights deserve to stay. The [`Engine`] does whatever must be right for all of them: it counts exactly, breaks
//! ties, keeps every layer alive, seeds every random choice, keeps the masks and adds up the costs. Both work on host
//! slices, so a training loop on any device can use them, and neither can fail once it exists.
//!
//! [`guide`] is the way to a scheduler of your own. Read [`scheduler`] for the contract, then one method, such as [`schedulers::gmp`], then [`engine`]. The parts that
//! methods share are [`curve`], [`cadence`], [`allocation`], [`score`] and [`select`].

pub mod allocation;
pub mod cadence;
pub mod channels;
pub mod check;
pub mod clock;
mod compaction;
mod compat;
pub mod constants;
pub mod curve;
pub mod engine;
mod explored;
pub mod graph;
#[doc = include_str!("../guide.md")]
pub mod guide {}
pub mod layer;
pub mod learned;
pub mod mask;
pub mod method;
mod phases;
pub mod plan;
pub mod proximal;
pub mod registry;
pub mod scheduler;
pub mod schedulers;
pub mod score;
pub mod select;
pub mod state;
mod suggest;
mod units;

/// The stream of random numbers that the engine hands to a scheduler, one per seed, layer and iteration.
pub use bonsai_random::ChaCha8Rng as Random;

pub use allocation::{Allocation, Spread};
pub use cadence::Cadence;
pub use channels::{Channels, Group, GroupKind};
pub use clock::{Clock, Horizon};
pub use compaction::layer_mask;
pub use engine::{Change, Engine, GroupChange, LayerChange, Options};
pub use graph::{Graph, Kind, LayerSpec};
pub use layer::Layer;
pub use learned::{GateMeans, GatedGroup, MaskedGroup};
pub use mask::Mask;
pub use method::{Method, register};
pub use plan::{Plan, PlannedEvent, plan};
pub use registry::{Common, build, names};
pub use scheduler::{About, Cut, Event, GroupScales, Removes, Rules, Scheduler, Start};
pub use state::EngineState;
pub use units::{ChannelOptions, GroupView};
