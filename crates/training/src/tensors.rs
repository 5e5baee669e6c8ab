//! Named tensors on the host and the one file format that holds them: safetensors with a JSON header.
//!
//! The same tensors and header always give the same bytes: tensors lie sorted by type and name, and the only metadata key is
//! `bonsai`, a JSON text with sorted keys. Whatever a file holds, [`decode`] answers with tensors or with a sentence.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The values of one tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Weights, moments, statistics.
    F32(Vec<f32>),
    /// Packed masks and other bytes.
    U8(Vec<u8>),
}

impl Values {
    /// Counts the values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::U8(values) => values.len(),
        }
    }

    /// Tells whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the values as little-endian bytes.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Values::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::U8(values) => Cow::Borrowed(values),
        }
    }
}

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extent of each dimension; empty for a single value.
    pub shape: Vec<usize>,
    /// As many values as the shape's product.
    pub values: Values,
}

impl HostTensor {
    /// Pairs a shape with 32-bit floats.
    pub fn f32(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { shape, values: Values::F32(values) }
    }

    /// Wraps bytes as a tensor of one dimension.
    pub fn bytes(values: Vec<u8>) -> Self {
        Self { shape: vec![values.len()], values: Values::U8(values) }
    }

    /// Borrows the floats, or says that the tensor holds bytes.
    pub fn as_f32(&self) -> Result<&[f32]> {
        match &self.values {
            Values::F32(values) => Ok(values),
            Values::U8(_) => bail!("the tensor holds bytes where 32-bit floats are expected"),
        }
    }

    /// Borrows the bytes, or says that the tensor holds floats.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        match &self.values {
            Values::U8(values) => Ok(values),
            Values::F32(_) => bail!("the tensor holds 32-bit floats where bytes are expected"),
        }
    }
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, HostTensor>;

/// The name that safetensors keeps for itself.
const RESERVED: &str = "__metadata__";
/// The one metadata key.
const KEY: &str = "bonsai";
/// Bytes in front of the safetensors header that give its length.
const PREFIX: usize = 8;
/// Marks a number that is kept as text; see [`protect`].
const EXACT: &str = "$f64";

/// Writes tensors and header into the bytes of a safetensors file.
///
/// Floats in the header come back to the last bit; JSON knows no number that is not finite, so those become `null`.
///
/// # Errors
/// A shape that does not fit its values and the reserved name `__metadata__` are refused.
pub fn encode(tensors: &Tensors, header: &Value) -> Result<Vec<u8>> {
    for (name, tensor) in tensors {
        ensure!(name != RESERVED, "no tensor can be called `{RESERVED}`: safetensors keeps that name for itself");
        let expected = tensor.shape.iter().copied().try_fold(1usize, usize::checked_mul);
        ensure!(
            expected == Some(tensor.values.len()),
            "tensor `{name}` has {} values, which do not fill its shape {:?}",
            tensor.values.len(),
            tensor.shape
        );
    }
    let mut header = protect(header);
    header.sort_all_objects();
    let metadata = HashMap::from([(KEY.to_string(), header.to_string())]);
    Ok(safetensors::serialize(tensors.iter(), Some(metadata))?)
}

/// Reads the bytes of a safetensors file that [`encode`] wrote.
///
/// # Errors
/// Every damaged input gives one sentence; nothing larger than the input is allocated on its word.
pub fn decode(bytes: &[u8]) -> Result<(Tensors, Value)> {
    // The crate's own `SafeTensors::deserialize` adds up the stated sizes unchecked; the sums are checked here instead.
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX>().context("the file is too short for a safetensors file")?;
    let stated = u64::from_le_bytes(*prefix);
    let length = usize::try_from(stated).ok().filter(|length| *length <= rest.len()).with_context(|| {
        format!(
            "the file is cut off or not a safetensors file: its header should have {stated} bytes, and {} follow",
            rest.len()
        )
    })?;
    let (head, data) = rest.split_at(length);
    let head = std::str::from_utf8(head).map_err(|_| anyhow!("the safetensors header is not UTF-8 text"))?;
    let metadata: Metadata =
        serde_json::from_str(head).map_err(|error| anyhow!("the safetensors header is damaged: {error}"))?;
    ensure!(
        metadata.data_len() == data.len(),
        "the file is cut off or too long: its tensors should fill {} bytes, and {} follow the header",
        metadata.data_len(),
        data.len()
    );
    let header = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let header = header.with_context(|| format!("the file has no `{KEY}` entry, so bonsai did not write it"))?;
    let header: Value =
        serde_json::from_str(header).map_err(|error| anyhow!("the `{KEY}` entry is damaged: {error}"))?;
    let tensors = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let tensor = read_tensor(info, data).with_context(|| format!("tensor `{name}` cannot be read"))?;
            Ok((name, tensor))
        })
        .collect::<Result<Tensors>>()?;
    Ok((tensors, restore(header)))
}

