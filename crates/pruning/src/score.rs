//! Scores of weights: the higher, the more a weight deserves to stay or to grow.

use rand::Rng;

use crate::Random;
use crate::mask::Mask;

/// Scores by `|w|`.
pub fn magnitude(weights: &[f32]) -> Vec<f32> {
    weights.iter().map(|w| w.abs()).collect()
}

/// Scores by `|g|`.
///
/// # Panics
///
/// When there is no gradient, because the event did not set `dense_gradients`.
pub fn gradient(gradient: Option<&[f32]>) -> Vec<f32> {
    magnitude(gradient.expect("a score by gradient needs an event that sets `dense_gradients`"))
}

/// Scores by `|g w|`, the change of the loss to first order when the weight goes.
///
/// Namhoon Lee, Thalaiyasingam Ajanthan, Philip Torr: "SNIP: Single-shot Network Pruning based on Connection
/// Sensitivity" (2019), <https://arxiv.org/abs/1810.02340>. Differs from the paper: not divided by the sum over the
/// network, which changes no order.
///
/// # Panics
///
/// When there is no gradient, because the event did not set `dense_gradients`.
pub fn sensitivity(weights: &[f32], gradient: Option<&[f32]>) -> Vec<f32> {
    let gradient = gradient.expect("a score by gradient needs an event that sets `dense_gradients`");
    weights.iter().zip(gradient).map(|(w, g)| (w * g).abs()).collect()
}

/// Scores `n` weights by chance, evenly in `[0, 1)`.
pub fn random(n: usize, random: &mut Random) -> Vec<f32> {
    // The upper 24 bits are all that an f32 below 1 holds without rounding.
    (0..n).map(|_| (random.next_u32() >> 8) as f32 / (1 << 24) as f32).collect()
}

/// Scores by `w_u^2 / sum_{v >= u} w_v^2` over the kept weights of a layer in ascending order, so that layers compare.
///
/// Jaeho Lee, Sejun Park, Sangwoo Mo, Sungsoo Ahn, Jinwoo Shin: "Layer-adaptive Sparsity for the Magnitude-based
/// Pruning" (2021), <https://arxiv.org/abs/2010.07611>. The largest weight of a layer scores 1. A kept zero and a
/// removed weight score 0.
pub fn lamp(weights: &[f32], mask: &Mask) -> Vec<f32> {
    let square = |i: usize| if weights[i].is_nan() { 0.0 } else { f64::from(weights[i]).powi(2) };
    let mut descending: Vec<usize> = (0..weights.len()).filter(|&i| mask.get(i)).collect();
    // Of equal weights the lower index comes first here, and so scores higher.
    descending.sort_unstable_by(|&i, &j| square(j).total_cmp(&square(i)).then(i.cmp(&j)));
    let mut scores = vec![0.0; weights.len()];
    let mut sum = 0.0;
    for i in descending {
        sum += square(i);
        scores[i] = if sum > 0.0 { (square(i) / sum) as f32 } else { 0.0 };
    }
    scores
}

/// Divides scores by their mean over what is kept, so that groups of units compare.
pub fn relative(scores: &[f32], kept: &Mask) -> Vec<f32> {
    let sum: f64 = scores.iter().zip(kept.iter()).filter(|(_, kept)| *kept).map(|(score, _)| f64::from(*score)).sum();
    let mean = sum / kept.kept().max(1) as f64;
    // A group of zeros has nothing to compare.
    scores.iter().map(|score| if mean > 0.0 { (f64::from(*score) / mean) as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitude_forgets_the_sign() {
        assert_eq!(magnitude(&[0.5, -2.0, 0.0, -0.25]), [0.5, 2.0, 0.0, 0.25]);
        assert_eq!(gradient(Some(&[-1.0, 3.0, 0.0, -0.5])), [1.0, 3.0, 0.0, 0.5]);
    }

    #[test]
    fn sensitivity_needs_both_weight_and_gradient() {
        assert_eq!(sensitivity(&[2.0, -3.0, 0.0, 1.0], Some(&[0.5, 1.0, 9.0, 0.0])), [1.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn a_relative_score_of_one_is_the_mean_of_what_is_kept() {
        let kept = Mask::from_bools(vec![true, true, true, false]);
        assert_eq!(relative(&[1.0, 2.0, 3.0, 9.0], &kept), [0.5, 1.0, 1.5, 4.5]);
        assert_eq!(relative(&[0.0, 0.0, 0.0, 9.0], &kept), [0.0; 4]);
    }

    #[test]
    fn random_scores_repeat_with_their_stream() {
        let draw = |seed| random(4, &mut bonsai_random::stream(seed, "test", "score"));
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
        assert!(draw(0).iter().all(|score| (0.0..1.0).contains(score)));
    }

    #[test]
    fn the_largest_weight_of_a_layer_has_a_lamp_score_of_one() {
        assert_eq!(lamp(&[1.0, -2.0, 2.0, 4.0], &Mask::dense(4)), [1.0 / 25.0, 0.2, 4.0 / 24.0, 1.0]);
        assert_eq!(
            lamp(&[1.0, -2.0, 2.0, 4.0], &Mask::from_bools(vec![true, true, false, false])),
            [0.2, 1.0, 0.0, 0.0]
        );
        assert_eq!(lamp(&[0.0, f32::NAN, 0.0, 0.0], &Mask::dense(4)), [0.0; 4]);
    }
}
