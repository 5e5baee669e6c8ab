//! Keeps and cuts the units of channel groups, for methods that remove whole channels.

use serde::{Deserialize, Serialize};

use crate::channels::{Channels, Group, GroupKind, Role};
use crate::graph::{Graph, LayerSpec, Op};
use crate::mask::Mask;
use crate::scheduler::{Cut, Removes};
use crate::select;

/// How channels are removed, whatever the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelOptions {
    /// The kinds of groups that may lose units.
    pub groups: Vec<GroupKind>,
    /// Groups are cut to multiples of this many channels, which some kernels like; a head counts as its channels.
    pub round_to: usize,
    /// Whether tensors get smaller at once; else what is removed is masked and costs as much as before.
    pub compact: bool,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self { groups: vec![GroupKind::Inner, GroupKind::Heads], round_to: 1, compact: true }
    }
}

/// Shows one channel group to a scheduler.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GroupView<'a> {
    /// Its name and its members.
    pub group: &'a Group,
    /// The units that are kept at this moment.
    pub kept: &'a Mask,
    /// The layers of the network.
    pub layers: &'a [LayerSpec],
    /// Their weights, one row per output channel.
    pub weights: &'a [Vec<f32>],
}

impl GroupView<'_> {
    /// Returns the Euclidean norm of all weights that would go with each unit: rows that make it, columns that read it.
    pub fn norms(&self) -> Vec<f32> {
        let square = |weight: f64| weight * weight;
        self.sums(&[0, 1], square).into_iter().map(|(sum, _)| sum.sqrt() as f32).collect()
    }

    /// Returns the sum of the absolute weights of each unit's filter: the rows that make it.
    pub fn filter_sums(&self) -> Vec<f32> {
        self.sums(&[0], f64::abs).into_iter().map(|(sum, _)| sum as f32).collect()
    }

    /// Returns the mean absolute weight of each unit's filter: the rows that make it.
    pub fn filter_means(&self) -> Vec<f32> {
        self.sums(&[0], f64::abs).into_iter().map(|(sum, count)| (sum / count.max(1) as f64) as f32).collect()
    }

    /// Sums a value over the weights that go with each unit along some axes, and counts them.
    fn sums(&self, axes: &[usize], value: fn(f64) -> f64) -> Vec<(f64, usize)> {
        let mut sums = vec![(0.0f64, 0); self.group.units];
        let sum = |weights: &[f32]| weights.iter().map(|weight| value(f64::from(*weight))).sum::<f64>();
        let weights = self.group.members.iter().filter(|member| member.role == Role::Weight);
        for member in weights.filter(|member| axes.contains(&member.axis)) {
            let at = self.layers.iter().position(|layer| layer.name == member.parameter).expect("members are layers");
            let (layer, weights) = (&self.layers[at], &self.weights[at]);
            let (width, columns) = (layer.width(), layer.shape[1]);
            // Weights of one row and one input channel lie together.
            let kernel = width / columns;
            for ((total, count), places) in sums.iter_mut().zip(&member.places) {
                for &place in places {
                    *count += if member.axis == 0 { width } else { layer.units() * kernel };
                    *total += match member.axis {
                        0 => sum(&weights[place * width..][..width]),
                        _ => (0..layer.units())
                            .map(|row| sum(&weights[row * width + place * kernel..][..kernel]))
                            .sum::<f64>(),
                    };
                }
            }
        }
        sums
    }

    /// Returns the mean absolute weight of the rows that make each unit.
    pub fn sizes(&self) -> Vec<f32> {
        let mut sums = vec![(0.0f64, 0usize); self.group.units];
        for member in self.group.members.iter().filter(|member| (member.role, member.axis) == (Role::Weight, 0)) {
            let at = self.layers.iter().position(|layer| layer.name == member.parameter).expect("members are layers");
            let width = self.layers[at].width();
            for ((sum, count), places) in sums.iter_mut().zip(&member.places) {
                for &place in places {
                    let row = &self.weights[at][place * width..][..width];
                    *sum += row.iter().map(|weight| f64::from(weight.abs())).sum::<f64>() / width as f64;
                    *count += 1;
                }
            }
        }
        sums.into_iter().map(|(sum, count)| (sum / count.max(1) as f64) as f32).collect()
    }
}

