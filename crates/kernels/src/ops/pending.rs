//! Convolutions and normalisations that are not in the graph yet; all but the last convolution have been computed.
//!
//! Gradients of one operation at a time read and write each activation many times. So a chain of convolutions and
//! normalisations becomes one operation of the graph: maybe a normalisation in front, up to three convolutions, each with
//! its normalisation, and maybe a residual at the end, which is a block of a ResNet. See [`crate::conv::unit`] for what that
//! saves.
//!
//! A normalisation in front reads channels where they are, in several activations if need be, and leaves others out. On the
//! way back their gradients are added to what has come from later layers, in place. The last convolution waits, too, for what
//! comes next: what is added to its result is what its sums begin with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, Tensor};

use super::activation::{Blocks, Known, in_blocks, shape};
use super::flex::{Begun, Floats, Input, run_onto, tensor, vector, writable};
use super::planes::{PARTS, View, parts_of};
use crate::Precision;
use crate::batch_norm::{Affine, Gate, Passed, Statistics, Sums, Target};
use crate::buffer::Buffer;
use crate::conv::unit::{self, Unit, Wanted};
use crate::conv::{Conv, Pattern};
use crate::maps::Maps;
use crate::planes::{Picked, Place, Planes};
use crate::pooling;
use crate::profile::{Part, section};

/// Convolutions of a chain.
const LONGEST: usize = 3;
/// Inputs of an operation: the sources, two for a normalisation in front, three for each link, and a residual.
const INPUTS: usize = RESIDUAL + 1;
const FRONT: usize = PARTS;
const LINKS: usize = FRONT + 2;
const RESIDUAL: usize = LINKS + 3 * LONGEST;

/// A chain of convolutions and normalisations.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    sources: Vec<Blocks>,
    device: Device,
    front: Option<Front>,
    links: Vec<Link>,
    /// Gamma and beta of the normalisation in front, which are in the graph's inputs only, as those below.
    scales: [Input; 2],
    /// Weight, gamma and beta of each link. Only here: what the graph keeps must not hold its own nodes.
    parameters: Vec<[Input; 3]>,
}

/// A normalisation in front of all convolutions.
#[derive(Clone, Debug)]
struct Front {
    /// Where the channels are that it reads.
    places: Arc<[Place]>,
    /// The shape of all that it reads.
    maps: Maps,
    norm: LinkNorm,
}

