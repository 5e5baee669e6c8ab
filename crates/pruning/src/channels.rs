//! Finds the channel groups of a network: the rows and columns that can only go together.
//!
//! The coupling is derived from the operations of a [`Graph`], never written per architecture: channels that an
//! operation ties to each other (a normalisation its input and output, a sum its terms, a padded shortcut the channels
//! that it carries on) are one *unit*, and units that touch the same parameters form a *group*. As in Fang, Ma, Song,
//! Mi, Wang: "DepGraph: Towards Any Structural Pruning" (2023), <https://arxiv.org/abs/2301.12900>.
//!
//! Differs from the paper: the coupling is found channel by channel, so that index maps (flattened maps, zero channels of
//! a shortcut, concatenation, heads) need no rules of their own; zero-padded shortcuts are understood. The result of a
//! layer normalisation changes even when a channel of zeros goes: a network that is masked instead of cut must take its
//! statistics over the channels that are left.
//!
//! Where many layers read or make one value, a stream, there are two ways to see it: a channel goes with all that read and
//! make it ([`Channels::derive`]), or all of them stay ([`Channels::derive_whole`]): then each layer picks the channels that
//! it reads, as network slimming has it, and each block adds to some channels only, as polarization has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, Op};
use crate::mask::Mask;

/// What a group is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// Channels between layers, such as those inside a block or the hidden units of a perceptron.
    Inner,
    /// Channels of a residual stream, which all blocks of a stage share.
    Stream,
    /// Heads of attention.
    Heads,
    /// Dimensions of queries and keys, or of values, in every head alike.
    HeadDims,
    /// Features of tokens, which all blocks of a transformer share.
    Embedding,
    /// The channels that one layer picks out of a stream, which keeps all of its own.
    Selection,
    /// The channels that one block adds to a stream, which keeps all of its own.
    Expansion,
}

/// What a parameter does in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or of a linear layer, `[out, in, …]`.
    Weight,
    /// The bias of such a layer.
    Bias,
    /// The scale of a normalisation.
    Scale,
    /// The shift of a normalisation.
    Shift,
    /// A running statistic.
    Statistic,
    /// A class token or positions, with channels last.
    Embedding,
}

/// A part of a parameter that goes with the units of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The path of the parameter.
    pub parameter: String,
    /// What it does.
    pub role: Role,
    /// The axis along which it is cut: 0 for outputs, 1 for inputs of a weight, 2 for embeddings.
    pub axis: usize,
    /// For each unit, its places along the axis.
    pub places: Vec<Vec<usize>>,
}

/// Units of a network that touch the same parameters; each of them can go alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The path of the first layer that makes its channels; for attention `{path}.heads`, `{path}.qk` and `{path}.v`; the
    /// path of a selection or of an expansion.
    pub name: String,
    /// What it is a part of.
    pub kind: GroupKind,
    /// How many units it has.
    pub units: usize,
    /// What goes with them, in the order of the forward pass.
    pub members: Vec<Member>,
}

impl Group {
    /// Returns the axis of weights along which units are masked: 1, where they are read, or 0 if no layer reads them.
    pub fn mask_axis(&self) -> usize {
        usize::from(self.members.iter().any(|member| (member.role, member.axis) == (Role::Weight, 1)))
    }
}

/// Which places along the axes of parameters stay; what is not listed stays whole.
pub type Places = BTreeMap<(String, usize), Vec<bool>>;

/// The channel groups of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channels {
    /// The groups in the order of the forward pass.
    pub groups: Vec<Group>,
}

impl Channels {
    /// Finds the groups of a network.
    ///
    /// # Errors
    ///
    /// A sentence that names the layer whose coupling cannot be derived.
    pub fn derive(graph: &Graph) -> Result<Self, String> {
        Self::derive_by(graph, Streams::Coupled)
    }

    /// Finds the groups of a network in which streams keep all of their channels: each layer that reads one picks those that
    /// it needs, and each block adds to those that it makes.
    ///
    /// # Errors
    ///
    /// As [`Channels::derive`].
    pub fn derive_whole(graph: &Graph) -> Result<Self, String> {
        Self::derive_by(graph, Streams::Whole)
    }

    fn derive_by(graph: &Graph, streams: Streams) -> Result<Self, String> {
        let mut coupling = Coupling::new(graph, streams)?;
        coupling.tie(graph)?;
        let classes = coupling.classes(graph);
        let mut groups = classes.groups(&mut coupling);
        groups.extend(classes.heads(graph, &mut coupling)?);
        groups.sort_by_key(|(first, _)| *first);
        let groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
        let mut names = BTreeSet::new();
        match groups.iter().find(|group| !names.insert(&group.name)) {
            Some(group) => Err(format!("the coupling of `{}` cannot be derived: its channels part ways", group.name)),
            None => Ok(Self { groups }),
        }
    }

