//! The step of stochastic gradient descent: weight decay, momentum, the update and the mask in one pass over the memory.
//!
//! That of AdamW has a kernel on GPUs alone; its constants are here, too.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::LANES;
use crate::simd::{Kernel, Lanes, Level};

/// Floats of a task.
const TASK: usize = 1 << 14;

/// The constants of a step: `g ← g + decay·w`, `v ← μv + g`, `w ← w − lr·v`, or with Nesterov `w ← w − lr·(g + μv)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The step size.
    pub lr: f32,
    /// The momentum μ.
    pub momentum: f32,
    /// Whether the gradient is looked up ahead.
    pub nesterov: bool,
    /// The share of the weight that is added to its gradient.
    pub decay: f32,
}

/// The constants of a step of Adam with decoupled weight decay: `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
/// `w ← (1 − lr·decay)·w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The step size.
    pub lr: f64,
    /// The decay of the first and second moment, β₁ and β₂.
    pub betas: (f64, f64),
    /// The term ε that keeps the division finite.
    pub epsilon: f64,
    /// The share of the weight that is taken away, times the step size.
    pub decay: f64,
    /// The steps t that were taken, with this one.
    pub steps: u64,
}

impl AdamW {
    /// Returns `√(1 − β₂ᵗ)` and `lr / (1 − β₁ᵗ)`.
    pub fn rate(&self) -> (f64, f64) {
        let AdamW { lr, betas: (beta1, beta2), steps, .. } = *self;
        let less = |beta: f64| 1.0 - beta.powi(steps as i32);
        (less(beta2).sqrt(), lr / less(beta1))
    }
}

/// What a step is taken with.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The weights.
    pub values: &'a [f32],
    /// Their gradients.
    pub gradient: &'a [f32],
    /// 1 for a weight that is kept, 0 for one whose gradient is ignored and that becomes 0.
    pub mask: Option<&'a [f32]>,
    /// Whether there was a step before, so that the velocity counts.
    pub moves: bool,
}

impl Sgd {
    /// Returns the new weights and writes the new velocity, rounding as the operations one by one do.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ.
    pub fn step(&self, step: Step, velocity: &mut [f32]) -> Buffer {
        let len = step.values.len();
        assert!(step.gradient.len() == len && velocity.len() == len, "a gradient and a velocity for each weight");
        assert!(step.mask.is_none_or(|mask| mask.len() == len), "a flag for each weight");
        let level = Level::current();
        let mut new = Buffer::any(len);
        let tasks = new[..len].par_chunks_mut(TASK).zip(velocity.par_chunks_mut(TASK)).enumerate();
        tasks.for_each(|(task, (new, velocity))| {
            let at = task * TASK..task * TASK + new.len();
            let step = Step {
                values: &step.values[at.clone()],
                gradient: &step.gradient[at.clone()],
                mask: step.mask.map(|mask| &mask[at]),
                ..step
            };
            level.run(Work { sgd: *self, step, velocity, new });
        });
        new
    }
}

/// Some weights.
struct Work<'a> {
    sgd: Sgd,
    step: Step<'a>,
    velocity: &'a mut [f32],
    new: &'a mut [f32],
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { sgd, step, velocity, new } = self;
        match step.mask {
            None => update(sgd, step.moves, (step.values, step.gradient), velocity, new),
            Some(mask) => {
                // The compiler makes vectors of chunks whose length it knows.
                let ((new, new_rest), (velocity, velocity_rest)) =
                    (new.as_chunks_mut::<LANES>(), velocity.as_chunks_mut::<LANES>());
                let [(values, values_rest), (gradient, gradient_rest), (mask, mask_rest)] =
                    [step.values, step.gradient, mask].map(|all| all.as_chunks::<LANES>());
                for ((((new, velocity), values), gradient), mask) in
                    new.iter_mut().zip(velocity).zip(values).zip(gradient).zip(mask)
                {
                    masked(sgd, step.moves, (values, gradient, mask), velocity, new);
                }
                masked(sgd, step.moves, (values_rest, gradient_rest, mask_rest), velocity_rest, new_rest);
            }
        }
    }
}

#[inline(always)]
fn masked(
    sgd: Sgd,
    moves: bool,
    (values, gradient, mask): (&[f32], &[f32], &[f32]),
    velocity: &mut [f32],
    new: &mut [f32],
) {
    let mut kept = [0.0; LANES];
    let kept = &mut kept[..mask.len()];
    kept.iter_mut().zip(gradient).zip(mask).for_each(|((masked, g), kept)| *masked = g * kept);
    update(sgd, moves, (values, kept), velocity, new);
    new.iter_mut().zip(mask).for_each(|(new, kept)| *new *= kept);
}

#[inline(always)]
fn update(sgd: Sgd, moves: bool, (values, gradient): (&[f32], &[f32]), velocity: &mut [f32], new: &mut [f32]) {
    let Sgd { lr, momentum, nesterov, decay } = sgd;
    for (((new, v), w), g) in new.iter_mut().zip(velocity).zip(values).zip(gradient) {
        let g = if decay == 0.0 { *g } else { g + w * decay };
        *v = if moves { *v * momentum + g } else { g };
        let direction = if nesterov { g + *v * momentum } else { *v };
        *new = w - direction * lr;
    }
}
