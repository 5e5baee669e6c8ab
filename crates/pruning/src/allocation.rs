//! Shares the weights that a network keeps among its layers: whole numbers, within bounds, the total exact.

use serde::{Deserialize, Serialize};

use crate::graph::LayerSpec;
use crate::layer::Layer;
use crate::select;

/// How the weights that stay are shared among the layers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Allocation {
    /// The same sparsity in every layer.
    Uniform,
    /// As [`Allocation::Uniform`], but the first layer of the network stays dense where the total has room for it.
    UniformFirstDense,
    /// Erdős-Rényi-Kernel: layers with few inputs and outputs stay denser. See [`erk`].
    Erk,
    /// The highest scores of the whole network, wherever they are.
    Global,
    /// These densities, scaled together until the total is exact.
    Densities(Vec<f64>),
}

/// The choice of an allocation by a method that keeps random weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// [`Allocation::Erk`].
    #[default]
    Erk,
    /// [`Allocation::UniformFirstDense`], the "uniform" of the RigL paper.
    Uniform,
}

impl From<Spread> for Allocation {
    fn from(spread: Spread) -> Self {
        match spread {
            Spread::Erk => Allocation::Erk,
            Spread::Uniform => Allocation::UniformFirstDense,
        }
    }
}

/// What there is to share.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Weights to keep in the whole network, within the sums of `least` and `most`.
    pub kept: usize,
    /// The fewest weights that each layer keeps.
    pub least: Vec<usize>,
    /// The most weights that each layer can keep.
    pub most: Vec<usize>,
}

impl Allocation {
    /// Returns how many weights each layer keeps; the sum is `budget.kept`.
    pub fn budgets(&self, layers: &[Layer], scores: &[Vec<f32>], budget: &Budget) -> Vec<usize> {
        let sizes: Vec<usize> = layers.iter().map(|layer| layer.weights.len()).collect();
        let density = budget.kept as f64 / sizes.iter().sum::<usize>() as f64;
        let specs: Vec<&LayerSpec> = layers.iter().map(|layer| layer.spec).collect();
        let densities = match self {
            Allocation::Global => {
                let masks: Vec<_> = layers.iter().map(|layer| layer.mask).collect();
                return select::top_k_per_layer(scores, &masks, &budget.least, budget.kept);
            }
            Allocation::Uniform => vec![density; layers.len()],
            Allocation::UniformFirstDense => first_dense(&sizes, budget),
            Allocation::Erk => erk(&specs, density),
            Allocation::Densities(densities) => densities.clone(),
        };
        let ideal: Vec<f64> = sizes.iter().zip(densities).map(|(&n, density)| n as f64 * density).collect();
        share(&ideal, budget)
    }
}

/// Returns the densities of Erdős-Rényi-Kernel, `d_l = eps sum(shape_l) / prod(shape_l)`, at a density of the whole.
///
/// Utku Evci, Trevor Gale, Jacob Menick, Pablo Samuel Castro, Erich Elsen: "Rigging the Lottery: Making All Tickets
/// Winners" (2020), <https://arxiv.org/abs/1911.11134>. Layers that `eps` would fill beyond 1 are dense, and the rest
/// share what is left. Densities are real numbers as in GraNet's code; RigL's own rounds the counts of each layer first.
pub fn erk(layers: &[&LayerSpec], density: f64) -> Vec<f64> {
    let weights = |l: usize| layers[l].weights() as f64;
    let raw: Vec<f64> =
        layers.iter().map(|layer| layer.shape.iter().sum::<usize>() as f64 / layer.weights() as f64).collect();
    let mut dense = vec![false; layers.len()];
    loop {
        let (mut kept, mut divisor, mut highest) = (0.0, 0.0, 0.0f64);
        for l in 0..layers.len() {
            if dense[l] {
                kept -= weights(l) * (1.0 - density);
            } else {
                kept += weights(l) * density;
                divisor += raw[l] * weights(l);
                highest = highest.max(raw[l]);
            }
        }
        let eps = kept / divisor;
        if divisor == 0.0 || eps * highest <= 1.0 {
            return (0..layers.len()).map(|l| if dense[l] { 1.0 } else { eps * raw[l] }).collect();
        }
        for l in 0..layers.len() {
            dense[l] |= raw[l] == highest;
        }
    }
}

/// The first layer whole and the rest uniform, if the rest can still keep its least.
fn first_dense(sizes: &[usize], budget: &Budget) -> Vec<f64> {
    let rest: usize = sizes.iter().skip(1).sum();
    let first = sizes.first().copied().unwrap_or(0);
    if rest == 0 || budget.kept < first + budget.least.iter().skip(1).sum::<usize>() {
        return vec![budget.kept as f64 / (first + rest) as f64; sizes.len()];
    }
    let density = (budget.kept - first) as f64 / rest as f64;
    (0..sizes.len()).map(|l| if l == 0 { 1.0 } else { density }).collect()
}

/// Rounds ideal counts to whole ones by the largest remainder, after scaling them into the budget where they miss it.
fn share(ideal: &[f64], budget: &Budget) -> Vec<usize> {
    let bounds = || budget.least.iter().zip(&budget.most);
    // A tiny share instead of none lets scaling reach the total from any start.
    let bounded = |scale: f64| -> Vec<f64> {
        let bound = |(ideal, (&least, &most)): (&f64, (&usize, &usize))| {
            let ideal = if ideal.is_nan() { 1e-9 } else { ideal.clamp(1e-9, 1e12) };
            (ideal * scale).max(least as f64).min(most as f64)
        };
        ideal.iter().zip(bounds()).map(bound).collect()
    };
    let total = |counts: &[f64]| counts.iter().sum::<f64>();
    let kept = budget.kept as f64;
    let mut counts = bounded(1.0);
    if (total(&counts) - kept).abs() >= 1.0 {
        let (mut low, mut high) = (0.0, 1.0);
        while total(&bounded(high)) < kept && high < 1e20 {
            high *= 2.0;
        }
        for _ in 0..120 {
            let middle = (low + high) / 2.0;
            if total(&bounded(middle)) < kept { low = middle } else { high = middle }
        }
        counts = bounded(high);
    }
    let mut whole: Vec<usize> = counts.iter().map(|count| count.floor() as usize).collect();
    let mut order: Vec<usize> = (0..whole.len()).collect();
    order.sort_by(|&a, &b| counts[b].fract().total_cmp(&counts[a].fract()));
    round_to(&mut whole, &order, budget);
    whole
}

