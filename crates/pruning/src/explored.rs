//! Counts the weights that were ever kept.
//!
//! Liu et al., "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse Training", ICML 2021: the rate
//! of in-time over-parameterization is the share of weights that were part of the network at some time.

use crate::engine::Engine;
use crate::mask::Mask;
use crate::scheduler::Start;

impl Engine {
    /// Returns the share of prunable weights that were ever kept; `None` where it is not followed.
    ///
    /// A network that starts dense has tried all weights, so only sparse starts are followed.
    pub fn explored(&self) -> Option<f64> {
        if self.explored.is_empty() {
            return None;
        }
        let ever: usize = self.explored.iter().map(Mask::kept).sum();
        Some(ever as f64 / self.total() as f64)
    }

    /// Counts the units, over all layers, none of whose weights is kept; `None` where the method removes whole channels.
    pub fn dead_units(&self) -> Option<u64> {
        if self.units.is_some() {
            return None;
        }
        let dead = |(layer, mask): (&crate::LayerSpec, &Mask)| {
            let width = layer.width();
            (0..layer.units()).filter(|unit| (unit * width..(unit + 1) * width).all(|weight| !mask.get(weight))).count()
                as u64
        };
        Some(self.layers.iter().zip(&self.masks).map(dead).sum())
    }

    /// Begins to follow the weights, where the method starts sparse.
    pub(crate) fn begin_exploring(&mut self) {
        let follows = self.units.is_none() && self.scheduler.start() != Start::Dense;
        self.explored = if follows { self.masks.clone() } else { Vec::new() };
    }

    /// Adds the weights that are kept now.
    pub(crate) fn explore(&mut self) {
        for (ever, mask) in self.explored.iter_mut().zip(&self.masks) {
            for (weight, _) in mask.iter().enumerate().filter(|(_, kept)| *kept) {
                ever.set(weight, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Clock, Engine, Graph, Horizon, Kind, LayerSpec, Options, build};
    use std::collections::BTreeSet;

    fn engine(table: &str) -> Engine {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 10 };
        let (scheduler, _) = build(&table.parse().unwrap(), horizon).unwrap();
        let layer = |name: &str| LayerSpec { name: name.into(), kind: Kind::Linear, shape: vec![10, 20], macs: 200 };
        let graph = Graph { layers: vec![layer("a"), layer("b")], parameters: 400, ..Graph::default() };
        Engine::new(&graph, scheduler, Options::default()).unwrap()
    }

    #[test]
    fn explored_weights_are_those_of_all_masks_together_and_survive_a_checkpoint() {
        let table = "name = 'set'\nsparsity = 0.8\nevery = 10";
        let mut engine = engine(table);
        assert_eq!(engine.explored(), None);
        let weights: Vec<Vec<f32>> =
            (0..2).map(|layer| (0..200).map(|i| ((i * 37 + layer) % 101) as f32 - 50.0).collect()).collect();
        engine.begin(&weights);
        let mut ever = BTreeSet::new();
        let mut note = |engine: &Engine| {
            for (layer, mask) in engine.masks().iter().enumerate() {
                ever.extend(mask.iter().enumerate().filter(|(_, kept)| *kept).map(|(weight, _)| (layer, weight)));
            }
            ever.len() as f64 / 400.0
        };
        assert_eq!(engine.explored(), Some(note(&engine)));
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 10 };
        for iteration in 1..=60 {
            let clock = Clock { iteration, horizon, lr: 0.1 };
            if let Some(event) = engine.due(&clock) {
                engine.apply(&clock, &event, &weights, None);
                // Half way, another engine goes on from what a checkpoint holds.
                let saved = engine.save();
                engine = self::engine(table);
                engine.load(saved).unwrap();
            }
            assert_eq!(engine.explored(), Some(note(&engine)), "{iteration}");
        }
        assert!(engine.explored().unwrap() > 0.3);
        let mut older = engine.save();
        older.explored.clear();
        engine.load(older).unwrap();
        assert_eq!(engine.explored(), None, "what was not followed from the start is not known");
    }

    #[test]
    fn a_dense_start_is_not_followed_and_dead_units_are_counted() {
        let mut engine = engine("name = 'gmp'\nsparsity = 0.9\nend_epoch = 5\nevery = 10");
        engine.begin(&[vec![1.0; 200], vec![1.0; 200]]);
        assert_eq!((engine.explored(), engine.dead_units()), (None, Some(0)));
        let mut masks = engine.masks().to_vec();
        (20..40).for_each(|weight| masks[1].set(weight, false));
        masks[0].set(0, false);
        engine.set_masks(masks).unwrap();
        assert_eq!(engine.dead_units(), Some(1));
    }
}
