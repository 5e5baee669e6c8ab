//! The optimizer's step on our kernels.

use burn::backend::{Cube, Flex};
use burn::tensor::{DType, Tensor};

use super::cube::is_gpu;
use super::flex::{Input, is_ours, may_be_ours, tensor, writable};
use crate::buffer::Buffer;
use crate::cube::{Read, Rule, take_step};
use crate::optimizer::{AdamW, Sgd, Step};

/// Takes a step of `sgd` with masked gradients: returns the new values, masked too, and the new velocity, if there is momentum.
///
/// `judged`, which only GPUs take, holds 1 if the step is taken and else 0: then values and velocity stay as they are.
///
/// `None` on devices without our kernels, and without momentum on the CPU. The result is that of burn's operations one by one,
/// to the last bit on the CPU, but for the sign of zeros in the velocity of removed weights.
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
    judged: Option<&Tensor<1>>,
) -> Option<Tensor<1>> {
    let device = values.device();
    if takes(values) {
        let read = read(values, gradient, velocity.take(), mask, judged);
        let mut new = on_gpu(Rule::Sgd(sgd), read).into_iter();
        let values = new.next();
        *velocity = new.next();
        return values;
    }
    let is_taken = judged.is_none() && sgd.momentum != 0.0;
    if device.is_autodiff() || !is_ours(&device) || values.dtype() != DType::F32 || !is_taken {
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

/// Takes a step of `adamw` with masked gradients: returns the new values, masked too, and the new moments.
///
/// `judged` holds 1 if the step is taken and else 0, then the corrections `√(1 − β₂ᵗ)` and `1 / (1 − β₁ᵗ)`: the device alone
/// may know how many steps were taken.
///
/// `None` on devices without our kernels, which the CPU is here.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn adamw_step(
    adamw: AdamW,
    values: &Tensor<1>,
    gradient: &Tensor<1>,
    moments: &mut Option<[Tensor<1>; 2]>,
    mask: Option<&Tensor<1>>,
    judged: Option<&Tensor<1>>,
) -> Option<Tensor<1>> {
    if !takes(values) {
        return None;
    }
    let read = read(values, gradient, moments.take().into_iter().flatten(), mask, judged);
    let new = on_gpu(Rule::AdamW(adamw), read);
    let [values, first, second] = new.try_into().expect("the values and two moments");
    *moments = Some([first, second]);
    Some(values)
}

/// Tells whether our kernels for GPUs take `values`.
fn takes(values: &Tensor<1>) -> bool {
    let device = values.device();
    let is_plain = !device.is_autodiff() && values.dtype() == DType::F32;
    is_plain && is_gpu(&device) && may_be_ours(&device) && Rule::fits(values.dims()[0], &device)
}

fn read(
    values: &Tensor<1>,
    gradient: &Tensor<1>,
    moments: impl IntoIterator<Item = Tensor<1>>,
    mask: Option<&Tensor<1>>,
    judged: Option<&Tensor<1>>,
) -> Read<Tensor<1>> {
    Read {
        values: values.clone(),
        gradient: gradient.clone(),
        moments: moments.into_iter().collect(),
        mask: mask.cloned(),
        judged: judged.cloned(),
    }
}

/// Takes a step on a GPU, and returns the new values and moments.
fn on_gpu(rule: Rule, read: Read<Tensor<1>>) -> Vec<Tensor<1>> {
    let len = read.values.dims();
    for tensor in read.moments.iter().chain(&read.mask).chain([&read.gradient]) {
        assert_eq!(tensor.dims(), len, "gradient, moments and mask are as long as the values");
    }
    let read = read.map(|tensor| tensor.try_into_primitive::<Cube>().expect("a float tensor of CubeCL"));
    take_step(rule, read).into_iter().map(Tensor::from_primitive::<Cube>).collect()
}
