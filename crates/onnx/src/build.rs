//! Puts nodes and constants together into a file.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::Meta;
use crate::proto::{self, Attribute, FLOAT, INT64, Message, graph};

/// The operator set that files are written in.
pub const OPSET: i64 = 17;

/// The name of a value of the graph.
pub(crate) type Name = String;

/// A graph in the making.
pub(crate) struct Build {
    nodes: Vec<Message>,
    constants: Vec<Message>,
    sparse_constants: Vec<Message>,
    sparse: bool,
}

impl Build {
    /// Begins a graph; `sparse` asks for sparse initializers.
    pub(crate) fn new(sparse: bool) -> Self {
        Self { nodes: Vec::new(), constants: Vec::new(), sparse_constants: Vec::new(), sparse }
    }

    /// Takes the images and normalises them; returns the result's name.
    pub(crate) fn normalised(&mut self, channels: usize, mean: &[f32], std: &[f32]) -> Result<Name, String> {
        for (name, values) in [("mean", mean), ("std", std)] {
            if values.len() != channels {
                return Err(format!("`{name}` has {} values for images of {channels} channels", values.len()));
            }
        }
        let shape = [1, channels, 1, 1];
        let (mean, std) = (self.floats("mean", &shape, mean), self.floats("std", &shape, std));
        let centred = self.node("Sub", &["images", &mean], "centred", &[]);
        Ok(self.node("Div", &[&centred, &std], "normalised", &[]))
    }

    /// Adds a constant of floats and returns its name.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Name {
        let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let kept: Vec<(usize, f32)> = values.iter().copied().enumerate().filter(|(_, value)| *value != 0.0).collect();
        // A kept value takes 12 bytes with its place, and there must be one.
        if self.sparse && !kept.is_empty() && 3 * kept.len() < values.len() {
            let places = kept.iter().flat_map(|(place, _)| (*place as i64).to_le_bytes()).collect();
            let places = proto::tensor("", &[kept.len()], INT64, places);
            let kept_bytes = bytes(&mut kept.iter().map(|(_, value)| *value));
            let kept = proto::tensor(name, &[kept.len()], FLOAT, kept_bytes);
            self.sparse_constants.push(proto::sparse_tensor(&kept, &places, shape));
        } else {
            self.constants.push(proto::tensor(name, shape, FLOAT, bytes(&mut values.iter().copied())));
        }
        name.to_string()
    }

    /// Adds a list of whole numbers and returns its name.
    pub(crate) fn integers(&mut self, name: &str, values: &[i64]) -> Name {
        self.whole_numbers(name, &[values.len()], values)
    }

    /// Adds one whole number without an axis and returns its name.
    pub(crate) fn integer(&mut self, name: &str, value: i64) -> Name {
        self.whole_numbers(name, &[], &[value])
    }

    fn whole_numbers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> Name {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constants.push(proto::tensor(name, shape, INT64, bytes));
        name.to_string()
    }

    /// Adds an operation; its result has the name that is returned.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute)],
    ) -> Name {
        let attributes = attributes.iter().map(|(name, value)| proto::attribute(name, value));
        self.nodes.push(proto::node(operator, inputs, output, attributes));
        output.to_string()
    }

    /// Ends the file; the last node has given the logits.
    pub(crate) fn finish(self, input: [usize; 3], classes: usize, meta: &Meta) -> Vec<u8> {
        let mut network = Message::default().text(graph::NAME, &meta.name);
        let parts = [
            (graph::NODE, self.nodes),
            (graph::INITIALIZER, self.constants),
            (graph::SPARSE_INITIALIZER, self.sparse_constants),
            (graph::INPUT, vec![proto::value("images", &input)]),
            (graph::OUTPUT, vec![proto::value("logits", &[classes])]),
        ];
        for (number, messages) in parts {
            network = messages.iter().fold(network, |network, message| network.message(number, message));
        }
        let listed = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        let mut entries = BTreeMap::from([
            ("bonsai.mean".to_string(), listed(&meta.mean)),
            ("bonsai.std".to_string(), listed(&meta.std)),
        ]);
        entries.extend(meta.entries.clone());
        let entries: Vec<(String, String)> = entries.into_iter().collect();
        proto::model(env!("CARGO_PKG_VERSION"), OPSET, &network, &entries).encode_to_vec()
    }
}
