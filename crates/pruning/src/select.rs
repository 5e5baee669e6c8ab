//! Chooses the highest scores, exactly: a higher score goes first, of equal scores the lower index, and NaN goes last.
//!
//! Linear in the number of weights: the score at the border is found by selection, not by sorting.

use crate::mask::Mask;

/// Returns how many of `n` weights a sparsity keeps, rounded to the nearest whole number and ties to the even one.
pub fn count(n: usize, sparsity: f64) -> usize {
    // A float that is negative or NaN becomes 0.
    ((n as f64 * (1.0 - sparsity)).round_ties_even() as usize).min(n)
}

/// Keeps the `k` highest scores among the weights that `among` keeps, or all of those when they are fewer.
pub fn top_k(scores: &[f32], among: &Mask, k: usize) -> Mask {
    assert_eq!(scores.len(), among.len(), "one score per weight");
    let keys: Vec<u32> = scores.iter().zip(among.iter()).filter(|(_, kept)| *kept).map(|(s, _)| key(*s)).collect();
    let Some(border) = Border::of(keys, k) else { return among.clone() };
    let mut ties = border.ties;
    let kept =
        scores.iter().zip(among.iter()).map(|(score, candidate)| candidate && border.keeps(key(*score), &mut ties));
    Mask::from_bools(kept.collect())
}

/// Counts, per layer, the `k` highest scores of all layers together; of equal scores the earlier layer goes first.
///
/// Every layer is given its `least` highest scores before the rest compete.
pub fn top_k_per_layer(scores: &[Vec<f32>], among: &[&Mask], least: &[usize], k: usize) -> Vec<usize> {
    let counts = compete(scores, among, k);
    if counts.iter().zip(least).all(|(count, least)| count >= least) {
        return counts;
    }
    let rest: Vec<Mask> = scores
        .iter()
        .zip(among)
        .zip(least)
        .map(|((scores, among), &least)| without(among, &top_k(scores, among, least)))
        .collect();
    let counts = compete(scores, &rest.iter().collect::<Vec<_>>(), k.saturating_sub(least.iter().sum()));
    counts.iter().zip(least).map(|(count, least)| count + least).collect()
}

fn compete(scores: &[Vec<f32>], among: &[&Mask], k: usize) -> Vec<usize> {
    let layers = || scores.iter().zip(among);
    let mut keys = Vec::with_capacity(scores.iter().map(Vec::len).sum());
    for (scores, among) in layers() {
        keys.extend(scores.iter().zip(among.iter()).filter(|(_, kept)| *kept).map(|(score, _)| key(*score)));
    }
    let Some(border) = Border::of(keys, k) else { return among.iter().map(|among| among.kept()).collect() };
    let mut ties = border.ties;
    let count = |(scores, among): (&Vec<f32>, &&Mask)| {
        scores
            .iter()
            .zip(among.iter())
            .filter(|(score, candidate)| *candidate && border.keeps(key(**score), &mut ties))
            .count()
    };
    layers().map(count).collect()
}

fn without(all: &Mask, some: &Mask) -> Mask {
    Mask::from_bools(all.iter().zip(some.iter()).map(|(all, some)| all && !some).collect())
}

/// The lowest key that is kept, and how many weights with exactly that key are.
struct Border {
    key: u32,
    ties: usize,
}

impl Border {
    /// Finds the border of the `k` highest keys, or nothing when every key is kept.
    fn of(mut keys: Vec<u32>, k: usize) -> Option<Self> {
        if k >= keys.len() {
            return None;
        }
        if k == 0 {
            return Some(Self { key: u32::MAX, ties: 0 });
        }
        let (above, key, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        let key = *key;
        let higher = above.iter().filter(|above| **above > key).count();
        Some(Self { key, ties: k - higher })
    }

    fn keeps(&self, key: u32, ties: &mut usize) -> bool {
        let tie = key == self.key && *ties > 0;
        *ties -= usize::from(tie);
        key > self.key || tie
    }
}

/// Maps a score to a whole number of the same order, with NaN lowest and both zeros equal.
fn key(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    // Adding zero turns -0.0 into 0.0.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(mask: &Mask) -> Vec<usize> {
        (0..mask.len()).filter(|&i| mask.get(i)).collect()
    }

