//! Convolution, batch normalisation and the optimizer's step on GPUs: kernels of our own beside burn's.
//!
//! burn runs a convolution on a GPU as one of several kernels, but none of them keeps a tile of sums in registers, and its data
//! gradient goes through columns that are scattered back. Here are three kernels that do (`forward`, `data`, `weight`; `tiles`
//! is what they share), and ways to write a direction in burn's own operations: a data gradient of stride 1 is a forward
//! convolution with turned, transposed weights, and a 1×1 convolution is a matrix product in all directions. `choice` times
//! them once for each shape and device, with CubeCL's own tuner.
//!
//! burn composes a training batch normalisation of operations that pass over the maps again and again; `norm` does it in two
//! passes each way, with the rectifier and the residual. `update` is the optimizer's step, one kernel for each parameter.
//!
//! `queue` puts them into burn's stream of fused operations. [`launches`] counts what reaches the device; [`tuned`] keeps what
//! was found for the next process.

mod choice;
mod data;
mod forward;
pub mod launches;
mod norm;
mod queue;
mod tiles;
pub mod tuned;
mod update;
mod weight;

use burn::backend::{DType, DispatchDevice};
use burn::tensor::{Device, bf16, f16};
use cubecl::ir::ElemType;
use cubecl::prelude::Scalar;
use serde::{Deserialize, Serialize};

pub(crate) use norm::Norm;
pub(crate) use queue::{Fused, Seen, enqueue, normalise, normalise_backward, take_step};
pub(crate) use update::{Read, Rule};

/// Returns the largest buffer that a GPU gives and, where it says so, all of its memory, in bytes; nothing for other devices.
pub fn memory(device: &Device) -> Option<(u64, Option<u64>)> {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => {
            let client = device.client();
            let memory = &client.properties().memory;
            Some((memory.max_page_size, memory.max_memory()))
        }
        _ => None,
    }
}

/// The shape of a convolution without groups, dilation and bias; all maps are `[images, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conv {
    /// Images in the batch.
    pub images: usize,
    /// Input channels.
    pub inputs: usize,
    /// Height and width of an input map.
    pub size: [usize; 2],
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step of the kernel in both directions.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
}

impl Conv {
    /// Returns height and width of an output map, or `None` if the kernel does not fit into the padded input.
    pub fn output_size(&self) -> Option<[usize; 2]> {
        let side = |axis: usize| {
            let steps = (self.size[axis] + 2 * self.padding).checked_sub(self.kernel[axis])?;
            Some(steps / self.stride + 1)
        };
        Some([side(0)?, side(1)?])
    }

    /// Returns whether [`enqueue`] takes it: anything that is not empty.
    pub fn fits(&self) -> bool {
        let Conv { images, inputs, size: [height, width], outputs, kernel: [rows, columns], stride, .. } = *self;
        ![images, inputs, height, width, outputs, rows, columns, stride].contains(&0) && self.output_size().is_some()
    }

    /// Returns whether it multiplies every pixel by a matrix.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == 0
    }

    /// Returns the convolution of an output's gradient with turned weights that is this one's data gradient, if there is one.
    fn turned(&self) -> Option<Conv> {
        let [rows, columns] = self.kernel;
        if self.stride != 1 || rows != columns || self.padding >= rows {
            return None;
        }
        let size = self.output_size()?;
        let Conv { inputs, outputs, padding, .. } = *self;
        Some(Conv { inputs: outputs, outputs: inputs, size, padding: rows - 1 - padding, ..*self })
    }

    fn input_shape(&self) -> [usize; 4] {
        [self.images, self.inputs, self.size[0], self.size[1]]
    }

    fn weight_shape(&self) -> [usize; 4] {
        [self.outputs, self.inputs, self.kernel[0], self.kernel[1]]
    }

    fn output_shape(&self) -> [usize; 4] {
        let [height, width] = self.output_size().expect("the kernel fits into the padded input");
        [self.images, self.outputs, height, width]
    }
}