/// The channel groups of a network and the units that are left of them.
#[derive(Clone, Debug)]
pub(crate) struct Units {
    pub(crate) channels: Channels,
    /// The units that are kept, by group.
    pub(crate) kept: Vec<Mask>,
    pub(crate) options: ChannelOptions,
    /// The units that say something by what the method has learned, by group; the others are to leave nothing behind.
    pub(crate) heard: Vec<Mask>,
    /// Which groups may lose units.
    prunable: Vec<bool>,
    /// How many units each group had at first.
    full: Vec<usize>,
    /// The fewest units that each group keeps.
    pub(crate) least: Vec<usize>,
    /// The units of each group that make a multiple of channels.
    multiples: Vec<usize>,
}

impl Units {
    /// Finds the groups of a network.
    pub(crate) fn new(
        graph: &Graph,
        removes: Removes,
        options: ChannelOptions,
        (exclude, floor): (&[String], f64),
    ) -> Result<Self, String> {
        if options.round_to == 0 {
            return Err("`round_to` is 0, but must be at least 1".to_string());
        }
        if options.groups.contains(&GroupKind::Embedding) && !options.compact {
            return Err("`groups` names \"embedding\" and `compact` is false, but layer normalisation depends on how many features \
                        there are: leave `compact` true"
                .to_string());
        }
        let channels = derive(graph, &options)?;
        let may = |group: &Group| {
            let spared = group
                .members
                .iter()
                .any(|member| (member.role, member.axis) == (Role::Weight, 0) && exclude.contains(&member.parameter));
            let fits = match removes {
                Removes::Weights | Removes::Channels => true,
                Removes::Scaled => scale(group).is_some(),
                Removes::Masked => can_be_masked(group),
                Removes::MaskedByScale => can_be_masked(group) && scale(group).is_some(),
                Removes::Gated => graph.gates.contains(&group.name),
            };
            options.groups.contains(&group.kind) && !spared && fits
        };
        for (kind, needs) in [(GroupKind::Selection, "selects from"), (GroupKind::Expansion, "expands into")] {
            if options.groups.contains(&kind) && !channels.groups.iter().any(|group| group.kind == kind) {
                return Err(format!(
                    "`groups` names \"{0}\", but this network has no channel group of kind {0}: none of its layers {needs} \
                     a stream",
                    format!("{kind:?}").to_lowercase()
                ));
            }
        }
        let prunable: Vec<bool> = channels.groups.iter().map(may).collect();
        if !prunable.contains(&true) {
            let kinds: Vec<String> = options.groups.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
            return Err(match removes {
                Removes::Scaled | Removes::MaskedByScale => {
                    let selects = graph.nodes.iter().any(|node| matches!(node.op, Op::Select { .. }));
                    format!(
                        "channels are ranked by the scale of their batch normalisation, and no group of kind {} has one of its \
                         own{}",
                        kinds.join(", "),
                        if selects {
                            "; the layers of this network have, in `groups` of kind \"selection\""
                        } else {
                            ""
                        }
                    )
                }
                Removes::Gated => format!(
                    "this network has no gates on a group of kind {} that may be pruned; resnet20 to resnet110 have them on \
                     their inner groups, unless a bypass runs around them",
                    kinds.join(", ")
                ),
                _ => format!("this network has no channel group of kind {} that may be pruned", kinds.join(", ")),
            });
        }
        if removes == Removes::Gated
            && let Some((group, _)) =
                channels.groups.iter().zip(&prunable).find(|(group, may)| !**may && graph.gates.contains(&group.name))
        {
            return Err(format!(
                "`{}` has gates, so that `exclude` may not name its layer and `groups` must hold its kind",
                group.name
            ));
        }
        let full: Vec<usize> = channels.groups.iter().map(|group| group.units).collect();
        let multiples: Vec<usize> = channels.groups.iter().map(|group| multiple(group, options.round_to)).collect();
        let least = |g: usize| {
            let floor = ((floor * full[g] as f64).ceil() as usize).max(1);
            floor.next_multiple_of(multiples[g]).min(full[g])
        };
        Ok(Self {
            kept: full.iter().map(|&units| Mask::dense(units)).collect(),
            heard: full.iter().map(|&units| Mask::dense(units)).collect(),
            least: prunable.iter().enumerate().map(|(g, may)| if *may { least(g) } else { full[g] }).collect(),
            multiples,
            full,
            prunable,
            options,
            channels,
        })
    }

