//! The optimizer's step on our kernels.

use burn::backend::Flex;
use burn::tensor::{DType, Tensor};

use super::flex::{Input, is_ours, tensor, writable};
use crate::buffer::Buffer;
use crate::optimizer::{Sgd, Step};

/// Takes a step of `sgd` with masked gradients: returns the new values, masked too, and the new velocity.
///
/// `None` on devices without our kernels. The result is that of burn's operations one by one, to the last bit but for the
/// sign of zeros in the velocity of removed weights.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn sgd_step(
    sgd: Sgd,
    values: &Tensor<1>,
    gradient: &Tensor<1>,
    velocity: &mut Option<Tensor<1>>,
    mask: Option<&Tensor<1>>,
) -> Option<Tensor<1>> {
    let device = values.device();
    if device.is_autodiff() || !is_ours(&device) || values.dtype() != DType::F32 {
        return None;
    }
    let [len] = values.dims();
    let floats = |tensor: &Tensor<1>| Input::from(tensor.clone()).floats();
    let (of_values, gradient, mask) = (floats(values), floats(gradient), mask.map(floats));
    let moves = velocity.is_some();
    let mut of_velocity = match velocity.take() {
        Some(velocity) => writable(Input::from(velocity).into_tensor(), [len]),
        None => tensor(Buffer::any(len), [len]),
    };
    let step = Step { values: &of_values, gradient: &gradient, mask: mask.as_deref(), moves };
    let new = sgd.step(step, &mut of_velocity.storage_mut::<f32>()[..len]);
    *velocity = Some(Tensor::from_primitive::<Flex>(of_velocity));
    Some(Tensor::from_primitive::<Flex>(tensor(new, [len])))
}
