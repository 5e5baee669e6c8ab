//! Absorbs what removed channels would still have said: a constant.
//!
//! A channel whose weights, or whose scale, are zero is not silent: it carries its bias or its shift, through a
//! rectifier perhaps, to the layers that read it. Those get the constant into their bias, or into the running mean of the
//! normalisation behind them, so that the network computes the same without the channel: Ye, Lu, Lin, Wang: "Rethinking
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
    // The constant of every channel that has one, by node.
    let mut constants: Vec<Vec<Option<f32>>> = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let input = || &constants[node.inputs[0]];
        let map = |change: fn(f32) -> f32| input().iter().map(|constant| constant.map(change)).collect();
        let removed = |parameter: String, constant: &dyn Fn(usize) -> f32| -> Vec<Option<f32>> {
            let flags = places.get(&(parameter, 0));
            let gone = |place: usize| flags.and_then(|flags| flags.get(place)).is_some_and(|kept| !kept);
            (0..node.width).map(|place| gone(place).then(|| constant(place))).collect()
        };
        let own: Vec<Option<f32>> = match &node.op {
            Op::Input | Op::LayerNorm | Op::Bypass | Op::Output => vec![None; node.width],
            Op::Layer { path, bias, padded } => {
                let name = format!("{path}.weight");
                let layer = graph.layers.iter().find(|layer| layer.name == name).expect("a coupling was derived");
                let shift = shift(layer, rows(layer), input());
                if shift.iter().any(|shift| *shift != 0.0) {
                    let behind = graph.nodes.iter().find(|node| node.inputs.contains(&i)).map(|node| &node.op);
                    match (bias, behind) {
                        (true, _) => {
                            absorbed.push(Absorbed { parameter: format!("{path}.bias"), shift, exact: !padded })
                        }
                        (false, Some(Op::BatchNorm { path })) => absorbed.push(Absorbed {
                            parameter: format!("{path}.running_mean"),
                            shift: shift.into_iter().map(|shift| -shift).collect(),
                            exact: !padded,
                        }),
                        // Nothing there can hold a constant.
                        (false, _) => {}
                    }
                }
                let values = if *bias { vector(&format!("{path}.bias")) } else { &[] };
                removed(name, &|place| values.get(place).copied().unwrap_or(0.0))
            }
            Op::BatchNorm { path } => {
                let values = vector(&format!("{path}.beta"));
                removed(format!("{path}.gamma"), &|place| values[place])
            }
            Op::Relu => map(|constant| constant.max(0.0)),
            Op::Gelu => map(|constant| gelu(f64::from(constant)) as f32),
            Op::Pool => map(|constant| constant),
            Op::Add => {
                let other = &constants[node.inputs[1]];
                input().iter().zip(other).map(|(a, b)| Some((*a)? + (*b)?)).collect()
            }
            Op::Pad { front } => {
                let mut padded = vec![Some(0.0); node.width];
                padded[*front..front + input().len()].copy_from_slice(input());
                padded
            }
            Op::Flatten { area } => input().iter().flat_map(|constant| std::iter::repeat_n(*constant, *area)).collect(),
            // Attention averages the values of tokens, which are all the same.
            Op::Attention { .. } => input()[input().len() - node.width..].to_vec(),
        };
        constants.push(own);
    }
    absorbed
}

/// Returns what constant inputs add to every output of a layer.
fn shift(layer: &LayerSpec, rows: &[f32], inputs: &[Option<f32>]) -> Vec<f32> {
    let kernel = layer.width() / layer.shape[1];
    let of_row = |row: &[f32]| {
        let weighted = row.chunks_exact(kernel).zip(inputs).filter_map(|(weights, constant)| {
            let constant = f64::from((*constant)?);
            Some(constant * weights.iter().map(|weight| f64::from(*weight)).sum::<f64>())
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
