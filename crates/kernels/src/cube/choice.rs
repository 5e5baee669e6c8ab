//! Finds the fastest of several ways to compute one direction of a convolution, once for each shape and device.
//!
//! CubeCL's tuner does: it runs all of them a few times when a shape is first met, and keeps what it found. A way that does
//! not take a shape says so.

use std::fmt;

use burn::backend::DType;
use burn::backend::ops::{FloatTensorOps, ModuleOps};
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::reshape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::CubeTuneId;
use cubecl::tune::{AutotuneKey, LocalTuner, Tunable, TunableSet, local_tuner};
use serde::{Deserialize, Serialize};

use super::tiles::Tile;
use super::{Conv, Direction, data, forward, weight};

/// A way to compute a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// burn's own operation, which chooses among kernels of its own.
    Burn,
    /// The data gradient of stride 1 as burn's forward convolution with turned, transposed weights.
    Turned,
    /// A 1×1 convolution as a matrix product for each image.
    Product,
    /// Our kernels.
    Ours(Tile),
    /// Halves as burn's implicit matrix product, on matrix units where there are some, with sums in f32.
    Gemm,
    /// Halves in burn's own operation in f32.
    Widened,
}

/// Large tiles read less, small ones leave more threads to a device that has many.
const WAYS: [Way; 10] = [
    Way::Burn,
    Way::Turned,
    Way::Product,
    Way::Ours(Tile { rows: 4, pixels: 8, filters: 4 }),
    Way::Ours(Tile { rows: 4, pixels: 4, filters: 4 }),
    Way::Ours(Tile { rows: 1, pixels: 8, filters: 16 }),
    Way::Ours(Tile { rows: 1, pixels: 4, filters: 8 }),
    Way::Ours(Tile { rows: 1, pixels: 4, filters: 4 }),
    Way::Gemm,
    Way::Widened,
];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Burn => f.write_str("burn"),
            Way::Turned => f.write_str("turned"),
            Way::Product => f.write_str("product"),
            Way::Ours(Tile { rows, pixels, filters }) => {
                write!(f, "tile of {rows} × {pixels} pixels and {filters} filters")
            }
            Way::Gemm => f.write_str("implicit product"),
            Way::Widened => f.write_str("burn in f32"),
        }
    }
}

impl Way {
    /// Computes `direction` of a convolution; `None` where this way does not take it.
    fn run(self, direction: Direction, conv: Conv, a: CubeTensor, b: CubeTensor) -> Option<CubeTensor> {
        let options = |conv: Conv| ConvOptions::new([conv.stride; 2], [conv.padding; 2], [1, 1], 1);
        let halves = a.dtype != DType::F32;
        match (self, direction) {
            // Some of the kernels that burn chooses from add halves up in halves.
            (Way::Burn | Way::Turned, _) if halves => None,
            (Way::Gemm | Way::Widened, _) if !halves => None,
            (Way::Gemm, Direction::Forward) => conv_forward(a, b, None, options(conv), ConvStrategy::ImplicitGemm).ok(),
            (Way::Gemm, Direction::Data) if conv.stride != 1 => None,
            (Way::Gemm, Direction::Data) => {
                let shape = conv.input_shape().into();
                conv_data_backward(a, b, shape, options(conv), ConvStrategy::ImplicitGemm).ok()
            }
            (Way::Gemm, Direction::Weight) => {
                let shape = conv.weight_shape().into();
                let of_weight = conv_weight_backward(a, b, shape, options(conv), ConvStrategy::ImplicitGemm);
                of_weight.ok().map(|of_weight| cast(of_weight, DType::F32))
            }
            (Way::Widened, _) => {
                let dtype = direction.result_type(a.dtype);
                let [a, b] = [a, b].map(|tensor| cast(tensor, DType::F32));
                Way::Burn.run(direction, conv, a, b).map(|result| cast(result, dtype))
            }
            (Way::Burn, Direction::Forward) => Some(CubeBackend::conv2d(a, b, None, options(conv))),
            (Way::Burn, Direction::Data) => {
                let x = like(&a, conv.input_shape());
                Some(CubeBackend::conv2d_x_backward(x, b, a, options(conv)))
            }
            (Way::Burn, Direction::Weight) => {
                let weight = like(&a, conv.weight_shape());
                Some(CubeBackend::conv2d_weight_backward(a, weight, b, options(conv)))
            }
            (Way::Turned, Direction::Data) => {
                let turned = conv.turned()?;
                let weight = CubeBackend::float_swap_dims(CubeBackend::float_flip(b, &[2, 3]), 0, 1);
                Some(CubeBackend::conv2d(a, weight, None, options(turned)))
            }
            (Way::Turned, Direction::Forward | Direction::Weight) => None,
            (Way::Product, _) if !conv.is_pointwise() => None,
            (Way::Product, Direction::Forward) => {
                let y = CubeBackend::float_matmul(matrix(b, conv), columns(a));
                Some(reshape(y, conv.output_shape().into()))
            }
            (Way::Product, Direction::Data) => {
                let x = CubeBackend::float_matmul(CubeBackend::float_swap_dims(matrix(b, conv), 1, 2), columns(a));
                Some(reshape(x, conv.input_shape().into()))
            }
            (Way::Product, Direction::Weight) => {
                let of_images = CubeBackend::float_matmul(columns(b), CubeBackend::float_swap_dims(columns(a), 1, 2));
                let of_images = cast(of_images, DType::F32);
                Some(reshape(CubeBackend::float_sum_dim(of_images, 0), conv.weight_shape().into()))
            }
            (Way::Ours(tile), Direction::Forward) => forward::run(conv, tile, a, b),
            (Way::Ours(tile), Direction::Data) => data::run(conv, tile, a, b),
            (Way::Ours(tile), Direction::Weight) => weight::run(conv, tile, a, b),
        }
    }
}