/// A direction of a convolution, with the tensors that go into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// From input and weight to the output.
    Forward,
    /// From the output's gradient and the weight to the input's gradient.
    Data,
    /// From input and the output's gradient to the weight's gradient.
    Weight,
}

impl Direction {
    /// Returns the type of what comes out where `operands` go in: the gradient of a weight is added up for weights in f32.
    fn result_type(self, operands: DType) -> DType {
        match self {
            Direction::Forward | Direction::Data => operands,
            Direction::Weight => DType::F32,
        }
    }

    /// Returns the shape of what comes out.
    fn result_shape(self, conv: Conv) -> [usize; 4] {
        match self {
            Direction::Forward => conv.output_shape(),
            Direction::Data => conv.input_shape(),
            Direction::Weight => conv.weight_shape(),
        }
    }
}

/// Returns what our kernels call the type of a tensor, which is f32 or a half of it.
fn element(dtype: DType) -> ElemType {
    match dtype {
        DType::F16 => f16::elem_type_native(),
        DType::BF16 => bf16::elem_type_native(),
        _ => f32::elem_type_native(),
    }
}

/// What the tests of the kernels for GPUs share.
#[cfg(test)]
pub(crate) mod testing {
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::{Backend, BackendTypes, DispatchDevice};
    use burn::tensor::{DType, Device, DeviceKind, DeviceType, TensorData};
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::into_contiguous;
    use burn_cubecl::ops::into_data_sync;
    use burn_cubecl::tensor::CubeTensor;

    /// A device of CubeCL.
    pub type CubeDevice = <CubeBackend as BackendTypes>::Device;

    /// Returns the wgpu device of this machine, software included; nothing, said aloud, where there is no adapter.
    pub fn wgpu() -> Option<Device> {
        if Device::enumerate(DeviceType::Wgpu).into_vec().is_empty() {
            assert!(std::env::var_os("BONSAI_REQUIRE_WGPU").is_none(), "no wgpu adapter, though one is required here");
            println!("skipped: this machine has no wgpu adapter");
            return None;
        }
        Some(Device::wgpu(DeviceKind::DefaultDevice))
    }

    /// Returns a device as CubeCL knows it.
    pub fn cube(device: &Device) -> CubeDevice {
        match device.as_dispatch() {
            DispatchDevice::Cube(device) => device.clone(),
            other => panic!("{other:?} is no device of CubeCL"),
        }
    }

    /// Whether this device computes in f16; said aloud where it does not.
    pub fn has_halves(device: &CubeDevice) -> bool {
        let has = <CubeBackend as Backend>::supports_dtype(device, DType::F16);
        if !has {
            println!("skipped: this adapter has no f16");
        }
        has
    }

    /// Returns numbers between -1 and 1, others for each seed.
    pub fn noise<const D: usize>(shape: [usize; D], seed: u32) -> TensorData {
        let number = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        TensorData::new((0..shape.iter().product::<usize>() as u32).map(number).collect::<Vec<f32>>(), shape)
    }

    pub fn floats(data: TensorData) -> Vec<f32> {
        data.try_to_vec().expect("the numbers are f32")
    }

    /// Puts numbers on a device, with channels innermost if `inner` says so, as burn's convolutions leave them.
    pub fn put(data: &TensorData, inner: bool, device: &CubeDevice) -> CubeTensor {
        let tensor = CubeBackend::float_from_data(data.clone(), device);
        if !inner {
            return tensor;
        }
        CubeBackend::float_permute(into_contiguous(CubeBackend::float_permute(tensor, &[0, 2, 3, 1])), &[0, 3, 1, 2])
    }

    /// Reads numbers back.
    pub fn take(tensor: CubeTensor) -> Vec<f32> {
        floats(into_data_sync(tensor))
    }

    /// Returns the largest distance between two lists, as a share of the largest number of the second.
    pub fn distance(ours: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(ours.len(), expected.len());
        let scale = expected.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
        // Not `f32::max`, which would pass over what is no number.
        ours.iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs() / scale)
            .fold(0.0, |most, off| if off <= most { most } else { off })
    }
}
