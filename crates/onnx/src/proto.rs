//! The messages of ONNX that are written here, by the numbers of their fields in `onnx.proto`
//! (<https://github.com/onnx/onnx>), which are the format.
//!
//! A message is a list of numbered fields; the functions below say which fields a message of each kind has. `prost` writes and
//! reads them. Its derive macros would say the same in types, but their features rebuild everything that this project
//! builds on.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message as _};

/// A message: numbered fields in the order in which they are written; a repeated field occurs several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message(Vec<(u32, Field)>);

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// A whole number.
    Whole(i64),
    /// A 32-bit float.
    Float(f32),
    /// A text, bytes or another message.
    Bytes(Vec<u8>),
}

impl prost::Message for Message {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        for (number, field) in &self.0 {
            match field {
                Field::Whole(value) => encoding::int64::encode(*number, value, buffer),
                Field::Float(value) => encoding::float::encode(*number, value, buffer),
                Field::Bytes(value) => encoding::bytes::encode(*number, value, buffer),
            }
        }
    }

    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let field = match wire {
            WireType::Varint => {
                let mut value = 0;
                encoding::int64::merge(wire, &mut value, buffer, context)?;
                Field::Whole(value)
            }
            WireType::ThirtyTwoBit => {
                let mut value = 0.0;
                encoding::float::merge(wire, &mut value, buffer, context)?;
                Field::Float(value)
            }
            WireType::LengthDelimited => {
                let mut value = Vec::new();
                encoding::bytes::merge(wire, &mut value, buffer, context)?;
                Field::Bytes(value)
            }
            WireType::SixtyFourBit | WireType::StartGroup | WireType::EndGroup => {
                return encoding::skip_field(wire, number, buffer, context);
            }
        };
        self.0.push((number, field));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let length = |(number, field): &(u32, Field)| match field {
            Field::Whole(value) => encoding::int64::encoded_len(*number, value),
            Field::Float(value) => encoding::float::encoded_len(*number, value),
            Field::Bytes(value) => encoding::bytes::encoded_len(*number, value),
        };
        self.0.iter().map(length).sum()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Message {
    /// Adds a whole number.
    #[must_use]
    pub fn whole(mut self, number: u32, value: i64) -> Self {
        self.0.push((number, Field::Whole(value)));
        self
    }

    /// Adds a float.
    #[must_use]
    pub fn float(mut self, number: u32, value: f32) -> Self {
        self.0.push((number, Field::Float(value)));
        self
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, number: u32, value: Vec<u8>) -> Self {
        self.0.push((number, Field::Bytes(value)));
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, number: u32, value: &str) -> Self {
        self.bytes(number, value.as_bytes().to_vec())
    }

    /// Adds another message.
    #[must_use]
    pub fn message(self, number: u32, value: &Message) -> Self {
        self.bytes(number, value.encode_to_vec())
    }

    /// Adds whole numbers to a repeated field.
    #[must_use]
    pub fn wholes(self, number: u32, values: impl IntoIterator<Item = i64>) -> Self {
        values.into_iter().fold(self, |message, value| message.whole(number, value))
    }

    /// Returns what a field holds, once for each time that it occurs.
    pub fn fields(&self, number: u32) -> impl Iterator<Item = &Field> {
        self.0.iter().filter(move |(known, _)| *known == number).map(|(_, field)| field)
    }
}

/// The data type of 32-bit floats.
pub const FLOAT: i64 = 1;
/// The data type of 64-bit whole numbers.
pub const INT64: i64 = 7;

/// A `ModelProto`, the content of a file.
pub fn model(version: &str, operator_set: i64, graph: &Message, metadata: &[(String, String)]) -> Message {
    /// The version of the format that belongs to operator set 17.
    const IR_VERSION: i64 = 8;
    let set = Message::default().text(1, "").whole(2, operator_set);
    let model = Message::default().whole(1, IR_VERSION).text(2, "bonsai").text(3, version).message(7, graph);
    let entry = |(key, value): &(String, String)| Message::default().text(1, key).text(2, value);
    metadata.iter().fold(model.message(8, &set), |model, pair| model.message(14, &entry(pair)))
}

/// The numbers of a `GraphProto`'s fields.
pub mod graph {
    /// The operations, each after those that it reads.
    pub const NODE: u32 = 1;
    /// The name of the network.
    pub const NAME: u32 = 2;
    /// The constants.
    pub const INITIALIZER: u32 = 5;
    /// What it takes.
    pub const INPUT: u32 = 11;
    /// What it gives.
    pub const OUTPUT: u32 = 12;
    /// The constants that are mostly zero.
    pub const SPARSE_INITIALIZER: u32 = 15;
}

/// A `NodeProto`: an operation, the values that it reads, the one that it gives, and its options.
pub fn node(operator: &str, inputs: &[&str], output: &str, attributes: impl IntoIterator<Item = Message>) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    let node = node.text(2, output).text(3, &format!("{output}/{operator}")).text(4, operator);
    attributes.into_iter().fold(node, |node, attribute| node.message(5, &attribute))
}

/// An option of an operator.
pub enum Attribute<'a> {
    /// A number.
    Float(f64),
    /// A whole number.
    Int(i64),
    /// Whole numbers.
    Ints(&'a [i64]),
}

/// An `AttributeProto`: an option and its value.
pub fn attribute(name: &str, value: &Attribute) -> Message {
    let attribute = Message::default().text(1, name);
    // The last field says which type it is.
    match value {
        Attribute::Float(value) => attribute.float(2, *value as f32).whole(20, 1),
        Attribute::Int(value) => attribute.whole(3, *value).whole(20, 2),
        Attribute::Ints(values) => attribute.wholes(8, values.iter().copied()).whole(20, 7),
    }
}

/// A `TensorProto`: a constant, its values as little-endian bytes.
pub fn tensor(name: &str, shape: &[usize], data_type: i64, bytes: Vec<u8>) -> Message {
    let tensor = Message::default().wholes(1, shape.iter().map(|side| *side as i64));
    tensor.whole(2, data_type).text(8, name).bytes(9, bytes)
}

/// A `SparseTensorProto`: the values that are not zero, with the constant's name, and their places in row-major order.
pub fn sparse_tensor(values: &Message, places: &Message, shape: &[usize]) -> Message {
    let tensor = Message::default().message(1, values).message(2, places);
    tensor.wholes(3, shape.iter().map(|side| *side as i64))
}

/// A `ValueInfoProto`: a value of floats whose first extent, the batch, is free.
pub fn value(name: &str, extents: &[usize]) -> Message {
    let batch = Message::default().message(1, &Message::default().text(2, "batch"));
    let extent = |side: &usize| Message::default().whole(1, *side as i64);
    let shape = extents.iter().fold(batch, |shape, side| shape.message(1, &extent(side)));
    let tensor = Message::default().whole(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}