    #[test]
    fn highest_scores_are_kept_and_lower_indices_win_ties() {
        let all = Mask::dense(4);
        assert_eq!(kept(&top_k(&[0.1, 0.9, -3.0, 0.5], &all, 2)), [1, 3]);
        assert_eq!(kept(&top_k(&[1.0, 1.0, 1.0, 1.0], &all, 2)), [0, 1]);
        assert_eq!(kept(&top_k(&[-0.0, -0.0, 0.0, 0.0], &all, 2)), [0, 1]);
        assert_eq!(kept(&top_k(&[f32::NAN, f32::NEG_INFINITY, f32::NAN, -1.0], &all, 3)), [0, 1, 3]);
        assert_eq!(kept(&top_k(&[4.0, 3.0, 2.0, 1.0], &Mask::from_bools(vec![false, true, true, true]), 2)), [1, 2]);
        assert_eq!((kept(&top_k(&[1.0; 4], &all, 0)), kept(&top_k(&[1.0; 4], &all, 9))), (vec![], vec![0, 1, 2, 3]));
    }

    #[test]
    fn counts_round_to_the_nearest_weight() {
        assert_eq!([count(6, 0.5), count(3, 0.9), count(5, 0.5), count(7, 0.5)], [3, 0, 2, 4]);
        assert_eq!([count(4, f64::NAN), count(4, 7.0), count(4, -7.0), count(0, 0.5)], [0, 0, 4, 0]);
    }

    #[test]
    fn a_starved_layer_is_given_its_least_first() {
        let scores = [vec![9.0, 8.0, 7.0], vec![0.1, 0.2, 0.3]];
        let all = Mask::dense(3);
        assert_eq!(top_k_per_layer(&scores, &[&all, &all], &[0, 0], 3), [3, 0]);
        assert_eq!(top_k_per_layer(&scores, &[&all, &all], &[1, 1], 3), [2, 1]);
    }

    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![4 => (-3i8..4).prop_map(|x| f32::from(x) / 2.0), 1 => Just(f32::NAN), 1 => Just(-0.0), 1 => any::<f32>()]
    }

    /// Sorts as the rule says: by score downwards, NaN last, then by position.
    fn sorted(mut candidates: Vec<(f32, (usize, usize))>) -> Vec<(usize, usize)> {
        candidates.sort_by(|(a, i), (b, j)| {
            let by_score = b.partial_cmp(a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
            by_score.then(i.cmp(j))
        });
        candidates.into_iter().map(|(_, position)| position).collect()
    }

    proptest! {
        #[test]
        fn selection_agrees_with_a_sort(weights in prop::collection::vec((score(), any::<bool>()), 0..60), k in 0usize..70) {
            let (scores, among): (Vec<f32>, Vec<bool>) = weights.into_iter().unzip();
            let order = sorted((0..scores.len()).filter(|&i| among[i]).map(|i| (scores[i], (0, i))).collect());
            let mut expected: Vec<usize> = order.into_iter().take(k).map(|(_, i)| i).collect();
            expected.sort_unstable();
            prop_assert_eq!(kept(&top_k(&scores, &Mask::from_bools(among), k)), expected);
        }

        #[test]
        fn competing_layers_agree_with_a_sort(layers in prop::collection::vec(prop::collection::vec(score(), 2..20), 1..6), k in 0usize..80, least in 0usize..3) {
            let masks: Vec<Mask> = layers.iter().map(|scores| Mask::dense(scores.len())).collect();
            let total = layers.iter().map(Vec::len).sum::<usize>();
            let k = k.clamp(least * layers.len(), total);
            let order = sorted(layers.iter().enumerate().flat_map(|(l, scores)| scores.iter().enumerate().map(move |(i, s)| (*s, (l, i)))).collect());
            // First every layer's own best, then the best of the rest.
            let mut expected = vec![0; layers.len()];
            for &(layer, _) in &order {
                if expected[layer] < least { expected[layer] += 1; }
            }
            let mut passed = vec![0; layers.len()];
            let mut left = k - least * layers.len();
            for &(layer, _) in &order {
                passed[layer] += 1;
                if passed[layer] > least && left > 0 { expected[layer] += 1; left -= 1; }
            }
            let actual = top_k_per_layer(&layers, &masks.iter().collect::<Vec<_>>(), &vec![least; layers.len()], k);
            prop_assert_eq!(actual, expected);
        }
    }
}
