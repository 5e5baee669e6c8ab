//! Convolutions and normalisations that have been computed, but are not in the graph yet.
//!
//! Gradients of one operation at a time read and write each activation many times. So a chain of convolutions and
//! normalisations becomes one operation of the graph: up to three convolutions, each with its normalisation, and maybe a
//! residual at the end, which is a block of a ResNet. See [`crate::conv::unit`] for what that saves.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, Tensor};

use super::activation::{Blocks, in_blocks, shape};
use super::flex::{Floats, Input, run, tensor, vector, writable};
use crate::Precision;
use crate::batch_norm::{Affine, Gate, Statistics, Sums};
use crate::conv::unit::{self, Unit, Wanted};
use crate::conv::{Conv, Pattern};
use crate::maps::Maps;
use crate::pooling;
use crate::profile::{Part, section};

/// Convolutions of a chain.
const LONGEST: usize = 3;
/// Inputs of an operation: the source, three for each link, and a residual.
const INPUTS: usize = 2 + 3 * LONGEST;
const RESIDUAL: usize = INPUTS - 1;

/// A chain of convolutions and normalisations.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    source: Input,
    device: Device,
    links: Vec<Link>,
    /// Weight, gamma and beta of each link. Only here: what the graph keeps must not hold its own nodes.
    parameters: Vec<[Input; 3]>,
}

/// A convolution and maybe its normalisation.
#[derive(Clone, Debug)]
struct Link {
    conv: Conv,
    precision: Precision,
    sparse: Option<Sparse>,
    /// The output of the convolution.
    z: Floats,
    statistics: Option<Statistics>,
    norm: Option<LinkNorm>,
}

/// The kept weights of a convolution.
#[derive(Clone, Debug)]
pub(super) struct Sparse {
    /// Which they are.
    pub pattern: Arc<Pattern>,
    /// Whether all weights want a gradient.
    pub all: bool,
}

#[derive(Clone, Debug)]
struct LinkNorm {
    statistics: Statistics,
    affine: Affine,
    epsilon: f64,
    relu: bool,
}

impl Pending {
    /// Starts a chain at `source`; `device` is the one of its results.
    pub fn new(source: Blocks, device: Device) -> Pending {
        Pending { source: source.tensor.into(), device, links: Vec::new(), parameters: Vec::new() }
    }

    /// Tells whether another convolution may follow.
    pub fn takes_convolution(&self) -> bool {
        self.links.len() < LONGEST && self.links.last().is_none_or(|link| link.norm.is_some())
    }

    /// Tells whether a normalisation may follow.
    pub fn takes_norm(&self) -> bool {
        self.links.last().is_some_and(|link| link.norm.is_none())
    }

    /// Returns the shape of the output.
    ///
    /// # Panics
    ///
    /// Panics if there is no convolution yet.
    pub fn maps(&self) -> Maps {
        self.links.last().expect("a chain has a convolution").conv.output()
    }

    /// Returns the device of the output.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Convolves.
    pub fn convolve(mut self, conv: Conv, weight: Tensor<4>, precision: Precision, sparse: Option<Sparse>) -> Pending {
        let weight = Input::from(weight);
        let floats = weight.floats();
        let source = self.source.floats();
        let _section = section(Part::Waiting);
        // Where gradients are taken, the batch is normalised by its own statistics.
        let training = self.device.is_autodiff();
        let run = |pattern: Option<&Pattern>| {
            let unit = Unit { conv: &conv, weight: &floats, pattern, precision };
            unit.forward(self.input(&source, self.links.len()), training)
        };
        let (z, statistics) = match &sparse {
            None => run(None),
            Some(sparse) => sparse.pattern.forward(conv.input.images, training, run),
        };
        let z = Floats::new(&in_blocks(conv.output(), z));
        self.links.push(Link { conv, precision, sparse, z, statistics, norm: None });
        self.parameters.push([weight, Input::none(), Input::none()]);
        self
    }

