//! Linear layers over the last axis, on kernels of our own where that is faster.

use std::sync::Arc;

use burn::tensor::module;
use burn::tensor::{DType, FloatDType, Tensor};

use super::Gradients;
use super::flex::{Floats, Input, is_ours, run_as, tensor, vector};
use super::precision::in_f32;
use crate::bf16::Precision;
use crate::buffer::Buffer;
use crate::linear::{Linear, LinearPattern, Start, WeightGradient};
use crate::panels::Panels;
use crate::profile::Part;

/// Multiplies the vectors of `x` `[.., in]` by the weights of `weight` `[in, out]` that `pattern` keeps, and adds `bias`
/// `[out]`; all other weights must be zero.
///
/// On backends without our kernels it is burn's dense layer. On our kernels the first training steps with a pattern find
/// out in which directions the sparse ones are faster than the dense ones ([`LinearPattern::choices`]); the result is the
/// same to the last bit. The gradient of weights that are not kept is zero or not, as `gradients` says, except that on other
/// backends it may be there nevertheless.
///
/// # Panics
///
/// Panics if the pattern has another shape than the weight.
pub fn sparse_linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    pattern: &Arc<LinearPattern>,
    gradients: Gradients,
) -> Tensor<D> {
    linear(x, weight, bias, Some((pattern, gradients)), Precision::F32)
}

/// Multiplies the vectors of `x` `[.., in]` by `weight` `[in, out]`, or by those weights that a pattern keeps as
/// [`sparse_linear`] does, and adds `bias` `[out]`.
///
/// In f32, all weights together are multiplied by burn. In bf16, few kept weights are multiplied in f32.
///
/// # Panics
///
/// Panics if a pattern has another shape than the weight.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    kept: Option<(&Arc<LinearPattern>, Gradients)>,
    precision: Precision,
) -> Tensor<D> {
    let rows = x.dims()[..D - 1].iter().product();
    let layer = Layer::new(&weight, Panels::of_rows(rows), kept, precision, x.device().is_autodiff());
    let is_ours = is_ours(&x.device()) && is_ours(&weight.device()) && x.dtype() == DType::F32;
    if rows == 0 || !is_ours || layer.is_plain() {
        return plain(x, weight, bias, precision);
    }
    let Linear { inputs, outputs, panels, .. } = layer.linear;
    let mut dims = x.dims();
    let x = x.reshape([rows, inputs]);
    dims[D - 1] = outputs;
    let y: Tensor<2> = run_as(Part::Linear, [x.into(), weight.into(), optional(bias)], |[x, weight, bias]| {
        let start = Start { bias: (!bias.is_empty()).then_some(&bias), onto: None };
        let y = layer.forward(&panels.pack(&x, inputs), &weight, start);
        let backward = move |gradient, [of_x, of_weight, of_bias]: [bool; 3]| {
            let gradient = panels.pack(&Floats::new(&gradient), outputs);
            let x = (of_weight || of_bias).then(|| panels.pack(&x, inputs));
            let (of_x, parameters) = layer.backward(x.as_deref(), &weight, &gradient, of_x);
            let (weight, bias) = parameters.map(|of| (of.weight, of.bias)).unzip();
            [
                of_x.map(|of_x| tensor(panels.unpack(&of_x, inputs), [rows, inputs])),
                weight.filter(|_| of_weight).map(|floats| tensor(floats, [inputs, outputs])),
                bias.filter(|_| of_bias).map(vector),
            ]
        };
        (tensor(panels.unpack(&y, outputs), [rows, outputs]), Box::new(backward))
    });
    y.reshape(dims)
}

/// Multiplies in burn's operations: on GPUs in `precision`, with sums in f32, and returns f32.
pub(super) fn plain<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    let dtype = precision.on(&x.device());
    if dtype == FloatDType::F32 {
        return module::linear(x, weight, bias);
    }
    let y = in_f32(module::linear(x.cast(dtype), weight.cast(dtype), None));
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// A tensor that may be absent, as an input of an operation.
pub(super) fn optional(bias: Option<Tensor<1>>) -> Input {
    bias.map_or_else(Input::none, Input::from)
}

/// A linear layer and the kernels that it may use.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub linear: Linear,
    /// Kept weights, and whether all weights want a gradient.
    sparse: Option<(Arc<LinearPattern>, bool)>,
    /// Whether this is part of a training step.
    trains: bool,
}

impl Layer {
    /// Chooses what `weight` may be multiplied with: kept weights in f32, or all in the precision asked for.
    ///
    /// # Panics
    ///
    /// Panics if a pattern has another shape than the weight.
    pub fn new(
        weight: &Tensor<2>,
        panels: Panels,
        kept: Option<(&Arc<LinearPattern>, Gradients)>,
        precision: Precision,
        trains: bool,
    ) -> Layer {
        let [inputs, outputs] = weight.dims();
        if let Some((pattern, _)) = kept {
            assert_eq!([outputs, inputs], pattern.shape(), "a pattern has the shape of its weight");
        }
        let precision = precision.on_cpu();
        let sparse = kept.filter(|(pattern, _)| precision == Precision::F32 || pattern.pays_against_bf16());
        let precision = if sparse.is_some() { Precision::F32 } else { precision };
        let sparse = sparse.map(|(pattern, gradients)| (pattern.clone(), gradients == Gradients::All));
        let trains = trains || weight.device().is_autodiff();
        Layer { linear: Linear { inputs, outputs, panels, precision }, sparse, trains }
    }

    /// Tells whether all weights are multiplied in f32.
    fn is_plain(&self) -> bool {
        self.sparse.is_none() && self.linear.precision == Precision::F32
    }

    /// Returns the output.
    pub fn forward(&self, x: &[f32], weight: &[f32], start: Start) -> Buffer {
        match &self.sparse {
            None => self.linear.forward(x, weight, None, start),
            Some((pattern, _)) => pattern
                .forward(self.linear.panels.rows(), self.trains, |kept| self.linear.forward(x, weight, kept, start)),
        }
    }

    /// Returns the gradient of the input if `of_x`, and those of the parameters if the input is given.
    pub fn backward(
        &self,
        x: Option<&[f32]>,
        weight: &[f32],
        gradient: &[f32],
        of_x: bool,
    ) -> (Option<Buffer>, Option<WeightGradient>) {
        let both = |of_data: Option<&LinearPattern>, of_weight: Option<&LinearPattern>| {
            let of_x = of_x.then(|| self.linear.data_gradient(gradient, weight, of_data));
            (of_x, x.map(|x| self.linear.weight_gradient(x, gradient, of_weight)))
        };
        let Some((pattern, all)) = &self.sparse else { return both(None, None) };
        pattern.backward(self.linear.panels.rows(), *all, |sides| {
            let (of_data, of_weight) = (sides.data(&**pattern), sides.weight(&**pattern));
            let (of_x, mut parameters) = both(of_data, of_weight);
            if let (None, false, Some(parameters)) = (of_weight, *all, &mut parameters) {
                pattern.clear_removed(&mut parameters.weight);
            }
            (of_x, parameters)
        })
    }
}
