//! Cuts stored tensors to the channels that stay.

use bonsai_pruning::channels::Places;
use bonsai_pruning::graph::{Kind, LayerSpec};

/// Keeps the places of a parameter that stay, along its first three axes; returns its new shape and values.
///
/// `shape` and `values` are as stored: `[in, out]` for the weight of a linear layer.
pub fn cut(
    name: &str,
    layers: &[LayerSpec],
    places: &Places,
    shape: &[usize],
    values: &[f32],
) -> (Vec<usize>, Vec<f32>) {
    let linear = layers.iter().any(|layer| layer.name == name && layer.kind == Kind::Linear);
    let flags = |axis: usize| places.get(&(name.to_string(), if linear { 1 - axis } else { axis }));
    let stays =
        |flags: Option<&Vec<bool>>, place: usize| flags.and_then(|flags| flags.get(place)).is_none_or(|kept| *kept);
    let kept = |axis: usize| -> Vec<usize> {
        (0..shape.get(axis).copied().unwrap_or(1)).filter(|place| stays(flags(axis), *place)).collect()
    };
    let (rows, columns) = (kept(0), if shape.len() > 1 { kept(1) } else { vec![0] });
    let width = shape.get(1).copied().unwrap_or(1);
    let third = places.contains_key(&(name.to_string(), 2)).then(|| kept(2));
    let (inner, area): (usize, usize) = (shape.iter().skip(2).product(), shape.iter().skip(3).product());
    let mut left = Vec::with_capacity(rows.len() * columns.len() * inner);
    for row in &rows {
        for column in &columns {
            let inner = &values[(row * width + column) * inner..][..inner];
            match &third {
                None => left.extend_from_slice(inner),
                Some(third) => third.iter().for_each(|place| left.extend_from_slice(&inner[place * area..][..area])),
            }
        }
    }
    let mut shape = shape.to_vec();
    shape[0] = rows.len();
    if let Some(second) = shape.get_mut(1) {
        *second = columns.len();
    }
    if let Some(third) = third {
        shape[2] = third.len();
    }
    (shape, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_go_where_they_are_stored() {
        let places = Places::from([
            (("w".to_string(), 0), vec![true, false]),
            (("w".to_string(), 1), vec![false, true, true]),
            (("b".to_string(), 0), vec![false, true]),
        ]);
        let layer = |kind, shape: &[usize]| LayerSpec { name: "w".into(), kind, shape: shape.to_vec(), macs: 0 };
        let conv = [layer(Kind::Conv, &[2, 3, 1, 2])];
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(cut("w", &conv, &places, &[2, 3, 1, 2], &values), (vec![1, 2, 1, 2], vec![2.0, 3.0, 4.0, 5.0]));
        // Stored [in = 3, out = 2].
        let linear = [layer(Kind::Linear, &[2, 3])];
        assert_eq!(cut("w", &linear, &places, &[3, 2], &values[..6]), (vec![2, 1], vec![2.0, 4.0]));
        assert_eq!(cut("b", &conv, &places, &[2], &values[..2]), (vec![1], vec![1.0]));
        // Positions of two tokens with three features.
        let places = Places::from([(("p".to_string(), 2), vec![true, false, true])]);
        let left = cut("p", &conv, &places, &[1, 2, 3], &values[..6]);
        assert_eq!(left, (vec![1, 2, 2], vec![0.0, 2.0, 3.0, 5.0]));
        assert_eq!(cut("other", &conv, &places, &[2], &values[..2]), (vec![2], vec![0.0, 1.0]));
    }
}
