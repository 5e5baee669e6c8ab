//! The pruning methods, one per file; [`crate::registry`] gives them their names.

pub mod consensus_gating;
pub mod dense;
pub mod gmp;
pub mod granet;
pub mod group_magnitude;
pub mod lapp;
pub mod polarization;
pub mod proximal_slimming;
pub mod rigl;
pub mod set;
pub mod slimming;
pub mod sparse_group_l0;
pub mod r#static;
pub mod uniform_width;
