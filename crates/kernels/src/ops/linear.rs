//! Linear layers over the last axis, sparse ones on kernels of our own.

use std::sync::Arc;

use burn::tensor::module;
use burn::tensor::{DType, Tensor};

use super::Gradients;
use super::flex::{Floats, Input, is_ours, run_as, tensor, vector};
use crate::linear::{Linear, LinearPattern, Start};
use crate::panels::Panels;
use crate::profile::Part;

/// Multiplies the vectors of `x` `[.., in]` by the weights of `weight` `[in, out]` that `pattern` keeps, and adds `bias`
/// `[out]`; all other weights must be zero.
///
/// On backends without our kernels, and where so much is kept that it is faster, it is burn's dense layer. The gradient of
/// weights that are not kept is zero or not, as `gradients` says, except that it may be there nevertheless where the
/// dense layer ran.
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
    let Some(sparse) = Sparse::chosen(&weight, pattern, gradients) else { return module::linear(x, weight, bias) };
    let rows = x.dims()[..D - 1].iter().product();
    if rows == 0 || !is_ours(&x.device()) || !is_ours(&weight.device()) || x.dtype() != DType::F32 {
        return module::linear(x, weight, bias);
    }
    let [inputs, outputs] = weight.dims();
    let mut dims = x.dims();
    let layer = Linear { inputs, outputs, panels: Panels::of_rows(rows) };
    let x = x.reshape([rows, inputs]);
    dims[D - 1] = outputs;
    let y: Tensor<2> = run_as(Part::Linear, [x.into(), weight.into(), optional(bias)], |[x, weight, bias]| {
        let start = Start { bias: (!bias.is_empty()).then_some(&bias), onto: None };
        let panels = layer.panels;
        let y = layer.forward(&panels.pack(&x, inputs), &weight, Some(&sparse.pattern), start);
        let backward = move |gradient, [of_x, of_weight, of_bias]: [bool; 3]| {
            let gradient = panels.pack(&Floats::new(&gradient), outputs);
            let parameters = (of_weight || of_bias)
                .then(|| layer.weight_gradient(&panels.pack(&x, inputs), &gradient, sparse.of_weights()));
            let of_x = of_x.then(|| {
                let of_x = layer.data_gradient(&gradient, &weight, Some(&sparse.pattern));
                tensor(panels.unpack(&of_x, inputs), [rows, inputs])
            });
            let (weight, bias) = parameters.map(|of| (of.weight, of.bias)).unzip();
            [
                of_x,
                weight.filter(|_| of_weight).map(|floats| tensor(floats, [inputs, outputs])),
                bias.filter(|_| of_bias).map(vector),
            ]
        };
        (tensor(panels.unpack(&y, outputs), [rows, outputs]), Box::new(backward))
    });
    y.reshape(dims)
}

/// A tensor that may be absent, as an input of an operation.
pub(super) fn optional(bias: Option<Tensor<1>>) -> Input {
    bias.map_or_else(Input::none, Input::from)
}

/// Kept weights for which the sparse kernels were chosen.
#[derive(Clone, Debug)]
pub(super) struct Sparse {
    /// The weights.
    pub pattern: Arc<LinearPattern>,
    /// Which of them get gradients.
    pub gradients: Gradients,
}

impl Sparse {
    /// Chooses sparse kernels for `weight` where they are faster: the one place where that is decided.
    ///
    /// # Panics
    ///
    /// Panics if the pattern has another shape than the weight.
    pub fn chosen(weight: &Tensor<2>, pattern: &Arc<LinearPattern>, gradients: Gradients) -> Option<Sparse> {
        let [outputs, inputs] = pattern.shape();
        assert_eq!(weight.dims(), [inputs, outputs], "a pattern has the shape of its weight");
        pattern.pays().then(|| Sparse { pattern: pattern.clone(), gradients })
    }

    /// Returns the pattern of the weight gradient, if it leaves out anything.
    pub fn of_weights(&self) -> Option<&LinearPattern> {
        match self.gradients {
            Gradients::Kept => Some(&self.pattern),
            Gradients::All => None,
        }
    }
}
