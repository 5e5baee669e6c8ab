//! `bonsai bench`: times training steps on this machine.

use anyhow::Result;
use bonsai_training::bench::{StepTimes, step_times};

use crate::device::{self, Choice};
use crate::experiments::Selection;
use crate::table::percent;
use crate::train::threads;

const EXAMPLES: &str = "\
Examples:
  bonsai bench cifar10-resnet20-granet
  bonsai bench cifar10-resnet20-granet --device wgpu --steps 30

Medians over the steps, with the masks that the schedule ends at and without any. Loading images is not counted.";

/// Time training steps on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Where the network runs
    #[arg(long, value_enum, default_value_t)]
    device: Choice,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    steps: u64,
    /// Threads of the CPU kernels; all cores if absent
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
}

/// Runs the command.
///
/// # Errors
///
/// A wrong experiment or an absent device is a user's mistake.
pub fn run(args: Args) -> Result<String> {
    let experiment = args.selection.read()?;
    device::set_threads(args.threads)?;
    let chosen = device::choose(args.device)?;
    let mut dense = experiment.clone();
    dense.scheduler = toml::Table::from_iter([("name".to_string(), "dense".into())]);

    let mut text = format!(
        "{} of {}, batch {}, on {}: medians of {} steps, milliseconds\n\n",
        experiment.name, experiment.model, experiment.batch_size, chosen.name, args.steps
    );
    text += "sparsity  forward+backward  optimizer+masks     step  images/s  mask event\n";
    for experiment in [&dense, &experiment] {
        text += &row(&step_times(experiment, &chosen.device, args.steps as usize)?);
    }
    Ok(text)
}

fn row(times: &StepTimes) -> String {
    let event = times.event.map_or("-".to_string(), |event| format!("{event:.1}"));
    format!(
        "{:>8}  {:>16.1}  {:>15.1}  {:>7.1}  {:>8.1}  {event:>10}\n",
        percent(times.sparsity),
        times.forward_backward,
        times.optimizer,
        times.total(),
        times.images_per_second(),
    )
}
