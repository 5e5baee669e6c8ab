//! Takes optimizer steps: SGD with momentum and Nesterov, and AdamW, with state that pruning can reach.
//!
//! On the CPU, SGD with momentum is one pass of a kernel of ours, on GPUs every rule is; elsewhere, and where the kernels are
//! switched off, they are burn's operations.
//!
//! Same arithmetic as `torch.optim.SGD` (dampening 0) and `torch.optim.AdamW`. burn's own optimizers keep their
//! moments private, and pruning has to zero the moments of a weight that was removed or has just been grown.
//!
//! Sources: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
//! 2013; Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019.

use std::collections::BTreeMap;

use bonsai_kernels::optimizer::{AdamW, Sgd};
use bonsai_kernels::profile::{Part, section};
use bonsai_kernels::{adamw_step, sgd_step};
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
    /// Whether the step under way is taken, if the device knows it.
    judged: Option<Judged>,
}

/// What the device knows of the step under way.
#[derive(Clone, Debug)]
struct Judged {
    verdict: Verdict,
    /// For AdamW, `√(1 − β₂ᵗ)` and `1 / (1 − β₁ᵗ)`.
    corrections: Option<[Tensor<1>; 2]>,
    /// Whether the step is taken, as 0 or 1, and the corrections, for our kernels.
    numbers: Tensor<1>,
}

impl Judged {
    fn new(verdict: Verdict, rule: &Rule, steps: u64) -> Judged {
        let corrections = match *rule {
            Rule::Sgd { .. } => None,
            Rule::AdamW { betas: (beta1, beta2), .. } => {
                // The device alone knows how many steps were taken; before the first one nothing is divided by 0.
                let t = verdict.of(steps).clamp_min(1.0);
                let less = |beta: f64| one_less_exp(t.clone() * beta.ln());
                Some([less(beta2).sqrt(), less(beta1).recip()])
            }
        };
        let numbers = std::iter::once(verdict.taken()).chain(corrections.clone().into_iter().flatten());
        let numbers = Tensor::cat(numbers.collect(), 0);
        Judged { verdict, corrections, numbers }
    }
}

