//! The small residual network that methods are tested on that remove channels.

use bonsai_pruning::graph::{Node, Op};
use bonsai_pruning::{Graph, Kind, LayerSpec};

/// The widths of the network's three groups: the stream, and the insides of two blocks.
pub(crate) type Widths = [usize; 3];

/// The widths of the whole network.
pub const FULL: [usize; 3] = [8, 12, 10];

/// A stem, two residual blocks and a classifier, of these widths.
pub fn graph([stream, first, second]: [usize; 3]) -> Graph {
    let mut graph = Graph::default();
    let mut node = |op, inputs: &[usize], width| {
        graph.nodes.push(Node { op, inputs: inputs.to_vec(), width });
        graph.nodes.len() - 1
    };
    let mut layers = Vec::new();
    let mut conv = |node: &mut dyn FnMut(Op, &[usize], usize) -> usize, path: &str, x, inputs, outputs| {
        let shape = vec![outputs, inputs, 3, 3];
        layers.push(LayerSpec {
            name: format!("{path}.weight"),
            kind: Kind::Conv,
            shape,
            macs: (outputs * inputs * 9 * 16) as u64,
        });
        let conv = node(Op::Layer { path: path.to_string(), bias: false, padded: true }, &[x], outputs);
        node(Op::BatchNorm { path: format!("{path}_bn") }, &[conv], outputs)
    };
    let image = node(Op::Input, &[], 3);
    let mut x = conv(&mut node, "stem", image, 3, stream);
    for (block, width) in [("a", first), ("b", second)] {
        let y = conv(&mut node, &format!("{block}.conv1"), x, stream, width);
        let y = node(Op::Relu, &[y], width);
        let y = conv(&mut node, &format!("{block}.conv2"), y, width, stream);
        x = node(Op::Add, &[y, x], stream);
    }
    x = node(Op::Pool, &[x], stream);
    x = node(Op::Layer { path: "fc".to_string(), bias: true, padded: false }, &[x], 10);
    node(Op::Output, &[x], 10);
    layers.push(LayerSpec {
        name: "fc.weight".to_string(),
        kind: Kind::Linear,
        shape: vec![10, stream],
        macs: 10 * stream as u64,
    });
    let weights: usize = layers.iter().map(LayerSpec::weights).sum();
    graph.parameters = (weights + 10 + 2 * (3 * stream + first + second)) as u64;
    graph.layers = layers;
    graph.gates = vec!["a.conv1".to_string(), "b.conv1".to_string()];
    graph
}
