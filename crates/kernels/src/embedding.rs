//! From maps to tokens: a class token in front, the pixels behind it, and positions added.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};
use crate::panels::Panels;

/// Makes tokens of the pixels of `x`; `class` is `[features]`, `positions` `[tokens, features]`.
///
/// # Panics
///
/// Panics if a length is not that of its shape.
pub fn forward(maps: Maps, panels: Panels, x: &[f32], class: &[f32], positions: &[f32]) -> Buffer {
    let features = maps.channels;
    assert_eq!(x.len(), maps.len(), "maps of {:?}", maps.dims());
    assert_eq!((class.len(), positions.len()), (features, panels.pixels * features), "a position for each token");
    let mut y = Buffer::any(panels.len(features));
    y.par_chunks_mut(panels.plane()).zip(x.par_chunks(maps.plane())).enumerate().for_each(|(i, (y, x))| {
        let feature = i % features;
        let (first, rest) = y.split_at_mut(LANES);
        first.fill(class[feature]);
        for (row, y) in rest.chunks_exact_mut(maps.width * LANES).enumerate() {
            y.copy_from_slice(&x[maps.floats(row)]);
        }
        for (vector, positions) in y.chunks_exact_mut(LANES).zip(positions.chunks_exact(features)) {
            vector.iter_mut().for_each(|value| *value += positions[feature]);
        }
    });
    y
}

/// Returns the gradient of the maps, given that of the tokens.
///
/// # Panics
///
/// Panics if the gradient has another length than the shape says.
pub fn backward(maps: Maps, panels: Panels, gradient: &[f32]) -> Buffer {
    assert_eq!(gradient.len(), panels.len(maps.channels), "a gradient for each token");
    let mut of_x = Buffer::any(maps.len());
    of_x.par_chunks_mut(maps.plane()).zip(gradient.par_chunks(panels.plane())).for_each(|(of_x, gradient)| {
        maps.clear_margin(of_x);
        for (row, gradient) in gradient[LANES..].chunks_exact(maps.width * LANES).enumerate() {
            of_x[maps.floats(row)].copy_from_slice(gradient);
        }
    });
    of_x
}

/// Sums the gradient of tokens over images: `[tokens, features]`.
///
/// # Panics
///
/// Panics if the gradient has another length than the shape says.
pub fn sums(panels: Panels, features: usize, gradient: &[f32]) -> Vec<f32> {
    assert_eq!(gradient.len(), panels.len(features), "a gradient for each token");
    let mut sums = vec![0.0; panels.pixels * features];
    sums.par_chunks_mut(features).enumerate().for_each(|(token, sums)| {
        for panel in 0..panels.panels {
            for (feature, sum) in sums.iter_mut().enumerate() {
                let at = (panel * features + feature) * panels.plane() + token * LANES;
                *sum += gradient[at..at + LANES].iter().sum::<f32>();
            }
        }
    });
    sums
}
