//! Convolution of plain maps: on GPUs in the fastest way that we know, elsewhere burn's own operation. `norm` normalises them.
//!
//! In half precision the maps that go in and come out are halves, and so are those that wait for the backward pass. The
//! weight is rounded anew in each pass, and its gradient is f32.

mod norm;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Autodiff, AutodiffBackend, Cube, DispatchDevice};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, FloatDType, Tensor, module};

pub(super) use norm::{batch_norm_train, takes_norm};

use super::flex::may_be_ours;
use super::precision::in_f32;
use crate::Precision;
use crate::cube::{Conv, Direction, Fused, enqueue};

/// Convolves maps `[images, in, height, width]` with `weight` `[out, in, kernel, kernel]`, rounding both to `precision` on GPUs.
pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    precision: Precision,
) -> Tensor<4> {
    let ([images, inputs, height, width], [outputs, _, rows, columns]) = (x.dims(), weight.dims());
    let conv = Conv { images, inputs, size: [height, width], outputs, kernel: [rows, columns], stride, padding };
    let device = x.device();
    let (x, dtype) = match precision.on(&device) {
        FloatDType::F32 => (in_f32(x), DType::F32),
        half => (x.cast(half), half.into()),
    };
    let floats = x.dtype() == dtype && weight.dtype() == DType::F32;
    if !is_gpu(&device) || !may_be_ours(&device) || !may_be_ours(&weight.device()) || !floats || !conv.fits() {
        let weight = if dtype == DType::F32 { weight } else { weight.cast(dtype) };
        return module::conv2d(x, weight, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1));
    }
    assert_eq!(inputs, weight.dims()[1], "input channels of a weight of {:?}", weight.dims());
    if !device.is_autodiff() && !weight.device().is_autodiff() {
        let [x, weight] =
            [x, weight].map(|tensor| tensor.try_into_primitive::<Cube>().expect("a float tensor of CubeCL"));
        return Tensor::from_primitive::<Cube>(enqueue(conv, Direction::Forward, x, rounded(weight, dtype)));
    }
    let [x, weight] = [x, weight].map(|tensor| {
        if tensor.device().is_autodiff() {
            tensor.try_into_primitive::<Autodiff<Cube>>().expect("a float tensor of CubeCL")
        } else {
            let plain = tensor.try_into_primitive::<Cube>().expect("a float tensor of CubeCL");
            <Autodiff<Cube> as AutodiffBackend>::from_inner(plain)
        }
    });
    let nodes = [x.node(), weight.node()];
    let [x, weight] = [x, weight].map(|tensor| rounded(tensor.primitive().clone(), dtype));
    let y = enqueue(conv, Direction::Forward, x.clone(), weight.clone());
    let y = match Convolution.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(State { conv, x, weight }, y),
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Cube>>(y)
}

/// Tells whether `device` is one of CubeCL's.
pub(super) fn is_gpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Cube(_))
}

/// Returns a tensor as one of `dtype`.
fn rounded(tensor: Fused, dtype: DType) -> Fused {
    if tensor.dtype == dtype { tensor } else { Cube::float_cast(tensor, dtype.into()) }
}

#[derive(Debug)]
struct Convolution;

#[derive(Clone, Debug)]
struct State {
    conv: Conv,
    x: Fused,
    weight: Fused,
}

impl Backward<Cube, 2> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let State { conv, x, weight } = ops.state;
        let gradient = rounded(gradients.consume::<Cube>(&ops.node), weight.dtype);
        let [of_x, of_weight] = ops.parents;
        if let Some(parent) = of_x {
            gradients.register::<Cube>(parent.id, enqueue(conv, Direction::Data, gradient.clone(), weight));
        }
        if let Some(parent) = of_weight {
            gradients.register::<Cube>(parent.id, enqueue(conv, Direction::Weight, x, gradient));
        }
    }
}
