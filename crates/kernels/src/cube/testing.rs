//! What the tests of the kernels for GPUs share.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{BackendTypes, DispatchDevice};
use burn::tensor::{Device, DeviceKind, DeviceType, TensorData};
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
