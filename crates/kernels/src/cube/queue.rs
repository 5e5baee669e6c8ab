//! Puts our kernels into burn's stream of operations, which fuses what lies around them.

use std::fmt;

use burn::backend::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use burn_fusion::custom::{CustomOpIr, HandleContainer, Operation, OperationIr, ScalarIr, StreamId, TensorIr};
use burn_fusion::{ExecutionError, FusionBackend, FusionRuntime, FusionTensor};

use super::norm::{self, Norm};
use super::update::{self, Read, Rule};
use super::{Conv, Direction, choice};

type Runtime = <CubeBackend as FusionBackend>::FusionRuntime;

/// A tensor of burn's stream.
pub(crate) type Fused = FusionTensor<Runtime>;

/// What maps are made of.
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

/// Queues an operation, with results of the given types and shapes.
///
/// The stream plans by name, types and shapes, and keeps its plans: numbers in `scalars` may change from one operation to the
/// next, and so may what `run` does with them, since each operation that is queued is run by its own.
fn queue<'a>(
    name: &'static str,
    scalars: &[ScalarIr],
    inputs: Vec<Fused>,
    results: impl IntoIterator<Item = (DType, &'a [usize])>,
    run: impl Fn(Vec<CubeTensor>) -> Vec<CubeTensor> + Send + Sync + 'static,
) -> Vec<Fused> {
    let client = inputs[0].client.clone();
    let result =
        |(dtype, shape): (DType, &[usize])| TensorIr::uninit(client.create_empty_handle(), shape.into(), dtype);
    let results: Vec<TensorIr> = results.into_iter().map(result).collect();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(Fused::into_ir).collect();
    let tensors = CustomOpIr::with_scalars(name, &inputs, &results, scalars.to_vec());
    let queued = Queued { tensors: tensors.clone(), run: Box::new(run) };
    client.register(StreamId::current(), OperationIr::Custom(tensors), queued)
}

/// Takes the tensors that an operation was queued with.
fn fixed<T: fmt::Debug, const N: usize>(tensors: Vec<T>) -> [T; N] {
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
    let results = queue("bonsai::convolution", &scalars, vec![a, b], [(dtype, &shape[..])], move |inputs| {
        let [a, b] = fixed(inputs);
        vec![choice::fastest(direction, conv, a, b)]
    });
    let [result] = fixed(results);
    result
}

/// Returns what the maps of a normalisation are made of.
///
/// # Panics
///
/// Panics if they are of several types, or a vector is not f32.
fn type_of<'a>(maps: impl IntoIterator<Item = &'a Fused>, vectors: &[&Fused]) -> DType {
    let mut types = maps.into_iter().map(|maps| maps.dtype);
    let dtype = types.next().expect("there are maps");
    assert!(TYPES.contains(&dtype) && types.all(|other| other == dtype), "the maps of a normalisation have one type");
    assert!(vectors.iter().all(|vector| vector.dtype == DType::F32), "the vectors of a normalisation are f32");
    dtype
}

/// The numbers of a normalisation.
fn scalars(norm: Norm) -> [ScalarIr; 2] {
    [ScalarIr::Float(norm.epsilon), ScalarIr::Bool(norm.relu)]
}

/// Queues a normalisation, and returns its output, which is of the input's type, and mean and variance.
///
/// # Panics
///
/// Panics if a residual is added without a rectifier or is of another type than the input, or a vector is not f32.
pub(crate) fn normalise(norm: Norm, x: Fused, gamma: Fused, beta: Fused, residual: Option<Fused>) -> [Fused; 3] {
    assert!(norm.relu || residual.is_none(), "a rectifier follows a residual");
    let dtype = type_of([&x].into_iter().chain(&residual), &[&gamma, &beta]);
    let channels = [norm.shape[1]];
    let results = [(dtype, &norm.shape[..]), (DType::F32, &channels), (DType::F32, &channels)];
    let inputs = [x, gamma, beta].into_iter().chain(residual).collect();
    fixed(queue("bonsai::normalisation", &scalars(norm), inputs, results, move |mut inputs| {
        let residual = (inputs.len() == 4).then(|| inputs.remove(3));
        let [x, gamma, beta] = fixed(inputs);
        let norm::Normalised { output, mean, variance } = norm::forward(norm, x, gamma, beta, residual);
        vec![output, mean, variance]
    }))
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
/// the residual; those of maps are of their type.
///
/// # Panics
///
/// Panics if `gradient` is of another type than the input.
pub(crate) fn normalise_backward(norm: Norm, gradient: Fused, seen: Seen) -> Vec<Fused> {
    let channels = [norm.shape[1]];
    let Seen { x, gamma, beta, mean, variance, output } = seen;
    let dtype = type_of([&gradient, &x].into_iter().chain(&output), &[&mean, &variance, &gamma, &beta]);
    let added = output.is_some();
    let maps = (dtype, &norm.shape[..]);
    let results = [maps, (DType::F32, &channels), (DType::F32, &channels)].into_iter().chain(added.then_some(maps));
    let inputs = [gradient, x, mean, variance, gamma, beta].into_iter().chain(output).collect();
    queue("bonsai::normalisation_backward", &scalars(norm), inputs, results, move |mut inputs| {
        let output = added.then(|| inputs.remove(6));
        let [gradient, x, mean, variance, gamma, beta] = fixed(inputs);
        let of = norm::backward(norm, gradient, x, [mean, variance], [gamma, beta], output);
        [of.x, of.gamma, of.beta].into_iter().chain(of.residual).collect()
    })
}

/// Queues a step of an optimizer for one parameter, and returns its new values and moments.
///
/// # Panics
///
/// Panics if a tensor is not f32.
pub(crate) fn take_step(rule: Rule, read: Read<Fused>) -> Vec<Fused> {
    let shape = read.values.shape.to_vec();
    let results: Vec<_> = (0..1 + rule.moments()).map(|_| (DType::F32, &shape[..])).collect();
    let mut inputs = Vec::new();
    let places = read.map(|tensor| {
        assert_eq!(tensor.dtype, DType::F32, "an optimizer's step");
        inputs.push(tensor);
        inputs.len() - 1
    });
    queue("bonsai::step", &[], inputs, results, move |inputs| {
        update::step(rule, places.clone().map(|place| inputs[place].clone()))
    })
}