/// Gives the SHA-256 of bytes in 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Spells bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_tensor(info: &TensorInfo, data: &[u8]) -> Result<HostTensor> {
    let (start, end) = info.data_offsets;
    let bytes = data.get(start..end).context("its place lies outside the file")?;
    let values = match info.dtype {
        Dtype::F32 => Values::F32(
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect(),
        ),
        Dtype::U8 => Values::U8(bytes.to_vec()),
        other => bail!("it holds {other:?}; bonsai writes only F32 and U8"),
    };
    let expected = info.shape.iter().copied().try_fold(1usize, usize::checked_mul);
    ensure!(expected == Some(values.len()), "its {} values do not fill the shape {:?}", values.len(), info.shape);
    Ok(HostTensor { shape: info.shape.clone(), values })
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::U8(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.bytes()
    }

    fn data_len(&self) -> usize {
        match &self.values {
            Values::F32(values) => 4 * values.len(),
            Values::U8(values) => values.len(),
        }
    }
}

/// Replaces each number that serde_json would not read back to the last bit by `{"$f64": "text"}`.
///
/// Without its feature `float_roundtrip`, serde_json's reader may be off by one unit in the last place, which would end the
/// exactness of a resume. The text is read by the standard library, which rounds correctly.
fn protect(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            let survives = serde_json::from_str::<Value>(&text).is_ok_and(|read| read == *value);
            if survives { value.clone() } else { serde_json::json!({ EXACT: text }) }
        }
        Value::Array(items) => items.iter().map(protect).collect(),
        Value::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), protect(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Undoes [`protect`].
fn restore(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(restore).collect(),
        Value::Object(entries) => match entries.get(EXACT).and_then(Value::as_str).map(str::parse::<f64>) {
            Some(Ok(number)) if entries.len() == 1 => Value::from(number),
            _ => entries.into_iter().map(|(key, value)| (key, restore(value))).collect(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Writes a file of a literal safetensors header and zeros.
    fn file(head: &str, zeros: usize) -> Vec<u8> {
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend(head.as_bytes());
        bytes.resize(bytes.len() + zeros, 0);
        bytes
    }

    fn refusal(head: &str, zeros: usize) -> String {
        format!("{:#}", decode(&file(head, zeros)).expect_err(head))
    }

    #[test]
    fn bytes_are_the_same_whatever_the_order_of_the_header() {
        let tensors = Tensors::from([
            ("b".to_string(), HostTensor::f32(vec![2], vec![1.0, -0.0])),
            ("a".to_string(), HostTensor::bytes(vec![1, 2, 3])),
        ]);
        let one = encode(&tensors, &serde_json::from_str(r#"{"x":1,"a":{"z":1,"b":2}}"#).unwrap()).unwrap();
        let other = encode(&tensors, &serde_json::from_str(r#"{"a":{"b":2,"z":1},"x":1}"#).unwrap()).unwrap();
        assert_eq!(one, other);
        let text = String::from_utf8_lossy(&one);
        assert!(text.contains(r#"{"__metadata__":{"bonsai":"{\"a\":{\"b\":2,\"z\":1},\"x\":1}"},"b":"#), "{text}");
    }

    #[test]
    fn crafted_headers_are_refused_with_a_sentence() {
        let note = r#""__metadata__":{"bonsai":"{}"}"#;
        let cases = [
            (r#"{}"#.to_string(), 0, "no `bonsai` entry"),
            (r#"{"__metadata__":{"other":"{}"}}"#.to_string(), 0, "no `bonsai` entry"),
            (r#"{"__metadata__":{"bonsai":"{"}}"#.to_string(), 0, "entry is damaged"),
            (r#"{"__metadata__":{"bonsai":1}}"#.to_string(), 0, "header is damaged"),
            ("[".repeat(100_000), 0, "header is damaged"),
            (format!("{{{note}}}"), 1, "too long"),
            (format!(r#"{{{note},"w":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#), 4, "cut off"),
            (format!(r#"{{{note},"w":{{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}}}"#), 8, "damaged"),
            (format!(r#"{{{note},"w":{{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}}}"#), 8, "only F32 and U8"),
            (format!(r#"{{{note},"w":{{"dtype":"Q7","shape":[1],"data_offsets":[0,8]}}}}"#), 8, "damaged"),
            (format!(r#"{{{note},"w":{{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}}}}"#), 8, "damaged"),
            (format!(r#"{{{note},"w":{{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}}}"#), 8, "damaged"),
            (format!(r#"{{{note},"w":{{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}}}"#), 8, "damaged"),
            // Two tensors in one place, a hole, and sizes whose product or sum leaves 64 bits.
            (
                format!(
                    r#"{{{note},"a":{{"dtype":"U8","shape":[8],"data_offsets":[0,8]}},"b":{{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}}}"#
                ),
                8,
                "damaged",
            ),
            (
                format!(
                    r#"{{{note},"a":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}}}"#
                ),
                8,
                "damaged",
            ),
            (
                format!(
                    r#"{{{note},"w":{{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}}}"#
                ),
                8,
                "damaged",
            ),
            (
                format!(
                    r#"{{{note},"w":{{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}}}"#
                ),
                8,
                "cut off",
            ),
        ];
        for (head, zeros, expected) in cases {
            let sentence = refusal(&head, zeros);
            assert!(sentence.contains(expected), "{head:.200}: {sentence}");
        }
    }

    #[test]
    fn sizes_that_add_up_to_more_than_64_bits_are_refused() {
        // Eight tensors that end just below 2^64, where adding the header's length leaves 64 bits.
        let step = u64::MAX / 8;
        let mut head = r#"{"__metadata__":{"bonsai":"{}"}"#.to_string();
        for index in 0..8u64 {
            let (start, end) = (index * step, (index + 1) * step);
            head += &format!(r#","t{index}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{start},{end}]}}"#);
        }
        head += "}";
        for zeros in [0, 1, 8] {
            assert!(refusal(&head, zeros).contains("cut off"));
        }
    }

    #[test]
    fn absurd_header_lengths_are_refused() {
        let intact = encode(&Tensors::new(), &json!({})).unwrap();
        for length in [0, 1, 7, 100, 100_000_001, 1 << 40, i64::MAX as u64, u64::MAX - 8, u64::MAX] {
            let mut bytes = intact.clone();
            bytes[..PREFIX].copy_from_slice(&length.to_le_bytes());
            assert!(!decode(&bytes).expect_err("absurd length").to_string().is_empty());
        }
        let mut bytes = intact;
        bytes[12] = 0xff;
        assert!(decode(&bytes).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn shapes_that_do_not_fit_are_not_written() {
        for shape in [vec![3], vec![usize::MAX, 2], vec![]] {
            let tensors = Tensors::from([("w".to_string(), HostTensor::f32(shape, vec![0.0; 2]))]);
            assert!(encode(&tensors, &json!({})).unwrap_err().to_string().contains("tensor `w`"));
        }
        let tensors = Tensors::from([(RESERVED.to_string(), HostTensor::bytes(vec![]))]);
        assert!(encode(&tensors, &json!({})).is_err());
    }

    proptest! {
        #[test]
        fn everything_comes_back_to_the_last_bit(
            entries in prop::collection::btree_map(".*", prop::collection::vec(any::<u32>(), 0..9), 0..5),
            bytes in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut tensors: Tensors = entries.into_iter()
                .filter(|(name, _)| name != RESERVED)
                .map(|(name, bits)| (name, HostTensor::f32(vec![1, bits.len()], bits.into_iter().map(f32::from_bits).collect())))
                .collect();
            tensors.insert("bytes".into(), HostTensor::bytes(bytes));
            let (read, _) = decode(&encode(&tensors, &json!({"a": 1})).unwrap()).unwrap();
            prop_assert_eq!(read.len(), tensors.len());
            for (name, tensor) in &tensors {
                prop_assert_eq!(&read[name].shape, &tensor.shape);
                prop_assert_eq!(read[name].values.bytes(), tensor.values.bytes());
            }
        }

        #[test]
        fn numbers_in_the_header_come_back_to_the_last_bit(floats in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 64), whole in any::<u64>()) {
            let (_, header) = decode(&encode(&Tensors::new(), &json!({"floats": floats, "whole": whole})).unwrap()).unwrap();
            let read: Vec<u64> = header["floats"].as_array().unwrap().iter().map(|float| float.as_f64().unwrap().to_bits()).collect();
            prop_assert_eq!(read, floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(header["whole"].as_u64(), Some(whole));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
