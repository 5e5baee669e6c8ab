//! Training batch normalisation on GPUs, with the rectifier and the residual that follow it, in four kernels.
//!
//! Forward, one reads the input for the statistics, and one reads it again and writes the output. Backward, one reads the
//! gradient and the input for their sums, and one reads both again and writes the input's gradient. That of a residual is
//! what the rectifier lets through: the pass that sums writes it, and the last one reads it instead of the gradient and the
//! output.
//!
//! Maps are f32 or halves, which are read, widened, and rounded once when they are written; all else is f32.
//!
//! A channel is cut into shares by the shape alone, and a cube of threads takes each. It leaves their results to the next
//! kernel, whose cubes all put together those of their channel first ([`mod@shared`]), so that results are the same every time.

mod backward;
mod forward;
mod shared;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{DType, DispatchDevice};
use burn::tensor::Device;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

pub use backward::backward;
pub use forward::{Normalised, forward};

/// Threads of a cube.
const THREADS: u32 = 256;
/// Cubes that keep a large device busy.
const CUBES: u32 = 512;
/// Channels that a cube reads side by side, at most, where they are innermost.
const LANES: u32 = 32;
/// Vectors that a thread reads, at least, where there are enough.
const LEAST: u32 = 4;
/// Shares of a channel, at most.
const MOST_SHARES: u32 = 256;
/// Buffers that the largest of the kernels reads and writes.
const BUFFERS: u32 = 10;

/// A training batch normalisation of maps `[images, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// The shape of the maps.
    pub shape: [usize; 4],
    /// What is added to the variance.
    pub epsilon: f64,
    /// Whether a rectifier follows, as one does wherever a residual is added.
    pub relu: bool,
}

impl Norm {
    /// Returns whether the kernels take maps of `shape` on `device`.
    pub fn fits(shape: [usize; 4], device: &Device) -> bool {
        let device = device.clone().inner();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return false };
        let client = device.client();
        let hardware = &client.properties().hardware;
        let elements: usize = shape.iter().product();
        elements > 0
            && elements < u32::MAX as usize
            && shape[1] < super::tiles::MOST_CUBES
            && hardware.max_units_per_cube >= THREADS
            && hardware.max_bindings >= BUFFERS
    }
}

/// How the elements of a channel lie in memory, in vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    channels: u32,
    /// Neighbours of one channel: the vectors of a map, or one where channels are innermost.
    run: u32,
    /// Channels that a cube reads side by side.
    lanes: u32,
}

impl Order {
    /// Returns how `x` lies, its vectors' length, and `x`, copied if it lies otherwise.
    fn of(x: CubeTensor) -> (Order, usize, CubeTensor) {
        let [_, channels, height, width] = x.meta.shape().dims::<4>();
        if channels > 1 && (height * width == 1 || !x.is_contiguous()) {
            let inner = CubeBackend::float_permute(x.clone(), &[0, 2, 3, 1]);
            if inner.is_contiguous() {
                let channels = channels as u32;
                return (Order { channels, run: 1, lanes: channels.next_power_of_two().min(LANES) }, 1, inner);
            }
        }
        let length = if (height * width).is_multiple_of(4) { 4 } else { 1 };
        let order = Order { channels: channels as u32, run: (height * width / length) as u32, lanes: 1 };
        (order, length, into_contiguous(x))
    }

    /// Returns `maps` laid out like this.
    fn arrange(self, maps: CubeTensor) -> CubeTensor {
        into_contiguous(if self.is_inner() { CubeBackend::float_permute(maps, &[0, 2, 3, 1]) } else { maps })
    }

    /// Returns maps laid out like this as `[images, channels, height, width]`.
    fn restore(self, maps: CubeTensor) -> CubeTensor {
        if self.is_inner() { CubeBackend::float_permute(maps, &[0, 3, 1, 2]) } else { maps }
    }

    /// Whether channels are innermost.
    fn is_inner(self) -> bool {
        self.lanes > 1
    }

    /// Returns groups of channels that cubes read side by side.
    fn groups(self) -> u32 {
        self.channels.div_ceil(self.lanes)
    }

