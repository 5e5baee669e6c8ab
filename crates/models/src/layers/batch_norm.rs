//! Batch normalisation: Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal
//! covariate shift", 2015, <https://arxiv.org/abs/1502.03167>.
//!
//! Differs from burn's layer: the running variance is the unbiased one, n / (n - 1) times that of the batch, as in the
//! paper and in PyTorch, and the newest statistics can be read as soon as a step has been taken.

use bonsai_kernels::{Normalised, add_around, batch_norm, batch_norm_train, gather_maps, scale_maps};
use burn::module::{Module, Param, RunningState};
use burn::tensor::Tensor;

use super::{Activation, Then};
use crate::init::Init;

/// The share of a batch's statistics in the running ones.
pub const NORM_MOMENTUM: f64 = 0.1;
/// What batch normalisation adds to the variance.
pub const NORM_EPSILON: f64 = 1e-5;

/// Normalises each channel by the batch in training, and by running statistics in evaluation.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// The scale of each channel.
    pub gamma: Param<Tensor<1>>,
    /// The shift of each channel.
    pub beta: Param<Tensor<1>>,
    /// The running mean of each channel.
    pub running_mean: RunningState<Tensor<1>>,
    /// The running variance of each channel.
    pub running_var: RunningState<Tensor<1>>,
}

impl BatchNorm {
    /// Builds the layer: scale 1, shift 0, running mean 0, running variance 1.
    pub fn new(channels: usize, init: &Init) -> Self {
        Self {
            gamma: init.constant(channels, 1.0),
            beta: init.constant(channels, 0.0),
            running_mean: RunningState::new(Tensor::zeros([channels], init.device())),
            running_var: RunningState::new(Tensor::ones([channels], init.device())),
        }
    }

    /// Normalises `x`: by its own statistics where its device can train, else by the running ones.
    pub fn forward(&self, x: Activation, then: Then) -> Activation {
        if x.device().is_autodiff() {
            return self.forward_train(x, then);
        }
        let (mean, variance) = (self.running_mean.value(), self.running_var.value());
        batch_norm(x, self.gamma.val(), self.beta.val(), mean, variance, NORM_EPSILON, then)
    }

    /// Normalises `x`, each channel times its factor, and adds the channels of `made` in their places, in rising order.
    pub fn add_around(&self, x: Activation, factors: Tensor<1>, made: Activation, places: &[usize]) -> Activation {
        let dims @ [images, channels, ..] = x.dims();
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        if x.device().is_autodiff() {
            let batch = add_around(x, made, places, factors, gamma, beta, NORM_EPSILON);
            return self.followed(dims, batch);
        }
        let factors = factors.reshape([1, channels]).repeat_dim(0, images);
        let around = self.forward(scale_maps(x, factors), Then::Nothing);
        let made = match places.len() == channels {
            true => made,
            false => {
                let own = (0..channels).map(|channel| places.binary_search(&channel).ok());
                gather_maps(made, own.collect(), 1)
            }
        };
        made.add(around)
    }

    fn forward_train(&self, x: Activation, then: Then) -> Activation {
        let dims = x.dims();
        self.followed(dims, batch_norm_train(x, self.gamma.val(), self.beta.val(), NORM_EPSILON, then))
    }

    /// Lets the running statistics follow those of a batch whose maps have the shape `dims`.
    fn followed(&self, [images, _, height, width]: [usize; 4], batch: Normalised) -> Activation {
        let samples = images * height * width;
        // With one sample the batch variance is 0 whatever it is divided by.
        let unbiased = samples as f64 / (samples.max(2) - 1) as f64;
        follow(&self.running_mean, batch.mean, NORM_MOMENTUM);
        follow(&self.running_var, batch.variance, NORM_MOMENTUM * unbiased);
        batch.output
    }
}

