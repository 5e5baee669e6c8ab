//! The trained network in a run folder: its weights, and which of them are kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::{Dtype, SafeTensors};

/// In front of a layer's name: its mask, weight `i` in bit `i % 8` of byte `i / 8`.
const MASK: &str = "mask/";

/// A weight of convolutions or linear layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// As it is stored: `[out, in, height, width]` for a convolution, `[in, out]` for a linear layer.
    pub shape: Vec<usize>,
    /// The values in this order, zeros included.
    pub values: Vec<f32>,
    /// Which are kept; all where the layer has no mask.
    pub kept: Vec<bool>,
}

/// The weights of a network by path, in the order of their names.
pub type Model = BTreeMap<String, Weight>;

/// Reads the weights of `model.safetensors`: every tensor of two or four axes whose name ends in `weight`.
///
/// # Errors
/// A damaged file gives a sentence that names it.
pub fn read(path: &Path) -> Result<Model> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    from_bytes(&bytes).with_context(|| format!("{} is not a network of a run", path.display()))
}

fn from_bytes(bytes: &[u8]) -> Result<Model> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| anyhow!("{error}"))?;
    let mut model = Model::new();
    for (name, tensor) in tensors.tensors() {
        if name.starts_with(MASK) || !name.ends_with("weight") || ![2, 4].contains(&tensor.shape().len()) {
            continue;
        }
        ensure!(tensor.dtype() == Dtype::F32, "{name} holds {:?} instead of F32", tensor.dtype());
        let values: Vec<f32> =
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let kept = match tensors.tensor(&format!("{MASK}{name}")) {
            Ok(mask) => {
                let bits = mask.data();
                ensure!(
                    bits.len() == values.len().div_ceil(8),
                    "the mask of {name} has {} bytes for {} weights",
                    bits.len(),
                    values.len()
                );
                (0..values.len()).map(|weight| bits[weight / 8] >> (weight % 8) & 1 == 1).collect()
            }
            Err(_) => vec![true; values.len()],
        };
        model.insert(name.clone(), Weight { shape: tensor.shape().to_vec(), values, kept });
    }
    Ok(model)
}

impl Weight {
    /// The values of kept weights.
    pub fn kept_values(&self) -> Vec<f32> {
        self.values.iter().zip(&self.kept).filter(|(_, kept)| **kept).map(|(value, _)| *value).collect()
    }

    /// Output channels, or units, none of whose weights is kept: `(dead, all)`.
    pub fn dead_units(&self) -> (usize, usize) {
        let linear = self.shape.len() == 2;
        let units = if linear { self.shape[1] } else { self.shape[0] };
        let width = self.values.len() / units.max(1);
        let mut alive = vec![false; units];
        for (index, _) in self.kept.iter().enumerate().filter(|(_, kept)| **kept) {
            alive[if linear { index % units } else { index / width }] = true;
        }
        (alive.iter().filter(|alive| !**alive).count(), units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(mask: &[u8]) -> Vec<u8> {
        let values: Vec<u8> = [0f32, 1.0, 0.0, 2.0, 0.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = |shape: &[usize]| TensorView::new(Dtype::F32, shape.to_vec(), &values).unwrap();
        let mask = TensorView::new(Dtype::U8, vec![mask.len()], mask).unwrap();
        let all = [
            ("fc.weight", view(&[2, 3])),
            ("mask/fc.weight", mask),
            ("conv.weight", view(&[3, 2, 1, 1])),
            ("fc.bias", view(&[6])),
        ];
        safetensors::serialize(all, None).unwrap()
    }

    #[test]
    fn weights_come_with_their_masks_and_dead_units_are_counted() {
        let model = from_bytes(&file(&[0b00_1010])).unwrap();
        assert_eq!(model.keys().collect::<Vec<_>>(), ["conv.weight", "fc.weight"]);
        let fc = &model["fc.weight"];
        assert_eq!(fc.kept_values(), [1.0, 2.0]);
        // Stored as [in, out]: weight 1 leads to unit 1, weight 3 to unit 0.
        assert_eq!(fc.dead_units(), (1, 3));
        assert_eq!(model["conv.weight"].dead_units(), (0, 3));
    }

    #[test]
    fn damage_is_a_sentence() {
        let sentence = format!("{:#}", from_bytes(&file(&[0, 0])).unwrap_err());
        assert!(sentence.contains("the mask of fc.weight has 2 bytes for 6 weights"), "{sentence}");
        let intact = file(&[0]);
        for length in 0..intact.len() {
            assert!(from_bytes(&intact[..length]).is_err(), "{length}");
        }
    }
}
