//! Counts an operation of burn both ways.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};

use super::flex::{before_gradient, is_ours};
use crate::profile::{Open, Part, is_on, section};

/// Tells whether the kernels of this device count their time: those of this crate do.
pub fn is_timed(device: &Device) -> bool {
    is_ours(device)
}

/// Returns `operation(x)`, counted as `part` with its backward pass.
///
/// The backward pass is what runs between the gradient of the output and that of `x`, which is all of it where the graph
/// is a chain there; where `x` has no gradient, only the forward pass is counted.
pub fn timed<const D: usize, const E: usize>(
    part: Part,
    x: Tensor<D>,
    operation: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> Tensor<E> {
    if !is_on() || !is_ours(&x.device()) {
        return operation(x);
    }
    let _section = section(part);
    let backward = Arc::new(Mutex::new(None));
    let lock = |backward: &Mutex<Option<Open>>| backward.lock().unwrap_or_else(PoisonError::into_inner).take();
    let ends = backward.clone();
    let x = before_gradient(x, move || {
        if let Some(open) = lock(&ends) {
            open.close();
        }
    });
    before_gradient(operation(x), move || {
        *backward.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open::new(part));
    })
}
