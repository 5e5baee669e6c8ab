//! Convolutions fused with the normalisations around them, against the same operations one by one.

use bonsai_kernels::Precision;
use bonsai_kernels::batch_norm::{Affine, Gate, Statistics};
use bonsai_kernels::buffer::Buffer;
use bonsai_kernels::conv::unit::{Backward, Input, Norm, Unit, Wanted};
use bonsai_kernels::conv::{Conv, Pattern};
use bonsai_kernels::maps::Maps;
use bonsai_kernels::planes::{Part, Picked, Place, Planes, pick};
use bonsai_kernels::simd::Level;
use proptest::prelude::*;
use rand::RngExt;

const EPSILON: f64 = 1e-5;

fn numbers(len: usize, purpose: &str) -> Vec<f32> {
    let mut random = bonsai_random::stream(0, purpose, len);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn maps(maps: Maps, purpose: &str) -> Buffer {
    maps.from_nchw(&numbers(maps.dims().iter().product(), purpose))
}

/// A convolution between two normalisations, and a gradient for it.
struct Case {
    conv: Conv,
    x: Buffer,
    weight: Vec<f32>,
    pattern: Option<Pattern>,
    precision: Precision,
    before: Option<Affine>,
    gradient: Buffer,
}

impl Case {
    fn new(conv: Conv, percent: Option<u32>, normalised: bool) -> Case {
        let shape = [conv.outputs, conv.input.channels, conv.kernel[0], conv.kernel[1]];
        let mut weight = numbers(shape.iter().product(), "weight");
        let pattern = percent.map(|percent| {
            let mut random = bonsai_random::stream(1, "mask", percent);
            let mask: Vec<bool> = weight.iter().map(|_| random.random_range(0..100) < percent).collect();
            weight.iter_mut().zip(&mask).for_each(|(weight, kept)| *weight *= *kept as u8 as f32);
            Pattern::new(shape, mask)
        });
        let x = maps(conv.input, "x");
        let channels = conv.input.channels;
        let before = normalised.then(|| {
            Statistics::of(conv.input, &x).affine(&numbers(channels, "gamma"), &numbers(channels, "beta"), EPSILON)
        });
        let precision = Precision::F32;
        Case { conv, x, weight, pattern, precision, before, gradient: maps(conv.output(), "gradient") }
    }

    fn in_bf16(self) -> Case {
        Case { precision: Precision::Bf16, ..self }
    }

    fn unit(&self) -> Unit<'_> {
        let pattern = self.pattern.as_ref();
        Unit { conv: &self.conv, weight: &self.weight, pattern, precision: self.precision }
    }

    fn input(&self) -> Input<'_> {
        Input { x: Planes::Whole(&self.x), norm: self.before.as_ref().map(|affine| Norm { affine, relu: true }) }
    }

    /// Everything a unit returns, forward and backward.
    fn fused(&self, input: Input) -> Vec<Vec<f32>> {
        let to = self.conv.output();
        let (z, statistics) = self.unit().forward(input, true);
        let statistics = statistics.unwrap();
        let after = statistics.affine(&numbers(to.channels, "gamma"), &numbers(to.channels, "beta"), EPSILON);
        let sums = after.sums(to, &self.gradient, &z, Gate::Input);
        let training = (&statistics, &sums, EPSILON);
        let norm = Some(Backward { z: &z, affine: &after, gate: Gate::Input, training });
        let wanted = Wanted { input: true, onto: None, weight: true, kept: self.pattern.as_ref() };
        let of = self.unit().backward(input, &self.gradient, norm, wanted);
        let (of_input, of_weight) = (of.input.unwrap().to_vec(), of.weight.unwrap().to_vec());
        let mut all = vec![z.to_vec(), statistics.mean.clone(), statistics.variance.clone(), of_input, of_weight];
        all.extend(of.sums.into_iter().flat_map(|sums| [sums.gradient, sums.product]));
        all
    }

    /// The same, one operation after the other.
    fn one_by_one(&self) -> Vec<Vec<f32>> {
        let Case { conv, weight, .. } = self;
        let (from, to) = (conv.input, conv.output());
        let applied = self.before.as_ref().map(|before| before.apply(from, &self.x, true, None));
        let x = applied.as_ref().unwrap_or(&self.x);
        let z = match (&self.pattern, self.precision) {
            (None, Precision::F32 | Precision::F16) => conv.forward(x, weight),
            (None, Precision::Bf16) => conv.forward_bf16(x, weight),
            (Some(pattern), _) => conv.forward_kept(x, weight, pattern),
        };
        let statistics = Statistics::of(to, &z);
        let after = statistics.affine(&numbers(to.channels, "gamma"), &numbers(to.channels, "beta"), EPSILON);
        let sums = after.sums(to, &self.gradient, &z, Gate::Input);
        let mut gradient = self.gradient.to_vec();
        after.backward(to, &mut gradient, &z, Gate::Input, Some((&statistics, &sums, EPSILON)), false);
        let (of_input, of_weight) = match (&self.pattern, self.precision) {
            (None, Precision::F32 | Precision::F16) => {
                (conv.data_gradient(&gradient, weight), conv.weight_gradient(x, &gradient))
            }
            (None, Precision::Bf16) => {
                (conv.data_gradient_bf16(&gradient, weight), conv.weight_gradient_bf16(x, &gradient))
            }
            (Some(pattern), _) => {
                (conv.data_gradient_kept(&gradient, weight, pattern), conv.weight_gradient_kept(x, &gradient, pattern))
            }
        };
        let sums = self.before.as_ref().map(|before| before.sums(from, &of_input, &self.x, Gate::Input));
        let mut all = vec![z.to_vec(), statistics.mean, statistics.variance, of_input.to_vec(), of_weight.to_vec()];
        all.extend(sums.into_iter().flat_map(|sums| [sums.gradient, sums.product]));
        all
    }

    fn check(&self) {
        for level in Level::available() {
            level.during(|| {
                let (fused, single) = (self.fused(self.input()), self.one_by_one());
                assert!(fused == single, "{level:?} {:?} {:?}, pattern {:?}", self.precision, self.conv, self.pattern);
                self.check_onto(&fused[3]);
                self.check_picked(&fused);
            });
        }
    }

    /// Channels that lie in two activations in turn are read as if they lay in one.
    fn check_picked(&self, whole: &[Vec<f32>]) {
        let (maps, norm) = (self.conv.input, self.input().norm);
        if norm.is_none() || maps.channels < 2 {
            return;
        }
        let of = |part: usize| {
            let channels: Vec<usize> = (part..maps.channels).step_by(2).collect();
            (Maps::new([maps.images, channels.len(), maps.height, maps.width]), pick(maps, &self.x, &channels))
        };
        let halves = [of(0), of(1)];
        let parts = halves.each_ref().map(|(maps, x)| Part { maps: *maps, x });
        let places: Vec<Place> = (0..maps.channels).map(|c| Place { part: c % 2, channel: c / 2 }).collect();
        let picked = Input { x: Planes::Picked(Picked::new(&parts, &places)), norm };
        assert!(self.fused(picked) == whole, "{:?} of picked channels", self.conv);
    }

    /// The gradient of the input is added to what is there already.
    fn check_onto(&self, alone: &[f32]) {
        let to = self.conv.output();
        let (z, statistics) = self.unit().forward(self.input(), true);
        let statistics = statistics.unwrap();
        let after = statistics.affine(&numbers(to.channels, "gamma"), &numbers(to.channels, "beta"), EPSILON);
        let sums = after.sums(to, &self.gradient, &z, Gate::Input);
        let training = (&statistics, &sums, EPSILON);
        let norm = Some(Backward { z: &z, affine: &after, gate: Gate::Input, training });
        let before = maps(self.conv.input, "onto");
        let mut onto = before.to_vec();
        let wanted = Wanted { input: true, onto: Some(&mut onto), weight: false, kept: None };
        let of = self.unit().backward(self.input(), &self.gradient, norm, wanted);
        assert!(of.input.is_none() && of.weight.is_none());
        let size = alone.iter().fold(1.0f32, |size, value| size.max(value.abs()));
        for ((onto, before), alone) in onto.iter().zip(&before[..]).zip(alone) {
            assert!((onto - (before + alone)).abs() <= 1e-5 * size, "{onto} is not {before} + {alone}");
        }
    }
}

