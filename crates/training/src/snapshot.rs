//! `model.safetensors`: the trained network alone, with its masks and all that it takes to use it.
//!
//! Weights lie under the names of their parameters, zeros included; `mask/<layer>` holds a layer's mask in packed bits, weight
//! `i` in bit `i % 8` of byte `i / 8`. The header carries a checksum over everything, so that a flipped bit is found, and no
//! time stamp, so that identical runs give identical files.
//!
//! A packed file leaves removed weights out: where that is shorter, `kept/<layer>` holds the kept weights in their order
//! instead of `<layer>`, whose shape stands in the header's `packed`. It reads back as the same network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bonsai_models::Architecture;
use bonsai_pruning::mask::Mask;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run_folder::write_atomic;
use crate::tensors::{HostTensor, Tensors, Values, decode, encode, hex};

/// The layout that [`write`] writes and [`read`] reads.
pub const FORMAT: u32 = 1;

/// In front of a layer's name: its mask.
const MASK: &str = "mask/";
/// In front of a layer's name: its kept weights.
const KEPT: &str = "kept/";
/// The header's entry for the checksum over all the rest.
const CHECKSUM: &str = "sha256";

/// What a network needs beside its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotHeader {
    /// Layout of the file: [`FORMAT`].
    pub format: u32,
    /// The network, its input shape and class count included.
    pub architecture: Architecture,
    /// Name of the data set that it was trained on.
    pub data: String,
    /// Mean that is subtracted from each channel of an image scaled to 0..1.
    pub mean: Vec<f32>,
    /// Deviation that each channel is divided by afterwards.
    pub std: Vec<f32>,
    /// Name of the scheduler that pruned it.
    pub scheduler: String,
    /// Share of the prunable weights that is removed.
    pub sparsity: f64,
}

/// A network as it was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// How to use the weights.
    pub header: SnapshotHeader,
    /// 32-bit floats by parameter name.
    pub weights: Tensors,
    /// The kept weights of each pruned layer, by parameter name, in the order in which the weight is stored.
    pub masks: BTreeMap<String, Mask>,
}

/// Writes a network into a file, whole or not at all; the same network always gives the same bytes.
///
/// # Errors
/// A network that [`read`] would refuse is not written.
pub fn write(path: &Path, weights: &Tensors, masks: &BTreeMap<String, Mask>, header: &SnapshotHeader) -> Result<()> {
    let bytes = to_bytes(weights, masks, header).with_context(|| format!("{} was not written", path.display()))?;
    write_atomic(path, &bytes)
}

/// Reads a network from a file.
///
/// # Errors
/// Every damage gives a sentence that names the file.
pub fn read(path: &Path) -> Result<Snapshot> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    from_bytes(&bytes).with_context(|| format!("{} is not a network that can be used", path.display()))
}

/// Writes a network as [`write`] does, without its removed weights.
///
/// # Errors
/// As [`write`].
pub fn write_packed(path: &Path, network: &Snapshot) -> Result<()> {
    let bytes = to_packed_bytes(network).with_context(|| format!("{} was not written", path.display()))?;
    write_atomic(path, &bytes)
}

/// Returns the bytes of a network's file, without its removed weights.
///
/// # Errors
/// As [`write`].
pub fn to_packed_bytes(network: &Snapshot) -> Result<Vec<u8>> {
    let Snapshot { header, weights, masks } = network;
    let (mut tensors, mut header) = described(weights, masks, header)?;
    let mut shapes = serde_json::Map::new();
    for (layer, mask) in masks {
        if mask.kept() == mask.len() {
            continue;
        }
        let weight = tensors.remove(layer).expect("a mask has its weights, as was checked");
        let values = weight.as_f32()?.iter().zip(mask.iter()).filter_map(|(value, kept)| kept.then_some(*value));
        let values: Vec<f32> = values.collect();
        shapes.insert(layer.clone(), serde_json::to_value(&weight.shape)?);
        tensors.insert(format!("{KEPT}{layer}"), HostTensor::f32(vec![values.len()], values));
    }
    header["packed"] = Value::Object(shapes);
    encode(&tensors, &header)
}

