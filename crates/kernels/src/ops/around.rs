//! What a light bypass makes of the input of a convolution, added to what the convolution makes.

use burn::backend::Flex;
use burn::tensor::Tensor;

use super::activation::{Blocks, in_blocks, shape};
use super::batch_norm::expand;
use super::flex::{Floats, Input, run, vector, writable};
use super::{Activation, Normalised, Then, batch_norm_train};
use crate::batch_norm::{Affine, Gate, Statistics};
use crate::maps::Maps;

/// Normalises each channel of `x` times its factor by the mean and variance of that, and adds the channels of `made` at
/// `places`, in rising order:
///
/// ```text
/// y = scatter(made) + (f x − mean) γ / √(variance + ε) + β
/// ```
///
/// `x` has the channels of the result.
///
/// # Panics
///
/// Panics if the numbers of channels do not agree.
pub fn add_around(
    x: Activation,
    made: Activation,
    places: &[usize],
    factors: Tensor<1>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Normalised {
    let [_, channels, ..] = x.dims();
    let device = x.device();
    assert_eq!((made.dims()[1], factors.dims()), (places.len(), [channels]), "a place or a factor for every channel");
    let Blocks { tensor: x, maps, .. } = match x.into_blocks() {
        Ok(blocks) => blocks,
        Err(images) => {
            let scaled = Activation::of_nchw(images * factors.reshape([1, channels, 1, 1]));
            let batch = batch_norm_train(scaled, gamma, beta, epsilon, Then::Nothing);
            return Normalised { output: expand(made, places, channels).add(batch.output), ..batch };
        }
    };
    let own = Maps { channels: places.len(), ..maps };
    let made = made.blocks_of(own).tensor;
    let of_x = Statistics::of(maps, &Input::from(x.clone()).floats());
    let floats = Input::from(factors.clone()).floats();
    // What the normalisation of the products would find.
    let mean = floats.iter().zip(&of_x.mean).map(|(factor, mean)| factor * mean).collect();
    let variance: Vec<f32> =
        floats.iter().zip(&of_x.variance).map(|(factor, variance)| factor * factor * variance).collect();
    let places = places.to_vec();
    let mut of_sum = None;
    let inputs = [x.into(), made.into(), factors.into(), gamma.into(), beta.into()];
    let deviations: Vec<f64> = variance.iter().map(|variance| (f64::from(*variance) + epsilon).sqrt()).collect();
    let y = run(inputs, |[x, made, factors, gamma, beta]| {
        let scale = gamma.iter().zip(&*factors).zip(&deviations);
        let scale = scale.map(|((gamma, factor), deviation)| (f64::from(gamma * factor) / deviation) as f32).collect();
        let affine = Affine { mean: of_x.mean.clone(), scale, shift: beta.to_vec() };
        let (y, statistics) = affine.apply_onto(maps, &x, &places, &made);
        of_sum = Some(statistics);
        let backward = move |gradient, wanted: [bool; 5]| {
            let gradient = Floats::new(&gradient);
            let sums = affine.sums(maps, &gradient, &x, Gate::Open);
            let along = |of: &dyn Fn(usize) -> f64| -> Vec<f32> {
                (0..maps.channels).map(|c| (of(c) * f64::from(sums.product[c])) as f32).collect()
            };
            let of_gamma = along(&|c| f64::from(factors[c]) / deviations[c]);
            let of_factors = along(&|c| f64::from(gamma[c]) * epsilon / deviations[c].powi(3));
            let of_made = wanted[1].then(|| in_blocks(own, crate::planes::pick(maps, &gradient, &places)));
            let of_beta = vector(sums.gradient.clone());
            let of_x = wanted[0].then(|| {
                let mut gradient = writable(gradient.into(), shape(maps));
                // (f x − mean)² / (variance + ε) is (x − mean of x)² over this, whose ε is another for every channel.
                let spread = |(factor, variance): (&f32, &f32)| {
                    (f64::from(*variance) + epsilon / f64::from(*factor).powi(2)) as f32
                };
                let variance = factors.iter().zip(&of_x.variance).map(spread).collect();
                let statistics = Statistics { mean: of_x.mean.clone(), variance };
                affine.backward(maps, gradient.storage_mut(), &x, Gate::Open, Some((&statistics, &sums, 0.0)), false);
                gradient
            });
            [of_x, of_made, Some(vector(of_factors)), Some(vector(of_gamma)), Some(of_beta)]
        };
        (in_blocks(maps, y), Box::new(backward))
    });
    let constant = |floats| {
        let plain = Tensor::<1>::from_primitive::<Flex>(vector(floats));
        if device.is_autodiff() { Tensor::from_inner(plain) } else { plain }
    };
    let output = Activation::of_settled(Blocks::new(y, maps).with_statistics(of_sum));
    Normalised { output, mean: constant(mean), variance: constant(variance) }
}