/// What a choice is made for. Batches share one up to the next power of two, as in CubeCL's own keys: what takes the largest
/// of them takes all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    conv: Conv,
    direction: Direction,
    dtype: DType,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl AutotuneKey for Key {}

type Inputs = (CubeTensor, CubeTensor, Conv, Direction);

/// Computes `direction` of a convolution in the fastest way.
pub fn fastest(direction: Direction, conv: Conv, a: CubeTensor, b: CubeTensor) -> CubeTensor {
    static TUNER: LocalTuner<Key, CubeTuneId> = local_tuner!();
    let (id, client) = (CubeTuneId::new(&a.client, &a.device), a.client.clone());
    let ways = TUNER.init(&id, || {
        let ways = TunableSet::new(key, |_: &Key, inputs: &Inputs| inputs.clone());
        WAYS.iter().fold(ways, |ways, &way| {
            ways.with(Tunable::new(&way.to_string(), move |(a, b, conv, direction): Inputs| {
                way.run(direction, conv, a, b).ok_or("not for this shape")
            }))
        })
    });
    TUNER.execute(&id, &client, ways, (a, b, conv, direction))
}

fn key((a, _, conv, direction): &Inputs) -> Key {
    Key { conv: Conv { images: conv.images.next_power_of_two(), ..*conv }, direction: *direction, dtype: a.dtype }
}

/// Returns a tensor of a shape that an operation asks for and does not read.
fn like(tensor: &CubeTensor, shape: [usize; 4]) -> CubeTensor {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), shape.into(), tensor.dtype)
}

/// Makes the matrix `[1, out, in]` of a 1×1 kernel.
fn matrix(weight: CubeTensor, conv: Conv) -> CubeTensor {
    reshape(weight, [1, conv.outputs, conv.inputs].into())
}

