//! The way between burn's tensors and our kernels on flex, with and without gradients.
//!
//! burn's `#[backend_extension]` would generate a dispatch over all backends; downcasting does the same for the one
//! backend that has kernels, and leaves all others to the public operations of burn, whichever they are.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, DispatchDevice, Flex, GradientCheckpointingStrategy};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::buffer::Buffer;
use crate::profile::{Part, section};

/// Tells whether our kernels run on `device`.
pub(super) fn is_ours(device: &Device) -> bool {
    is_flex(device) && may_be_ours(device)
}

/// Tells whether operations of our own may run where burn's do.
pub(super) fn may_be_ours(device: &Device) -> bool {
    let checkpoints = device.gradient_checkpointing_strategy();
    !is_switched_off() && checkpoints.is_none_or(|strategy| strategy == GradientCheckpointingStrategy::Disabled)
}

/// Tells whether `device` is flex, whoever's kernels run on it.
pub(super) fn is_flex(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Tells whether `BONSAI_KERNELS=burn` leaves all to burn's own operations, for comparisons.
fn is_switched_off() -> bool {
    static OFF: LazyLock<bool> = LazyLock::new(|| match std::env::var("BONSAI_KERNELS").as_deref() {
        Err(_) | Ok("" | "bonsai") => false,
        Ok("burn") => true,
        Ok(other) => panic!("BONSAI_KERNELS is '{other}'; it may be bonsai or burn"),
    });
    *OFF
}

/// The floats of a tensor, in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Floats(FlexTensor);

impl Floats {
    pub fn new(tensor: &FlexTensor) -> Floats {
        Floats(tensor.to_contiguous())
    }

    /// Returns no floats.
    pub fn none() -> Floats {
        Floats(vector(Vec::new()))
    }

    /// Returns the tensor.
    pub fn tensor(&self) -> FlexTensor {
        self.0.clone()
    }
}

impl From<Floats> for FlexTensor {
    fn from(floats: Floats) -> FlexTensor {
        floats.0
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice().expect("the tensor is contiguous and its floats are f32")
    }
}

/// Makes a tensor of a buffer without copying it.
pub(super) fn tensor<const D: usize>(buffer: Buffer, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(buffer.into_bytes(), Layout::contiguous(shape.into()), DType::F32)
}

/// Makes a tensor of a few floats.
pub(super) fn vector(floats: Vec<f32>) -> FlexTensor {
    let len = floats.len();
    FlexTensor::from_data(TensorData::new(floats, [len]))
}

/// Returns `tensor` as one whose floats may be written in place: itself, unless somebody else sees it too.
pub(super) fn writable<const D: usize>(mut tensor: FlexTensor, shape: [usize; D]) -> FlexTensor {
    let len = shape.iter().product::<usize>();
    if tensor.is_contiguous() && tensor.try_storage_mut::<f32>().is_some_and(|all| all.len() == len) {
        return tensor;
    }
    let mut copy = Buffer::any(len);
    copy.copy_from_slice(&Floats::new(&tensor));
    self::tensor(copy, shape)
}

/// An input of [`run`], of any rank.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// A tensor of a device without gradients.
    Plain(FlexTensor),
    /// A tensor of a device with gradients.
    Tracked(FloatTensor<Autodiff<Flex>>),
}

impl<const D: usize> From<Tensor<D>> for Input {
    fn from(tensor: Tensor<D>) -> Self {
        if tensor.device().is_autodiff() {
            Input::Tracked(tensor.try_into_primitive::<Autodiff<Flex>>().expect("a float tensor of flex"))
        } else {
            Input::Plain(tensor.try_into_primitive::<Flex>().expect("a float tensor of flex"))
        }
    }
}

impl Input {
    /// Returns an input of no floats, for a place that is not used.
    pub fn none() -> Input {
        Input::Plain(vector(Vec::new()))
    }

    /// Returns the floats.
    pub fn floats(&self) -> Floats {
        match self {
            Input::Plain(tensor) => Floats::new(tensor),
            Input::Tracked(tensor) => Floats::new(tensor.primitive()),
        }
    }

