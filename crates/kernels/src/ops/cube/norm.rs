//! Training batch normalisation of plain maps on GPUs, on kernels of our own.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Cube};
use burn::tensor::{DType, Tensor};

use super::super::flex::may_be_ours;
use super::super::reductions::Batch;
use super::{is_gpu, rounded};
use crate::cube::{Fused, Norm, Seen, normalise, normalise_backward};

/// Tells whether our kernels normalise `x`; otherwise burn's operations do.
pub fn takes_norm(x: &Tensor<4>, vectors: [&Tensor<1>; 2]) -> bool {
    let maps = [DType::F32, DType::F16, DType::BF16];
    takes(x, &maps)
        && vectors.into_iter().all(|vector| takes(vector, &[DType::F32]))
        && Norm::fits(x.dims(), &x.device())
}

fn takes<const D: usize>(tensor: &Tensor<D>, types: &[DType]) -> bool {
    let device = tensor.device();
    is_gpu(&device) && may_be_ours(&device) && types.contains(&tensor.dtype())
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

/// Normalises each channel of `x` by its own mean and variance, and adds `residual`, which is of its type; `relu` says whether
/// a rectifier follows.
///
/// # Panics
///
/// Panics if [`takes_norm`] says no, or shapes or types do not agree.
pub fn batch_norm_train(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Batch {
    let norm = Norm { shape: x.dims(), epsilon, relu };
    assert!([&gamma, &beta].iter().all(|vector| vector.dims() == [norm.shape[1]]), "a number for each channel");
    assert!(residual.as_ref().is_none_or(|residual| residual.dims() == norm.shape), "both have the same shape");
    let mut devices =
        [x.device(), gamma.device(), beta.device()].into_iter().chain(residual.as_ref().map(Tensor::device));
    if !devices.any(|device| device.is_autodiff()) {
        let [output, mean, variance] = normalise(norm, plain(x), plain(gamma), plain(beta), residual.map(plain));
        return Batch {
            output: Tensor::from_primitive::<Cube>(output),
            mean: Tensor::from_primitive::<Cube>(mean),
            variance: Tensor::from_primitive::<Cube>(variance),
        };
    }
    let inputs = [tracked(x), tracked(gamma), tracked(beta)];
    let (output, statistics) = match residual.map(tracked) {
        None => run(norm, inputs, None),
        Some(residual) => {
            let [x, gamma, beta] = inputs;
            let plain = residual.primitive().clone();
            run(norm, [x, gamma, beta, residual], Some(plain))
        }
    };
    let [mean, variance] = statistics.map(|tensor| {
        Tensor::from_primitive::<Autodiff<Cube>>(<Autodiff<Cube> as AutodiffBackend>::from_inner(tensor))
    });
    Batch { output: Tensor::from_primitive::<Autodiff<Cube>>(output), mean, variance }
}

/// Normalises the first of the inputs by the next two, and puts all of them into the graph.
fn run<const N: usize>(
    norm: Norm,
    inputs: [FloatTensor<Autodiff<Cube>>; N],
    residual: Option<Fused>,
) -> (FloatTensor<Autodiff<Cube>>, [Fused; 2]) {
    let nodes = inputs.each_ref().map(|input| input.node());
    let [x, gamma, beta] = [0, 1, 2].map(|i| inputs[i].primitive().clone());
    let added = residual.is_some();
    let [output, mean, variance] = normalise(norm, x.clone(), gamma.clone(), beta.clone(), residual);
    let statistics = [mean.clone(), variance.clone()];
    let output = match Normalisation.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let seen = Seen { x, gamma, beta, mean, variance, output: added.then(|| output.clone()) };
            preparation.finish(State { norm, seen }, output)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(output),
    };
    (output, statistics)
}

#[derive(Debug)]
struct Normalisation;

#[derive(Clone, Debug)]
struct State {
    norm: Norm,
    seen: Seen,
}

impl<const N: usize> Backward<Cube, N> for Normalisation {
    type State = State;

    fn backward(self, ops: Ops<State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let State { norm, seen } = ops.state;
        let gradient = rounded(gradients.consume::<Cube>(&ops.node), seen.x.dtype);
        for (parent, gradient) in ops.parents.into_iter().zip(normalise_backward(norm, gradient, seen)) {
            if let Some(parent) = parent {
                gradients.register::<Cube>(parent.id, gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

    use crate::cube::launches;
    use crate::cube::testing::{cube, distance, floats, has_halves, noise, wgpu};
    use crate::{Activation, Then, batch_norm_train};

    /// Output, statistics and gradients of three normalisations of maps of a type, of which the second adds the input of the
    /// first.
    fn block(device: &Device, dtype: FloatDType) -> Vec<Vec<f32>> {
        fn leaf<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
            let tensor = Tensor::from_data(data, device);
            if device.is_autodiff() { tensor.require_grad() } else { tensor }
        }
        let x = leaf::<4>(noise([5, 6, 7, 4], 1), device);
        let [gamma, beta] = [2, 3].map(|seed| leaf::<1>(noise([6], seed), device));
        let norm = |x, then| batch_norm_train(x, gamma.clone(), beta.clone(), 1e-5, then);
        let maps = |tensor: Tensor<4>| Activation::new(tensor.cast(dtype));
        let first = norm(maps(x.clone()), Then::Relu);
        // Something that burn fuses, between two operations of ours.
        let between = first.output.into_nchw() * 0.5 + x.clone();
        let second = norm(maps(between), Then::AddRelu(maps(x.clone())));
        let wide = leaf::<4>(noise([5, 9, 7, 4], 4), device);
        let places = vec![0, 2, 3, 4, 7, 8];
        let third = norm(second.output, Then::AddReluAt(Activation::new(wide.clone()), places));
        let y = third.output.into_nchw();
        let mut all = [y.clone(), first.mean.clone().reshape([1, 1, 1, 6]), third.variance.reshape([1, 1, 1, 6])]
            .map(|tensor| floats(tensor.into_data()))
            .to_vec();
        assert!(!first.mean.is_require_grad());
        if device.is_autodiff() {
            let gradients = (y * Tensor::from_data(noise([5, 9, 7, 4], 5), device)).sum().backward();
            all.extend([&x, &wide].map(|tensor| floats(tensor.grad(&gradients).unwrap().into_data())));
            all.extend([&gamma, &beta].map(|tensor| floats(tensor.grad(&gradients).unwrap().into_data())));
        }
        all
    }

    #[test]
    fn normalisations_on_gpus_are_those_on_the_cpu() {
        let Some(device) = wgpu() else { return };
        for autodiff in [false, true] {
            let on = |device: Device| block(&if autodiff { device.autodiff() } else { device }, FloatDType::F32);
            let ((ours, launched), expected) = (launches::count(|| on(device.clone())), on(Device::flex()));
            let launched = |kernel: &str| launched.keys().any(|name| name.contains(kernel));
            assert!(["NormStatistics", "NormApply"].into_iter().all(launched), "they are counted");
            assert!(!autodiff || ["NormSums", "NormGradient"].into_iter().all(launched), "they are counted");
            assert_eq!(ours.len(), expected.len());
            for (i, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                let off = distance(ours, expected);
                assert!(off < 1e-4, "result {i} is off by {off}");
            }
        }
    }

    #[test]
    fn halves_are_normalised_to_halves_and_close_to_f32() {
        let Some(device) = wgpu().filter(|device| has_halves(&cube(device))) else { return };
        let [gamma, beta] = [1.0, 0.5].map(|number| Tensor::<1>::ones([6], &device) * number);
        let [x, residual] = [1, 2].map(|seed| {
            Activation::new(Tensor::<4>::from_data(noise([5, 6, 7, 4], seed), &device).cast(FloatDType::F16))
        });
        let output = batch_norm_train(x, gamma, beta, 1e-5, Then::AddRelu(residual)).output.into_plain().unwrap();
        assert_eq!(output.dtype(), DType::F16);

        let [halves, floats] = [FloatDType::F16, FloatDType::F32].map(|dtype| block(&device.clone().autodiff(), dtype));
        for (i, (halves, floats)) in halves.iter().zip(&floats).enumerate() {
            // On average: where rounding opens or shuts a rectifier, a gradient is another.
            let off: f32 = halves.iter().zip(floats).map(|(half, float)| (half - float).abs()).sum();
            let off = off / floats.iter().map(|float| float.abs()).sum::<f32>();
            assert!(off < 1e-2, "result {i} is off by {off}");
        }
    }
}