    /// Returns which places of which parameters stay when only some units do.
    pub fn places(&self, units: &[Mask]) -> Places {
        let mut places = Places::new();
        for (group, units) in self.groups.iter().zip(units) {
            for member in &group.members {
                let key = (member.parameter.clone(), member.axis);
                let flags = places.entry(key).or_default();
                for (unit, at) in member.places.iter().enumerate() {
                    for &place in at {
                        if flags.len() <= place {
                            flags.resize(place + 1, true);
                        }
                        flags[place] &= units.get(unit);
                    }
                }
            }
        }
        places
    }

    /// Returns the multiply-accumulates for one image when only some units stay.
    pub fn macs(&self, graph: &Graph, units: &[Mask]) -> u64 {
        let places = self.places(units);
        let removed = |parameter: &str, axis| {
            let flags = places.get(&(parameter.to_string(), axis));
            flags.map_or(0, |flags| flags.iter().filter(|kept| !**kept).count())
        };
        let mut macs = graph.fixed_macs;
        for layer in &graph.layers {
            // A weight's second axis counts input channels; the rest of the shape is the kernel.
            let (rows, columns) = (layer.shape[0] as u64, layer.shape[1] as u64);
            let left = (rows - removed(&layer.name, 0) as u64) * (columns - removed(&layer.name, 1) as u64);
            macs += layer.macs / (rows * columns) * left;
        }
        for node in &graph.nodes {
            if let Op::Attention { tokens, .. } = &node.op
                && let Op::Layer { path, .. } = &graph.nodes[node.inputs[0]].op
                && let Some(flags) = places.get(&(format!("{path}.weight"), 0))
            {
                let keys = (graph.nodes[node.inputs[0]].width - node.width) / 2;
                let gone =
                    flags.iter().enumerate().filter(|(place, kept)| !**kept && !(keys..2 * keys).contains(place));
                macs -= (tokens * tokens * gone.count()) as u64;
            }
        }
        macs
    }
}

/// What becomes of streams, which some layers select from and some blocks expand into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    /// Their channels go everywhere at once: what is selected or expanded is tied to them.
    Coupled,
    /// Their channels stay: each selection and each expansion is a choice of its own.
    Whole,
}

/// Channels of all values, tied to each other: a forest in which a root is the first channel of its class.
struct Coupling {
    /// Where the channels of each node begin.
    offsets: Vec<usize>,
    parents: Vec<usize>,
    streams: Streams,
    /// Whether a channel must stay, because the image, the logits, a selection or an expansion needs it.
    fixed: Vec<bool>,
    /// Whether a channel is of a stream: a term of a sum, or something to select from.
    summed: Vec<bool>,
    /// Whether a channel is a feature of tokens.
    embedded: Vec<bool>,
    /// Whether a channel is a query, key or value, which heads share.
    attended: Vec<bool>,
}