    /// Returns the tensor itself, which may be alone in seeing its floats.
    pub fn into_tensor(self) -> FlexTensor {
        match self {
            Input::Plain(tensor) => tensor,
            Input::Tracked(tensor) => tensor.primitive().clone(),
        }
    }

    /// Tells whether both are the same node of a graph.
    pub fn is(&self, other: &Input) -> bool {
        match (self, other) {
            (Input::Tracked(a), Input::Tracked(b)) => a.id() == b.id(),
            _ => false,
        }
    }
}

/// Turns the gradient of an output into those of the inputs that ask for one.
pub(super) type Gradient<const N: usize> = dyn Fn(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + Sync;

/// Takes away what other operations have added up of an input's gradient; there must be something.
pub(super) type Begun<'a> = dyn FnMut(usize) -> FlexTensor + 'a;

/// The same for operations that add to gradients which others have begun.
pub(super) type GradientOnto<const N: usize> =
    dyn Fn(FlexTensor, [bool; N], &mut Begun) -> [Option<FlexTensor>; N] + Send + Sync;

/// Runs an operation: `forward` returns the output and the function for the backward pass.
pub(super) fn run<const N: usize, const D: usize>(
    inputs: [Input; N],
    forward: impl FnOnce([Floats; N]) -> (FlexTensor, Box<Gradient<N>>),
) -> Tensor<D> {
    run_as(Part::Waiting, inputs, forward)
}

/// Runs an operation whose time on all threads counts as that of `part`, both ways.
pub(super) fn run_as<const N: usize, const D: usize>(
    part: Part,
    inputs: [Input; N],
    forward: impl FnOnce([Floats; N]) -> (FlexTensor, Box<Gradient<N>>),
) -> Tensor<D> {
    run_onto(part, inputs, |floats| {
        let (output, gradient) = forward(floats);
        (output, Box::new(move |of_output, wanted, _: &mut Begun| gradient(of_output, wanted)))
    })
}

/// Runs an operation whose backward pass may take over what has been added up of the gradients of its inputs.
pub(super) fn run_onto<const N: usize, const D: usize>(
    part: Part,
    inputs: [Input; N],
    forward: impl FnOnce([Floats; N]) -> (FlexTensor, Box<GradientOnto<N>>),
) -> Tensor<D> {
    let _section = section(part);
    if inputs.iter().all(|input| matches!(input, Input::Plain(_))) {
        let (output, _) = forward(inputs.map(|input| input.floats()));
        return Tensor::from_primitive::<Flex>(output);
    }
    let inputs = inputs.map(|input| match input {
        Input::Plain(tensor) => <Autodiff<Flex> as AutodiffBackend>::from_inner(tensor),
        Input::Tracked(tensor) => tensor,
    });
    let nodes = inputs.each_ref().map(|input| input.node());
    let (output, gradient) = forward(inputs.each_ref().map(|input| Floats::new(input.primitive())));
    let output = match Step.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(State { gradient: gradient.into(), part }, output),
        OpsKind::UnTracked(preparation) => preparation.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// Returns `x`, and calls `see` in the backward pass before its gradient goes on.
pub(super) fn before_gradient<const D: usize>(x: Tensor<D>, see: impl Fn() + Send + Sync + 'static) -> Tensor<D> {
    run([x.into()], |[x]| {
        let backward = move |gradient, _: [bool; 1]| {
            see();
            [Some(gradient)]
        };
        (x.tensor(), Box::new(backward))
    })
}

#[derive(Debug)]
struct Step;

#[derive(Clone)]
struct State<const N: usize> {
    gradient: Arc<GradientOnto<N>>,
    part: Part,
}

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl<const N: usize> Backward<Flex, N> for Step {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let _section = section(ops.state.part);
        let gradient = gradients.consume::<Flex>(&ops.node);
        let parents = &ops.parents;
        let mut begun = |input: usize| {
            let parent = parents[input].as_ref().expect("an input whose gradient has been begun is tracked");
            gradients.consume::<Flex>(parent)
        };
        let wanted = parents.each_ref().map(|parent| parent.is_some());
        let of_inputs = (ops.state.gradient)(gradient, wanted, &mut begun);
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
