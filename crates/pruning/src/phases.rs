//! The two phases of an event, pruning and replacing, as the engine carries them out.

use bonsai_random::stream;

use crate::allocation::{self, Allocation, Budget};
use crate::engine::Engine;
use crate::graph::LayerSpec;
use crate::layer::Layer;
use crate::mask::Mask;
use crate::scheduler::Rules;
use crate::{Random, compat, score, select};

impl Engine {
    /// Removes the lowest scores until a sparsity is reached; what is removed already stays so.
    pub(crate) fn prune(
        &mut self,
        iteration: u64,
        sparsity: f64,
        weights: &[Vec<f32>],
        gradients: Option<&[Vec<f32>]>,
    ) {
        let views = views(&self.layers, weights, gradients, &self.masks);
        let scores: Vec<Vec<f32>> = views
            .iter()
            .map(|layer| self.scheduler.score(layer, &mut random(self.seed, "score", layer.spec, iteration)))
            .collect();
        self.masks = match self.scheduler.rules() {
            Rules::GranetCifar => {
                self.projected = true;
                compat::prune(&scores, &self.masks, sparsity)
            }
            Rules::Exact => {
                let allocation = self.scheduler.allocate(&views);
                self.projected = matches!(allocation, Allocation::Global | Allocation::Densities(_));
                self.cut(&views, &scores, sparsity, allocation)
            }
        };
    }

    /// Keeps random weights.
    pub(crate) fn scatter(&mut self, sparsity: f64, allocation: Allocation, weights: &[Vec<f32>]) {
        let draw = |layer: &LayerSpec| score::random(layer.weights(), &mut random(self.seed, "start", layer, 0));
        let scores: Vec<Vec<f32>> = self.layers.iter().map(draw).collect();
        self.masks = match self.scheduler.rules() {
            Rules::GranetCifar => {
                let densities = allocation::erk(&self.layers.iter().collect::<Vec<_>>(), 1.0 - sparsity);
                let keep = |(scores, density): (Vec<f32>, f64)| {
                    scores.iter().map(|score| f64::from(*score) < density).collect()
                };
                scores.into_iter().zip(densities).map(keep).map(Mask::from_bools).collect()
            }
            Rules::Exact => self.cut(&views(&self.layers, weights, None, &self.masks), &scores, sparsity, allocation),
        };
    }

    /// Keeps the highest scores of every layer, as many as its budget.
    fn cut(&self, views: &[Layer], scores: &[Vec<f32>], sparsity: f64, allocation: Allocation) -> Vec<Mask> {
        let allocation = match allocation {
            Allocation::UniformFirstDense if !self.has_first => Allocation::Uniform,
            other => other,
        };
        let most: Vec<usize> = self.masks.iter().map(Mask::kept).collect();
        let least: Vec<usize> = self.least.iter().zip(&most).map(|(&least, &most)| least.min(most)).collect();
        let kept = select::count(self.total() as usize, sparsity).max(least.iter().sum()).min(most.iter().sum());
        let budgets = allocation.budgets(views, scores, &Budget { kept, least, most });
        scores.iter().zip(&self.masks).zip(budgets).map(|((scores, mask), k)| select::top_k(scores, mask, k)).collect()
    }

    /// Drops the lowest scores of each layer, grows as many of its removed weights, and returns those that stayed.
    pub(crate) fn replace(
        &mut self,
        iteration: u64,
        share: f64,
        keep_regrown: bool,
        weights: &[Vec<f32>],
        gradients: Option<&[Vec<f32>]>,
    ) -> Vec<Mask> {
        let rules = self.scheduler.rules();
        let mut all_stayed = Vec::new();
        let mut after = Vec::new();
        for layer in views(&self.layers, weights, gradients, &self.masks) {
            let scores = self.scheduler.score(&layer, &mut random(self.seed, "score", layer.spec, iteration));
            let stayed = match rules {
                Rules::GranetCifar => compat::drop(&scores, layer.mask, share),
                Rules::Exact => leave(&scores, layer.mask, share, keep_regrown),
            };
            let count = layer.mask.kept() - stayed.kept();
            // What was just dropped competes with the others for growth.
            let removed = Mask::from_bools(stayed.iter().map(|kept| !kept).collect());
            let growth = self.scheduler.grow_score(&layer, &mut random(self.seed, "grow", layer.spec, iteration));
            let grown = select::top_k(&growth, &removed, count);
            after.push(Mask::from_bools(
                stayed.iter().zip(grown.iter()).map(|(stayed, grown)| stayed || grown).collect(),
            ));
            all_stayed.push(stayed);
        }
        self.masks = after;
        all_stayed
    }
}

/// Keeps all but the lowest scores of a layer.
fn leave(scores: &[f32], mask: &Mask, share: f64, keep_regrown: bool) -> Mask {
    let kept = mask.kept();
    let count = (kept as f64 * share).round_ties_even() as usize;
    // Beyond the number of other places, a dropped weight would only come back as zero.
    let count = if keep_regrown { count.min(kept) } else { count.min(kept).min(mask.len() - kept) };
    select::top_k(scores, mask, kept - count)
}

fn views<'a>(
    layers: &'a [LayerSpec],
    weights: &'a [Vec<f32>],
    gradients: Option<&'a [Vec<f32>]>,
    masks: &'a [Mask],
) -> Vec<Layer<'a>> {
    let view = |(l, spec): (usize, &'a LayerSpec)| Layer {
        spec,
        weights: &weights[l][..],
        gradient: gradients.map(|all| &all[l][..]),
        mask: &masks[l],
    };
    layers.iter().enumerate().map(view).collect()
}

fn random(seed: u64, purpose: &str, layer: &LayerSpec, iteration: u64) -> Random {
    stream(seed, &format!("mask {purpose}"), format!("{} at {iteration}", layer.name))
}