    /// Cuts channels of `elements` elements in vectors of `length`.
    fn cut(self, elements: usize, length: usize) -> Cut {
        let total = (elements / length) as u32;
        let threads = THREADS / self.lanes;
        let parts = CUBES.div_ceil(self.groups()).min(MOST_SHARES).min(total.div_ceil(threads * LEAST)).max(1);
        let share = total.div_ceil(parts);
        let block = (threads * LEAST).max(total.div_ceil(super::tiles::MOST_CUBES as u32));
        Cut { total, share, parts: total.div_ceil(share), block, blocks: total.div_ceil(block) }
    }
}

/// How channels are cut into shares, which are summed, and into blocks, which are written.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Vectors of a channel.
    total: u32,
    /// Vectors of a share.
    share: u32,
    /// Shares.
    parts: u32,
    /// Vectors of a block.
    block: u32,
    /// Blocks.
    blocks: u32,
}

/// Returns maps like `x` that have yet to be written.
fn empty(x: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype)
}

/// Returns numbers in f32 beside `x` that have yet to be written.
fn vector(x: &CubeTensor, shape: &[usize]) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape.into(), DType::F32)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{FloatDType, Tensor, TensorData, activation, module};
    use proptest::prelude::*;

    use super::super::testing::{cube, distance, floats, has_halves, noise, put, take, wgpu};
    use super::*;

    const EPSILON: f64 = 1e-5;

    struct Case {
        x: TensorData,
        gamma: TensorData,
        beta: TensorData,
        residual: Option<TensorData>,
        gradient: TensorData,
        relu: bool,
    }

    impl Case {
        fn new(shape: [usize; 4], relu: bool, added: bool) -> Case {
            let vector = |seed| noise([shape[1]], seed);
            Case {
                x: noise(shape, 1),
                gamma: vector(2),
                beta: vector(33),
                residual: added.then(|| noise(shape, 444)),
                gradient: noise(shape, 5555),
                relu,
            }
        }

        /// Output, mean, variance and gradients by burn's own autodiff on the CPU.
        fn expected(&self) -> Vec<Vec<f32>> {
            let device = Device::flex().autodiff();
            fn leaf<const D: usize>(data: &TensorData, device: &Device) -> Tensor<D> {
                Tensor::from_data(data.clone(), device).require_grad()
            }
            let x = leaf::<4>(&self.x, &device);
            let [gamma, beta] = [&self.gamma, &self.beta].map(|data| leaf::<1>(data, &device));
            let residual = self.residual.as_ref().map(|data| leaf::<4>(data, &device));
            let batch = module::batch_norm_train(x.clone(), gamma.clone(), beta.clone(), EPSILON);
            let y = residual.iter().fold(batch.output, |y, residual| y + residual.clone());
            let y = if self.relu { activation::relu(y) } else { y };
            let gradients = (y.clone() * Tensor::from_data(self.gradient.clone(), &device)).sum().backward();
            let mut all = vec![y.into_data(), batch.mean.into_data(), batch.variance.into_data()];
            all.push(x.grad(&gradients).unwrap().into_data());
            all.extend([&gamma, &beta].map(|vector| vector.grad(&gradients).unwrap().into_data()));
            all.extend(residual.map(|residual| residual.grad(&gradients).unwrap().into_data()));
            all.into_iter().map(floats).collect()
        }

        /// Rounds all maps to f16.
        fn rounded(self) -> Case {
            let rounded = |data: TensorData| data.convert_dtype(DType::F16).convert_dtype(DType::F32);
            let Case { x, residual, gradient, .. } = self;
            Case { x: rounded(x), residual: residual.map(rounded), gradient: rounded(gradient), ..self }
        }

        /// The same by our kernels; `inner` says which of input, gradient and residual have channels innermost.
        fn ours(&self, device: &Device, inner: [bool; 3]) -> Vec<Vec<f32>> {
            self.ours_in(FloatDType::F32, device, inner)
        }

        /// The same with maps of a type.
        fn ours_in(&self, dtype: FloatDType, device: &Device, inner: [bool; 3]) -> Vec<Vec<f32>> {
            let device = cube(device);
            let maps = |data, inner| CubeBackend::float_cast(put(data, inner, &device), dtype);
            let norm = Norm { shape: self.x.shape().dims(), epsilon: EPSILON, relu: self.relu };
            let x = maps(&self.x, inner[0]);
            let [gamma, beta] = [&self.gamma, &self.beta].map(|data| put(data, false, &device));
            let residual = self.residual.as_ref().map(|data| maps(data, inner[2]));
            let Normalised { output, mean, variance } = forward(norm, x.clone(), gamma.clone(), beta.clone(), residual);
            let of = backward(
                norm,
                maps(&self.gradient, inner[1]),
                x,
                [mean.clone(), variance.clone()],
                [gamma, beta],
                self.residual.is_some().then(|| output.clone()),
            );
            let all = [output, mean, variance, of.x, of.gamma, of.beta].into_iter().chain(of.residual);
            all.map(|tensor| take(CubeBackend::float_cast(tensor, FloatDType::F32))).collect()
        }

        fn check(&self, device: &Device, inner: [bool; 3]) {
            let (ours, expected) = (self.ours(device, inner), self.expected());
            assert_eq!(ours.len(), expected.len());
            for (i, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                let off = distance(ours, expected);
                assert!(off < 1e-4, "result {i} of {:?} is off by {off}", self.x.shape());
            }
        }
    }

    #[test]
    fn channels_longer_than_one_reduction_holds_are_normalised_right_and_the_same_every_time() {
        let Some(device) = wgpu() else { return };
        // 67,600 pixels a channel: CubeCL's strided reduction loses those beyond 65,536.
        for (shape, inner) in [([4, 2, 130, 130], false), ([100, 3, 26, 26], true)] {
            let case = Case::new(shape, true, true);
            case.check(&device, [inner; 3]);
            assert_eq!(case.ours(&device, [inner; 3]), case.ours(&device, [inner; 3]));
        }
    }

    #[test]
    fn numbers_far_from_zero_keep_their_variance() {
        let Some(device) = wgpu() else { return };
        let mut case = Case::new([6, 3, 16, 16], false, false);
        let far: Vec<f32> = floats(case.x.clone()).into_iter().map(|value| 1000.0 + value).collect();
        case.x = TensorData::new(far.clone(), case.x.shape().clone());
        let variance = &case.ours(&device, [false; 3])[2];
        for (c, variance) in variance.iter().enumerate() {
            let of_channel = |i: usize| f64::from(far[(i / 256 * 3 + c) * 256 + i % 256]);
            let mean = (0..6 * 256).map(of_channel).sum::<f64>() / 1536.0;
            let exact = (0..6 * 256).map(|i| (of_channel(i) - mean).powi(2)).sum::<f64>() / 1536.0;
            assert!((f64::from(*variance) - exact).abs() < 1e-4 * exact, "{variance} instead of {exact}");
        }
    }

    #[test]
    fn halves_are_normalised_in_f32_and_rounded_once() {
        let Some(device) = wgpu().filter(|device| has_halves(&cube(device))) else { return };
        for (shape, inner) in
            [([5, 6, 8, 4], [false; 3]), ([3, 9, 4, 5], [true, false, true]), ([4, 5, 3, 3], [false; 3])]
        {
            for (relu, added) in [(false, false), (true, false), (true, true)] {
                let case = Case::new(shape, relu, added).rounded();
                let [halves, floats] =
                    [FloatDType::F16, FloatDType::F32].map(|dtype| case.ours_in(dtype, &device, inner));
                assert_eq!(halves.len(), floats.len());
                for (i, (halves, floats)) in halves.iter().zip(&floats).enumerate() {
                    // Half a unit in the last place of an f16, or of the least of them.
                    let unit = |x: f32| if [0, 3, 6].contains(&i) { (x.abs() / 1024.0).max(6e-8) } else { 1e-6 };
                    for (half, float) in halves.iter().zip(floats) {
                        let off = (half - float).abs();
                        assert!(off < 0.501 * unit(*float), "result {i} of {shape:?}: {half} instead of {float}");
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn kernels_equal_burns_own_autodiff(
            images in 2usize..9, channels in 1usize..40, height in 1usize..9, width in 1usize..9,
            relu: bool, added: bool, inner: [bool; 3],
        ) {
            if let Some(device) = wgpu() {
                Case::new([images, channels, height, width], relu || added, added).check(&device, inner);
            }
        }
    }
}