impl Coupling {
    fn new(graph: &Graph, streams: Streams) -> Result<Self, String> {
        let mut offsets = Vec::new();
        let mut total = 0;
        let mut placed = BTreeSet::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            assert!(node.inputs.iter().all(|input| *input < i), "a node reads earlier ones");
            offsets.push(total);
            total += node.width;
            if let Op::Layer { path, .. } | Op::Depthwise { path, .. } = &node.op {
                placed.insert(format!("{path}.weight"));
            }
        }
        if let Some(layer) = graph.layers.iter().find(|layer| !placed.contains(&layer.name)) {
            return Err(format!(
                "the coupling of `{}` cannot be derived: the network does not say what it reads",
                layer.name
            ));
        }
        let flags = || vec![false; total];
        Ok(Self {
            offsets,
            parents: (0..total).collect(),
            streams,
            fixed: flags(),
            summed: flags(),
            embedded: flags(),
            attended: flags(),
        })
    }

    fn root(&mut self, mut channel: usize) -> usize {
        while self.parents[channel] != channel {
            self.parents[channel] = self.parents[self.parents[channel]];
            channel = self.parents[channel];
        }
        channel
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }

    /// Ties the channels that an operation keeps together.
    fn tie(&mut self, graph: &Graph) -> Result<(), String> {
        for (i, node) in graph.nodes.iter().enumerate() {
            let out = self.offsets[i];
            let inputs: Vec<(usize, usize)> =
                node.inputs.iter().map(|&input| (self.offsets[input], graph.nodes[input].width)).collect();
            let same_width = |needed: usize| match inputs.iter().find(|(_, width)| *width != needed) {
                Some((_, width)) => Err(format!(
                    "the coupling behind `{}` cannot be derived: {width} channels meet {needed}",
                    maker(graph, i)
                )),
                None => Ok(()),
            };
            match &node.op {
                Op::Input => self.fixed[out..out + node.width].fill(true),
                Op::Layer { path, .. } | Op::Depthwise { path, .. } => {
                    let name = format!("{path}.weight");
                    let spec = graph.layers.iter().find(|layer| layer.name == name);
                    let shape = spec.map(|spec| [spec.shape[0], spec.shape[1]]);
                    let alone = matches!(node.op, Op::Depthwise { .. });
                    if shape != Some([node.width, if alone { 1 } else { inputs[0].1 }]) {
                        return Err(format!(
                            "the coupling of `{name}` cannot be derived: it turns {} channels into {}, but its weight is {}",
                            inputs[0].1,
                            node.width,
                            shape.map_or("missing".to_string(), |[rows, columns]| format!("{rows}x{columns}"))
                        ));
                    }
                    if alone {
                        same_width(node.width)?;
                        (0..node.width).for_each(|channel| self.join(inputs[0].0 + channel, out + channel));
                    }
                }
                Op::BatchNorm { .. }
                | Op::Relu
                | Op::Gelu
                | Op::Pool
                | Op::Add
                | Op::LayerNorm { .. }
                | Op::Embed { .. }
                | Op::Output => {
                    same_width(node.width)?;
                    for (start, width) in inputs {
                        (0..width).for_each(|channel| self.join(start + channel, out + channel));
                    }
                    match node.op {
                        Op::Add => self.summed[out..out + node.width].fill(true),
                        Op::LayerNorm { .. } | Op::Embed { .. } => self.embedded[out..out + node.width].fill(true),
                        Op::Output => self.fixed[out..out + node.width].fill(true),
                        _ => {}
                    }
                }
                Op::Concat => {
                    let all: usize = inputs.iter().map(|(_, width)| width).sum();
                    if all != node.width {
                        return same_width(node.width);
                    }
                    let mut at = out;
                    for (start, width) in inputs {
                        (0..width).for_each(|channel| self.join(start + channel, at + channel));
                        at += width;
                    }
                }
                Op::Select { places, .. } => {
                    let (start, width) = inputs[0];
                    if places.len() != node.width || places.iter().any(|place| *place >= width) {
                        return same_width(node.width);
                    }
                    match self.streams {
                        Streams::Whole => self.fixed[start..start + width].fill(true),
                        Streams::Coupled if node.width < width => {
                            return Err(format!(
                                "the coupling behind `{}` cannot be derived: layers select {} of its {width} channels, so \
                                 that they can only go in groups of kind \"selection\"",
                                maker(graph, i),
                                node.width
                            ));
                        }
                        Streams::Coupled => {
                            (0..width).for_each(|channel| self.join(start + channel, out + channel));
                            self.summed[start..start + width].fill(true);
                        }
                    }
                }
                Op::Expand { places, .. } => {
                    let (start, width) = inputs[0];
                    if places.len() != width || places.iter().any(|place| *place >= node.width) {
                        return same_width(node.width);
                    }
                    match self.streams {
                        Streams::Whole => self.fixed[out..out + node.width].fill(true),
                        Streams::Coupled if width < node.width => {
                            return Err(format!(
                                "the coupling behind `{}` cannot be derived: {width} of its {} channels are added to a \
                                 stream, so that they can only go in groups of kind \"expansion\"",
                                maker(graph, i),
                                node.width
                            ));
                        }
                        Streams::Coupled => (0..width).for_each(|channel| self.join(start + channel, out + channel)),
                    }
                }
                Op::Pad { front } => {
                    let (start, width) = inputs[0];
                    if front + width > node.width {
                        return same_width(node.width - front);
                    }
                    (0..width).for_each(|channel| self.join(start + channel, out + front + channel));
                }
                Op::Bypass => {
                    let (start, width) = inputs[1];
                    self.fixed[start..start + width].fill(true);
                    self.fixed[out..out + node.width].fill(true);
                }
                Op::Flatten { area } => {
                    let (start, width) = inputs[0];
                    same_width(node.width / area)?;
                    for place in 0..width * area {
                        self.join(start + place / area, out + place);
                    }
                }
                Op::Attention { .. } => {
                    // Every output of a head is a weighted sum of the same dimension of its values.
                    let (start, width) = inputs[0];
                    let values = start + width - node.width;
                    (0..node.width).for_each(|channel| self.join(values + channel, out + channel));
                    self.attended[start..start + width].fill(true);
                }
            }
        }
        Ok(())
    }

    /// Collects the channels of each class and the parameters that go with them.
    fn classes(&mut self, graph: &Graph) -> Classes {
        let mut classes = Classes::default();
        for channel in 0..self.parents.len() {
            let root = self.root(channel);
            for flags in [&mut self.fixed, &mut self.summed, &mut self.embedded, &mut self.attended] {
                flags[root] |= flags[channel];
            }
        }
        for (i, node) in graph.nodes.iter().enumerate() {
            let mut add = |parameter: String, role, axis, node: usize, width: usize| {
                let part = classes.parts.len();
                classes.parts.push((parameter, role, axis));
                for place in 0..width {
                    let root = self.root(self.offsets[node] + place);
                    classes.touched.entry(root).or_default().push((part, place));
                }
            };
            match &node.op {
                Op::Layer { path, bias, .. } => {
                    let input = node.inputs[0];
                    add(format!("{path}.weight"), Role::Weight, 1, input, graph.nodes[input].width);
                    add(format!("{path}.weight"), Role::Weight, 0, i, node.width);
                    if *bias {
                        add(format!("{path}.bias"), Role::Bias, 0, i, node.width);
                    }
                }
                Op::BatchNorm { path } => {
                    for (name, role) in [
                        ("gamma", Role::Scale),
                        ("beta", Role::Shift),
                        ("running_mean", Role::Statistic),
                        ("running_var", Role::Statistic),
                    ] {
                        add(format!("{path}.{name}"), role, 0, i, node.width);
                    }
                }
                Op::Depthwise { path, .. } => add(format!("{path}.weight"), Role::Weight, 0, i, node.width),
                Op::LayerNorm { path } => {
                    add(format!("{path}.gamma"), Role::Scale, 0, i, node.width);
                    add(format!("{path}.beta"), Role::Shift, 0, i, node.width);
                }
                Op::Embed { class_token, positions, .. } => {
                    add(class_token.clone(), Role::Embedding, 2, i, node.width);
                    add(positions.clone(), Role::Embedding, 2, i, node.width);
                }
                Op::Select { path, .. } if self.streams == Streams::Whole => {
                    for place in 0..node.width {
                        let class = self.root(self.offsets[i] + place);
                        classes.chosen.insert(class, (path.clone(), GroupKind::Selection));
                    }
                }
                Op::Expand { path, .. } if self.streams == Streams::Whole => {
                    for place in 0..graph.nodes[node.inputs[0]].width {
                        let class = self.root(self.offsets[node.inputs[0]] + place);
                        classes.chosen.insert(class, (path.clone(), GroupKind::Expansion));
                    }
                }
                Op::Input
                | Op::Relu
                | Op::Gelu
                | Op::Pool
                | Op::Add
                | Op::Concat
                | Op::Select { .. }
                | Op::Expand { .. }
                | Op::Pad { .. }
                | Op::Bypass
                | Op::Flatten { .. }
                | Op::Attention { .. }
                | Op::Output => {}
            }
        }
        classes
    }
}

