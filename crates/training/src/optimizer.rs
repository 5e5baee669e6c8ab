//! Takes optimizer steps: SGD with momentum and Nesterov, and AdamW, with state that pruning can reach.
//!
//! Same arithmetic as `torch.optim.SGD` (dampening 0) and `torch.optim.AdamW`. burn's own optimizers keep their
//! moments private, and pruning has to zero the moments of a weight that was removed or has just been grown.
//!
//! Sources: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
//! 2013; Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019.

use std::collections::BTreeMap;

use bonsai_kernels::optimizer::Sgd;
use bonsai_kernels::profile::{Part, section};
use bonsai_kernels::sgd_step;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::loss_scale::Verdict;
use crate::parameters::Gradients;

/// Which update rule is used, and its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// `v ← μv + g`, `w ← w − lr·v`, or with Nesterov `w ← w − lr·(g + μv)`, where `g` holds the weight decay.
    Sgd {
        /// The momentum μ in [0, 1).
        momentum: f64,
        /// Whether the gradient is looked up ahead.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// The decay of the first and second moment.
        betas: (f64, f64),
        /// The term that keeps the division finite.
        epsilon: f64,
    },
}

/// The moments of one parameter, in the order in which it is stored.
#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Option<Tensor<1>>,
}

/// An optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    /// Steps taken, for Adam's bias correction.
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// Creates an optimizer without state.
    pub fn new(rule: Rule, weight_decay: f64) -> Self {
        Self { rule, weight_decay, steps: 0, moments: BTreeMap::new() }
    }

    /// The steps that were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Forgets the moments of parameters that are gone.
    pub fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        self.moments.retain(|name, _| !gone(name));
    }

    /// Begins a step; [`update`](Self::update) is then called once for every parameter.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// Returns the new values of a parameter; `decayed` says whether weight decay applies to it, and `mask` (1 = kept) which
    /// weights have no gradient and become zero.
    pub fn update(
        &mut self,
        name: &str,
        lr: f64,
        decayed: bool,
        values: Tensor<1>,
        gradient: Tensor<1>,
        mask: Option<&Tensor<1>>,
    ) -> Tensor<1> {
        if let Some(values) = self.update_in_one_pass(name, lr, decayed, &values, &gradient, mask) {
            return values;
        }
        let gradient = masked(gradient, mask);
        let values = self.update_step_by_step(name, lr, decayed, values, gradient, None);
        masked(values, mask)
    }

    /// Does the same if `verdict` says that the step is taken; else values and moments stay as they are.
    #[allow(clippy::too_many_arguments)]
    pub fn update_if(
        &mut self,
        verdict: &Verdict,
        name: &str,
        lr: f64,
        decayed: bool,
        values: Tensor<1>,
        gradient: Tensor<1>,
        mask: Option<&Tensor<1>>,
    ) -> Tensor<1> {
        let before = self.moments.get(name).cloned();
        let gradient = masked(gradient, mask);
        let new = self.update_step_by_step(name, lr, decayed, values.clone(), gradient, Some(verdict));
        if let Some(moments) = self.moments.get_mut(name) {
            let choose = |old: Option<Tensor<1>>, new: &Tensor<1>| {
                verdict.choose(old.unwrap_or_else(|| new.zeros_like()), new.clone())
            };
            let (first, second) = before.map(|before| (before.first, before.second)).unzip();
            moments.first = choose(first, &moments.first);
            moments.second = moments.second.take().map(|new| choose(second.flatten(), &new));
        }
        verdict.choose(values, masked(new, mask))
    }

    /// The same for descent with momentum on our CPU kernels, which read and write each number once.
    fn update_in_one_pass(
        &mut self,
        name: &str,
        lr: f64,
        decayed: bool,
        values: &Tensor<1>,
        gradient: &Tensor<1>,
        mask: Option<&Tensor<1>>,
    ) -> Option<Tensor<1>> {
        let Rule::Sgd { momentum, nesterov } = self.rule else { return None };
        if momentum == 0.0 {
            return None;
        }
        let decay = if decayed { self.weight_decay } else { 0.0 };
        let sgd = Sgd { lr: lr as f32, momentum: momentum as f32, nesterov, decay: decay as f32 };
        let mut velocity = self.moments.remove(name).map(|moments| moments.first);
        let values = sgd_step(sgd, values, gradient, &mut velocity, mask);
        if let Some(first) = velocity {
            self.moments.insert(name.to_string(), Moments { first, second: None });
        }
        values
    }

    fn update_step_by_step(
        &mut self,
        name: &str,
        lr: f64,
        decayed: bool,
        values: Tensor<1>,
        gradient: Tensor<1>,
        verdict: Option<&Verdict>,
    ) -> Tensor<1> {
        let decay = if decayed { self.weight_decay } else { 0.0 };
        match self.rule {
            Rule::Sgd { momentum, nesterov } => {
                let gradient = if decay == 0.0 { gradient } else { gradient + values.clone() * decay };
                if momentum == 0.0 {
                    return values - gradient * lr;
                }
                let velocity = match self.moments.remove(name) {
                    Some(moments) => moments.first * momentum + gradient.clone(),
                    None => gradient.clone(),
                };
                self.moments.insert(name.to_string(), Moments { first: velocity.clone(), second: None });
                let direction = if nesterov { gradient + velocity * momentum } else { velocity };
                values - direction * lr
            }
            Rule::AdamW { betas: (beta1, beta2), epsilon } => {
                let values = if decay == 0.0 { values } else { values * (1.0 - lr * decay) };
                let (first, second) = match self.moments.remove(name) {
                    Some(Moments { first, second: Some(second) }) => (first * beta1, second * beta2),
                    _ => (gradient.zeros_like(), gradient.zeros_like()),
                };
                let first = first + gradient.clone() * (1.0 - beta1);
                let second = second + gradient.clone() * gradient * (1.0 - beta2);
                self.moments.insert(name.to_string(), Moments { first: first.clone(), second: Some(second.clone()) });
                match verdict {
                    None => {
                        let t = self.steps as i32;
                        let denominator = second.sqrt() / (1.0 - beta2.powi(t)).sqrt() + epsilon;
                        values - first / denominator * (lr / (1.0 - beta1.powi(t)))
                    }
                    Some(verdict) => {
                        // The device alone knows how many steps were taken; before the first one nothing is divided by 0.
                        let t = verdict.of(self.steps).clamp_min(1.0);
                        let correction = |beta: f64| one_less_exp(t.clone() * beta.ln());
                        let denominator = second.sqrt() / correction(beta2).sqrt() + epsilon;
                        values - first / denominator * (correction(beta1).recip() * lr)
                    }
                }
            }
        }
    }

    /// Multiplies the moments of a parameter by `retained` (1 = kept), so that removed and grown weights start anew.
    pub fn retain(&mut self, name: &str, retained: &Tensor<1>) {
        if let Some(moments) = self.moments.remove(name) {
            let moments = Moments {
                first: moments.first * retained.clone(),
                second: moments.second.map(|second| second * retained.clone()),
            };
            self.moments.insert(name.to_string(), moments);
        }
    }

    /// Returns the moments under their checkpoint names, `first/<parameter>` and `second/<parameter>`.
    pub fn state(&self) -> (u64, BTreeMap<String, Tensor<1>>) {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            state.insert(format!("first/{name}"), moments.first.clone());
            if let Some(second) = &moments.second {
                state.insert(format!("second/{name}"), second.clone());
            }
        }
        (self.steps, state)
    }

    /// Restores what [`state`](Self::state) returned.
    pub fn restore(&mut self, steps: u64, mut state: BTreeMap<String, Tensor<1>>) {
        self.steps = steps;
        self.moments.clear();
        let names: Vec<String> = state.keys().filter_map(|key| key.strip_prefix("first/").map(String::from)).collect();
        for name in names {
            let first = state.remove(&format!("first/{name}")).expect("the key was just listed");
            let second = state.remove(&format!("second/{name}"));
            self.moments.insert(name, Moments { first, second });
        }
    }
}

