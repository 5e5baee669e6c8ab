//! Lists every mask event of a run before it is started, and what the run will cost.

use serde::Serialize;

use crate::clock::{Clock, Horizon};
use crate::engine::Engine;
use crate::mask::Mask;
use crate::scheduler::{Event, Start};

/// What a run will do to its masks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Every event in order; one at iteration 0 stands for initial masks that are not dense.
    pub events: Vec<PlannedEvent>,
    /// Multiply-accumulates of the whole training, relative to dense training.
    pub training_macs: f64,
    /// Prunable weights kept at the end.
    pub final_kept: u64,
    /// Prunable weights.
    pub total: u64,
}

/// One event of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedEvent {
    /// The optimizer step at which it happens, counted from 1; 0 is before training.
    pub iteration: u64,
    /// The epoch of that step, counted from 0.
    pub epoch: u64,
    /// The share of prunable weights removed after it.
    pub sparsity: f64,
    /// Prunable weights kept after it.
    pub kept: u64,
    /// Weights kept after it in each prunable layer.
    pub budgets: Vec<usize>,
    /// Whether the budgets depend on the weights, so that they are projected from the initial ones.
    pub projected: bool,
    /// The share of each layer's kept weights that it replaces.
    pub replace: Option<f64>,
    /// Multiply-accumulates for one image after it.
    pub macs: u64,
}

/// Runs an engine over the initial weights, without training, and leaves it as it was.
///
/// One training step counts as three passes, forward, data gradient and weight gradient; on steps whose event asks for
/// dense gradients the weight gradient is dense. Replacements keep the counts of every layer and are listed only.
///
/// # Example
///
/// ```
/// use bonsai_pruning::{Engine, Graph, Horizon, Kind, LayerSpec, Options, build, plan};
///
/// let horizon = Horizon { iterations_per_epoch: 100, epochs: 10 };
/// let table = "name = 'gmp'\nsparsity = 0.9\nend_epoch = 5\nevery = 100".parse().unwrap();
/// let (scheduler, _) = build(&table, horizon)?;
/// let layer = LayerSpec { name: "fc.weight".into(), kind: Kind::Linear, shape: vec![10, 100], macs: 1000 };
/// let graph = Graph { layers: vec![layer], parameters: 1000, fixed_macs: 0, ..Graph::default() };
/// let mut engine = Engine::new(&graph, scheduler, Options::default())?;
///
/// let plan = plan(&mut engine, horizon, |_| 0.1, &[vec![1.0; 1000]]);
/// assert_eq!(plan.events.iter().map(|event| event.kept).collect::<Vec<_>>(), [561, 294, 158, 107, 100]);
/// # Ok::<(), String>(())
/// ```
pub fn plan(engine: &mut Engine, horizon: Horizon, lr: impl Fn(u64) -> f64, weights: &[Vec<f32>]) -> Plan {
    let saved = engine.save();
    let mut weights = weights.to_vec();
    let mut events = Vec::new();
    engine.projected = false;
    engine.begin(&weights);
    if engine.scheduler().start() != Start::Dense {
        events.push(planned(engine, &Clock { iteration: 0, horizon, lr: lr(0) }, None));
    }
    let dense = u128::from(engine.dense_macs());
    let mut macs = 0;
    // Only an event changes what a step costs.
    let mut current = u128::from(engine.macs());
    for iteration in 1..=horizon.total() {
        let clock = Clock { iteration, horizon, lr: lr(iteration) };
        let due = engine.due(&clock);
        // The step is taken with the masks from before the event.
        let weight_gradient = if due.is_some_and(|event| event.dense_gradients) { dense } else { current };
        macs += 2 * current + weight_gradient;
        if let Some(event) = due {
            project(engine, &clock, event, &mut weights);
            current = u128::from(engine.macs());
            events.push(planned(engine, &clock, event.replace));
        }
    }
    let all_dense = 3 * dense * u128::from(horizon.total());
    let training_macs = if all_dense == 0 { 1.0 } else { macs as f64 / all_dense as f64 };
    let plan = Plan { events, training_macs, final_kept: engine.kept(), total: engine.total() };
    engine.load(saved).expect("a scheduler loads what it has just saved");
    plan
}

