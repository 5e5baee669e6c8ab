//! Sequences of tokens and their layout: what transformers compute on.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor, activation, module};

use super::activation::{Blocks, in_blocks};
use super::flex::{Floats, Input, is_ours, run_as, tensor, vector};
use super::linear::{Layer, optional, plain};
use super::{Activation, Gradients};
use crate::attention::Attention;
use crate::bf16::Precision;
use crate::buffer::Buffer;
use crate::embedding;
use crate::linear::{LinearPattern, Start};
use crate::maps::LANES;
use crate::panels::Panels;
use crate::profile::Part;
use crate::{elementwise, layer_norm};

/// Tokens of a batch, `[images, tokens, features]`: in panels of 16 images on flex, as they are on other backends.
#[derive(Clone, Debug)]
pub struct Tokens(State);

#[derive(Clone, Debug)]
enum State {
    /// Tokens as they are, and how exactly the next linear layer multiplies them.
    Rows(Tensor<3>, Precision),
    /// Tokens in panels.
    Panels(Packed),
}

/// Tokens in panels.
#[derive(Clone, Debug)]
struct Packed {
    /// The panels `[panels, features, tokens, 16]`.
    tensor: Tensor<4>,
    panels: Panels,
    images: usize,
    features: usize,
    /// How exactly the next linear layer multiplies.
    precision: Precision,
}

impl Tokens {
    /// Brings tokens `[images, tokens, features]` into the layout of their device.
    pub fn new(x: Tensor<3>) -> Tokens {
        let shape @ [images, tokens, features] = x.dims();
        if shape.contains(&0) || !is_ours(&x.device()) || x.dtype() != DType::F32 {
            return Tokens::of_rows(x);
        }
        let panels = Panels::of_tokens(images, tokens);
        let tensor = run_as(Part::Layout, [x.into()], |[x]| {
            let backward = move |gradient, _| [Some(tensor(panels.unpack(&Floats::new(&gradient), features), shape))];
            (in_panels(panels, features, panels.pack(&x, features)), Box::new(backward))
        });
        Tokens::of(tensor, panels, images, features)
    }

    /// Makes tokens of the pixels of `patches`, row after row, behind the token `class` `[1, 1, features]`, and adds
    /// `positions` `[1, tokens, features]`.
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not agree.
    pub fn embed(patches: Activation, class: Tensor<3>, positions: Tensor<3>) -> Tokens {
        let Blocks { tensor: x, maps, .. } = match patches.into_blocks() {
            Ok(blocks) => blocks,
            Err(maps) => {
                let patches = maps.flatten::<3>(2, 3).swap_dims(1, 2);
                let class = class.repeat_dim(0, patches.dims()[0]);
                return Tokens::new(Tensor::cat(vec![class, patches], 1) + positions);
            }
        };
        let [images, features, height, width] = maps.dims();
        let tokens = height * width + 1;
        assert_eq!(class.dims(), [1, 1, features], "the class token of {:?}", maps.dims());
        assert_eq!(positions.dims(), [1, tokens, features], "positions of {:?}", maps.dims());
        let panels = Panels::of_tokens(images, tokens);
        let y = run_as(Part::Layout, [x.into(), class.into(), positions.into()], |[x, class, positions]| {
            let y = embedding::forward(maps, panels, &x, &class, &positions);
            let backward = move |gradient, [of_x, of_class, of_positions]: [bool; 3]| {
                let gradient = Floats::new(&gradient);
                let positions = embedding::sums(panels, features, &gradient);
                let class = of_class.then(|| vector(positions[..features].to_vec()).reshape([1, 1, features].into()));
                let of_x = of_x.then(|| in_blocks(maps, embedding::backward(maps, panels, &gradient)));
                [of_x, class, of_positions.then(|| vector(positions).reshape([1, tokens, features].into()))]
            };
            (in_panels(panels, features, y), Box::new(backward))
        });
        Tokens::of(y, panels, images, features)
    }

    /// Returns the tokens as `[images, tokens, features]`.
    pub fn into_tensor(self) -> Tensor<3> {
        let Packed { tensor: x, panels, images, features, .. } = match self.0 {
            State::Rows(x, _) => return x,
            State::Panels(packed) => packed,
        };
        run_as(Part::Layout, [x.into()], |[x]| {
            let y = tensor(panels.unpack(&x, features), [images, panels.pixels, features]);
            let backward =
                move |gradient, _| [Some(in_panels(panels, features, panels.pack(&Floats::new(&gradient), features)))];
            (y, Box::new(backward))
        })
    }