impl Optimizer {
    /// Creates an optimizer without state.
    pub fn new(rule: Rule, weight_decay: f64) -> Self {
        Self { rule, weight_decay, steps: 0, moments: BTreeMap::new(), judged: None }
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
    ///
    /// With a verdict, the device knows whether the step is taken: else values and moments stay as they are.
    pub fn begin_step(&mut self, verdict: Option<Verdict>) {
        self.steps += 1;
        self.judged = verdict.map(|verdict| Judged::new(verdict, &self.rule, self.steps));
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
        let decay = if decayed { self.weight_decay } else { 0.0 };
        match self.update_in_one_pass(name, lr, decay, &values, &gradient, mask) {
            Some(values) => values,
            None => self.update_step_by_step(name, lr, decay, values, gradient, mask),
        }
    }

    /// The same on our kernels, which read and write each number once; `None` where they do not run.
    fn update_in_one_pass(
        &mut self,
        name: &str,
        lr: f64,
        decay: f64,
        values: &Tensor<1>,
        gradient: &Tensor<1>,
        mask: Option<&Tensor<1>>,
    ) -> Option<Tensor<1>> {
        let judged = self.judged.as_ref().map(|judged| &judged.numbers);
        let moments = self.moments.remove(name);
        let (values, moments) = match self.rule {
            Rule::Sgd { momentum, nesterov } => {
                let sgd = Sgd { lr: lr as f32, momentum: momentum as f32, nesterov, decay: decay as f32 };
                let mut velocity = moments.map(|moments| moments.first);
                let values = sgd_step(sgd, values, gradient, &mut velocity, mask, judged);
                (values, velocity.map(|first| Moments { first, second: None }))
            }
            Rule::AdamW { betas, epsilon } => {
                let adamw = AdamW { lr, betas, epsilon, decay, steps: self.steps };
                let mut both = moments.and_then(|moments| Some([moments.first, moments.second?]));
                let values = adamw_step(adamw, values, gradient, &mut both, mask, judged);
                (values, both.map(|[first, second]| Moments { first, second: Some(second) }))
            }
        };
        if let Some(moments) = moments {
            self.moments.insert(name.to_string(), moments);
        }
        values
    }

    /// The same by operations of burn, one by one.
    fn update_step_by_step(
        &mut self,
        name: &str,
        lr: f64,
        decay: f64,
        values: Tensor<1>,
        gradient: Tensor<1>,
        mask: Option<&Tensor<1>>,
    ) -> Tensor<1> {
        let before = self.moments.remove(name);
        let gradient = masked(gradient, mask);
        let (new, mut moments) = self.taken(lr, decay, values.clone(), gradient, before.clone());
        let new = masked(new, mask);
        let Some(Judged { verdict, .. }) = &self.judged else {
            self.moments.extend(moments.map(|moments| (name.to_string(), moments)));
            return new;
        };
        if let Some(moments) = &mut moments {
            let choose = |old: Option<Tensor<1>>, new: &Tensor<1>| {
                verdict.choose(old.unwrap_or_else(|| new.zeros_like()), new.clone())
            };
            let (first, second) = before.map(|before| (before.first, before.second)).unzip();
            moments.first = choose(first, &moments.first);
            moments.second = moments.second.take().map(|new| choose(second.flatten(), &new));
        }
        self.moments.extend(moments.map(|moments| (name.to_string(), moments)));
        verdict.choose(values, new)
    }

    /// Returns values and moments after a step that is taken.
    fn taken(
        &self,
        lr: f64,
        decay: f64,
        values: Tensor<1>,
        gradient: Tensor<1>,
        moments: Option<Moments>,
    ) -> (Tensor<1>, Option<Moments>) {
        match self.rule {
            Rule::Sgd { momentum, nesterov } => {
                let gradient = if decay == 0.0 { gradient } else { gradient + values.clone() * decay };
                if momentum == 0.0 {
                    return (values - gradient * lr, None);
                }
                let velocity = match moments {
                    Some(moments) => moments.first * momentum + gradient.clone(),
                    None => gradient.clone(),
                };
                let direction = if nesterov { gradient + velocity.clone() * momentum } else { velocity.clone() };
                (values - direction * lr, Some(Moments { first: velocity, second: None }))
            }
            Rule::AdamW { betas: betas @ (beta1, beta2), epsilon } => {
                let values = if decay == 0.0 { values } else { values * (1.0 - lr * decay) };
                let (first, second) = match moments {
                    Some(Moments { first, second: Some(second) }) => (first * beta1, second * beta2),
                    _ => (gradient.zeros_like(), gradient.zeros_like()),
                };
                let first = first + gradient.clone() * (1.0 - beta1);
                let second = second + gradient.clone() * gradient * (1.0 - beta2);
                let moments = Moments { first: first.clone(), second: Some(second.clone()) };
                let values = match self.judged.as_ref().and_then(|judged| judged.corrections.clone()) {
                    None => {
                        let (root, rate) = AdamW { lr, betas, epsilon, decay, steps: self.steps }.rate();
                        values - first / (second.sqrt() / root + epsilon) * rate
                    }
                    Some([root, rate]) => values - first / (second.sqrt() / root + epsilon) * (rate * lr),
                };
                (values, Some(moments))
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
    use crate::loss_scale::LossScale;
    use crate::parameters::{to_device, to_host};
    use bonsai_kernels::cube::launches;
    use burn::tensor::{Device, DeviceKind, DeviceType};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Numbers between -1 and 1, others for each seed.
    fn noise(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    /// A mask with runs of removed weights.
    fn kept(length: usize) -> Vec<f32> {
        (0..length).map(|i| if i % 50 < 17 || i % 3 == 0 { 0.0 } else { 1.0 }).collect()
    }

    fn sgd(momentum: f64, nesterov: bool) -> Rule {
        Rule::Sgd { momentum, nesterov }
    }

    const ADAMW: Rule = Rule::AdamW { betas: (0.9, 0.999), epsilon: 1e-8 };

    fn moments(optimizer: &Optimizer) -> Vec<Vec<f32>> {
        optimizer.state().1.into_values().map(to_host).collect()
    }

    /// The wgpu device of this machine, for one test at a time, since kernels are counted; nothing, said aloud, where there is no
    /// adapter.
    fn wgpu() -> Option<(Device, MutexGuard<'static, ()>)> {
        static ALONE: Mutex<()> = Mutex::new(());
        if Device::enumerate(DeviceType::Wgpu).into_vec().is_empty() {
            assert!(std::env::var_os("BONSAI_REQUIRE_WGPU").is_none(), "no wgpu adapter, though one is required here");
            println!("skipped: this machine has no wgpu adapter");
            return None;
        }
        Some((Device::wgpu(DeviceKind::DefaultDevice), ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    #[test]
    fn one_pass_computes_what_single_operations_do() {
        let device = Device::flex();
        for (masked_out, nesterov, decay, momentum) in
            [(true, true, 5e-4, 0.9), (true, false, 0.0, 0.5), (false, true, 0.0, 0.9), (false, false, 1e-2, 0.9)]
        {
            let rule = sgd(momentum, nesterov);
            let (mut fused, mut single) = (Optimizer::new(rule.clone(), decay), Optimizer::new(rule, decay));
            let mask = masked_out.then(|| to_device(kept(1003), &device));
            let start = masked(to_device(noise(1003, 0), &device), mask.as_ref());
            let (mut a, mut b) = (start.clone(), start);
            for step in 1..5 {
                let gradient = to_device(noise(1003, step), &device);
                a = fused
                    .update_in_one_pass("w", 0.1, decay, &a, &gradient, mask.as_ref())
                    .expect("the kernels run on flex");
                b = single.update_step_by_step("w", 0.1, decay, b, gradient, mask.as_ref());
                assert_eq!(to_host(a.clone()), to_host(b.clone()), "step {step}");
                assert_eq!(moments(&fused), moments(&single), "step {step}");
            }
        }
    }

    /// Holds steps of our kernel for GPUs to burn's operations on the CPU; where the loss is scaled, the first and the third
    /// gradient are not finite.
    fn check_on_gpu(rule: Rule, decay: f64, length: usize, masked_out: bool, scaled: bool, wgpu: &Device) {
        let [gpu, cpu] = [wgpu, &Device::flex()].map(|device| {
            let mut optimizer = Optimizer::new(rule.clone(), decay);
            let mask = masked_out.then(|| to_device(kept(length), device));
            let mut values = masked(to_device(noise(length, 0), device), mask.as_ref());
            let mut loss_scale = LossScale::new(device);
            for step in 1..6 {
                let mut gradient = noise(length, step);
                if scaled && (step == 1 || step == 3) {
                    gradient[length / 2] = f32::NAN;
                }
                let mut gradients = Gradients::from([("w".to_string(), to_device(gradient, device))]);
                optimizer.begin_step(scaled.then(|| loss_scale.judge(&mut gradients)));
                let gradient = gradients.remove("w").unwrap();
                let (mask, lr) = (mask.as_ref(), 0.1 / step as f64);
                values = if device == wgpu {
                    let values = optimizer.update_in_one_pass("w", lr, decay, &values, &gradient, mask);
                    values.expect("the kernels run on wgpu")
                } else {
                    optimizer.update_step_by_step("w", lr, decay, values, gradient, mask)
                };
            }
            let mut all = moments(&optimizer);
            all.push(to_host(values));
            all
        });
        assert_eq!(gpu.len(), cpu.len());
        for (i, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
            for (at, (a, b)) in gpu.iter().zip(cpu).enumerate() {
                // Of what is added up, not of the sum, which may be near zero.
                assert!((a - b).abs() <= 1e-6 * b.abs().max(0.1), "{rule:?}, {decay}, {i}, {at}: {a} instead of {b}");
            }
        }
    }

    #[test]
    fn one_kernel_on_gpus_computes_what_single_operations_do() {
        let Some((wgpu, _alone)) = wgpu() else { return };
        for rule in [sgd(0.9, true), sgd(0.9, false), sgd(0.0, false), ADAMW] {
            for (length, decay, masked_out, scaled) in
                [(1003, 5e-4, true, false), (1004, 0.0, true, true), (2, 0.0, false, false), (1, 1e-2, false, true)]
            {
                check_on_gpu(rule.clone(), decay, length, masked_out, scaled, &wgpu);
            }
        }
    }

    #[test]
    fn a_step_on_a_gpu_starts_one_kernel_for_each_parameter() {
        let Some((wgpu, _alone)) = wgpu() else { return };
        // Those of LeNet-5, whose weights are half masked.
        let lengths = [150, 6, 2400, 16, 48_000, 120, 10_080, 84];
        for (rule, kernel) in [(sgd(0.9, true), "SgdUpdate"), (ADAMW, "AdamwUpdate")] {
            let mut optimizer = Optimizer::new(rule, 5e-4);
            let on = |values| to_device(values, &wgpu);
            let mut values: Vec<_> = lengths.iter().map(|&length| on(noise(length, length))).collect();
            let masks: Vec<_> = lengths.iter().map(|&length| (length > 120).then(|| on(kept(length)))).collect();
            for step in 1..4 {
                let gradients: Vec<_> = lengths.iter().map(|&length| on(noise(length, length + step))).collect();
                wgpu.sync().unwrap();
                let (new, launched) = launches::count(|| {
                    optimizer.begin_step(None);
                    let parameters = values.iter().zip(gradients).zip(&masks).enumerate();
                    let update = |(i, ((values, gradient), mask)): (usize, ((&Tensor<1>, Tensor<1>), &Option<_>))| {
                        optimizer.update(&i.to_string(), 0.1, i % 2 == 0, values.clone(), gradient, mask.as_ref())
                    };
                    let new = parameters.map(update).collect();
                    wgpu.sync().unwrap();
                    new
                });
                values = new;
                let ours = launched.iter().filter(|(name, _)| name.contains(kernel));
                assert_eq!(ours.map(|(_, kernels)| kernels.launches).sum::<u64>(), 8, "step {step}: {launched:?}");
                assert_eq!(
                    launched.values().map(|kernels| kernels.launches).sum::<u64>(),
                    8,
                    "step {step}: {launched:?}"
                );
            }
        }
    }
}
