//! The pruning methods, one per file; [`crate::registry`] gives them their names.

pub mod dense;
pub mod gmp;
pub mod granet;
pub mod rigl;
pub mod set;
pub mod r#static;