fn conv(dims: [usize; 4], outputs: usize, kernel: usize, stride: usize, padding: usize) -> Conv {
    Conv { input: Maps::new(dims), outputs, kernel: [kernel; 2], stride, padding }
}

#[test]
fn layers_of_the_zoo_are_fused_without_changing_a_bit() {
    for percent in [None, Some(0), Some(10), Some(60)] {
        for normalised in [false, true] {
            for conv in [
                conv([37, 16, 8, 8], 24, 3, 1, 1),
                conv([20, 16, 32, 32], 32, 3, 2, 1),
                // Blocks that go through in strips, forward and backward, the last block and the last strip not full.
                conv([50, 16, 26, 27], 12, 3, 1, 1),
                conv([33, 40, 4, 4], 12, 3, 1, 1),
                conv([18, 8, 9, 9], 20, 1, 2, 0),
                conv([3, 64, 4, 4], 16, 1, 1, 0),
                // One tap: several groups of input channels, several tasks, strips of few rows.
                conv([18, 70, 9, 9], 68, 1, 1, 0),
                conv([20, 66, 21, 19], 24, 1, 1, 0),
            ] {
                for case in [Case::new(conv, percent, normalised), Case::new(conv, percent, normalised).in_bf16()] {
                    case.check();
                    // A thread alone never divides a block, so that it goes through in strips.
                    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| case.check());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_is_fused_without_changing_a_bit(
        (images, inputs, outputs) in (1usize..40, 1usize..20, 1usize..20),
        (height, width) in (3usize..12, 3usize..12),
        (kernel, stride) in prop_oneof![Just(1usize), Just(3)].prop_flat_map(|kernel| (Just(kernel), 1usize..3)),
        percent in prop_oneof![Just(None), (0u32..101).prop_map(Some)],
        (normalised, rounded) in any::<(bool, bool)>(),
    ) {
        let conv = conv([images, inputs, height, width], outputs, kernel, stride, kernel / 2);
        let case = Case::new(conv, percent, normalised);
        if rounded { case.in_bf16() } else { case }.check();
    }
}

#[test]
fn fused_results_are_the_same_on_any_number_of_threads() {
    for percent in [None, Some(20)] {
        for conv in
            [conv([70, 13, 9, 9], 33, 3, 1, 1), conv([150, 16, 4, 4], 16, 3, 2, 1), conv([90, 12, 23, 30], 9, 3, 1, 1)]
        {
            for case in [Case::new(conv, percent, true), Case::new(conv, percent, true).in_bf16()] {
                let on = |threads| {
                    rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap()
                        .install(|| case.fused(case.input()))
                };
                let one = on(1);
                assert!(on(2) == one && on(3) == one && on(7) == one, "{:?} {conv:?}", case.precision);
            }
        }
    }
}
