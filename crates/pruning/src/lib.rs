//! Decides which weights stay: schedulers, allocation, masks and the engine that applies them.

pub mod clock;
pub mod graph;
pub mod mask;

pub use clock::{Clock, Horizon};
pub use graph::{Graph, Kind, LayerSpec};
pub use mask::Mask;
