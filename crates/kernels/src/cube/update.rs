//! The optimizer's step on GPUs: weight decay, moments, update and mask in one kernel for each parameter.
//!
//! What changes from step to step, as the step size does, is an argument of a kernel and not a constant of it: a training
//! compiles each kernel once. Whether a step is taken may be for the device to say, which then leaves all as it was.

// A kernel is launched without bounds checks; its expansion by the macro is not ours to document or to shorten.
#![allow(unsafe_code, missing_docs, clippy::too_many_arguments)]

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::optimizer::{AdamW, Sgd};

/// Threads of a cube.
const THREADS: u32 = 256;
/// Cubes that keep a large device busy.
const CUBES: u32 = 4096;
/// Buffers that the largest of the kernels reads and writes.
const BUFFERS: u32 = 10;

/// An update rule with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Descent, with momentum or without.
    Sgd(Sgd),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
}

impl Rule {
    /// Returns whether the kernels take `len` numbers on `device`.
    pub fn fits(len: usize, device: &Device) -> bool {
        let device = device.clone().inner();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return false };
        let client = device.client();
        let hardware = &client.properties().hardware;
        len > 0
            && len < u32::MAX as usize - (THREADS * CUBES) as usize
            && hardware.max_units_per_cube >= THREADS
            && hardware.max_bindings >= BUFFERS
    }

    /// Returns how many moments it keeps of a number.
    pub fn moments(self) -> usize {
        match self {
            Rule::Sgd(Sgd { momentum, .. }) => usize::from(momentum != 0.0),
            Rule::AdamW(_) => 2,
        }
    }
}

/// What a step reads of one parameter, flat.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// The values.
    pub values: T,
    /// Their gradients.
    pub gradient: T,
    /// The moments after the step before, if there was one.
    pub moments: Vec<T>,
    /// 1 for a value that is kept, 0 for one whose gradient is ignored and that becomes 0.
    pub mask: Option<T>,
    /// 1 if the step is taken, else 0, and for AdamW its two corrections ([`AdamW::rate`]), where the device alone knows them.
    pub judged: Option<T>,
}

impl<T> Read<T> {
    /// Replaces all tensors, in their order.
    pub fn map<U>(self, mut by: impl FnMut(T) -> U) -> Read<U> {
        Read {
            values: by(self.values),
            gradient: by(self.gradient),
            moments: self.moments.into_iter().map(&mut by).collect(),
            mask: self.mask.map(&mut by),
            judged: self.judged.map(by),
        }
    }
}

#[cube(launch_unchecked)]
fn sgd_update<N: Size>(
    values: &Tensor<Vector<f32, N>>,
    gradient: &Tensor<Vector<f32, N>>,
    velocity: ComptimeOption<&Tensor<Vector<f32, N>>>,
    mask: ComptimeOption<&Tensor<Vector<f32, N>>>,
    judged: ComptimeOption<&Tensor<f32>>,
    new: &mut Tensor<Vector<f32, N>>,
    mut new_velocity: ComptimeOption<&mut Tensor<Vector<f32, N>>>,
    lr: f32,
    momentum: f32,
    decay: f32,
    total: u32,
    #[comptime] nesterov: bool,
    #[comptime] decays: bool,
) {
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut is_taken = true;
    #[comptime]
    match judged {
        ComptimeOption::Some(judged) => is_taken = judged[0] > 0.0f32,
        ComptimeOption::None => {}
    }
    for i in range_stepped(ABSOLUTE_POS_X, total, CUBE_COUNT_X * THREADS) {
        let at = i as usize;
        let of_values = values[at];
        #[comptime]
        let before = match velocity {
            ComptimeOption::Some(velocity) => velocity[at],
            ComptimeOption::None => zero,
        };
        let mut stepped = of_values;
        let mut moved = before;
        if is_taken {
            #[comptime]
            let kept = match mask {
                ComptimeOption::Some(mask) => mask[at],
                ComptimeOption::None => Vector::new(1.0f32),
            };
            let mut slope = gradient[at] * kept;
            if comptime![decays] {
                slope += of_values * Vector::new(decay);
            }
            moved = before * Vector::new(momentum) + slope;
            let direction = if comptime![nesterov] { slope + moved * Vector::new(momentum) } else { moved };
            stepped = (of_values - direction * Vector::new(lr)) * kept;
        }
        new[at] = stepped;
        #[comptime]
        match new_velocity.as_mut() {
            ComptimeOption::Some(new_velocity) => new_velocity[at] = moved,
            ComptimeOption::None => {}
        }
    }
}