    /// Returns the first token of each image, `[images, features]`.
    pub fn first(self) -> Tensor<2> {
        let Packed { tensor: x, panels, images, features, .. } = match self.0 {
            State::Rows(x, _) => return x.narrow(1, 0, 1).squeeze_dim(1),
            State::Panels(packed) => packed,
        };
        run_as(Part::Layout, [x.into()], |[x]| {
            let at = move |image: usize, feature: usize| {
                (image / LANES * features + feature) * panels.plane() + image % LANES
            };
            let mut first = Buffer::any(images * features);
            for (image, row) in first.chunks_exact_mut(features).enumerate() {
                row.iter_mut().enumerate().for_each(|(feature, value)| *value = x[at(image, feature)]);
            }
            let backward = move |gradient, _| {
                let mut all = Buffer::zeros(panels.len(features));
                for (image, row) in Floats::new(&gradient).chunks_exact(features).enumerate() {
                    row.iter().enumerate().for_each(|(feature, value)| all[at(image, feature)] = *value);
                }
                [Some(in_panels(panels, features, all))]
            };
            (tensor(first, [images, features]), Box::new(backward))
        })
    }

    /// Returns `[images, tokens, features]`.
    pub fn dims(&self) -> [usize; 3] {
        match &self.0 {
            State::Rows(x, _) => x.dims(),
            State::Panels(packed) => [packed.images, packed.panels.pixels, packed.features],
        }
    }

    /// Returns the device that the tokens are on.
    pub fn device(&self) -> Device {
        match &self.0 {
            State::Rows(x, _) => x.device(),
            State::Panels(packed) => packed.tensor.device(),
        }
    }

    /// Multiplies each token by `weight` `[in, out]`, and adds `bias` `[out]` and `onto`, tokens of the output's shape.
    pub fn linear(self, weight: Tensor<2>, bias: Option<Tensor<1>>, onto: Option<Tokens>) -> Tokens {
        self.multiply(weight, bias, onto, None)
    }

    /// Multiplies as [`Tokens::linear`] does, by the weights that `pattern` keeps; all others must be zero. Gradients are
    /// those of [`super::sparse_linear`].
    ///
    /// # Panics
    ///
    /// Panics if the pattern has another shape than the weight.
    pub fn sparse_linear(
        self,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        onto: Option<Tokens>,
        pattern: &Arc<LinearPattern>,
        gradients: Gradients,
    ) -> Tokens {
        assert_eq!(weight.dims(), [pattern.shape()[1], pattern.shape()[0]], "a pattern has the shape of its weight");
        self.multiply(weight, bias, onto, Some((pattern, gradients)))
    }

    /// Asks for the precision of the linear layer that comes next.
    pub fn with_precision(self, precision: Precision) -> Tokens {
        Tokens(match self.0 {
            State::Rows(x, _) => State::Rows(x, precision),
            State::Panels(packed) => State::Panels(Packed { precision, ..packed }),
        })
    }

    fn multiply(
        self,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        onto: Option<Tokens>,
        kept: Option<(&Arc<LinearPattern>, Gradients)>,
    ) -> Tokens {
        let Packed { tensor: x, panels, images, features, precision } = match self.0 {
            State::Rows(x, precision) => {
                let y = plain(x, weight, bias, precision);
                return Tokens::of_rows(match onto {
                    Some(onto) => y + onto.into_tensor(),
                    None => y,
                });
            }
            State::Panels(packed) => packed,
        };
        let [inputs, outputs] = weight.dims();
        assert_eq!(inputs, features, "features of tokens multiplied by a weight of {:?}", weight.dims());
        let onto = onto.map(|onto| onto.packed());
        assert!(
            onto.as_ref().is_none_or(|onto| (onto.panels, onto.features) == (panels, outputs)),
            "tokens are added to tokens of their shape"
        );
        let onto = onto.map_or_else(Input::none, |onto| onto.tensor.into());
        let layer = Layer::new(&weight, panels, kept, precision, x.device().is_autodiff());
        let y = run_as(Part::Linear, [x.into(), weight.into(), optional(bias), onto], |[x, weight, bias, onto]| {
            let start = Start { bias: (!bias.is_empty()).then_some(&bias), onto: (!onto.is_empty()).then_some(&onto) };
            let y = layer.forward(&x, &weight, start);
            let backward = move |gradient: FlexTensor, [of_x, of_weight, of_bias, of_onto]: [bool; 4]| {
                let x = (of_weight || of_bias).then_some(&x[..]);
                let (of_x, parameters) = layer.backward(x, &weight, &Floats::new(&gradient), of_x);
                let (weight, bias) = parameters.map(|of| (of.weight, of.bias)).unzip();
                [
                    of_x.map(|of_x| in_panels(panels, inputs, of_x)),
                    weight.filter(|_| of_weight).map(|floats| tensor(floats, [inputs, outputs])),
                    bias.filter(|_| of_bias).map(vector),
                    of_onto.then_some(gradient),
                ]
            };
            (in_panels(panels, outputs, y), Box::new(backward))
        });
        Tokens::of(y, panels, images, outputs)
    }

