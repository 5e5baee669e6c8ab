//! The rules of published code where they differ from ours, kept apart so that our own stay simple.
//!
//! `granet-cifar` is `CIFAR/sparselearning/core.py` of <https://github.com/VITA-Group/GraNet>. Its counts miss ours:
//! it keeps what is *above* the k-th largest magnitude, so one weight less than k and none of those that tie with it,
//! and rounds the number of dropped weights up. No layer is protected from being emptied.

use crate::mask::Mask;

/// Keeps the weights above the k-th largest score of the whole network, `k = int(N (1 - sparsity))`.
pub(crate) fn prune(scores: &[Vec<f32>], masks: &[Mask], sparsity: f64) -> Vec<Mask> {
    // Removed weights are zeros in the code's tensors and are ranked with the others.
    let ranked: Vec<Vec<f32>> = scores.iter().zip(masks).map(|(scores, mask)| masked(scores, mask)).collect();
    let mut all: Vec<f32> = ranked.concat();
    let k = (all.len() as f64 * (1.0 - sparsity)) as usize;
    if k == 0 {
        return masks.iter().map(|mask| Mask::empty(mask.len())).collect();
    }
    let threshold = *all.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    ranked.iter().map(|scores| Mask::from_bools(scores.iter().map(|score| *score > threshold).collect())).collect()
}

/// Keeps the weights of a layer above the n-th smallest score of the kept ones, `n = ceil(share kept)`.
pub(crate) fn drop(scores: &[f32], mask: &Mask, share: f64) -> Mask {
    let ranked = masked(scores, mask);
    let mut kept: Vec<f32> =
        ranked.iter().zip(mask.iter()).filter(|(_, kept)| *kept).map(|(score, _)| *score).collect();
    let n = ((share * kept.len() as f64).ceil() as usize).min(kept.len());
    if n == 0 {
        return mask.clone();
    }
    let threshold = *kept.select_nth_unstable_by(n - 1, f32::total_cmp).1;
    Mask::from_bools(ranked.iter().zip(mask.iter()).map(|(score, kept)| kept && *score > threshold).collect())
}

fn masked(scores: &[f32], mask: &Mask) -> Vec<f32> {
    scores.iter().zip(mask.iter()).map(|(score, kept)| if kept && !score.is_nan() { *score } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(mask: &Mask) -> Vec<u8> {
        mask.iter().map(u8::from).collect()
    }

    #[test]
    fn one_weight_less_than_the_count_survives() {
        let masks = [Mask::dense(2), Mask::dense(2)];
        let pruned = prune(&[vec![0.4, 0.3], vec![0.2, 0.1]], &masks, 0.25);
        assert_eq!([bits(&pruned[0]), bits(&pruned[1])], [[1, 1], [0, 0]]);
    }

    #[test]
    fn ties_with_the_border_go_together() {
        assert_eq!(bits(&prune(&[vec![0.5, 0.2, 0.2, 0.2]], &[Mask::dense(4)], 0.25)[0]), [1, 0, 0, 0]);
        assert_eq!(bits(&drop(&[0.5, 0.2, 0.2, 0.4], &Mask::dense(4), 0.25)), [1, 0, 0, 1]);
    }

    #[test]
    fn the_number_of_dropped_weights_is_rounded_up() {
        assert_eq!(bits(&drop(&[0.5, 0.1, 0.2, 0.4], &Mask::dense(4), 0.3)), [1, 0, 0, 1]);
        assert_eq!(bits(&drop(&[0.5, 0.1, 0.2, 0.4], &Mask::empty(4), 0.3)), [0, 0, 0, 0]);
    }
}