/// Moves a running statistic towards that of the batch, which counts `share`.
fn follow(running: &RunningState<Tensor<1>>, batch: Tensor<1>, share: f64) {
    let next = running.value().mul_scalar(1.0 - NORM_MOMENTUM) + batch.detach().mul_scalar(share);
    running.update(next.detach());
    // Without this a checkpoint or an evaluation after the step would see the statistics before it.
    running.value_sync();
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::BatchNormConfig;
    use burn::tensor::{Device, TensorData};

    const DIMS: [usize; 4] = [3, 2, 2, 2];

    fn layer(device: &Device) -> BatchNorm {
        let mut layer = BatchNorm::new(2, &Init::new(0, device));
        layer.gamma = Param::from_data([1.5f32, -0.7], device);
        layer.beta = Param::from_data([0.2f32, 0.4], device);
        layer
    }

    fn numbers(seed: usize, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = (0..24).map(|i| ((i * 7 + seed * 13) % 11) as f32 * 0.3 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, DIMS), device)
    }

    fn forward(layer: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
        layer.forward(Activation::new(x), Then::Nothing).into_nchw()
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    fn close(ours: &[f32], expected: &[f32]) {
        assert_eq!(ours.len(), expected.len());
        assert!(ours.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} is not {expected:?}");
    }

    #[test]
    fn output_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let ours = layer(&device);
        let mut burns = BatchNormConfig::new(2).init(&device);
        burns.gamma = ours.gamma.clone();
        burns.beta = ours.beta.clone();
        let run = |forward: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let x = numbers(1, &device).require_grad();
            let y = forward(x.clone());
            let gradients = (y.clone() * numbers(2, &device)).sum().backward();
            let gradient = |parameter: &Param<Tensor<1>>| floats(parameter.val().grad(&gradients).unwrap());
            [floats(y), floats(x.grad(&gradients).unwrap()), gradient(&ours.gamma), gradient(&ours.beta)].concat()
        };
        close(&run(&|x| forward(&ours, x)), &run(&|x| burns.forward(x)));
    }

    #[test]
    fn the_running_variance_is_unbiased() {
        let device = Device::flex().autodiff();
        let layer = BatchNorm::new(1, &Init::new(0, &device));
        // Mean 3, squared deviations 4 + 0 + 0 + 4: 2 when biased, 8/3 when unbiased.
        let x = Tensor::<4>::from_data([[[[1.0f32, 3.0], [3.0, 5.0]]]], &device);
        forward(&layer, x.clone());
        close(&floats(layer.running_mean.value()), &[0.3]);
        close(&floats(layer.running_var.value()), &[0.9 + 0.1 * 8.0 / 3.0]);
        forward(&layer, x);
        close(&floats(layer.running_mean.value()), &[0.57]);
        close(&floats(layer.running_var.value()), &[0.9 * (0.9 + 0.1 * 8.0 / 3.0) + 0.1 * 8.0 / 3.0]);
    }

    #[test]
    fn evaluation_uses_the_statistics_of_the_step_just_taken() {
        let device = Device::flex().autodiff();
        let layer = layer(&device);
        forward(&layer, numbers(1, &device));
        let (mean, variance) = (floats(layer.running_mean.value()), floats(layer.running_var.value()));
        let x = numbers(2, &device.clone().inner());
        let expected: Vec<f32> = floats(x.clone())
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let c = i / 4 % 2;
                (x - mean[c]) / (variance[c] + 1e-5).sqrt() * [1.5, -0.7][c] + [0.2, 0.4][c]
            })
            .collect();
        let evaluated = layer.valid();
        close(&floats(forward(&evaluated, x.clone())), &expected);
        // Evaluation changes nothing.
        close(&floats(forward(&evaluated, x)), &expected);
        close(&floats(layer.running_mean.value()), &mean);
    }

    #[test]
    fn one_sample_per_channel_gives_finite_numbers() {
        let device = Device::flex().autodiff();
        let layer = BatchNorm::new(2, &Init::new(0, &device));
        let y = forward(&layer, Tensor::<4>::from_data([[[[5.0f32]], [[-3.0]]]], &device));
        close(&floats(y), &[0.0, 0.0]);
        close(&floats(layer.running_mean.value()), &[0.5, -0.3]);
        close(&floats(layer.running_var.value()), &[0.9, 0.9]);
    }
}