    /// Normalises each token to mean 0 and variance 1, multiplies by `gamma` and adds `beta`.
    pub fn layer_norm(self, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tokens {
        let Packed { tensor: x, panels, images, features, .. } = match self.0 {
            State::Rows(x, _) => return Tokens::of_rows(module::layer_norm(x, gamma, Some(beta), epsilon)),
            State::Panels(packed) => packed,
        };
        let y = run_as(Part::LayerNorm, [x.into(), gamma.into(), beta.into()], |[x, gamma, beta]| {
            let layer_norm::Normal { output, statistics } =
                layer_norm::forward(panels, &x, &gamma, &beta, epsilon as f32);
            let backward = move |gradient, [of_x, of_gamma, of_beta]: [bool; 3]| {
                let of = layer_norm::backward(panels, &x, &gamma, &statistics, &Floats::new(&gradient));
                [
                    of_x.then(|| in_panels(panels, features, of.x)),
                    of_gamma.then(|| vector(of.gamma)),
                    of_beta.then(|| vector(of.beta)),
                ]
            };
            (in_panels(panels, features, output), Box::new(backward))
        });
        Tokens::of(y, panels, images, features)
    }

    /// Applies the Gaussian error linear unit.
    pub fn gelu(self) -> Tokens {
        let Packed { tensor: x, panels, images, features, .. } = match self.0 {
            State::Rows(x, _) => return Tokens::of_rows(activation::gelu(x)),
            State::Panels(packed) => packed,
        };
        let y = run_as(Part::Gelu, [x.into()], |[x]| {
            let y = in_panels(panels, features, elementwise::gelu(&x));
            let backward = move |gradient, _| {
                [Some(in_panels(panels, features, elementwise::gelu_backward(&x, &Floats::new(&gradient))))]
            };
            (y, Box::new(backward))
        });
        Tokens::of(y, panels, images, features)
    }

    /// Attends in `heads` heads: a token's features are its queries, then its keys, then its values, head after head, and
    /// scores are multiplied by `scale`.
    ///
    /// # Panics
    ///
    /// Panics if the features are not three times as many for each head.
    pub fn attention(self, heads: usize, scale: f64) -> Tokens {
        let [images, tokens, triple] = self.dims();
        assert_eq!(triple % (3 * heads), 0, "queries, keys and values of {heads} heads in {triple} features");
        let (width, features) = (triple / 3, triple / 3 / heads);
        let Packed { tensor: qkv, panels, .. } = match self.0 {
            State::Rows(qkv, _) => {
                let [q, k, v] = [0, 1, 2].map(|i| {
                    let part = qkv.clone().narrow(2, i * width, width);
                    part.reshape([images, tokens, heads, features]).swap_dims(1, 2)
                });
                let weights = activation::softmax(q.matmul(k.swap_dims(2, 3)).mul_scalar(scale), 3);
                return Tokens::of_rows(weights.matmul(v).swap_dims(1, 2).reshape([images, tokens, width]));
            }
            State::Panels(packed) => packed,
        };
        let shape = Attention { panels, heads, features, scale: scale as f32 };
        let y = run_as(Part::Attention, [qkv.into()], |[qkv]| {
            let attended = shape.forward(&qkv);
            let statistics = attended.statistics;
            let backward = move |gradient, _| {
                [Some(in_panels(panels, triple, shape.backward(&qkv, &statistics, &Floats::new(&gradient))))]
            };
            (in_panels(panels, width, attended.output), Box::new(backward))
        });
        Tokens::of(y, panels, images, width)
    }

    fn of_rows(x: Tensor<3>) -> Tokens {
        Tokens(State::Rows(x, Precision::F32))
    }

    fn of(tensor: Tensor<4>, panels: Panels, images: usize, features: usize) -> Tokens {
        Tokens(State::Panels(Packed { tensor, panels, images, features, precision: Precision::F32 }))
    }

    fn packed(self) -> Packed {
        match self.0 {
            State::Panels(packed) => packed,
            State::Rows(x, _) => match Tokens::new(x).0 {
                State::Panels(packed) => packed,
                State::Rows(..) => unreachable!("both are f32 and on flex"),
            },
        }
    }
}

/// Makes a tensor of panels.
fn in_panels(panels: Panels, features: usize, floats: Buffer) -> FlexTensor {
    tensor(floats, [panels.panels, features, panels.pixels, LANES])
}