    /// Normalises by the statistics of the batch, which are returned too.
    pub fn normalise(mut self, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, relu: bool) -> (Pending, Statistics) {
        let maps = self.maps();
        let link = self.links.last_mut().expect("a chain has a convolution");
        let statistics = link.statistics.take().unwrap_or_else(|| Statistics::of(maps, &link.z));
        let (gamma, beta) = (Input::from(gamma), Input::from(beta));
        let affine = statistics.affine(&gamma.floats(), &beta.floats(), epsilon);
        link.norm = Some(LinkNorm { statistics: statistics.clone(), affine, epsilon, relu });
        let parameters = self.parameters.last_mut().expect("each link has parameters");
        [parameters[1], parameters[2]] = [gamma, beta];
        (self, statistics)
    }

    /// Puts the chain into the graph.
    pub fn settle(self) -> Tensor<4> {
        self.finish(None)
    }

    /// Puts the chain into the graph, with the addition of `residual` before the last rectifier.
    pub fn settle_with(self, residual: Blocks) -> Tensor<4> {
        assert_eq!(residual.maps, self.maps(), "a residual has the shape of what it is added to");
        self.finish(Some(residual))
    }

    fn finish(self, residual: Option<Blocks>) -> Tensor<4> {
        let mut inputs = std::array::from_fn(|_| Input::none());
        inputs[0] = self.source.clone();
        for (place, parameter) in inputs[1..RESIDUAL].iter_mut().zip(self.parameters.iter().flatten()) {
            *place = parameter.clone();
        }
        let mut around = Around::Nothing;
        let added = residual.map(|Blocks { tensor, narrow, .. }| {
            let is_source = |tensor: Tensor<4>| self.links.len() > 1 && Input::from(tensor).is(&self.source);
            around = match narrow {
                Some(narrow) if is_source(narrow.tensor.clone()) => Around::Shortcut(narrow.maps),
                _ if is_source(tensor.clone()) => Around::Source,
                _ => Around::Nothing,
            };
            let residual = Input::from(tensor);
            let floats = residual.floats();
            if around == Around::Nothing {
                inputs[RESIDUAL] = residual;
            }
            floats
        });
        run(inputs, |floats| {
            let maps = self.maps();
            let last = self.links.last().expect("a chain has a convolution");
            let output = match &last.norm {
                None => last.z.tensor(),
                Some(norm) => in_blocks(maps, norm.affine.apply(maps, &last.z, norm.relu, added.as_deref())),
            };
            let gate = match (&last.norm, added) {
                (Some(LinkNorm { relu: true, .. }), Some(_)) => Some(Floats::new(&output)),
                _ => None,
            };
            let chain = Chain { links: self.links, floats, output: gate, around };
            (output, Box::new(move |gradient, wanted| chain.backward(gradient, wanted)))
        })
    }

    /// Returns what link `number` reads.
    fn input<'a>(&'a self, source: &'a [f32], number: usize) -> unit::Input<'a> {
        input(&self.links, source, number)
    }
}

fn input<'a>(links: &'a [Link], source: &'a [f32], number: usize) -> unit::Input<'a> {
    match number.checked_sub(1).map(|before| &links[before]) {
        None => unit::Input { x: source, norm: None },
        Some(before) => {
            let norm = before.norm.as_ref().map(|norm| unit::Norm { affine: &norm.affine, relu: norm.relu });
            unit::Input { x: &before.z, norm }
        }
    }
}

/// What a residual is besides: where it comes from the source, the gradients of both are summed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    /// Something else, or nothing.
    Nothing,
    /// The source.
    Source,
    /// The parameter-free shortcut of the source, which has this shape.
    Shortcut(Maps),
}

/// What the backward pass of a chain needs.
struct Chain {
    links: Vec<Link>,
    /// The inputs, as in [`INPUTS`].
    floats: [Floats; INPUTS],
    /// The output, if a residual has been added to it before a rectifier.
    output: Option<Floats>,
    around: Around,
}