/// Adds or takes single weights, in `order` of the remainders, until the total is exact.
fn round_to(whole: &mut [usize], order: &[usize], budget: &Budget) {
    let mut sum: usize = whole.iter().sum();
    while sum != budget.kept {
        let before = sum;
        for &l in order {
            if sum < budget.kept && whole[l] < budget.most[l] {
                whole[l] += 1;
                sum += 1;
            }
        }
        for &l in order.iter().rev() {
            if sum > budget.kept && whole[l] > budget.least[l] {
                whole[l] -= 1;
                sum -= 1;
            }
        }
        assert_ne!(sum, before, "a budget of {} lies outside the bounds of its layers", budget.kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Kind;
    use proptest::prelude::*;

    fn budget(kept: usize, sizes: &[usize]) -> Budget {
        Budget { kept, least: vec![1; sizes.len()], most: sizes.to_vec() }
    }

    #[test]
    fn the_largest_remainder_gets_the_last_weight() {
        assert_eq!(share(&[2.5, 2.25, 2.75, 2.5], &budget(10, &[9, 9, 9, 9])), [3, 2, 3, 2]);
        assert_eq!(share(&[4.0, 4.0, 4.0, 4.0], &budget(16, &[9, 9, 9, 9])), [4, 4, 4, 4]);
    }

    #[test]
    fn what_a_full_layer_cannot_take_goes_to_the_others() {
        assert_eq!(share(&[9.0, 1.0, 1.0, 1.0], &budget(12, &[3, 9, 9, 9])), [3, 3, 3, 3]);
        assert_eq!(share(&[8.0, 0.0, 0.0, 4.0], &budget(12, &[9, 9, 9, 9])), [7, 1, 1, 3]);
    }

    #[test]
    fn the_first_layer_stays_dense_while_there_is_room() {
        let sizes = [4, 100, 100];
        assert_eq!(share(&[4.0, 8.0, 8.0], &budget(20, &sizes)), [4, 8, 8]);
        assert_eq!(first_dense(&sizes, &budget(20, &sizes)), [1.0, 0.08, 0.08]);
        assert_eq!(first_dense(&sizes, &budget(5, &sizes)), [5.0 / 204.0; 3]);
    }

    #[test]
    fn small_layers_stay_dense_under_erk() {
        let layer =
            |shape: &[usize]| LayerSpec { name: String::new(), kind: Kind::Conv, shape: shape.to_vec(), macs: 0 };
        let (small, large) = (layer(&[2, 2]), layer(&[10, 10]));
        // raw = 1 and 0.2; eps (4 * 1 + 100 * 0.2) = 104 * 0.25 gives eps > 1, so the small layer is dense.
        let densities = erk(&[&small, &large], 0.25);
        assert!((densities[0] - 1.0).abs() < 1e-12 && (densities[1] - 0.22).abs() < 1e-12, "{densities:?}");
        assert_eq!(erk(&[&small, &large], 1.0), [1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn totals_are_exact_and_bounds_are_kept(
            layers in prop::collection::vec((1usize..500, 0usize..3, prop_oneof![4 => 0.0f64..600.0, 1 => Just(f64::NAN), 1 => any::<f64>()]), 1..30),
            share_kept in 0.0f64..=1.0,
        ) {
            let most: Vec<usize> = layers.iter().map(|layer| layer.0).collect();
            let least: Vec<usize> = layers.iter().map(|layer| layer.1.min(layer.0)).collect();
            let (low, high) = (least.iter().sum::<usize>(), most.iter().sum::<usize>());
            let kept = low + ((high - low) as f64 * share_kept) as usize;
            let ideal: Vec<f64> = layers.iter().map(|layer| layer.2).collect();
            let whole = share(&ideal, &Budget { kept, least: least.clone(), most: most.clone() });
            prop_assert_eq!(whole.iter().sum::<usize>(), kept);
            prop_assert!(whole.iter().zip(least.iter().zip(&most)).all(|(n, (least, most))| n >= least && n <= most));
        }

        #[test]
        fn erk_reaches_its_density_with_densities_up_to_one(shapes in prop::collection::vec((1usize..64, 1usize..64, 1usize..4), 1..12), density in 0.0f64..=1.0) {
            let layers: Vec<LayerSpec> = shapes.iter().map(|&(o, i, k)| LayerSpec { name: String::new(), kind: Kind::Conv, shape: vec![o, i, k, k], macs: 0 }).collect();
            let specs: Vec<&LayerSpec> = layers.iter().collect();
            let densities = erk(&specs, density);
            let total: usize = layers.iter().map(LayerSpec::weights).sum();
            let kept: f64 = layers.iter().zip(&densities).map(|(layer, d)| layer.weights() as f64 * d).sum();
            prop_assert!((kept - total as f64 * density).abs() < 1e-6 * total as f64, "{} of {}", kept, total);
            prop_assert!(densities.iter().all(|d| (-1e-9..=1.0 + 1e-9).contains(d)));
        }
    }
}