    /// Returns the groups that may lose units, with their places.
    pub(crate) fn prunable(&self) -> impl Iterator<Item = (usize, &Group)> {
        self.channels.groups.iter().enumerate().filter(|(g, _)| self.prunable[*g])
    }

    /// Returns the smallest cost that a cut can reach.
    pub(crate) fn least_macs(&self, graph: &Graph) -> u64 {
        let units: Vec<Mask> =
            self.channels.groups.iter().zip(&self.least).map(|(group, &k)| first(group.units, k)).collect();
        self.channels.macs(graph, &units)
    }

    /// Returns what a cut keeps; `scores` has one list for each group, of which those that may not be pruned are not read.
    pub(crate) fn cut(&self, graph: &Graph, cut: Cut, scores: &[Vec<f32>], dense_macs: u64) -> Vec<Mask> {
        let alive: Vec<usize> = self.kept.iter().map(Mask::kept).collect();
        let counts = match cut {
            Cut::Uniform { macs } => {
                let counts = |share: f64| -> Vec<usize> {
                    let full = self.full.iter().enumerate();
                    full.map(|(g, &full)| self.bounded(g, (full as f64 * share).round_ties_even() as usize)).collect()
                };
                // The largest share, to a thousandth of a unit of any layer, that costs no more than asked for.
                let steps = 1000 * self.full.iter().max().copied().unwrap_or(1);
                let share = |step: usize| step as f64 / steps as f64;
                let fits = |step: usize| self.cost(graph, &counts(share(step))) as f64 <= macs * dense_macs as f64;
                counts(share(steps - fewest(steps, |removed| fits(steps - removed))))
            }
            Cut::Global { macs } => {
                let order = self.weakest_first(scores);
                let fits = |n: usize| self.cost(graph, &self.without(&order[..n])) as f64 <= macs * dense_macs as f64;
                self.without(&order[..fewest(order.len(), fits)])
            }
            Cut::Filled { macs } => {
                let order = self.weakest_first(scores);
                let fits = |counts: &[usize]| self.cost(graph, counts) as f64 <= macs * dense_macs as f64;
                let removed = &order[..fewest(order.len(), |n| fits(&self.without(&order[..n])))];
                let mut counts = self.without(removed);
                let mut full = vec![false; counts.len()];
                for &g in removed.iter().rev() {
                    let mut more = counts.clone();
                    more[g] = self.bounded(g, counts[g] + 1);
                    if !full[g] && fits(&more) {
                        counts = more;
                    } else {
                        // What does not fit now will not fit later, when there is more.
                        full[g] = true;
                    }
                }
                counts
            }
            Cut::Share(share) => {
                let order = self.weakest_first(scores);
                let units = |counts: &[usize]| self.prunable().map(|(g, _)| counts[g]).sum::<usize>();
                let left = select::count(units(&self.full), share);
                self.without(&order[..units(&alive).saturating_sub(left).min(order.len())])
            }
            Cut::Zeros => {
                let positive = |g: usize| {
                    (0..self.kept[g].len()).filter(|&unit| self.kept[g].get(unit) && scores[g][unit] > 0.0).count()
                };
                (0..alive.len())
                    .map(|g| if self.prunable[g] { self.bounded(g, positive(g)) } else { alive[g] })
                    .collect()
            }
        };
        let keep = |(g, mask): (usize, &Mask)| match self.prunable[g] {
            true => select::top_k(&scores[g], mask, counts[g]),
            false => mask.clone(),
        };
        self.kept.iter().enumerate().map(keep).collect()
    }

    /// Brings a count of a group's units into its bounds, rounded up to a whole multiple where one is left.
    fn bounded(&self, g: usize, count: usize) -> usize {
        let alive = self.kept[g].kept();
        if !self.prunable[g] {
            return alive;
        }
        count.next_multiple_of(self.multiples[g]).max(self.least[g]).min(alive)
    }