/// Returns the path of the layer that a node's channels come from.
fn maker(graph: &Graph, mut node: usize) -> String {
    loop {
        match (&graph.nodes[node].op, graph.nodes[node].inputs.first()) {
            (Op::Layer { path, .. } | Op::Depthwise { path, .. }, _) => return format!("{path}.weight"),
            (_, Some(&input)) => node = input,
            (_, None) => return "the image".to_string(),
        }
    }
}

/// Classes of channels by their first one, with what they touch.
#[derive(Default)]
struct Classes {
    /// Parameters with their roles and axes, in the order of the forward pass.
    parts: Vec<(String, Role, usize)>,
    /// By class: indices into `parts` and places there.
    touched: BTreeMap<usize, Vec<(usize, usize)>>,
    /// By class: the path of the selection that it begins with, or of the expansion that it ends with.
    chosen: BTreeMap<usize, (String, GroupKind)>,
}

impl Classes {
    /// Groups the classes that no attention has a share in, with the first channel of each group.
    fn groups(&self, coupling: &mut Coupling) -> Vec<(usize, Group)> {
        let mut by_parts: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut members: Vec<(usize, Vec<usize>, Vec<usize>)> = Vec::new();
        for (&root, touched) in &self.touched {
            if coupling.fixed[root] || coupling.attended[root] {
                continue;
            }
            let parts: BTreeSet<usize> = touched.iter().map(|(part, _)| *part).collect();
            let parts: Vec<usize> = parts.into_iter().collect();
            let group = *by_parts.entry(parts.clone()).or_insert_with(|| {
                members.push((root, parts, Vec::new()));
                members.len() - 1
            });
            members[group].2.push(root);
        }
        let make = |(first, parts, units): (usize, Vec<usize>, Vec<usize>)| {
            let units = units.into_iter().map(|unit| vec![unit]).collect::<Vec<_>>();
            if let Some((path, kind)) = self.chosen.get(&first) {
                return (first, self.group(path.clone(), *kind, &units));
            }
            let made = parts.iter().find(|part| self.parts[**part].1 == Role::Weight && self.parts[**part].2 == 0);
            let (weight, ..) = &self.parts[*made.expect("channels come from a layer")];
            let name = weight.trim_end_matches(".weight").to_string();
            let kind = match (coupling.embedded[first], coupling.summed[first]) {
                (true, _) => GroupKind::Embedding,
                (false, true) => GroupKind::Stream,
                (false, false) => GroupKind::Inner,
            };
            (first, self.group(name, kind, &units))
        };
        members.into_iter().map(make).collect()
    }

