//! Which weights of which layers are kept, for kernels that leave the others out, and how exactly the rest multiplies.

use std::collections::HashMap;
use std::sync::Arc;

use bonsai_kernels::{
    Activation, Choices, Gradients, LinearPattern, Pattern, Precision, Tokens, conv2d, linear, sparse_conv2d,
};
use burn::module::{Param, ParamId};
use burn::tensor::Tensor;

/// The kept weights of every sparse convolution and linear layer, by the weight's id, the features that layer
/// normalisations count, and the precision of dense kernels. The default is a dense network in f32.
///
/// Weights that a pattern leaves out must be zero.
#[derive(Clone, Debug, Default)]
pub struct Sparsity {
    patterns: HashMap<ParamId, Arc<Pattern>>,
    linear: HashMap<ParamId, Arc<LinearPattern>>,
    norms: HashMap<ParamId, Arc<Vec<bool>>>,
    all_gradients: bool,
    precision: Precision,
}

impl Sparsity {
    /// Says which weights of a convolution `[out, in, kernel, kernel]` are kept, where `before` said so until now.
    ///
    /// # Panics
    ///
    /// Panics if the shape has another number of weights.
    pub fn insert(&mut self, weight: ParamId, shape: [usize; 4], kept: Vec<bool>, before: &Sparsity) {
        let pattern = Pattern::new(shape, kept);
        let pattern = match before.patterns.get(&weight) {
            Some(before) => pattern.after(before),
            None => pattern,
        };
        self.patterns.insert(weight, Arc::new(pattern));
    }

    /// Returns for each convolution and linear layer which kernels are faster, dense or sparse ones, once training steps
    /// have shown it for all that they use.
    pub fn choices(&self) -> Option<HashMap<ParamId, Choices>> {
        let choices: Option<HashMap<_, _>> = self.in_use().map(|(id, choices)| Some((id, choices?))).collect();
        choices.filter(|choices| !choices.is_empty())
    }

    /// Tells whether training steps are still trying which kernels are faster.
    pub fn is_choosing(&self) -> bool {
        self.in_use().any(|(_, choices)| choices.is_none())
    }

    /// Returns the choices of all layers that training steps have run with.
    fn in_use(&self) -> impl Iterator<Item = (ParamId, Option<Choices>)> {
        let convolutions = self.patterns.iter().filter(|(_, pattern)| pattern.is_in_use());
        let linear = self.linear.iter().filter(|(_, pattern)| pattern.is_in_use());
        let convolutions = convolutions.map(|(id, pattern)| (*id, pattern.choices()));
        convolutions.chain(linear.map(|(id, pattern)| (*id, pattern.choices())))
    }

    /// Says which weights of a linear layer are kept, where `before` said so until now: a flag for each of `[out, in]`, as
    /// schedulers see them.
    ///
    /// # Panics
    ///
    /// Panics if the shape has another number of weights.
    pub fn insert_linear(&mut self, weight: ParamId, shape: [usize; 2], kept: &[bool], before: &Sparsity) {
        let pattern = LinearPattern::new(shape, kept);
        let pattern = match before.linear.get(&weight) {
            Some(before) => pattern.after(before),
            None => pattern,
        };
        self.linear.insert(weight, Arc::new(pattern));
    }

    /// Says which features count in the layer normalisation whose scale has this id; scale and shift of the others are zero.
    pub fn insert_norm(&mut self, scale: ParamId, kept: Vec<bool>) {
        self.norms.insert(scale, Arc::new(kept));
    }

    /// Returns the features that count in a layer normalisation, or `None` if all do.
    pub(crate) fn features(&self, scale: &Param<Tensor<1>>) -> Option<&[bool]> {
        self.norms.get(&scale.id).map(|kept| &kept[..])
    }

    /// Asks for the gradients of removed weights too, as a method needs that grows by gradient.
    pub fn with_all_gradients(&self) -> Self {
        Self { all_gradients: true, ..self.clone() }
    }

    /// Asks for the precision of dense layers.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    pub(super) fn convolve(
        &self,
        x: Activation,
        weight: &Param<Tensor<4>>,
        bias: Option<Tensor<1>>,
        stride: usize,
        padding: usize,
    ) -> Activation {
        let x = x.with_precision(self.precision);
        match self.patterns.get(&weight.id) {
            None => conv2d(x, weight.val(), bias, stride, padding),
            Some(pattern) => sparse_conv2d(x, weight.val(), bias, stride, padding, pattern, self.gradients()),
        }
    }

    pub(super) fn linear<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: &Param<Tensor<2>>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        let kept = self.linear.get(&weight.id).map(|pattern| (pattern, self.gradients()));
        linear(x, weight.val(), bias, kept, self.precision)
    }

    pub(super) fn linear_tokens(
        &self,
        x: Tokens,
        weight: &Param<Tensor<2>>,
        bias: Option<Tensor<1>>,
        onto: Option<Tokens>,
    ) -> Tokens {
        let x = x.with_precision(self.precision);
        match self.linear.get(&weight.id) {
            None => x.linear(weight.val(), bias, onto),
            Some(pattern) => x.sparse_linear(weight.val(), bias, onto, pattern, self.gradients()),
        }
    }

    fn gradients(&self) -> Gradients {
        if self.all_gradients { Gradients::All } else { Gradients::Kept }
    }
}