#[cube(launch_unchecked)]
fn adamw_update<N: Size>(
    values: &Tensor<Vector<f32, N>>,
    gradient: &Tensor<Vector<f32, N>>,
    first: ComptimeOption<&Tensor<Vector<f32, N>>>,
    second: ComptimeOption<&Tensor<Vector<f32, N>>>,
    mask: ComptimeOption<&Tensor<Vector<f32, N>>>,
    judged: ComptimeOption<&Tensor<f32>>,
    new: &mut Tensor<Vector<f32, N>>,
    new_first: &mut Tensor<Vector<f32, N>>,
    new_second: &mut Tensor<Vector<f32, N>>,
    shrink: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    epsilon: f32,
    root: f32,
    rate: f32,
    total: u32,
) {
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut is_taken = true;
    let mut of_root = root;
    let mut of_rate = rate;
    #[comptime]
    match judged {
        ComptimeOption::Some(judged) => {
            is_taken = judged[0] > 0.0f32;
            of_root = judged[1];
            of_rate = judged[2] * rate;
        }
        ComptimeOption::None => {}
    }
    for i in range_stepped(ABSOLUTE_POS_X, total, CUBE_COUNT_X * THREADS) {
        let at = i as usize;
        let of_values = values[at];
        #[comptime]
        let first_before = match first {
            ComptimeOption::Some(first) => first[at],
            ComptimeOption::None => zero,
        };
        #[comptime]
        let second_before = match second {
            ComptimeOption::Some(second) => second[at],
            ComptimeOption::None => zero,
        };
        let mut stepped = of_values;
        let mut first_after = first_before;
        let mut second_after = second_before;
        if is_taken {
            #[comptime]
            let kept = match mask {
                ComptimeOption::Some(mask) => mask[at],
                ComptimeOption::None => Vector::new(1.0f32),
            };
            let slope = gradient[at] * kept;
            first_after = first_before * Vector::new(beta1) + slope * Vector::new(rest1);
            second_after = second_before * Vector::new(beta2) + slope * slope * Vector::new(rest2);
            let spread = Vector::sqrt(second_after) / Vector::new(of_root) + Vector::new(epsilon);
            let shrunk = of_values * Vector::new(shrink);
            stepped = (shrunk - first_after / spread * Vector::new(of_rate)) * kept;
        }
        new[at] = stepped;
        new_first[at] = first_after;
        new_second[at] = second_after;
    }
}

/// Takes a step, and returns the new values and the new moments.
///
/// # Panics
///
/// Panics if there are moments, but more or fewer than the rule keeps.
pub fn step(rule: Rule, read: Read<CubeTensor>) -> Vec<CubeTensor> {
    let Read { values, gradient, moments, mask, judged } = read.map(into_contiguous);
    let count = rule.moments();
    assert!(moments.is_empty() || moments.len() == count, "{} moments instead of {count}", moments.len());
    let client = values.client.clone();
    let len = values.meta.num_elements();
    let length = if len.is_multiple_of(4) { 4 } else { 1 };
    let total = (len / length) as u32;
    let cubes = CubeCount::Static(total.div_ceil(THREADS).min(CUBES), 1, 1);
    let threads = CubeDim::new_1d(THREADS);
    let empty = || {
        empty_device_contiguous_dtype(client.clone(), values.device.clone(), values.meta.shape().clone(), values.dtype)
    };
    let new: Vec<CubeTensor> = (0..1 + count).map(|_| empty()).collect();
    let mut outputs = new.clone().into_iter().map(CubeTensor::into_tensor_arg);
    let mut output = || outputs.next().expect("an output for the values and each moment");
    let mut moments = moments.into_iter().map(CubeTensor::into_tensor_arg);
    let [mask, judged] = [mask, judged].map(|tensor| tensor.map(CubeTensor::into_tensor_arg));
    // SAFETY: threads read and write below the length, which all tensors but `judged` have.
    unsafe {
        match rule {
            Rule::Sgd(Sgd { lr, momentum, nesterov, decay }) => sgd_update::launch_unchecked(
                &client,
                cubes,
                threads,
                length,
                values.into_tensor_arg(),
                gradient.into_tensor_arg(),
                moments.next().into(),
                mask.into(),
                judged.into(),
                output(),
                (count > 0).then(output).into(),
                lr,
                momentum,
                decay,
                total,
                nesterov,
                decay != 0.0,
            ),
            Rule::AdamW(adamw) => {
                let AdamW { lr, betas: (beta1, beta2), epsilon, decay, .. } = adamw;
                let (root, rate) = if judged.is_some() { (1.0, lr) } else { adamw.rate() };
                adamw_update::launch_unchecked(
                    &client,
                    cubes,
                    threads,
                    length,
                    values.into_tensor_arg(),
                    gradient.into_tensor_arg(),
                    moments.next().into(),
                    moments.next().into(),
                    mask.into(),
                    judged.into(),
                    output(),
                    output(),
                    output(),
                    (1.0 - lr * decay) as f32,
                    beta1 as f32,
                    (1.0 - beta1) as f32,
                    beta2 as f32,
                    (1.0 - beta2) as f32,
                    epsilon as f32,
                    root as f32,
                    rate as f32,
                    total,
                );
            }
        }
    }
    new
}
