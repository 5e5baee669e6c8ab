//! A training run that has only weights, moments and masks.

use bonsai_pruning::{Change, Clock, Engine, EngineState, LayerSpec, Mask, Rules};

use crate::contract::{Contract, Variant, sparsity_after};
use crate::network::{RUN, TIES, ZEROS, noise};

pub(crate) struct Training {
    engine: Engine,
    weights: Vec<Vec<f32>>,
    moments: Vec<Vec<f32>>,
    done: u64,
}

impl Training {
    pub(crate) fn start(mut engine: Engine) -> Self {
        let value = |layer: &LayerSpec, i| match layer.name.as_str() {
            ZEROS => 0.0,
            TIES => (noise(0, TIES, i) * 3.0).round() / 10.0,
            name => noise(0, name, i),
        };
        let mut weights: Vec<Vec<f32>> =
            engine.layers().iter().map(|layer| (0..layer.weights()).map(|i| value(layer, i)).collect()).collect();
        let change = engine.begin(&weights);
        for (weights, layer) in weights.iter_mut().zip(&change.layers) {
            multiply(weights, &layer.retained);
        }
        let moments = weights.iter().map(|weights| vec![0.0; weights.len()]).collect();
        Self { engine, weights, moments, done: 0 }
    }

    /// Takes one step and checks what its event promises.
    fn step(&mut self, contract: &Contract, least: &[usize]) {
        self.done += 1;
        let clock = Clock { iteration: self.done, horizon: RUN, lr: 0.1 };
        self.train();
        let event = self.engine.due(&clock);
        assert_eq!(event, self.engine.due(&clock), "`due` must follow from the clock alone");
        let promised = contract.promise(self.done, event.as_ref());
        assert_eq!(
            event.map(|event| (sparsity_after(&event).is_some(), event.replace.is_some())),
            promised.map(|promise| (promise.sparsity.is_some(), promise.replaces)),
            "whether iteration {} prunes or replaces",
            self.done
        );
        let (Some(event), Some(promise)) = (event, promised) else { return };
        let near = |asked: f64| (asked - promise.sparsity.unwrap_or(f64::NAN)).abs() < 1e-12;
        assert!(sparsity_after(&event).is_none_or(near), "at {}: {event:?}", self.done);

        let before = self.engine.masks().to_vec();
        let gradients = self.gradients();
        let change = self.engine.apply(&clock, &event, &self.weights, event.dense_gradients.then_some(&gradients[..]));
        for (l, layer) in change.layers.iter().enumerate() {
            multiply(&mut self.weights[l], &layer.retained);
            multiply(&mut self.moments[l], &layer.retained);
        }
        self.check(&before, &change, promise.sparsity, least);
        let grown: usize = change.layers.iter().map(|layer| layer.grown).sum();
        assert!(contract.may_grow() || grown == 0, "{grown} weights return at {}", self.done);
    }

    fn train(&mut self) {
        for ((layer, mask), (weights, moments)) in
            self.engine.layers().iter().zip(self.engine.masks()).zip(self.weights.iter_mut().zip(&mut self.moments))
        {
            for i in (0..mask.len()).filter(|&i| mask.get(i)) {
                let step = noise(self.done, &layer.name, i);
                match layer.name.as_str() {
                    ZEROS => {}
                    TIES => weights[i] += step.round() / 10.0,
                    _ => weights[i] += step / 10.0,
                }
                moments[i] += 1.0;
            }
        }
    }

    /// Gradients with many ties and, in one layer, without a single value.
    fn gradients(&self) -> Vec<Vec<f32>> {
        let gradient =
            |name: &str, i| if name == "tiny" { 0.0 } else { (noise(self.done + 1000, name, i) * 4.0).round() };
        self.engine
            .layers()
            .iter()
            .map(|layer| (0..layer.weights()).map(|i| gradient(&layer.name, i)).collect())
            .collect()
    }

    fn check(&self, before: &[Mask], change: &Change, sparsity: Option<f64>, least: &[usize]) {
        let total: usize = before.iter().map(Mask::len).sum();
        let kept: usize = change.layers.iter().map(|layer| layer.kept).sum();
        let exact = self.engine.scheduler().rules() == Rules::Exact;
        assert_eq!((kept as u64, total as u64), (self.engine.kept(), self.engine.total()));
        assert_eq!(change.sparsity, 1.0 - kept as f64 / total as f64);
        match sparsity {
            Some(sparsity) if exact => assert_eq!(kept, promised_count(total, sparsity, least), "at {}", self.done),
            Some(sparsity) => assert!(kept < (total as f64 * (1.0 - sparsity)) as usize, "at {}", self.done),
            None => assert_eq!(kept, before.iter().map(Mask::kept).sum::<usize>(), "at {}", self.done),
        }
        for (l, layer) in change.layers.iter().enumerate() {
            let (before, after) = (&before[l], &self.engine.masks()[l]);
            assert_eq!((after.len(), after.kept()), (before.len(), layer.kept));
            assert_eq!(before.kept() + layer.grown - layer.pruned, layer.kept);
            assert!(!exact || layer.kept >= least[l], "{} keeps {}", layer.name, layer.kept);
            assert!(sparsity.is_some() || layer.pruned == layer.grown);
            for i in 0..after.len() {
                let retained = layer.retained.get(i);
                assert!(!retained || before.get(i) && after.get(i), "what is retained was kept before and is now");
                let zero = self.weights[l][i] == 0.0 && self.moments[l][i] == 0.0;
                assert!(after.get(i) || zero, "what is removed is zero");
                assert!(before.get(i) || zero, "what grows starts at zero");
            }
        }
    }
}

/// Trains to the end, through JSON after the iterations in `interrupted`.
pub(crate) fn train(
    contract: &Contract,
    seed: u64,
    variant: Variant,
    interrupted: &[u64],
) -> (Vec<Mask>, Vec<Vec<f32>>) {
    let mut training = contract.start(seed, variant);
    let least = least(&training.engine, variant.0);
    for iteration in 1..=RUN.total() {
        training.step(contract, &least);
        if interrupted.contains(&iteration) {
            let text = serde_json::to_string(&training.engine.save()).expect("a state is plain JSON");
            let state: EngineState = serde_json::from_str(&text).expect("a state that was written is read");
            let mut fresh = contract.engine(seed, variant);
            fresh.load(state).unwrap_or_else(|error| panic!("a scheduler must load what it has saved: {error}"));
            assert_eq!(fresh.masks(), training.engine.masks());
            assert_eq!(fresh.observe(), training.engine.observe(), "figures after loading");
            training.engine = fresh;
        }
    }
    (training.engine.masks().to_vec(), training.weights)
}

fn multiply(values: &mut [f32], mask: &Mask) {
    for (value, kept) in values.iter_mut().zip(mask.iter()) {
        *value *= f32::from(u8::from(kept));
    }
}

pub(crate) fn promised_count(total: usize, sparsity: f64, least: &[usize]) -> usize {
    ((total as f64 * (1.0 - sparsity)).round_ties_even() as usize).max(least.iter().sum())
}

pub(crate) fn least(engine: &Engine, floor: f64) -> Vec<usize> {
    engine.layers().iter().map(|layer| ((layer.weights() as f64 * floor).ceil() as usize).max(1)).collect()
}