    /// Lists the kept units that may go, those with the lowest scores first and of equal ones the later first.
    fn weakest_first(&self, scores: &[Vec<f32>]) -> Vec<usize> {
        let mut units: Vec<(usize, usize)> = Vec::new();
        for (g, _) in self.prunable() {
            units.extend((0..self.kept[g].len()).filter(|&unit| self.kept[g].get(unit)).map(|unit| (g, unit)));
        }
        let score =
            |&(g, unit): &(usize, usize)| if scores[g][unit].is_nan() { f32::NEG_INFINITY } else { scores[g][unit] };
        units.sort_by(|a, b| score(a).total_cmp(&score(b)).then(b.cmp(a)));
        units.into_iter().map(|(g, _)| g).collect()
    }

    /// Counts what is left of each group when one unit goes for each entry, as far as the bounds allow.
    fn without(&self, removed: &[usize]) -> Vec<usize> {
        let mut counts: Vec<usize> = self.kept.iter().map(Mask::kept).collect();
        removed.iter().for_each(|&g| counts[g] -= 1);
        counts.iter().enumerate().map(|(g, &count)| self.bounded(g, count)).collect()
    }

    pub(crate) fn cost(&self, graph: &Graph, counts: &[usize]) -> u64 {
        // The cost depends on how many units stay, not on which.
        let units: Vec<Mask> = self.kept.iter().zip(counts).map(|(kept, &k)| first(kept.len(), k)).collect();
        self.channels.macs(graph, &units)
    }

    /// Takes up the groups of the network that was cut down to the kept units.
    pub(crate) fn compact(&mut self, graph: &Graph) {
        let channels =
            derive(graph, &self.options).expect("what a network had derived before it was cut can be derived after");
        let same =
            channels.groups.iter().map(|group| &group.name).eq(self.channels.groups.iter().map(|group| &group.name));
        assert!(same, "a cut leaves every group its name and at least one unit");
        self.kept = channels.groups.iter().map(|group| Mask::dense(group.units)).collect();
        self.heard.clone_from(&self.kept);
        self.channels = channels;
    }
}

/// Returns how many units of a group are a multiple of `round_to` channels: a unit may be several of them, as a head is.
fn multiple(group: &Group, round_to: usize) -> usize {
    let weights = group.members.iter().filter(|member| member.role == Role::Weight);
    let channels =
        weights.filter_map(|member| member.places.first()).map(Vec::len).filter(|&n| n > 0).min().unwrap_or(1);
    let (mut divisor, mut rest) = (round_to, channels);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    round_to / divisor
}

/// Finds the groups of a network: with streams that stay whole where selections or expansions are asked for.
fn derive(graph: &Graph, options: &ChannelOptions) -> Result<Channels, String> {
    let names = |kind| options.groups.contains(&kind);
    if !names(GroupKind::Selection) && !names(GroupKind::Expansion) {
        return Channels::derive(graph);
    }
    if names(GroupKind::Stream) {
        let (kind, why) = match names(GroupKind::Selection) {
            true => ("selection", "layers select from"),
            false => ("expansion", "blocks expand into"),
        };
        return Err(format!(
            "`groups` names \"stream\" and \"{kind}\", but {why} streams that stay whole: name one of the two"
        ));
    }
    Channels::derive_whole(graph)
}

/// Returns the scale of the one batch normalisation that a group's channels pass.
pub(crate) fn scale(group: &Group) -> Option<&str> {
    let mut scales = group.members.iter().filter(|member| member.role == Role::Scale);
    let first = scales.next()?;
    scales.next().is_none().then_some(first.parameter.as_str())
}

/// Says whether units can be masked without touching anything else: where they are read, or as the rows of one weight.
fn can_be_masked(group: &Group) -> bool {
    group.mask_axis() == 1 || group.members.len() == 1
}

fn first(units: usize, kept: usize) -> Mask {
    Mask::from_bools((0..units).map(|unit| unit < kept).collect())
}

/// Returns the smallest number up to `most` that fits, where all above a fitting one fit; `most` if none does.
fn fewest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle + 1 }
    }
    low
}