    /// Groups the heads of every attention, and the dimensions within its heads.
    fn heads(&self, graph: &Graph, coupling: &mut Coupling) -> Result<Vec<(usize, Group)>, String> {
        let mut groups = Vec::new();
        for node in &graph.nodes {
            let Op::Attention { path, heads, .. } = &node.op else { continue };
            let (input, heads) = (node.inputs[0], *heads);
            let (start, all, values) = (coupling.offsets[input], graph.nodes[input].width, node.width);
            let keys = (all - values) / 2;
            if 2 * keys + values != all || keys % heads + values % heads != 0 {
                return Err(format!(
                    "the coupling of `{}` cannot be derived: {all} channels are no queries, keys and values of {heads} heads",
                    maker(graph, input)
                ));
            }
            let roots: Vec<usize> = (start..start + all).map(|channel| coupling.root(channel)).collect();
            if let Some(root) = roots.iter().find(|root| coupling.fixed[**root] || coupling.summed[**root]) {
                debug_assert!(*root < coupling.parents.len());
                return Err(format!(
                    "the coupling of `{}` cannot be derived: its queries, keys or values are used elsewhere too",
                    maker(graph, input)
                ));
            }
            let (key, value) = (keys / heads, values / heads);
            // Units are sets of classes: those of a head, or those of one dimension in all heads.
            let query = |head, i| roots[head * key + i];
            let matching = |head, i| roots[keys + head * key + i];
            let content = |head, i| roots[2 * keys + head * value + i];
            let head = |h| {
                let pairs = (0..key).flat_map(|i| [query(h, i), matching(h, i)]);
                pairs.chain((0..value).map(|i| content(h, i))).collect::<Vec<_>>()
            };
            let units: [(&str, GroupKind, Vec<Vec<usize>>); 3] = [
                ("heads", GroupKind::Heads, (0..heads).map(head).collect()),
                (
                    "qk",
                    GroupKind::HeadDims,
                    (0..key).map(|i| (0..heads).flat_map(|h| [query(h, i), matching(h, i)]).collect()).collect(),
                ),
                ("v", GroupKind::HeadDims, (0..value).map(|i| (0..heads).map(|h| content(h, i)).collect()).collect()),
            ];
            for (place, (name, kind, units)) in units.into_iter().enumerate() {
                groups.push((start + place, self.group(format!("{path}.{name}"), kind, &units)));
            }
        }
        Ok(groups)
    }

    /// Makes a group of units, each a set of classes.
    fn group(&self, name: String, kind: GroupKind, units: &[Vec<usize>]) -> Group {
        let mut places: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
        for (unit, classes) in units.iter().enumerate() {
            for (part, place) in classes.iter().flat_map(|class| &self.touched[class]) {
                places.entry(*part).or_insert_with(|| vec![Vec::new(); units.len()])[unit].push(*place);
            }
        }
        let member = |(part, mut places): (usize, Vec<Vec<usize>>)| {
            places.iter_mut().for_each(|places| places.sort_unstable());
            let (parameter, role, axis) = &self.parts[part];
            Member { parameter: parameter.clone(), role: *role, axis: *axis, places }
        };
        Group { name, kind, units: units.len(), members: places.into_iter().map(member).collect() }
    }
}
