//! Scales the loss of a training in f16, so that small gradients are not lost, and takes no step where large ones were.
//!
//! After Micikevicius et al., "Mixed Precision Training", 2018, <https://arxiv.org/abs/1710.03740>, with the constants of
//! `torch.amp.GradScaler`. An f16 number has no place for gradients below 6e-8, but for some up to 65,504: the loss is
//! multiplied by a scale before the backward pass and the gradients are divided by it after. Where one of them is not
//! finite the scale was too large: the step is left out and the scale halved; after many good steps it is doubled.
//!
//! All of this happens on the device, as numbers of one element: no step waits for what it finds.

use burn::tensor::{Bool, Device, Tensor};

use crate::parameters::{Gradients, to_device, to_host};

/// The scale that a training begins with; all are powers of two, which change exponents alone.
const FIRST: f32 = 65_536.0;
/// The largest scale.
const MOST: f32 = 16_777_216.0;
/// Good steps in a row after which the scale is doubled.
const PATIENCE: f32 = 2000.0;
/// What a sum of magnitudes must not exceed; infinity does, and of NaN no comparison holds.
const FINITE: f32 = 3e38;

/// A scale, and what it has seen.
#[derive(Clone, Debug)]
pub struct LossScale {
    scale: Tensor<1>,
    /// Good steps since the scale changed.
    good: Tensor<1>,
    /// Steps that were left out.
    skipped: Tensor<1>,
}

/// Whether the step under way is taken, as its device knows it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether all gradients are finite, `[1]`.
    taken: Tensor<1, Bool>,
    /// Steps that were left out until now, with this one, `[1]`.
    skipped: Tensor<1>,
}

impl Verdict {
    /// Returns `new` if the step is taken, and else `old`.
    pub fn choose(&self, old: Tensor<1>, new: Tensor<1>) -> Tensor<1> {
        let taken = self.taken.clone().expand(old.dims());
        old.mask_where(taken, new)
    }

    /// Returns 1 if the step is taken, and else 0, `[1]`.
    pub fn taken(&self) -> Tensor<1> {
        self.taken.clone().float()
    }

    /// Returns how many of `steps` were taken, `[1]`.
    pub fn of(&self, steps: u64) -> Tensor<1> {
        self.skipped.clone() * -1.0 + steps as f32
    }
}

impl LossScale {
    /// Begins with the largest scale that is usual, on a device without autodiff.
    pub fn new(device: &Device) -> Self {
        Self::restored(&[FIRST, 0.0, 0.0], device)
    }

    /// Puts what [`save`](Self::save) returned on a device without autodiff.
    pub fn restored(state: &[f32; 3], device: &Device) -> Self {
        let [scale, good, skipped] = state.map(|number| to_device(vec![number], device));
        Self { scale, good, skipped }
    }

    /// Reads scale, good steps and skipped steps to the host.
    pub fn save(&self) -> [f32; 3] {
        let state = to_host(Tensor::cat(vec![self.scale.clone(), self.good.clone(), self.skipped.clone()], 0));
        state.try_into().expect("three numbers")
    }

    /// Returns a loss `[1]`, with autodiff, whose gradients are larger by the scale.
    pub fn scaled(&self, loss: Tensor<1>) -> Tensor<1> {
        // One of several devices may have computed it.
        let scale = self.scale.clone().to_device(&loss.device().inner());
        loss * Tensor::from_inner(scale)
    }

    /// Divides gradients by the scale.
    pub fn unscale(&self, gradients: &mut Gradients) {
        let inverse = self.scale.clone().recip();
        for gradient in gradients.values_mut() {
            *gradient = gradient.clone() * inverse.clone();
        }
    }

    /// Judges the gradients of a step and moves the scale; where one is not finite, all of them become zero.
    pub fn judge(&mut self, gradients: &mut Gradients) -> Verdict {
        let sums: Vec<Tensor<1>> = gradients.values().map(|gradient| gradient.clone().abs().sum()).collect();
        let taken = Tensor::cat(sums, 0).sum().lower_equal_elem(FINITE);
        let one = taken.clone().float();
        let good = (self.good.clone() + 1.0) * one.clone();
        let doubles = good.clone().greater_equal_elem(PATIENCE);
        let larger = (self.scale.clone() * 2.0).clamp_max(MOST);
        let smaller = (self.scale.clone() * 0.5).clamp_min(1.0);
        let scale = self.scale.clone().mask_where(doubles.clone(), larger);
        self.scale = smaller.mask_where(taken.clone(), scale);
        self.good = good.mask_fill(doubles, 0.0);
        self.skipped = self.skipped.clone() + (one * -1.0 + 1.0);
        let verdict = Verdict { taken, skipped: self.skipped.clone() };
        for gradient in gradients.values_mut() {
            *gradient = verdict.choose(gradient.zeros_like(), gradient.clone());
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients(values: [f32; 3], device: &Device) -> Gradients {
        Gradients::from([
            ("a".to_string(), to_device(vec![1.0, 2.0], device)),
            ("b".to_string(), to_device(values.to_vec(), device)),
        ])
    }

    #[test]
    fn a_number_that_is_not_finite_costs_the_step_and_halves_the_scale() {
        let device = Device::flex();
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut scale = LossScale::new(&device);
            let mut gradients = gradients([0.5, bad, 1e30], &device);
            let verdict = scale.judge(&mut gradients);
            assert_eq!(scale.save(), [32_768.0, 0.0, 1.0]);
            assert_eq!(to_host(gradients["b"].clone()), [0.0; 3]);
            let [old, new] = [1.0, 2.0].map(|number| to_device(vec![number; 2], &device));
            assert_eq!(to_host(verdict.choose(old, new)), [1.0; 2]);
            assert_eq!(to_host(verdict.of(5)), [4.0]);
        }
    }

    #[test]
    fn many_good_steps_double_the_scale_and_large_gradients_are_good() {
        let device = Device::flex();
        let mut scale = LossScale::restored(&[1024.0, PATIENCE - 2.0, 7.0], &device);
        for after in [[1024.0, PATIENCE - 1.0, 7.0], [2048.0, 0.0, 7.0], [2048.0, 1.0, 7.0]] {
            let mut gradients = gradients([0.5, -1e30, 0.0], &device);
            scale.judge(&mut gradients);
            assert_eq!(scale.save(), after);
            assert_eq!(to_host(gradients["b"].clone()), [0.5, -1e30, 0.0]);
        }
    }

    #[test]
    fn the_scale_stays_between_its_ends() {
        let device = Device::flex();
        let mut scale = LossScale::restored(&[1.0, 0.0, 0.0], &device);
        scale.judge(&mut gradients([f32::NAN; 3], &device));
        assert_eq!(scale.save(), [1.0, 0.0, 1.0]);
        let mut scale = LossScale::restored(&[MOST, PATIENCE - 1.0, 0.0], &device);
        scale.judge(&mut gradients([0.0; 3], &device));
        assert_eq!(scale.save(), [MOST, 0.0, 0.0]);
    }
}
