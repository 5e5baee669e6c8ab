//! `bonsai plan`: shows every mask event of an experiment before a run is started.

use std::fmt::Write;

use anyhow::Result;
use bonsai_models::Network;
use bonsai_pruning::graph::LayerSpec;
use bonsai_pruning::plan::{Plan, PlannedEvent, plan};
use bonsai_training::experiment::Experiment;
use bonsai_training::parameters;

use crate::device;
use crate::error::user;
use crate::experiments::Selection;
use crate::runs;
use crate::table::{Table, count, counted, percent};

const EXAMPLES: &str = "\
Examples:
  bonsai plan cifar10-resnet20-granet
  bonsai plan cifar10-resnet20-gmp --set scheduler.sparsity=0.95 --layers
  bonsai plan cifar10-resnet20-granet-short --epochs 2

The counts of the whole network are exact. Layers marked ~ are projected: which layer loses how much depends on the
weights, and a plan knows only the initial ones. A layer marked floor keeps no more than it must: the share that floor
in [scheduler] sets, and one weight at least.";

/// Show every mask event of an experiment before a run is started.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Show the budget of every layer at every event
    #[arg(long)]
    layers: bool,
}

/// Runs the command.
///
/// # Errors
///
/// A user's mistake: no such experiment, or something in it is wrong.
pub fn run(args: Args) -> Result<String> {
    let experiment = args.selection.read()?;
    let (Planned { layers, least, target, plan }, _) = planned(&experiment)?;
    let horizon = experiment.horizon(experiment.records());
    let mut text = format!(
        "{}: {} on {}, scheduler {}, {} of {} = {}, seed {}\n\n",
        experiment.name,
        experiment.model,
        experiment.data,
        experiment.scheduler_name(),
        counted(horizon.epochs, "epoch"),
        counted(horizon.iterations_per_epoch, "iteration"),
        counted(horizon.total(), "iteration"),
        experiment.seed,
    );
    if plan.events.is_empty() {
        let _ = writeln!(
            text,
            "No mask event: all {} prunable weights stay, and training takes all MACs of a dense one",
            count(plan.total)
        );
        return Ok(text);
    }
    text += &events(&layers, &plan);
    if args.layers {
        for event in &plan.events {
            let _ = write!(text, "\nIteration {}\n{}", event.iteration, budgets(&layers, &least, event));
        }
    } else if let Some(last) = plan.events.last() {
        let _ = write!(text, "\nLayers after the last event\n{}", budgets(&layers, &least, last));
    }
    let kept = plan.final_kept as f64 / plan.total as f64;
    let projected = plan.events.iter().any(|event| event.projected);
    let _ = write!(
        text,
        "\n{}; {} of {} prunable weights stay: sparsity {:.4} %\nTraining takes {}{:.4} of the MACs of a dense one\n",
        counted(plan.events.len() as u64, "event"),
        count(plan.final_kept),
        count(plan.total),
        100.0 * (1.0 - kept),
        if projected { "~" } else { "" },
        plan.training_macs,
    );
    if let Some(sentence) = target.and_then(|target| runs::missed(plan.final_kept, plan.total, target)) {
        let _ = writeln!(text, "{sentence}");
    }
    if projected {
        text += "~ is projected from the initial weights: which layer loses how much depends on the trained ones\n";
    }
    Ok(text)
}

/// A plan and what it is read with.
pub(crate) struct Planned {
    layers: Vec<LayerSpec>,
    /// The fewest weights that each layer keeps.
    least: Vec<u64>,
    /// The sparsity that the scheduler aims at; methods that remove channels aim at a cost instead.
    target: Option<f64>,
    pub(crate) plan: Plan,
}

/// Plans an experiment from its initial weights, and returns the network that has them.
pub(crate) fn planned(experiment: &Experiment) -> Result<(Planned, Network)> {
    let records = experiment.records();
    let horizon = experiment.horizon(records);
    let mut engine = experiment.engine(records).map_err(user)?;
    let network = Network::new(&experiment.architecture(), experiment.seed, &device::flex().device).map_err(user)?;
    let layers = engine.layers().to_vec();
    let weights = parameters::weights(&network, &layers);
    let rate = experiment.learning_rate(horizon);
    // An iteration is counted from 1, the rates from 0.
    let plan = plan(&mut engine, horizon, |iteration| rate.at(iteration.saturating_sub(1)), &weights);
    let (_, common) = experiment.build_scheduler(horizon).map_err(user)?;
    let least = layers.iter().map(|layer| ((common.floor * layer.weights() as f64).ceil() as u64).max(1)).collect();
    let target = engine.groups().next().is_none().then(|| engine.scheduler().target());
    Ok((Planned { layers, least, target, plan }, network))
}

/// One line an event: counts of the whole network, and the sparsest and densest layer.
fn events(layers: &[LayerSpec], plan: &Plan) -> String {
    let mut table =
        Table::new(&["iteration", "epoch", "sparsity", "kept", "MACs", "replaced", "densest layer", "sparsest layer"]);
    for event in &plan.events {
        let mark = if event.projected { "~" } else { "" };
        let removed = |(layer, &kept): (&LayerSpec, &usize)| 1.0 - kept as f64 / layer.weights() as f64;
        let shares: Vec<f64> = layers.iter().zip(&event.budgets).map(removed).collect();
        let extreme = |pick: fn(f64, f64) -> f64| {
            shares.iter().copied().reduce(pick).map_or_else(String::new, |share| format!("{mark}{}", percent(share)))
        };
        table.row(vec![
            event.iteration.to_string(),
            // Before the first step, no epoch has begun.
            if event.iteration == 0 { String::new() } else { (event.epoch + 1).to_string() },
            percent(event.sparsity),
            count(event.kept),
            format!("{mark}{}", count(event.macs)),
            event.replace.map_or_else(String::new, percent),
            extreme(f64::min),
            extreme(f64::max),
        ]);
    }
    table.render()
}

/// The budget of every layer after an event.
fn budgets(layers: &[LayerSpec], least: &[u64], event: &PlannedEvent) -> String {
    let mark = if event.projected { "~" } else { "" };
    let mut table = Table::new(&["<layer", "weights", "kept", "sparsity", "<"]);
    for ((layer, &kept), &least) in layers.iter().zip(&event.budgets).zip(least) {
        let weights = layer.weights();
        table.row(vec![
            layer.name.clone(),
            count(weights as u64),
            format!("{mark}{}", count(kept as u64)),
            percent(1.0 - kept as f64 / weights as f64),
            if kept == 0 {
                "empty"
            } else if kept as u64 <= least {
                "floor"
            } else {
                ""
            }
            .to_string(),
        ]);
    }
    table.render()
}
