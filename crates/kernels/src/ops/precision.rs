//! Which precision a device multiplies in.

use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::cube::is_gpu;
use super::flex::{is_flex, is_ours};
use crate::Precision;
use crate::simd::Level;

impl Precision {
    /// Checks that layers on `device` can have it.
    ///
    /// # Errors
    ///
    /// A sentence that names what the device can do instead.
    pub fn check(self, device: &Device) -> Result<(), String> {
        if self == Precision::F32 {
            return Ok(());
        }
        let name = self.name();
        if is_gpu(device) {
            if device.supports_dtype(self.dtype()) {
                return Ok(());
            }
            let others: Vec<String> = [Precision::F32, Precision::Bf16, Precision::F16]
                .into_iter()
                .filter(|other| device.supports_dtype(other.dtype()))
                .map(|other| format!("precision = \"{}\"", other.name()))
                .collect();
            return Err(format!("this GPU, through this interface, has no {name}: use {}", others.join(" or ")));
        }
        match self {
            Precision::F16 if is_flex(device) => {
                Err("precision = \"f16\" is for GPUs: on the CPU use precision = \"bf16\", \
                                                      whose gradients need no scaling"
                    .to_string())
            }
            Precision::Bf16 if is_ours(device) => Ok(()),
            Precision::F32 | Precision::Bf16 | Precision::F16 => Err(format!(
                "precision = \"{name}\" is built for the CPU kernels and for GPUs only: use --device cpu or --device wgpu, or \
                 precision = \"f32\""
            )),
        }
    }

    /// Tells whether `device` has instructions for it; without them the results are the same, but slow.
    ///
    /// # Panics
    ///
    /// Panics as [`Level::current`](crate::simd::Level::current) does.
    pub fn is_fast_on(self, device: &Device) -> bool {
        is_gpu(device) || self != Precision::Bf16 || Level::current() == Level::Avx512Bf16
    }

    /// Returns its name in an experiment.
    fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    fn dtype(self) -> FloatDType {
        match self {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
            Precision::F16 => FloatDType::F16,
        }
    }

    /// Returns what our kernels for CPUs multiply in where it is asked for.
    pub(super) fn on_cpu(self) -> Precision {
        match self {
            Precision::F32 | Precision::F16 => Precision::F32,
            Precision::Bf16 => Precision::Bf16,
        }
    }

    /// Returns the type that burn's operations and our kernels for GPUs multiply on `device`; elsewhere it is f32, which our
    /// kernels for CPUs round themselves.
    pub(super) fn on(self, device: &Device) -> FloatDType {
        if is_gpu(device) { self.dtype() } else { FloatDType::F32 }
    }
}

/// Returns halves in f32, and other tensors as they are.
pub(super) fn in_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}
