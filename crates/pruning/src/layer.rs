//! Shows one layer to a scheduler.

use crate::graph::LayerSpec;
use crate::mask::Mask;

/// A layer at the moment of an event: a matrix of units by weights per unit, row after row.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Layer<'a> {
    /// Name, kind, shape and cost.
    pub spec: &'a LayerSpec,
    /// The weights, one row per unit; removed ones are zero.
    pub weights: &'a [f32],
    /// The gradient of every weight, removed ones included; present when the event asked for it.
    pub gradient: Option<&'a [f32]>,
    /// The weights that are kept at this moment.
    pub mask: &'a Mask,
}