/// Returns `1 - exp(x)` of numbers that are not positive, near zero by its series, where the difference has few digits left.
fn one_less_exp(x: Tensor<1>) -> Tensor<1> {
    let series = ((x.clone() * 0.25 + 1.0) * x.clone() * (1.0 / 3.0) + 1.0) * x.clone() * 0.5 + 1.0;
    let is_near = x.clone().greater_elem(-0.1);
    (x.clone().exp() * -1.0 + 1.0).mask_where(is_near, series * x * -1.0)
}

fn masked(values: Tensor<1>, mask: Option<&Tensor<1>>) -> Tensor<1> {
    let Some(mask) = mask else { return values };
    let _section = section(Part::Masks);
    values * mask.clone()
}

/// Scales all gradients so that their global L2 norm is at most `max_norm`, without reading it to the host.
///
/// As `torch.nn.utils.clip_grad_norm_`. The norm is summed in the order of the names, so that it is the same in
/// every run.
pub fn clip(gradients: &mut Gradients, max_norm: f64) {
    let Some(sum) = gradients.values().map(square_sum).reduce(|a, b| a + b) else { return };
    let scale = (sum.sqrt() + 1e-6).recip().mul_scalar(max_norm).clamp_max(1.0);
    for gradient in gradients.values_mut() {
        *gradient = gradient.clone() * scale.clone();
    }
}