/// Puts weights back in the places from which a packed file has taken them.
fn unpack(tensors: &mut Tensors, shapes: &Value) -> Result<()> {
    let shapes: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(shapes.clone()).map_err(|error| anyhow!("its header packs no tensors: {error}"))?;
    for (layer, shape) in shapes {
        let kept = tensors.remove(&format!("{KEPT}{layer}"));
        let kept = kept.with_context(|| format!("the kept weights of `{layer}` are missing"))?;
        let mask = tensors.get(&format!("{MASK}{layer}"));
        let mask = mask.with_context(|| format!("the mask of `{layer}` is missing"))?.as_bytes()?;
        // A mask has a bit for each weight, so that no shape can ask for more memory than the file is long.
        let length = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
        let length = length.filter(|length| length.div_ceil(8) == mask.len());
        let length = length.with_context(|| format!("the shape {shape:?} of `{layer}` does not fit its mask"))?;
        let mask = Mask::unpack(mask, length).map_err(anyhow::Error::msg);
        let mask = mask.with_context(|| format!("the mask of `{layer}` is damaged"))?;
        let values = kept.as_f32()?;
        ensure!(values.len() == mask.kept(), "`{layer}` has {} kept weights of {}", values.len(), mask.kept());
        let mut values = values.iter();
        let whole = mask.iter().map(|kept| if kept { *values.next().expect("they were counted") } else { 0.0 });
        let whole = HostTensor::f32(shape, whole.collect());
        ensure!(tensors.insert(layer.clone(), whole).is_none(), "`{layer}` is there twice");
    }
    Ok(())
}

/// Returns the bytes of a network's file.
///
/// # Errors
/// As [`write`].
pub fn to_bytes(weights: &Tensors, masks: &BTreeMap<String, Mask>, header: &SnapshotHeader) -> Result<Vec<u8>> {
    let (tensors, header) = described(weights, masks, header)?;
    encode(&tensors, &header)
}

/// Checks a network, and returns its tensors and the header of its file.
fn described(weights: &Tensors, masks: &BTreeMap<String, Mask>, header: &SnapshotHeader) -> Result<(Tensors, Value)> {
    check(header, weights, masks)?;
    let packed = masks.iter().map(|(layer, mask)| (format!("{MASK}{layer}"), HostTensor::bytes(mask.pack())));
    let tensors: Tensors = weights.clone().into_iter().chain(packed).collect();
    let mut header = json!({ "snapshot": serde_json::to_value(header)? });
    header[CHECKSUM] = Value::from(checksum(&tensors, &header["snapshot"]));
    Ok((tensors, header))
}

fn from_bytes(bytes: &[u8]) -> Result<Snapshot> {
    let (mut tensors, mut header) = decode(bytes)?;
    if let Some(shapes) = header.get("packed") {
        unpack(&mut tensors, shapes)?;
    }
    let stated = header.get_mut("snapshot").map(Value::take).unwrap_or_default();
    let format = stated["format"].as_u64().context("it is another kind of safetensors file, such as a checkpoint")?;
    ensure!(format == u64::from(FORMAT), "it has layout {format}, and this bonsai reads layout {FORMAT}");
    let right = header[CHECKSUM].as_str() == Some(&checksum(&tensors, &stated));
    ensure!(right, "its content does not have the checksum that it states: it was damaged or changed");
    let header: SnapshotHeader =
        serde_json::from_value(stated).map_err(|error| anyhow!("its header does not describe a network: {error}"))?;

    let (packed, weights): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| name.starts_with(MASK));
    let mut masks = BTreeMap::new();
    for (name, tensor) in packed {
        let layer = &name[MASK.len()..];
        let weight = weights.get(layer).with_context(|| format!("`{name}` masks no layer of the network"))?;
        let mask =
            tensor.as_bytes().and_then(|bytes| Mask::unpack(bytes, weight.values.len()).map_err(anyhow::Error::msg));
        masks.insert(layer.to_string(), mask.with_context(|| format!("the mask of `{layer}` is damaged"))?);
    }
    check(&header, &weights, &masks)?;
    Ok(Snapshot { header, weights, masks })
}