/// A convolution and maybe its normalisation.
#[derive(Clone, Debug)]
struct Link {
    conv: Conv,
    precision: Precision,
    sparse: Option<Sparse>,
    /// The output of the convolution; nothing while that waits.
    z: Floats,
    waits: bool,
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
        let scales = [Input::none(), Input::none()];
        Pending { sources: vec![source], device, front: None, links: Vec::new(), scales, parameters: Vec::new() }
    }

    /// Starts a chain with a normalisation by the statistics of the batch, which are returned too.
    pub fn in_front(
        view: View,
        device: Device,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        epsilon: f64,
        relu: bool,
    ) -> (Pending, Statistics) {
        let _section = section(Part::Waiting);
        let view = view.of_few_parts();
        let maps = view.maps();
        let statistics = |blocks: &Blocks| {
            let take = || Statistics::of(blocks.maps, &Input::from(blocks.tensor.clone()).floats());
            blocks.known.statistics.get_or_init(take).clone()
        };
        let of_parts: Vec<Statistics> = view.parts.iter().map(statistics).collect();
        let pick = |of: fn(&Statistics) -> &Vec<f32>| {
            view.places.iter().map(|Place { part, channel }| of(&of_parts[*part])[*channel]).collect()
        };
        let statistics = Statistics { mean: pick(|of| &of.mean), variance: pick(|of| &of.variance) };
        let (gamma, beta) = (Input::from(gamma), Input::from(beta));
        let affine = statistics.affine(&gamma.floats(), &beta.floats(), epsilon);
        let norm = LinkNorm { statistics: statistics.clone(), affine, epsilon, relu };
        let front = Some(Front { places: view.places.into(), maps, norm });
        let (sources, scales) = (view.parts, [gamma, beta]);
        (Pending { sources, device, front, links: Vec::new(), scales, parameters: Vec::new() }, statistics)
    }

    /// Tells whether another convolution may follow.
    pub fn takes_convolution(&self) -> bool {
        self.links.len() < LONGEST && self.links.last().is_none_or(|link| link.norm.is_some())
    }

    /// Tells whether a normalisation may follow.
    pub fn takes_norm(&self) -> bool {
        self.links.last().is_some_and(|link| link.norm.is_none())
    }

    /// Tells whether something may be added to what has been computed, with nothing behind it.
    pub fn takes_residual(&self) -> bool {
        self.links.last().is_some_and(|link| link.norm.as_ref().is_none_or(|norm| !norm.relu))
    }

    /// Returns the shape of the output.
    ///
    /// # Panics
    ///
    /// Panics if there is neither a convolution nor a normalisation yet.
    pub fn maps(&self) -> Maps {
        output(&self.links, self.front.as_ref())
    }

    /// Returns the device of the output.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Convolves.
    pub fn convolve(mut self, conv: Conv, weight: Tensor<4>, precision: Precision, sparse: Option<Sparse>) -> Pending {
        let (z, statistics) = (Floats::none(), None);
        self.links.push(Link { conv, precision, sparse, z, waits: true, statistics, norm: None });
        self.parameters.push([weight.into(), Input::none(), Input::none()]);
        self
    }

    /// Computes the last convolution if it waits, and adds `residual` to it.
    fn compute(&mut self, residual: Option<&[f32]>) {
        let number = self.links.len().wrapping_sub(1);
        let Some(Link { conv, precision, sparse, waits: true, .. }) = self.links.last().cloned() else { return };
        let weight = self.parameters[number][0].floats();
        let _section = section(Part::Waiting);
        let sources: Vec<Floats> = match number == 0 {
            true => self.sources.iter().map(|source| Input::from(source.tensor.clone()).floats()).collect(),
            false => Vec::new(),
        };
        let shapes: Vec<Maps> = self.sources.iter().map(|source| source.maps).collect();
        let parts = parts_of(&shapes, &sources);
        let input = input(&self.links, self.front.as_ref(), &parts, number);
        // Where gradients are taken, the batch is normalised by its own statistics.
        let training = self.device.is_autodiff();
        let run = |pattern: Option<&Pattern>| {
            Unit { conv: &conv, weight: &weight, pattern, precision }.forward_onto(input, residual, training)
        };
        let (z, statistics) = match &sparse {
            None => run(None),
            Some(sparse) => sparse.pattern.forward(conv.input.images, training, run),
        };
        let link = &mut self.links[number];
        (link.z, link.statistics, link.waits) = (Floats::new(&in_blocks(conv.output(), z)), statistics, false);
    }

    /// Normalises by the statistics of the batch, which are returned too.
    pub fn normalise(mut self, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, relu: bool) -> (Pending, Statistics) {
        self.compute(None);
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
    pub fn settle(self) -> Blocks {
        self.finish(None, None)
    }

    /// Puts the chain into the graph, with the addition of `residual` before the last rectifier.
    pub fn settle_with(self, residual: Blocks) -> Blocks {
        assert_eq!(residual.maps, self.maps(), "a residual has the shape of what it is added to");
        self.finish(Some(residual), None)
    }

    /// Puts the chain into the graph, with the addition of its channels to those of `residual` at `places`, in rising order,
    /// and the last rectifier behind that.
    pub fn settle_at(self, places: Vec<usize>, residual: Blocks) -> Blocks {
        assert!(
            places.len() == self.maps().channels && places.last().is_none_or(|last| *last < residual.maps.channels)
        );
        self.finish(Some(residual), Some(places))
    }

    fn finish(mut self, residual: Option<Blocks>, places: Option<Vec<usize>>) -> Blocks {
        let maps = residual.as_ref().map_or_else(|| self.maps(), |residual| residual.maps);
        // Behind a normalisation there is no convolution that waits.
        let begin = residual.as_ref().map(|residual| Input::from(residual.tensor.clone()).floats());
        self.compute(begin.as_deref());
        let Pending { sources, front, mut links, scales, parameters, .. } = self;
        let mut inputs: [Input; INPUTS] = std::array::from_fn(|_| Input::none());
        for (place, source) in inputs.iter_mut().zip(&sources) {
            *place = source.tensor.clone().into();
        }
        inputs[FRONT..LINKS].clone_from_slice(&scales);
        for (place, parameter) in inputs[LINKS..RESIDUAL].iter_mut().zip(parameters.into_iter().flatten()) {
            *place = parameter;
        }
        let mut around = Around::Nothing;
        let added = residual.map(|Blocks { tensor, narrow, .. }| {
            // The gradient of a chain's input is written anew by its last convolution, so there must be another after it.
            let may_add = sources.len() == 1 && (links.len() > 1 || front.is_some());
            let is_source = |tensor: Tensor<4>| may_add && Input::from(tensor).is(&inputs[0]);
            around = match narrow {
                Some(narrow) if front.is_none() && is_source(narrow.tensor.clone()) => Around::Shortcut(narrow.maps),
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
        let mut statistics = None;
        let output = run_onto(Part::Waiting, inputs, |floats| {
            let shapes = sources.iter().map(|source| source.maps).collect::<Vec<_>>();
            let mut passed = None;
            let mut keep = |(y, of_y)| {
                passed = Some(of_y);
                y
            };
            let output = match (links.last_mut(), &front) {
                (Some(Link { norm: Some(norm), z, .. }), _) => {
                    let y = match (&places, added.as_deref()) {
                        (Some(places), Some(added)) => keep(norm.affine.join_at(maps, places, z, added)),
                        (None, Some(added)) if norm.relu => keep(norm.affine.join(maps, z, added)),
                        (_, added) => norm.affine.apply(maps, z, norm.relu, added),
                    };
                    in_blocks(maps, y)
                }
                (Some(link), _) => {
                    // What is added is in it, and nothing reads it on the way back.
                    statistics = link.statistics.take();
                    std::mem::replace(&mut link.z, Floats::none()).into()
                }
                (None, Some(Front { places, norm, .. })) => {
                    let parts = parts_of(&shapes, &floats);
                    in_blocks(maps, norm.affine.apply_picked(Picked::new(&parts, places), norm.relu))
                }
                (None, None) => unreachable!("a chain has a link or a normalisation in front"),
            };
            let known = sources.into_iter().map(|source| source.known).collect();
            let has_residual = added.is_some();
            let chain = Chain { shapes, known, front, links, floats, passed, maps, places, has_residual, around };
            (output, Box::new(move |gradient, wanted, begun: &mut Begun| chain.backward(gradient, wanted, begun)))
        });
        Blocks::new(output, maps).with_statistics(statistics)
    }
}

/// Returns the shape of the output.
fn output(links: &[Link], front: Option<&Front>) -> Maps {
    let of_front = || front.expect("a chain has a convolution or a normalisation in front").maps;
    links.last().map_or_else(of_front, |link| link.conv.output())
}

/// Returns what link `number` reads.
fn input<'a>(
    links: &'a [Link],
    front: Option<&'a Front>,
    sources: &'a [crate::planes::Part<'a>],
    number: usize,
) -> unit::Input<'a> {
    let norm = |norm: &'a LinkNorm| unit::Norm { affine: &norm.affine, relu: norm.relu };
    match (number.checked_sub(1).map(|before| &links[before]), front) {
        (None, None) => unit::Input { x: Planes::Whole(sources[0].x), norm: None },
        (None, Some(front)) => {
            let x = Planes::Picked(Picked::new(sources, &front.places));
            unit::Input { x, norm: Some(norm(&front.norm)) }
        }
        (Some(before), _) => unit::Input { x: Planes::Whole(&before.z), norm: before.norm.as_ref().map(norm) },
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
    /// The shapes of the sources.
    shapes: Vec<Maps>,
    /// What is known about them.
    known: Vec<Arc<Known>>,
    front: Option<Front>,
    links: Vec<Link>,
    /// The inputs, as in [`INPUTS`].
    floats: [Floats; INPUTS],
    /// Which pixels of the output a gradient passes, if a residual has been added to it before a rectifier.
    passed: Option<Passed>,
    /// The shape of the output.
    maps: Maps,
    /// The channels of the residual that the last link's are added to, if not one to one.
    places: Option<Vec<usize>>,
    has_residual: bool,
    around: Around,
}

/// Where the backward pass has come to.
struct Way {
    /// The gradient of what the next link returned.
    gradient: Floats,
    /// The sums that its normalisation needs, if they have been taken.
    sums: Option<Sums>,
    /// The gradient of the residual.
    of_residual: Option<FlexTensor>,
}

impl Chain {
    fn backward(
        &self,
        gradient: FlexTensor,
        wanted: [bool; INPUTS],
        begun: &mut Begun,
    ) -> [Option<FlexTensor>; INPUTS] {
        let mut all = [const { None }; INPUTS];
        let mut way = self.shut(gradient);
        let parts = parts_of(&self.shapes, &self.floats);
        let reaches_front =
            (0..self.links.len()).rev().all(|number| self.through_link(number, &parts, &mut way, &wanted, &mut all));
        if let (true, Some(front)) = (reaches_front, &self.front) {
            self.through_front(front, &parts, &mut way, &wanted, begun, &mut all);
        }
        all[RESIDUAL] = way.of_residual;
        all
    }

    /// Goes back through a convolution and its normalisation; tells whether anything before it wants a gradient.
    fn through_link(
        &self,
        number: usize,
        parts: &[crate::planes::Part],
        way: &mut Way,
        wanted: &[bool; INPUTS],
        all: &mut [Option<FlexTensor>; INPUTS],
    ) -> bool {
        let link = &self.links[number];
        let (conv, place) = (&link.conv, LINKS + 3 * number);
        let is_last = number + 1 == self.links.len();
        if let Some(norm) = &link.norm {
            let gate = self.gate(norm, is_last);
            let sums = || norm.affine.sums(conv.output(), &way.gradient, &link.z, gate);
            let sums = way.sums.take().unwrap_or_else(sums);
            all[place + 1] = Some(vector(norm.statistics.gamma_gradient(&sums, norm.epsilon)));
            all[place + 2] = Some(vector(sums.gradient.clone()));
            way.sums = Some(sums);
        }
        let norm = link.norm.as_ref().map(|norm| unit::Backward {
            z: &link.z,
            affine: &norm.affine,
            gate: self.gate(norm, is_last),
            training: (&norm.statistics, way.sums.as_ref().expect("sums have been taken"), norm.epsilon),
        });
        let is_first = number == 0 && self.front.is_none();
        let around = is_first && self.around != Around::Nothing && wanted[0];
        let mut onto = way.of_residual.take_if(|_| around).map(|of_residual| match self.around {
            Around::Shortcut(from) => {
                in_blocks(from, pooling::shortcut_gradient(from, self.maps, &Floats::new(&of_residual)))
            }
            Around::Source | Around::Nothing => writable(of_residual, shape(conv.input)),
        });
        let mut of = |of_input: Option<&Pattern>, of_weight: Option<&Pattern>| {
            let unit = Unit { conv, weight: &self.floats[place], pattern: of_input, precision: link.precision };
            let wanted = Wanted {
                input: wanted[..place].contains(&true),
                onto: onto.as_mut().map(|onto| onto.storage_mut()),
                weight: wanted[place],
                kept: of_weight,
            };
            unit.backward(input(&self.links, self.front.as_ref(), parts, number), &way.gradient, norm, wanted)
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
        way.sums = of.sums;
        let Some(of_input) = onto.or(of.input.map(|of_input| in_blocks(conv.input, of_input))) else { return false };
        way.gradient = Floats::new(&of_input);
        if is_first {
            all[0] = Some(of_input);
        }
        true
    }

    /// Goes back through the normalisation in front, to all that it has read.
    fn through_front(
        &self,
        Front { places, norm, .. }: &Front,
        parts: &[crate::planes::Part],
        way: &mut Way,
        wanted: &[bool; INPUTS],
        begun: &mut Begun,
        all: &mut [Option<FlexTensor>; INPUTS],
    ) {
        let picked = Picked::new(parts, places);
        let (gradient, gate) = (&*way.gradient, if norm.relu { Gate::Input } else { Gate::Open });
        let sums = way.sums.take().unwrap_or_else(|| norm.affine.sums_picked(picked, gradient, gate));
        all[FRONT] = Some(vector(norm.statistics.gamma_gradient(&sums, norm.epsilon)));
        all[FRONT + 1] = Some(vector(sums.gradient.clone()));
        let training = Some((&norm.statistics, &sums, norm.epsilon));
        for (number, maps) in self.shapes.iter().enumerate().filter(|(number, _)| wanted[*number]) {
            let started = match self.around {
                Around::Source => way.of_residual.take(),
                Around::Nothing | Around::Shortcut(_) => {
                    self.known[number].has_gradient.swap(true, Relaxed).then(|| begun(number))
                }
            };
            all[number] = Some(match started {
                Some(started) => {
                    let mut out = writable(started, shape(*maps));
                    let target = Target::Begun(out.storage_mut());
                    norm.affine.backward_picked(picked, number, gradient, gate, training, target);
                    out
                }
                None => {
                    let mut out = Buffer::any(maps.len());
                    norm.affine.backward_picked(picked, number, gradient, gate, training, Target::New(&mut out));
                    in_blocks(*maps, out)
                }
            });
        }
    }

    /// Sets the gradient to 0 where the rectifier behind a residual did so to the output; so it is the residual's too.
    fn shut(&self, gradient: FlexTensor) -> Way {
        let last = self.links.last().and_then(|link| Some((link, link.norm.as_ref()?)));
        let (Some((link, norm)), Some(passed)) = (last, &self.passed) else {
            let gradient = Floats::new(&gradient);
            let of_residual = self.has_residual.then(|| gradient.tensor());
            return Way { gradient, sums: None, of_residual };
        };
        let mut gradient = writable(gradient, shape(self.maps));
        if let Some(places) = &self.places {
            let (own, sums) = norm.affine.shut_at(self.maps, places, gradient.storage_mut(), &link.z, passed);
            let own = Floats::new(&in_blocks(link.conv.output(), own));
            return Way { gradient: own, sums: Some(sums), of_residual: Some(gradient) };
        }
        let sums = norm.affine.shut(self.maps, gradient.storage_mut(), &link.z, passed);
        Way { gradient: Floats::new(&gradient), sums: Some(sums), of_residual: Some(gradient) }
    }

    fn gate(&self, norm: &LinkNorm, is_last: bool) -> Gate<'static> {
        match &self.passed {
            Some(_) if is_last => Gate::Open,
            _ if norm.relu => Gate::Input,
            _ => Gate::Open,
        }
    }
}