/// Prunes as an event says, without the replacement, whose outcome depends on the training.
fn project(engine: &mut Engine, clock: &Clock, event: Event, weights: &mut [Vec<f32>]) {
    if !event.removes() && !event.restore {
        return;
    }
    for (weights, mask) in weights.iter_mut().zip(engine.masks()) {
        zero_removed(weights, mask);
    }
    let gradients =
        event.dense_gradients.then(|| weights.iter().map(|weights| vec![0.0; weights.len()]).collect::<Vec<_>>());
    engine.apply(clock, &Event { replace: None, ..event }, weights, gradients.as_deref());
}

fn zero_removed(weights: &mut [f32], mask: &Mask) {
    for (weight, kept) in weights.iter_mut().zip(mask.iter()) {
        if !kept {
            *weight = 0.0;
        }
    }
}

fn planned(engine: &Engine, clock: &Clock, replace: Option<f64>) -> PlannedEvent {
    PlannedEvent {
        iteration: clock.iteration,
        epoch: clock.epoch(),
        sparsity: engine.sparsity(),
        kept: engine.kept(),
        budgets: engine.masks().iter().map(Mask::kept).collect(),
        projected: engine.projected,
        replace,
        macs: engine.macs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Kind, LayerSpec, Options, build};

    const RUN: Horizon = Horizon { iterations_per_epoch: 2, epochs: 4 };

    fn engine(table: &str, exclude: &[&str]) -> Engine {
        let layer = |name: &str, macs| LayerSpec { name: name.into(), kind: Kind::Linear, shape: vec![2, 5], macs };
        let graph = Graph {
            layers: vec![layer("a", 100), layer("b", 100)],
            parameters: 20,
            fixed_macs: 50,
            ..Graph::default()
        };
        let exclude = exclude.iter().map(|name| name.to_string()).collect();
        Engine::new(&graph, build(&table.parse().unwrap(), RUN).unwrap().0, Options { exclude, ..Options::default() })
            .unwrap()
    }

    fn weights(layers: usize) -> Vec<Vec<f32>> {
        (0..layers).map(|l| (0..10).map(|i| (i + 10 * l) as f32).collect()).collect()
    }

    #[test]
    fn dense_training_costs_what_it_costs() {
        let plan = plan(&mut engine("name = 'dense'", &[]), RUN, |_| 0.1, &weights(2));
        assert_eq!((plan.events.len(), plan.training_macs, plan.final_kept, plan.total), (0, 1.0, 20, 20));
    }

    #[test]
    fn excluded_and_fixed_costs_stay_dense() {
        // 250 dense; half of layer `a` stays from the start: 50 + 100 + 50 = 200.
        let plan = plan(&mut engine("name = 'static'\nsparsity = 0.5", &["b"]), RUN, |_| 0.1, &weights(1));
        assert_eq!((plan.training_macs, plan.events.len(), plan.events[0].macs), (0.8, 1, 200));
        assert_eq!(
            (plan.events[0].iteration, plan.events[0].projected, &plan.events[0].budgets[..]),
            (0, false, &[5][..])
        );
    }

    #[test]
    fn dense_gradients_make_one_of_three_passes_dense() {
        // Events at steps 2, 4 and 6 of 8, where the weight gradient costs 250 and not 150.
        let rigl = "name = 'rigl'\nsparsity = 0.5\nevery = 2\nend_epoch = 4";
        let plan = plan(&mut engine(rigl, &[]), RUN, |_| 0.1, &weights(2));
        assert_eq!(plan.events.iter().map(|event| event.iteration).collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!(plan.training_macs, (24.0 * 150.0 + 3.0 * 100.0) / (24.0 * 250.0));
    }

    #[test]
    fn global_budgets_are_projected_and_the_engine_is_left_as_it_was() {
        let granet = "name = 'granet'\nsparsity = 0.75\nend_epoch = 3\nevery = 2";
        let mut engine = engine(granet, &[]);
        let plan = plan(&mut engine, RUN, |_| 0.1, &weights(2));
        assert_eq!(plan.events.iter().map(|event| event.kept).collect::<Vec<_>>(), [9, 6, 5, 5]);
        assert_eq!(plan.events[2].budgets, [1, 4]);
        assert!(plan.events.iter().all(|event| event.projected && event.replace.is_some()));
        assert_eq!((engine.kept(), engine.observe().len()), (20, 0));
    }
}
