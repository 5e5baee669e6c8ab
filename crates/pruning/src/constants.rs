//! Absorbs what removed channels would still have said: a constant.
//!
//! A channel whose weights, or whose scale, are zero is not silent: it carries its bias or its shift, through a
//! rectifier perhaps, to the layers that read it. Those get the constant into their bias, or into the running means of the
//! normalisations behind them, through sums and concatenations where there are some between, so that the network computes the same without the channel: Ye, Lu, Lin, Wang: "Rethinking
//! the Smaller-Norm-Less-Informative Assumption in Channel Pruning of Convolution Layers" (2018),
//! <https://arxiv.org/abs/1802.00124>. This is exact but where a convolution pads its input with zeros, which are no part
//! of the constant.

use crate::channels::Places;
use crate::graph::{Graph, LayerSpec, Op};

/// A change of a bias or a running mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Absorbed {
    /// The path of the parameter.
    pub parameter: String,
    /// What is added to each of its values.
    pub shift: Vec<f32>,
    /// Whether the result is the same up to rounding; not where a convolution pads its input.
    pub exact: bool,
}

/// Returns what makes up for channels whose places do not stay.
///
/// `vector` gives the values of a bias or a shift, `rows` the weight of a layer, one row per output channel.
pub fn absorb<'a>(
    graph: &Graph,
    places: &Places,
    vector: impl Fn(&str) -> &'a [f32],
    rows: impl Fn(&LayerSpec) -> &'a [f32],
) -> Vec<Absorbed> {
    let mut absorbed = Vec::new();
    // By node, the constants of removed channels, and what the others lack since.
    let mut constants: Vec<Vec<Option<f32>>> = Vec::new();
    let mut lacks: Vec<Lack> = Vec::new();
    for node in &graph.nodes {
        let input = || &constants[node.inputs[0]];
        let lack = || &lacks[node.inputs[0]];
        let map = |change: fn(f32) -> f32| input().iter().map(|constant| constant.map(change)).collect();
        let removed = |parameter: String, constant: &dyn Fn(usize) -> f32| -> Vec<Option<f32>> {
            let flags = places.get(&(parameter, 0));
            let gone = |place: usize| flags.and_then(|flags| flags.get(place)).is_some_and(|kept| !kept);
            (0..node.width).map(|place| gone(place).then(|| constant(place))).collect()
        };
        let weight = |path: &str| {
            let name = format!("{path}.weight");
            let layer = graph.layers.iter().find(|layer| layer.name == name).expect("a coupling was derived");
            (layer, rows(layer))
        };
        let nothing = Lack { values: vec![0.0; node.width], exact: true };
        let (own, lacking): (Vec<Option<f32>>, Lack) = match &node.op {
            // A layer normalisation has no constants: what it makes of a channel depends on the others.
            Op::Input | Op::LayerNorm { .. } | Op::Embed { .. } | Op::Bypass | Op::Output => {
                (vec![None; node.width], nothing)
            }
            Op::Layer { path, bias, padded } => {
                let (layer, rows) = weight(path);
                // A channel is either gone and was constant, or there and lacks something.
                let inputs = input().iter().zip(&lack().values).map(|(constant, lack)| constant.unwrap_or(*lack));
                let values = shift(layer, rows, &inputs.collect::<Vec<_>>());
                let exact = lack().exact && !(*padded && values.iter().any(|shift| *shift != 0.0));
                let mut lacking = Lack { values, exact };
                if *bias {
                    let shift = std::mem::replace(&mut lacking, nothing);
                    absorbed.extend(shift.into_change(format!("{path}.bias"), |shift| shift));
                }
                let values = if *bias { vector(&format!("{path}.bias")) } else { &[] };
                (removed(layer.name.clone(), &|place| values.get(place).copied().unwrap_or(0.0)), lacking)
            }
            Op::Depthwise { path, padded } => {
                let (layer, rows) = weight(path);
                let sums = rows.chunks_exact(layer.width()).map(|row| row.iter().sum::<f32>());
                let values: Vec<f32> = sums.zip(&lack().values).map(|(sum, lack)| sum * lack).collect();
                let exact = lack().exact && !(*padded && values.iter().any(|shift| *shift != 0.0));
                // Its channels go with those that it reads, one by one.
                (removed(layer.name.clone(), &|_| 0.0), Lack { values, exact })
            }
            Op::BatchNorm { path } => {
                let values = vector(&format!("{path}.beta"));
                absorbed.extend(lack().clone().into_change(format!("{path}.running_mean"), |shift| -shift));
                (removed(format!("{path}.gamma"), &|place| values[place]), nothing)
            }
            // Behind these, nothing can make up for what is lacking.
            Op::Relu => (map(|constant| constant.max(0.0)), nothing),
            Op::Gelu => (map(|constant| gelu(f64::from(constant)) as f32), nothing),
            Op::Pool => (input().clone(), lack().clone()),
            Op::Add => {
                let [a, b] = [0, 1].map(|i| (&constants[node.inputs[i]], &lacks[node.inputs[i]]));
                let values = a.1.values.iter().zip(&b.1.values).map(|(a, b)| a + b).collect();
                let constant = a.0.iter().zip(b.0).map(|(a, b)| Some((*a)? + (*b)?)).collect();
                (constant, Lack { values, exact: a.1.exact && b.1.exact })
            }
            Op::Concat => {
                let both = || node.inputs.iter().map(|input| &lacks[*input]);
                let values = both().flat_map(|lack| lack.values.iter().copied()).collect();
                let constants = node.inputs.iter().flat_map(|input| constants[*input].iter().copied());
                (constants.collect(), Lack { values, exact: both().all(|lack| lack.exact) })
            }
            Op::Select { places, .. } => {
                let values = places.iter().map(|place| lack().values[*place]).collect();
                (places.iter().map(|place| input()[*place]).collect(), Lack { values, exact: lack().exact })
            }
            Op::Expand { places, .. } => {
                let (mut expanded, mut lacking) = (vec![Some(0.0); node.width], nothing);
                for ((place, constant), value) in places.iter().zip(input()).zip(&lack().values) {
                    (expanded[*place], lacking.values[*place]) = (*constant, *value);
                }
                (expanded, Lack { exact: lack().exact, ..lacking })
            }
            Op::Pad { front } => {
                let (mut padded, mut lacking) = (vec![Some(0.0); node.width], nothing);
                padded[*front..front + input().len()].copy_from_slice(input());
                lacking.values[*front..front + input().len()].copy_from_slice(&lack().values);
                (padded, Lack { exact: lack().exact, ..lacking })
            }
            Op::Flatten { area } => {
                let values = lack().values.iter().flat_map(|value| std::iter::repeat_n(*value, *area)).collect();
                let constants = input().iter().flat_map(|constant| std::iter::repeat_n(*constant, *area));
                (constants.collect(), Lack { values, exact: lack().exact })
            }
            // Attention averages the values of tokens, which are all the same.
            Op::Attention { .. } => (input()[input().len() - node.width..].to_vec(), nothing),
        };
        constants.push(own);
        lacks.push(lacking);
    }
    absorbed
}

