//! Puts our kernels into burn's stream of operations, which fuses what lies around them.

use std::fmt;

use burn::backend::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use burn_fusion::custom::{
    CustomOpIr, HandleContainer, Operation, OperationIr, OperationOutput, ScalarIr, StreamId, TensorIr,
};
use burn_fusion::{ExecutionError, FusionBackend, FusionRuntime, FusionTensor};

use super::norm::{self, Norm};
use super::{Conv, Direction, choice};

type Runtime = <CubeBackend as FusionBackend>::FusionRuntime;

/// A tensor of burn's stream.
pub(crate) type Fused = FusionTensor<Runtime>;

/// What a convolution computes on.
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Makes results of inputs, once it is an operation's turn.
type Run = dyn Fn(Vec<CubeTensor>) -> Vec<CubeTensor> + Send + Sync;

struct Queued {
    tensors: CustomOpIr,
    run: Box<Run>,
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tensors.fmt(f)
    }
}

impl Operation<Runtime> for Queued {
    fn execute(
        &self,
        handles: &mut HandleContainer<<Runtime as FusionRuntime>::FusionHandle>,
    ) -> Result<(), ExecutionError> {
        let inputs = self.tensors.inputs.iter().map(|tensor| handles.get_float_tensor::<CubeBackend>(tensor)).collect();
        let results = (self.run)(inputs);
        assert_eq!(results.len(), self.tensors.outputs.len(), "{self:?}");
        for (tensor, result) in self.tensors.outputs.iter().zip(results) {
            handles.register_float_tensor::<CubeBackend>(&tensor.id, result);
        }
        Ok(())
    }
}

/// Queues an operation, with results of one type and the given shapes.
///
/// The stream compares operations by name, types, shapes and scalars, and must not take two of them for the same one: all that
/// `run` does besides is in `scalars`.
fn queue<const N: usize>(
    name: &'static str,
    scalars: &[ScalarIr],
    inputs: Vec<Fused>,
    dtype: DType,
    shapes: [&[usize]; N],
    run: impl Fn(Vec<CubeTensor>) -> Vec<CubeTensor> + Send + Sync + 'static,
) -> [Fused; N] {
    let client = inputs[0].client.clone();
    let results = shapes.map(|shape| TensorIr::uninit(client.create_empty_handle(), shape.into(), dtype));
    let inputs: Vec<TensorIr> = inputs.into_iter().map(Fused::into_ir).collect();
    let tensors = CustomOpIr::with_scalars(name, &inputs, &results, scalars.to_vec());
    let queued = Queued { tensors: tensors.clone(), run: Box::new(run) };
    client.register(StreamId::current(), OperationIr::Custom(tensors), queued).outputs()
}

/// Takes the tensors that an operation was queued with.
fn fixed<const N: usize>(tensors: Vec<CubeTensor>) -> [CubeTensor; N] {
    tensors.try_into().unwrap_or_else(|tensors: Vec<_>| panic!("{} tensors instead of {N}", tensors.len()))
}

/// Queues one direction of a convolution of tensors of one type, f32 or a half of it.
///
/// # Panics
///
/// Panics if `conv` does not fit ([`Conv::fits`]) or the tensors are of other types.
pub(crate) fn enqueue(conv: Conv, direction: Direction, a: Fused, b: Fused) -> Fused {
    assert!(conv.fits(), "{conv:?}");
    assert!(a.dtype == b.dtype && TYPES.contains(&a.dtype), "a convolution of {:?} and {:?}", a.dtype, b.dtype);
    let scalars = [conv.stride, conv.padding, direction as usize].map(|number| ScalarIr::UInt(number as u64));
    let (shape, dtype) = (direction.result_shape(conv), direction.result_type(a.dtype));
    let [result] = queue("bonsai::convolution", &scalars, vec![a, b], dtype, [&shape], move |inputs| {
        let [a, b] = fixed(inputs);
        vec![choice::fastest(direction, conv, a, b)]
    });
    result
}

/// Queues a pass of a normalisation, whose tensors are f32.
fn queue_norm<const N: usize>(
    name: &'static str,
    norm: Norm,
    inputs: Vec<Fused>,
    shapes: [&[usize]; N],
    run: impl Fn(Vec<CubeTensor>) -> Vec<CubeTensor> + Send + Sync + 'static,
) -> [Fused; N] {
    assert!(inputs.iter().all(|input| input.dtype == DType::F32), "the tensors of {name} are f32");
    let scalars = [ScalarIr::Float(norm.epsilon), ScalarIr::Bool(norm.relu)];
    queue(name, &scalars, inputs, DType::F32, shapes, run)
}

/// Queues a normalisation, and returns its output, mean and variance.
///
/// # Panics
///
/// Panics if a residual is added without a rectifier, or a tensor is not f32.
pub(crate) fn normalise(norm: Norm, x: Fused, gamma: Fused, beta: Fused, residual: Option<Fused>) -> [Fused; 3] {
    assert!(norm.relu || residual.is_none(), "a rectifier follows a residual");
    let channels = [norm.shape[1]];
    let inputs = [x, gamma, beta].into_iter().chain(residual).collect();
    queue_norm("bonsai::normalisation", norm, inputs, [&norm.shape, &channels, &channels], move |mut inputs| {
        let residual = (inputs.len() == 4).then(|| inputs.remove(3));
        let [x, gamma, beta] = fixed(inputs);
        let norm::Normalised { output, mean, variance } = norm::forward(norm, x, gamma, beta, residual);
        vec![output, mean, variance]
    })
}

/// What the backward pass of a normalisation needs.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub x: Fused,
    pub gamma: Fused,
    pub beta: Fused,
    pub mean: Fused,
    pub variance: Fused,
    /// The output, if a residual was added.
    pub output: Option<Fused>,
}

/// Queues the backward pass of a normalisation, and returns the gradients of the input, gamma, beta and, if one was added,
/// the residual.
pub(crate) fn normalise_backward(norm: Norm, gradient: Fused, seen: Seen) -> Vec<Fused> {
    let channels = [norm.shape[1]];
    let Seen { x, gamma, beta, mean, variance, output } = seen;
    let added = output.is_some();
    let inputs = [gradient, x, mean, variance, gamma, beta].into_iter().chain(output).collect();
    let run = move |mut inputs: Vec<CubeTensor>| {
        let output = added.then(|| inputs.remove(6));
        let [gradient, x, mean, variance, gamma, beta] = fixed(inputs);
        let of = norm::backward(norm, gradient, x, [mean, variance], [gamma, beta], output);
        [of.x, of.gamma, of.beta].into_iter().chain(of.residual).collect()
    };
    let name = "bonsai::normalisation_backward";
    match added {
        true => queue_norm(name, norm, inputs, [&norm.shape, &channels, &channels, &norm.shape], run).into(),
        false => queue_norm(name, norm, inputs, [&norm.shape[..], &channels, &channels], run).into(),
    }
}