impl Chain {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; INPUTS]) -> [Option<FlexTensor>; INPUTS] {
        let mut all = [const { None }; INPUTS];
        let maps = self.links.last().expect("a chain has a convolution").conv.output();
        let (mut gradient, mut sums, mut of_residual) = self.shut(maps, gradient);
        for (number, link) in self.links.iter().enumerate().rev() {
            let (conv, place) = (&link.conv, 1 + 3 * number);
            let is_last = number + 1 == self.links.len();
            if let Some(norm) = &link.norm {
                let sums = sums.get_or_insert_with(|| {
                    norm.affine.sums(conv.output(), &gradient, &link.z, self.gate(norm, is_last))
                });
                all[place + 1] = Some(vector(norm.statistics.gamma_gradient(sums, norm.epsilon)));
                all[place + 2] = Some(vector(sums.gradient.clone()));
            }
            let norm = link.norm.as_ref().map(|norm| unit::Backward {
                z: &link.z,
                affine: &norm.affine,
                gate: self.gate(norm, is_last),
                training: (&norm.statistics, sums.as_ref().expect("sums have been taken"), norm.epsilon),
            });
            let around = number == 0 && self.around != Around::Nothing && wanted[0];
            let mut onto = of_residual.take_if(|_| around).map(|of_residual| match self.around {
                Around::Shortcut(from) => {
                    in_blocks(from, pooling::shortcut_gradient(from, maps, &Floats::new(&of_residual)))
                }
                Around::Source | Around::Nothing => writable(of_residual, shape(maps)),
            });
            let mut of = |of_input: Option<&Pattern>, of_weight: Option<&Pattern>| {
                let unit = Unit { conv, weight: &self.floats[place], pattern: of_input, precision: link.precision };
                let wanted = Wanted {
                    input: wanted[..place].contains(&true),
                    onto: onto.as_mut().map(|onto| onto.storage_mut()),
                    weight: wanted[place],
                    kept: of_weight,
                };
                unit.backward(input(&self.links, &self.floats[0], number), &gradient, norm, wanted)
            };
            let of = match &link.sparse {
                None => of(None, None),
                Some(Sparse { pattern, all }) => pattern.backward(conv.input.images, *all, |sides| {
                    let mut of = of(sides.data(pattern), sides.weight(pattern));
                    if let (None, false, Some(of_weight)) = (sides.weight(pattern), *all, &mut of.weight) {
                        pattern.clear_removed(of_weight);
                    }
                    of
                }),
            };
            let (outputs, inputs, [height, width]) = (conv.outputs, conv.input.channels, conv.kernel);
            all[place] = of.weight.map(|weight| tensor(weight, [outputs, inputs, height, width]));
            sums = of.sums;
            let Some(of_input) = onto.or(of.input.map(|of_input| in_blocks(conv.input, of_input))) else { break };
            gradient = Floats::new(&of_input);
            if number == 0 {
                all[0] = Some(of_input);
            }
        }
        all[RESIDUAL] = of_residual;
        all
    }

    /// Sets the gradient to 0 where the rectifier behind a residual did so to the output; so it is the residual's too.
    fn shut(&self, maps: Maps, gradient: FlexTensor) -> (Floats, Option<Sums>, Option<FlexTensor>) {
        let last = self.links.last().and_then(|link| Some((link, link.norm.as_ref()?)));
        let (Some((link, norm)), Some(output)) = (last, &self.output) else {
            return (Floats::new(&gradient), None, None);
        };
        let mut gradient = writable(gradient, shape(maps));
        let sums = norm.affine.shut(maps, gradient.storage_mut(), &link.z, output);
        (Floats::new(&gradient), Some(sums), Some(gradient))
    }

    fn gate(&self, norm: &LinkNorm, is_last: bool) -> Gate<'static> {
        match &self.output {
            Some(_) if is_last => Gate::Open,
            _ if norm.relu => Gate::Input,
            _ => Gate::Open,
        }
    }
}