/// What the channels of a value lack because others are gone: constants that can be added until something bends them.
#[derive(Clone, Debug)]
struct Lack {
    values: Vec<f32>,
    /// Whether they are right at the borders of maps too.
    exact: bool,
}

impl Lack {
    /// Returns the change of a parameter that makes up for it, if there is any.
    fn into_change(self, parameter: String, sign: fn(f32) -> f32) -> Option<Absorbed> {
        let any = self.values.iter().any(|value| *value != 0.0);
        any.then(|| Absorbed { parameter, shift: self.values.into_iter().map(sign).collect(), exact: self.exact })
    }
}

/// Returns what constant inputs add to every output of a layer.
fn shift(layer: &LayerSpec, rows: &[f32], inputs: &[f32]) -> Vec<f32> {
    let kernel = layer.width() / layer.shape[1];
    let of_row = |row: &[f32]| {
        let weighted = row.chunks_exact(kernel).zip(inputs).filter(|(_, constant)| **constant != 0.0);
        let weighted = weighted.map(|(weights, constant)| {
            f64::from(*constant) * weights.iter().map(|weight| f64::from(*weight)).sum::<f64>()
        });
        weighted.sum::<f64>() as f32
    };
    rows.chunks_exact(layer.width()).map(of_row).collect()
}

/// The Gaussian error linear unit, `x Φ(x)`, with Φ by the series of the error function.
fn gelu(x: f64) -> f64 {
    // Beyond, Φ is 0 or 1 to all digits of an f32.
    if x.abs() > 6.0 {
        return x.max(0.0);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        // φ(x) (x + x³/3 + x⁵/15 + …) is Φ(x) − ½; every term is positive or every term negative, so that nothing cancels.
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Kind, Node};

    #[test]
    fn a_removed_channel_leaves_what_its_shift_added() {
        // The reference result of `coupling.bn_bias_absorption`: two outputs, three inputs, the last two removed.
        let layer = |name: &str, shape: &[usize]| LayerSpec {
            name: name.into(),
            kind: Kind::Linear,
            shape: shape.to_vec(),
            macs: 6,
        };
        let node = |op, inputs: &[usize], width| Node { op, inputs: inputs.to_vec(), width };
        let linear = |path: &str| Op::Layer { path: path.into(), bias: false, padded: false };
        let norm = |path: &str| Op::BatchNorm { path: path.into() };
        let graph = Graph {
            layers: vec![layer("a.weight", &[3, 1]), layer("b.weight", &[2, 3])],
            nodes: vec![
                node(Op::Input, &[], 1),
                node(linear("a"), &[0], 3),
                node(norm("n"), &[1], 3),
                node(Op::Relu, &[2], 3),
                node(linear("b"), &[3], 2),
                node(norm("m"), &[4], 2),
                node(Op::Output, &[5], 2),
            ],
            ..Graph::default()
        };
        let keys = [("a.weight", 0), ("n.gamma", 0), ("b.weight", 1)];
        let places =
            keys.map(|(name, axis)| ((name.to_string(), axis), vec![true, false, false])).into_iter().collect();
        let weight = [0.346, 0.822, 0.33, -1.303, 0.905, 0.446];
        let rows = |layer: &LayerSpec| if layer.name == "b.weight" { &weight[..] } else { &[1.0; 3] };
        let absorbed =
            absorb(&graph, &places, |name| if name == "n.beta" { &[0.4, -0.2, 0.7] } else { &[0.0; 3] }, rows);
        let [one] = &absorbed[..] else { panic!("{absorbed:?}") };
        assert_eq!((one.parameter.as_str(), one.exact), ("m.running_mean", true));
        assert!((one.shift[0] + 0.231).abs() < 1e-6 && (one.shift[1] + 0.3122).abs() < 1e-6, "{one:?}");
    }

    #[test]
    fn gelu_has_the_values_of_its_table() {
        for (x, y) in [(0.0, 0.0), (1.0, 0.841_344_746), (-1.0, -0.158_655_254), (3.0, 2.995_950_306), (-5.9, -1.1e-8)]
        {
            assert!((gelu(x) - y).abs() < 1e-8, "{x}: {}", gelu(x));
        }
    }
}