/// Checks that header, weights and masks fit each other.
fn check(header: &SnapshotHeader, weights: &Tensors, masks: &BTreeMap<String, Mask>) -> Result<()> {
    ensure!(
        header.format == FORMAT,
        "the header states layout {}, and this bonsai writes layout {FORMAT}",
        header.format
    );
    header.architecture.check().map_err(anyhow::Error::msg)?;
    let channels = header.architecture.input[0];
    for (name, values) in [("mean", &header.mean), ("std", &header.std)] {
        ensure!(values.len() == channels, "`{name}` has {} values for images of {channels} channels", values.len());
        ensure!(values.iter().all(|value| value.is_finite()), "`{name}` holds a value that is not finite");
    }
    ensure!(header.std.iter().all(|std| *std > 0.0), "`std` holds a value that is not above 0");
    ensure!(
        (0.0..=1.0).contains(&header.sparsity),
        "the sparsity is {}, and must lie between 0 and 1",
        header.sparsity
    );
    for (name, tensor) in weights {
        ensure!(!name.starts_with(MASK), "the weights `{name}` have a name that is kept for masks");
        let values = tensor.as_f32().with_context(|| format!("the weights `{name}` cannot be used"))?;
        ensure!(values.iter().all(|value| value.is_finite()), "the weights `{name}` hold a value that is not finite");
    }
    for (layer, mask) in masks {
        let weight = weights.get(layer).with_context(|| format!("the mask of `{layer}` belongs to no weights"))?;
        let values = weight.as_f32()?;
        ensure!(mask.len() == values.len(), "the mask of `{layer}` is for {} weights of {}", mask.len(), values.len());
        let wrong = values.iter().zip(mask.iter()).position(|(value, kept)| !kept && *value != 0.0);
        if let Some(index) = wrong {
            bail!("weight {index} of `{layer}` is {}, and its mask says that it is removed", values[index]);
        }
    }
    Ok(())
}

/// Gives the SHA-256 over names, types, shapes and values and over the header's content, whatever the file's layout.
fn checksum(tensors: &Tensors, header: &Value) -> String {
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        let kind = match tensor.values {
            Values::F32(_) => "f32",
            Values::U8(_) => "u8",
        };
        hasher.update(format!("{}:{name} {kind} {:?} ", name.len(), tensor.shape));
        hasher.update(tensor.values.bytes());
    }
    feed(&mut hasher, header);
    hex(&hasher.finalize())
}