/// Sums the squares of a tensor in pieces, because burn-flex's `sum` above 4 Mi elements has no fixed order.
fn square_sum(values: &Tensor<1>) -> Tensor<1> {
    const PIECE: usize = 1 << 20;
    let squares = values.clone() * values.clone();
    let length = squares.dims()[0];
    let pieces =
        (0..length).step_by(PIECE).map(|start| squares.clone().narrow(0, start, PIECE.min(length - start)).sum());
    pieces.reduce(|a, b| a + b).expect("a parameter has at least one value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{to_device, to_host};
    use burn::tensor::Device;

    #[test]
    fn one_pass_computes_what_single_operations_do() {
        let device = Device::flex();
        let of = |seed: usize| (0..1003).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 500.0 - 1.0).collect();
        let kept: Vec<f32> = (0..1003).map(|i| if i % 50 < 17 || i % 3 == 0 { 0.0 } else { 1.0 }).collect();
        for (masked_out, nesterov, decay, momentum) in
            [(true, true, 5e-4, 0.9), (true, false, 0.0, 0.5), (false, true, 0.0, 0.9), (false, false, 1e-2, 0.9)]
        {
            let rule = Rule::Sgd { momentum, nesterov };
            let (mut fused, mut single) = (Optimizer::new(rule.clone(), decay), Optimizer::new(rule, decay));
            let mask = masked_out.then(|| to_device(kept.clone(), &device));
            let start = masked(to_device(of(0), &device), mask.as_ref());
            let (mut a, mut b) = (start.clone(), start);
            for step in 1..5 {
                let gradient = to_device(of(step), &device);
                a = fused
                    .update_in_one_pass("w", 0.1, true, &a, &gradient, mask.as_ref())
                    .expect("the kernels run on flex");
                b = masked(
                    single.update_step_by_step("w", 0.1, true, b, masked(gradient, mask.as_ref()), None),
                    mask.as_ref(),
                );
                assert_eq!(to_host(a.clone()), to_host(b.clone()), "step {step}");
                let velocity = |optimizer: &Optimizer| to_host(optimizer.moments["w"].first.clone());
                assert_eq!(velocity(&fused), velocity(&single), "step {step}");
            }
        }
    }
}
