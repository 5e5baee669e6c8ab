//! What runs on GPUs in a way of our own: plain tensors become those of burn's stream, with gradients if they have some.

mod conv;
mod norm;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Cube, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};

pub(super) use conv::conv2d;
pub(super) use norm::{batch_norm_train, takes_norm};

use super::flex::may_be_ours;
use crate::cube::Fused;

/// Tells whether a tensor may be an input of our kernels for GPUs.
fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    is_gpu(&device) && may_be_ours(&device) && tensor.dtype() == DType::F32
}

/// Tells whether `device` is one of CubeCL's.
fn is_gpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Cube(_))
}

/// Returns a tensor of a device without gradients.
fn plain<const D: usize>(tensor: Tensor<D>) -> Fused {
    tensor.try_into_primitive::<Cube>().expect("a float tensor of CubeCL")
}

/// Returns a tensor as one of a device with gradients; it is a constant if it is not on such a device.
fn tracked<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Autodiff<Cube>> {
    if tensor.device().is_autodiff() {
        tensor.try_into_primitive::<Autodiff<Cube>>().expect("a float tensor of CubeCL")
    } else {
        <Autodiff<Cube> as AutodiffBackend>::from_inner(plain(tensor))
    }
}
