//! Convolution of plain maps: on GPUs in the fastest way that we know, elsewhere burn's own operation. `norm` normalises them.

mod norm;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, AutodiffBackend, Cube, DispatchDevice};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};

pub(super) use norm::{batch_norm_train, takes_norm};

use super::flex::may_be_ours;
use crate::cube::{Conv, Direction, Fused, enqueue};

/// Convolves maps `[images, in, height, width]` with `weight` `[out, in, kernel, kernel]`.
pub(super) fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let ([images, inputs, height, width], [outputs, _, rows, columns]) = (x.dims(), weight.dims());
    let conv = Conv { images, inputs, size: [height, width], outputs, kernel: [rows, columns], stride, padding };
    let f32 = [x.dtype(), weight.dtype()] == [DType::F32; 2];
    let device = x.device();
    if !is_gpu(&device) || !may_be_ours(&device) || !may_be_ours(&weight.device()) || !f32 || !conv.fits() {
        return module::conv2d(x, weight, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1));
    }
    assert_eq!(inputs, weight.dims()[1], "input channels of a weight of {:?}", weight.dims());
    if !device.is_autodiff() && !weight.device().is_autodiff() {
        let [x, weight] =
            [x, weight].map(|tensor| tensor.try_into_primitive::<Cube>().expect("a float tensor of CubeCL"));
        return Tensor::from_primitive::<Cube>(enqueue(conv, Direction::Forward, x, weight));
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
    let [x, weight] = [x, weight].map(|tensor| tensor.primitive().clone());
    let y = enqueue(conv, Direction::Forward, x.clone(), weight.clone());
    let y = match Convolution.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(State { conv, x, weight }, y),
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Cube>>(y)
}

/// Tells whether `device` is one of CubeCL's.
fn is_gpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Cube(_))
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
        let gradient = gradients.consume::<Cube>(&ops.node);
        let [of_x, of_weight] = ops.parents;
        if let Some(parent) = of_x {
            gradients.register::<Cube>(parent.id, enqueue(conv, Direction::Data, gradient.clone(), weight));
        }
        if let Some(parent) = of_weight {
            gradients.register::<Cube>(parent.id, enqueue(conv, Direction::Weight, x, gradient));
        }
    }
}
