//! Puts a convolution into burn's stream of operations, which fuses what lies around it.

use burn::backend::DType;
use burn_cubecl::CubeBackend;
use burn_fusion::custom::{
    CustomOpIr, HandleContainer, Operation, OperationIr, OperationOutput, ScalarIr, StreamId, TensorIr,
};
use burn_fusion::{ExecutionError, FusionBackend, FusionRuntime, FusionTensor};

use super::{Conv, Direction, choice};

type Runtime = <CubeBackend as FusionBackend>::FusionRuntime;

/// A tensor of burn's stream.
pub(crate) type Fused = FusionTensor<Runtime>;

/// What a convolution computes on.
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[derive(Debug)]
struct Queued {
    conv: Conv,
    direction: Direction,
    tensors: CustomOpIr,
}

impl Operation<Runtime> for Queued {
    fn execute(
        &self,
        handles: &mut HandleContainer<<Runtime as FusionRuntime>::FusionHandle>,
    ) -> Result<(), ExecutionError> {
        let ([a, b], [result]) = self.tensors.as_fixed();
        let [a, b] = [a, b].map(|tensor| handles.get_float_tensor::<CubeBackend>(tensor));
        handles.register_float_tensor::<CubeBackend>(&result.id, choice::fastest(self.direction, self.conv, a, b));
        Ok(())
    }
}

/// Queues one direction of a convolution of tensors of one type, f32 or a half of it.
///
/// # Panics
///
/// Panics if `conv` does not fit ([`Conv::fits`]) or the tensors are of other types.
pub(crate) fn enqueue(conv: Conv, direction: Direction, a: Fused, b: Fused) -> Fused {
    assert!(conv.fits(), "{conv:?}");
    assert!(a.dtype == b.dtype && TYPES.contains(&a.dtype), "a convolution of {:?} and {:?}", a.dtype, b.dtype);
    let (client, dtype) = (a.client.clone(), direction.result_type(a.dtype));
    let result = TensorIr::uninit(client.create_empty_handle(), direction.result_shape(conv).into(), dtype);
    // The stream compares operations by what is in here, and must not take two convolutions for the same one.
    let scalars = [conv.stride, conv.padding, direction as usize].map(|number| ScalarIr::UInt(number as u64));
    let tensors =
        CustomOpIr::with_scalars("bonsai::convolution", &[a.into_ir(), b.into_ir()], &[result], scalars.to_vec());
    let queued = Queued { conv, direction, tensors: tensors.clone() };
    client.register(StreamId::current(), OperationIr::Custom(tensors), queued).output()
}