/// Makes matrices `[images, channels, pixels]` of maps.
fn columns(x: CubeTensor) -> CubeTensor {
    let [images, channels, height, width] = x.meta.shape().dims();
    reshape(x, [images, channels, height * width].into())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, module};
    use burn_cubecl::ops::into_data_sync;
    use proptest::prelude::*;

    use super::super::testing::{CubeDevice, cube, distance, floats, has_halves, noise, put, take, wgpu};
    use super::*;

    /// Output and gradients by burn's own autodiff on the CPU.
    fn expected(conv: Conv, x: &TensorData, weight: &TensorData, gradient: &TensorData) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let [x, weight] = [x, weight].map(|data| Tensor::<4>::from_data(data.clone(), &device).require_grad());
        let options = ConvOptions::new([conv.stride; 2], [conv.padding; 2], [1, 1], 1);
        let y = module::conv2d(x.clone(), weight.clone(), None, options);
        let gradients = (y.clone() * Tensor::from_data(gradient.clone(), &device)).sum().backward();
        [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(|t| floats(t.into_data()))
    }

    /// Runs ways of all directions and returns how many there were.
    fn check(device: &CubeDevice, ways: &[Way], conv: Conv, strided: bool) -> usize {
        let (x, weight) = (noise(conv.input_shape(), 1), noise(conv.weight_shape(), 77));
        let gradient = noise(conv.output_shape(), 999);
        let [of_y, of_x, of_weight] = expected(conv, &x, &weight, &gradient);
        let mut count = 0;
        for (direction, [a, b], expected) in [
            (Direction::Forward, [&x, &weight], of_y),
            (Direction::Data, [&gradient, &weight], of_x),
            (Direction::Weight, [&x, &gradient], of_weight),
        ] {
            for way in ways {
                let Some(result) = way.run(direction, conv, put(a, strided, device), put(b, strided, device)) else {
                    continue;
                };
                assert_eq!(result.meta.shape().to_vec(), direction.result_shape(conv), "{way} of {conv:?}");
                let off = distance(&take(result), &expected);
                assert!(off < 1e-4, "{way}, {direction:?} of {conv:?} is off by {off}");
                count += 1;
            }
        }
        count
    }

    #[test]
    fn all_ways_take_the_shapes_of_residual_networks() {
        let Some(device) = wgpu().map(|device| cube(&device)) else { return };
        let conv = |inputs, side, outputs, kernel, stride| Conv {
            images: 3,
            inputs,
            size: [side; 2],
            outputs,
            kernel: [kernel; 2],
            stride,
            padding: kernel / 2,
        };
        // Five tiles forward and for the data, three of them of one row for weights, where the largest holds too many sums, and
        // turned weights. With a stride, the data's tiles are those whose rows and pixels are multiples of it.
        let check = |conv, strided| check(&device, &WAYS[1..], conv, strided);
        assert_eq!(check(conv(16, 8, 16, 3, 1), false), 13);
        assert_eq!(check(conv(3, 8, 16, 3, 1), true), 13);
        assert_eq!(check(conv(16, 8, 32, 3, 2), true), 9);
        assert_eq!(check(conv(16, 4, 24, 1, 1), true), 17);
        assert_eq!(check(conv(16, 5, 8, 1, 2), false), 10);
    }

    #[test]
    fn halves_are_multiplied_as_their_rounded_values_are() {
        let Some(device) = wgpu().map(|device| cube(&device)).filter(has_halves) else { return };
        let rounded = |data: TensorData| data.convert_dtype(DType::F16).convert_dtype(DType::F32);
        for (side, kernel, stride, expected) in [(6, 3, 1, 9), (6, 3, 2, 6), (5, 1, 1, 13)] {
            let conv = Conv {
                images: 2,
                inputs: 6,
                size: [side; 2],
                outputs: 9,
                kernel: [kernel; 2],
                stride,
                padding: kernel / 2,
            };
            let (x, weight) = (rounded(noise(conv.input_shape(), 1)), rounded(noise(conv.weight_shape(), 77)));
            let gradient = rounded(noise(conv.output_shape(), 999));
            let results = self::expected(conv, &x, &weight, &gradient);
            let put = |data: &TensorData| cast(CubeBackend::float_from_data(data.clone(), &device), DType::F16);
            let directions = [Direction::Forward, Direction::Data, Direction::Weight];
            let mut count = 0;
            for ((direction, [a, b]), expected) in
                directions.into_iter().zip([[&x, &weight], [&gradient, &weight], [&x, &gradient]]).zip(&results)
            {
                let scale = expected.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
                for way in WAYS {
                    let Some(result) = way.run(direction, conv, put(a), put(b)) else { continue };
                    assert_eq!(result.dtype, direction.result_type(DType::F16), "{way}, {direction:?}");
                    let off = floats(into_data_sync(cast(result, DType::F32)))
                        .iter()
                        .zip(expected)
                        .map(|(a, b)| (a - b).abs() / scale)
                        .fold(0.0, f32::max);
                    // What comes out is rounded once, but for weights that are not.
                    let most = if direction == Direction::Weight && matches!(way, Way::Ours(_)) { 1e-5 } else { 1e-3 };
                    assert!(off < most, "{way}, {direction:?} of {conv:?} is off by {off}");
                    count += 1;
                }
            }
            assert!(count >= expected, "{count} ways of {conv:?}");
        }
    }

    #[test]
    fn halves_are_added_in_f32() {
        let Some(device) = wgpu().map(|device| cube(&device)).filter(has_halves) else { return };
        // In f16 there is no odd number above 2048, and a sum of ones stops there.
        let conv = Conv { images: 1, inputs: 512, size: [3, 3], outputs: 1, kernel: [3, 3], stride: 1, padding: 0 };
        let ones = |shape: [usize; 4]| {
            let ones = TensorData::new(vec![1f32; shape.iter().product()], shape);
            cast(CubeBackend::float_from_data(ones, &device), DType::F16)
        };
        for way in WAYS {
            let (x, weight) = (ones(conv.input_shape()), ones(conv.weight_shape()));
            let Some(y) = way.run(Direction::Forward, conv, x, weight) else { continue };
            assert_eq!(floats(into_data_sync(cast(y, DType::F32))), [4608.0], "{way}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn kernels_equal_burns_own_autodiff(
            images in 1usize..4, inputs in 1usize..12, height in 1usize..9, width in 1usize..9, outputs in 1usize..12,
            kernel in 1usize..4, stride in 1usize..3, padding in 0usize..3, strided: bool,
        ) {
            let conv = Conv { images, inputs, size: [height, width], outputs, kernel: [kernel; 2], stride, padding };
            prop_assume!(conv.fits());
            if let Some(device) = wgpu().map(|device| cube(&device)) {
                // Those that burn tunes anew for each shape take minutes.
                check(&device, &WAYS[2..], conv, strided);
            }
        }
    }
}
