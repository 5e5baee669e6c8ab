//! Linear kernels at every instruction set: against sums in f64, and sparse ones against dense ones with zeros.

use bonsai_kernels::linear::{Linear, Start};
use bonsai_kernels::panels::Panels;
use bonsai_kernels::simd::Level;
use bonsai_kernels::{LinearPattern, Precision};
use rand::RngExt;

fn random(len: usize, purpose: &str) -> Vec<f32> {
    let mut random = bonsai_random::stream(0, purpose, len);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// Multiplies `a` `[m, k]` by `b` `[k, n]`.
fn product(a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32, [m, k, n]: [usize; 3]) -> Vec<f32> {
    let sum = |i: usize| (0..k).map(|j| a(i / n, j) as f64 * b(j, i % n) as f64).sum::<f64>() as f32;
    (0..m * n).map(sum).collect()
}

#[track_caller]
fn close(ours: &[f32], exact: &[f32], terms: usize) {
    assert_eq!(ours.len(), exact.len());
    for (i, (a, b)) in ours.iter().zip(exact).enumerate() {
        // Terms are at most 1, and each addition rounds the sum so far.
        assert!((a - b).abs() <= 1e-6 * terms as f32, "number {i}: {a} instead of {b}");
    }
}

#[test]
fn kernels_of_every_level_sum_what_they_should() {
    for (rows, inputs, outputs, percent) in
        [(1, 1, 1, 100), (37, 5, 7, 50), (210, 100, 33, 10), (500, 49, 35, 30), (20, 97, 3, 0)]
    {
        let mut random_mask = bonsai_random::stream(0, "mask", percent);
        let mask: Vec<bool> = (0..inputs * outputs).map(|_| random_mask.random_range(0..100) < percent).collect();
        let pattern = LinearPattern::new([outputs, inputs], &mask);
        let (x, gradient) = (random(rows * inputs, "x"), random(rows * outputs, "gradient"));
        let mut weight = random(inputs * outputs, "weight");
        for (i, weight) in weight.iter_mut().enumerate() {
            *weight *= mask[i % outputs * inputs + i / outputs] as u8 as f32;
        }
        let bias = random(outputs, "bias");
        let panels = Panels::of_rows(rows);
        let layer = Linear { inputs, outputs, panels, precision: Precision::F32 };
        let (packed_x, packed_gradient) = (panels.pack(&x, inputs), panels.pack(&gradient, outputs));
        let start = Start { bias: Some(&bias), onto: None };
        for level in Level::available() {
            level.during(|| {
                let forward = |pattern| panels.unpack(&layer.forward(&packed_x, &weight, pattern, start), outputs);
                let dense = forward(None);
                let exact = product(|r, i| x[r * inputs + i], |i, o| weight[i * outputs + o], [rows, inputs, outputs]);
                let exact: Vec<f32> = exact.iter().enumerate().map(|(i, sum)| sum + bias[i % outputs]).collect();
                close(&dense, &exact, inputs + 1);
                // A weight of zero adds exactly nothing, in the same order: there is no difference at all.
                assert_eq!(*forward(Some(&pattern)), *dense, "{level:?}");

                let back = |pattern| panels.unpack(&layer.data_gradient(&packed_gradient, &weight, pattern), inputs);
                let dense = back(None);
                let exact =
                    product(|r, o| gradient[r * outputs + o], |o, i| weight[i * outputs + o], [rows, outputs, inputs]);
                close(&dense, &exact, outputs);
                assert_eq!(*back(Some(&pattern)), *dense, "{level:?}");

                let dense = layer.weight_gradient(&packed_x, &packed_gradient, None);
                let exact =
                    product(|i, r| x[r * inputs + i], |r, o| gradient[r * outputs + o], [inputs, rows, outputs]);
                close(&dense.weight, &exact, rows);
                let exact_bias = product(|_, _| 1.0, |r, o| gradient[r * outputs + o], [1, rows, outputs]);
                close(&dense.bias, &exact_bias, rows);
                let kept = layer.weight_gradient(&packed_x, &packed_gradient, Some(&pattern));
                assert_eq!(kept.bias, dense.bias);
                for (i, (kept, dense)) in kept.weight.iter().zip(dense.weight.iter()).enumerate() {
                    let dense = if mask[i % outputs * inputs + i / outputs] { *dense } else { 0.0 };
                    assert_eq!(kept.to_bits(), dense.to_bits(), "{level:?} {i}: {kept} instead of {dense}");
                }
            });
        }
    }
}

/// Rounds to the nearest number with eight bits of mantissa, of two as near to the even one.
fn rounded(x: f32) -> f32 {
    let (bits, half) = (x.to_bits(), 0x8000);
    let (down, rest) = (bits & 0xffff_0000, bits & 0xffff);
    let up = rest > half || (rest == half && down & 0x1_0000 != 0);
    f32::from_bits(if up { down + 0x1_0000 } else { down })
}

#[test]
fn bf16_rounds_operands_and_nothing_else() {
    for (rows, inputs, outputs) in [(1, 1, 1), (37, 5, 7), (210, 100, 33), (500, 49, 35), (20, 97, 3)] {
        let (x, gradient) = (random(rows * inputs, "x"), random(rows * outputs, "gradient"));
        let (weight, bias) = (random(inputs * outputs, "weight"), random(outputs, "bias"));
        let [of_x, of_gradient, of_weight] =
            [&x, &gradient, &weight].map(|all| all.iter().map(|x| rounded(*x)).collect::<Vec<f32>>());
        let panels = Panels::of_rows(rows);
        let layer = Linear { inputs, outputs, panels, precision: Precision::Bf16 };
        let (packed_x, packed_gradient) = (panels.pack(&x, inputs), panels.pack(&gradient, outputs));
        let onto = random(rows * outputs, "onto");
        let packed_onto = panels.pack(&onto, outputs);
        let start = Start { bias: Some(&bias), onto: Some(&packed_onto) };
        let mut first: Option<[Vec<f32>; 2]> = None;
        for level in Level::available() {
            level.during(|| {
                let forward = panels.unpack(&layer.forward(&packed_x, &weight, None, start), outputs);
                let exact =
                    product(|r, i| of_x[r * inputs + i], |i, o| of_weight[i * outputs + o], [rows, inputs, outputs]);
                let exact: Vec<f32> =
                    exact.iter().enumerate().map(|(i, sum)| sum + bias[i % outputs] + onto[i]).collect();
                close(&forward, &exact, inputs + 2);
                let back = panels.unpack(&layer.data_gradient(&packed_gradient, &weight, None), inputs);
                let of = |r: usize, o: usize| of_gradient[r * outputs + o];
                close(&back, &product(of, |o, i| of_weight[i * outputs + o], [rows, outputs, inputs]), outputs);
                let parameters = layer.weight_gradient(&packed_x, &packed_gradient, None);
                close(&parameters.weight, &product(|i, r| of_x[r * inputs + i], of, [inputs, rows, outputs]), rows);
                // The gradient of the bias is a sum of f32.
                close(
                    &parameters.bias,
                    &product(|_, _| 1.0, |r, o| gradient[r * outputs + o], [1, rows, outputs]),
                    rows,
                );
                // Every level computes the same numbers.
                let both = [forward.to_vec(), back.to_vec()];
                assert_eq!(*first.get_or_insert_with(|| both.clone()), both, "{level:?}");
            });
        }
    }
}

#[test]
fn no_images_give_gradients_of_zero() {
    for precision in [Precision::F32, Precision::Bf16] {
        let layer = Linear { inputs: 3, outputs: 2, panels: Panels::of_tokens(0, 5), precision };
        let parameters = layer.weight_gradient(&[], &[], None);
        assert_eq!((&parameters.weight[..], &parameters.bias[..]), (&[0.0; 6][..], &[0.0; 2][..]));
    }
}