/// Hashes a JSON value by its content, so that another spelling of a number changes nothing.
fn feed(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hasher.update("null "),
        Value::Bool(flag) => hasher.update(format!("{flag} ")),
        Value::Number(number) => match number.as_i128() {
            Some(whole) => hasher.update(format!("{whole} ")),
            None => hasher.update(format!("f{:016x} ", number.as_f64().unwrap_or(f64::NAN).to_bits())),
        },
        Value::String(text) => hasher.update(format!("{}:{text} ", text.len())),
        Value::Array(items) => {
            hasher.update(format!("[{} ", items.len()));
            items.iter().for_each(|item| feed(hasher, item));
        }
        Value::Object(entries) => {
            hasher.update(format!("{{{} ", entries.len()));
            let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
            for (key, value) in sorted {
                hasher.update(format!("{}:{key} ", key.len()));
                feed(hasher, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> (Tensors, BTreeMap<String, Mask>, SnapshotHeader) {
        let weights = Tensors::from([
            ("fc.weight".to_string(), HostTensor::f32(vec![3, 3], vec![1., 0., 3., 0., 5., 0., 0., 8., 9.])),
            ("fc.bias".to_string(), HostTensor::f32(vec![3], vec![0., -0.5, 0.25])),
        ]);
        let mask = Mask::from_bools(vec![true, false, true, false, true, false, false, true, true]);
        let header = SnapshotHeader {
            format: FORMAT,
            architecture: Architecture::new("mlp", 3, [1, 28, 28]),
            data: "mnist".into(),
            mean: vec![0.1307],
            std: vec![0.3081],
            scheduler: "gmp".into(),
            sparsity: 4.0 / 9.0,
        };
        (weights, BTreeMap::from([("fc.weight".to_string(), mask)]), header)
    }

    #[test]
    fn a_network_comes_back_and_gives_the_same_bytes() {
        let (weights, masks, header) = network();
        let bytes = to_bytes(&weights, &masks, &header).unwrap();
        assert_eq!(bytes, to_bytes(&weights, &masks, &header).unwrap());
        let read = from_bytes(&bytes).unwrap();
        assert_eq!(read, Snapshot { header, weights, masks });
        assert_eq!(to_bytes(&read.weights, &read.masks, &read.header).unwrap(), bytes);
        let (tensors, _) = decode(&bytes).unwrap();
        assert_eq!(tensors["mask/fc.weight"].as_bytes().unwrap(), [0b1001_0101, 0b1]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (weights, masks, header) = network();
        let bytes = to_bytes(&weights, &masks, &header).unwrap();
        let intact = from_bytes(&bytes).unwrap();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match from_bytes(&flipped) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(read) => assert_eq!(read, intact, "bit {bit} changed the network unseen"),
            }
        }
        for length in 0..bytes.len() {
            assert!(from_bytes(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_network_that_contradicts_itself_is_neither_written_nor_read() {
        type Damage<'a> = &'a dyn Fn(&mut Tensors, &mut BTreeMap<String, Mask>, &mut SnapshotHeader);
        let expect = |change: Damage, expected: &str| {
            let (mut weights, mut masks, mut header) = network();
            change(&mut weights, &mut masks, &mut header);
            let sentence = format!("{:#}", to_bytes(&weights, &masks, &header).expect_err(expected));
            assert!(sentence.contains(expected), "{sentence}");
        };
        let value = |name: &'static str, index: usize, value: f32| {
            move |weights: &mut Tensors, _: &mut BTreeMap<String, Mask>, _: &mut SnapshotHeader| {
                let Values::F32(values) = &mut weights.get_mut(name).unwrap().values else { panic!() };
                values[index] = value;
            }
        };
        expect(&value("fc.weight", 1, 1e-30), "its mask says that it is removed");
        expect(&value("fc.bias", 0, f32::NAN), "not finite");
        expect(&|_, masks, _| drop(masks.insert("fc.weight".into(), Mask::dense(8))), "for 8 weights of 9");
        expect(&|_, masks, _| drop(masks.insert("gone".into(), Mask::dense(3))), "belongs to no weights");
        expect(
            &|weights, _, _| drop(weights.insert("mask/fc.bias".into(), HostTensor::f32(vec![0], vec![]))),
            "kept for masks",
        );
        expect(
            &|weights, _, _| drop(weights.insert("fc.bias".into(), HostTensor::bytes(vec![0]))),
            "floats are expected",
        );
        expect(&|_, _, header| header.mean = vec![0.0; 3], "images of 1 channels");
        expect(&|_, _, header| header.std = vec![0.0], "not above 0");
        expect(&|_, _, header| header.sparsity = f64::NAN, "between 0 and 1");
        expect(&|_, _, header| header.format = 2, "layout 2");
    }

    #[test]
    fn a_packed_network_is_shorter_and_the_same() {
        let (mut weights, mut masks, header) = network();
        let values: Vec<f32> = (0..800).map(|i| if i % 10 == 0 { i as f32 } else { 0.0 }).collect();
        masks.insert("more.weight".into(), Mask::from_bools((0..800).map(|i| i % 10 == 0).collect()));
        weights.insert("more.weight".into(), HostTensor::f32(vec![20, 40], values));
        let snapshot = Snapshot { header, weights, masks };
        let packed = to_packed_bytes(&snapshot).unwrap();
        let plain = to_bytes(&snapshot.weights, &snapshot.masks, &snapshot.header).unwrap();
        assert!(packed.len() + 2500 < plain.len(), "{} and {}", packed.len(), plain.len());
        assert_eq!(from_bytes(&packed).unwrap(), snapshot);
        for bit in (0..8 * packed.len()).step_by(3) {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match from_bytes(&flipped) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(read) => assert_eq!(read, snapshot, "bit {bit} changed the network unseen"),
            }
        }
    }

    #[test]
    fn other_kinds_of_files_are_told_apart() {
        let checkpoint = encode(&Tensors::new(), &json!({ "checkpoint": 1 })).unwrap();
        assert!(from_bytes(&checkpoint).unwrap_err().to_string().contains("another kind"));
        for header in [json!(null), json!([1]), json!("text"), json!({ "snapshot": [] })] {
            let bytes = encode(&Tensors::new(), &header).unwrap();
            assert!(from_bytes(&bytes).unwrap_err().to_string().contains("another kind"));
        }
        let newer = encode(&Tensors::new(), &json!({ "snapshot": { "format": 2, "unheard": "of" } })).unwrap();
        assert!(from_bytes(&newer).unwrap_err().to_string().contains("layout 2"));
    }
}
