//! `bonsai bench`: times training steps on this machine.

mod breakdown;

use anyhow::Result;
use bonsai_training::bench::{StepTimes, at_sparsity, batch_preparation, calm_half, step_times};
use bonsai_training::experiment::{Experiment, Precision};
use bonsai_training::hardware::{self, git_revision, peak_memory};
use bonsai_training::trace::{Trace, trace};
use breakdown::{Breakdown, Layer, Peak};
use clap::ValueEnum;
use serde::Serialize;

use crate::device::{self, Choice, Chosen};
use crate::error::user;
use crate::experiments::Selection;
use crate::table::{Table, count, percent};
use crate::train::threads;

const EXAMPLES: &str = "\
Examples:
  bonsai bench cifar10-resnet20-granet
  bonsai bench cifar10-resnet20-granet --device wgpu --steps 30
  bonsai bench cifar10-resnet20-static --set model=vgg19 --sparsity 0,0.8,0.9,0.95 --threads 2
  bonsai bench cifar10-resnet20-static --sparsity 0.9 --device cpu --breakdown --layers
  bonsai bench shapes10-resnet20-dense --device wgpu --set batch_size=8 --steps 3 --sparsity 0 --trace

Medians over the steps. Without --sparsity: dense, and with the masks that the schedule ends at. Loading images is not
counted. `just bench` compares these figures with PyTorch's; BONSAI_KERNELS=burn times burn's own operations.";

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
    /// Time masks that never change, spread by ERK, at these sparsities instead of the schedule; 0 is dense
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = share)]
    sparsity: Vec<f64>,
    /// Show which parts of the step the time goes to, on the CPU
    #[arg(long)]
    breakdown: bool,
    /// Show the speed of each shape of convolution against the processor's peak, on the CPU
    #[arg(long)]
    layers: bool,
    /// Count the reads and kernels of a step without an event, and time its kernels
    #[arg(long)]
    trace: bool,
    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// A table to read.
    #[default]
    Table,
    /// One JSON object a line and sparsity, with the time of every step.
    Json,
}

/// One line of `--format json`; times in milliseconds, memory in bytes.
#[derive(Serialize)]
struct Line<'a> {
    experiment: &'a str,
    network: &'a str,
    precision: Precision,
    parameters: u64,
    batch_size: usize,
    device: &'a str,
    cpu: &'a str,
    revision: Option<&'a str>,
    threads: usize,
    sparsity: f64,
    forward_backward: f64,
    optimizer: f64,
    milliseconds: f64,
    images_per_second: f64,
    event: Option<f64>,
    steps: &'a [f64],
    /// Of the process so far: give one sparsity a call where it matters.
    peak_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    breakdown: Option<Breakdown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peaks: Option<&'a Vec<Peak>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<TraceLine>,
}

/// What a quiet step asks of its device.
#[derive(Serialize)]
struct TraceLine {
    reads: u64,
    launches: u64,
    /// Bytes that the device's allocator holds.
    device_memory: Option<u64>,
    /// Launches and milliseconds by kernel.
    kernels: Vec<(String, u64, f64)>,
}

impl TraceLine {
    fn new(trace: Trace) -> Self {
        let launches = trace.launches();
        let kernels = trace.kernels.into_iter().map(|one| (one.name, one.launches, one.milliseconds)).collect();
        Self { reads: trace.reads, launches, device_memory: trace.memory, kernels }
    }

    fn table(&self) -> String {
        let memory = self.device_memory.map_or(String::new(), |bytes| {
            format!(", and its allocator holds {} MB", count(bytes.div_ceil(1_000_000)))
        });
        let head = format!(
            "a step without an event reads {} tensors to the host and starts {} kernels{memory}",
            self.reads, self.launches
        );
        if self.kernels.is_empty() {
            return format!("{head}.\n");
        }
        let mut table = Table::new(&["<kernel", "launches", "ms"]);
        for (name, launches, ms) in &self.kernels {
            table.row(vec![name.clone(), launches.to_string(), format!("{ms:.2}")]);
        }
        format!("{head} (ms of each waited for):\n\n{}", table.render())
    }
}

/// Runs the command.
///
/// # Errors
///
/// A wrong experiment, an impossible sparsity or an absent device is a user's mistake.
pub fn run(args: Args) -> Result<String> {
    let experiment = args.selection.read()?;
    let variants = match args.sparsity.as_slice() {
        [] => vec![at_sparsity(experiment.clone(), 0.0), experiment.clone()],
        shares => shares.iter().map(|&share| at_sparsity(experiment.clone(), share)).collect(),
    };
    for variant in &variants {
        variant.check().map_err(user)?;
    }
    device::set_threads(args.threads)?;
    let chosen = device::choose(args.device)?;
    chosen.warn();
    let profiled = args.breakdown || args.layers;
    if profiled && chosen.name != device::flex().name {
        return Err(user("--breakdown and --layers look into the kernels of the CPU: add --device cpu"));
    }
    if let Some(warning) = experiment.warning(&chosen.device) {
        eprintln!("warning: {warning}");
    }
    let bench = Bench { args, experiment, variants, chosen };
    match bench.args.format {
        Format::Table => bench.table(),
        Format::Json => bench.lines(),
    }
}

/// What is timed, and how.
struct Bench {
    args: Args,
    experiment: Experiment,
    variants: Vec<Experiment>,
    chosen: Chosen,
}

impl Bench {
    fn time(&self, variant: &Experiment) -> Result<StepTimes> {
        let Args { steps, breakdown, layers, .. } = self.args;
        device::guarded(&self.chosen, variant.batch_size, "", || {
            step_times(variant, &self.chosen.device, steps as usize, breakdown || layers)
        })
    }

    fn trace(&self, variant: &Experiment) -> Result<Option<TraceLine>> {
        self.args.trace.then(|| trace(variant, &self.chosen.device).map(TraceLine::new)).transpose()
    }

    fn breakdown(&self, times: &StepTimes) -> Option<Breakdown> {
        let (profile, steps) = calm_half(times.profiles.clone()).filter(|_| self.args.breakdown)?;
        Some(Breakdown::new(&profile, steps, batch_preparation(&self.experiment)))
    }

    fn layers(&self, times: &StepTimes, peaks: &[Peak]) -> Option<Vec<Layer>> {
        let (profile, steps) = calm_half(times.profiles.clone()).filter(|_| self.args.layers)?;
        Some(Layer::of(&profile, steps, breakdown::in_use(peaks)))
    }

    fn peaks(&self) -> Vec<Peak> {
        if self.args.layers { Peak::measure() } else { Vec::new() }
    }

    fn table(&self) -> Result<String> {
        let Bench { experiment, chosen, .. } = self;
        let header = ["sparsity", "forward+backward", "optimizer+masks", "step", "images/s", "mask event"];
        let (mut table, mut parts) = (Table::new(&header), String::new());
        let peaks = self.peaks();
        for variant in &self.variants {
            let times = self.time(variant)?;
            table.row(vec![
                percent(times.sparsity),
                format!("{:.1}", times.forward_backward),
                format!("{:.1}", times.optimizer),
                format!("{:.1}", times.total()),
                format!("{:.1}", times.images_per_second()),
                times.event.map_or("-".to_string(), |event| format!("{event:.1}")),
            ]);
            let tables = [
                self.breakdown(&times).map(|breakdown| breakdown.table()),
                self.layers(&times, &peaks).map(|layers| breakdown::layer_table(&layers)),
                self.trace(variant)?.map(|trace| trace.table()),
            ];
            for text in tables.into_iter().flatten() {
                parts += &format!("\nSparsity {}, {text}", percent(times.sparsity));
            }
        }
        if !peaks.is_empty() {
            parts += &breakdown::peak_table(&peaks);
        }
        let memory = peak_memory().map_or(String::new(), |bytes| {
            format!("\nThe process held {} MB at most.\n", count(bytes.div_ceil(1_000_000)))
        });
        Ok(format!(
            "{} of {}, {}batch {}, on {}, {} threads: medians of {} steps, milliseconds\n\n{}{parts}{memory}",
            experiment.name,
            experiment.model,
            if experiment.precision == Precision::Bf16 { "bf16, " } else { "" },
            experiment.batch_size,
            chosen.name,
            rayon::current_num_threads(),
            self.args.steps,
            table.render(),
        ))
    }

    fn lines(&self) -> Result<String> {
        let chosen = &self.chosen;
        let (cpu, revision) = (hardware::detect(&chosen.name).cpu, git_revision());
        let peaks = self.peaks();
        let mut text = String::new();
        for variant in &self.variants {
            let times = self.time(variant)?;
            let line = Line {
                experiment: &variant.name,
                network: &variant.model,
                precision: variant.precision,
                parameters: variant.architecture().graph().map_err(user)?.parameters,
                batch_size: times.batch_size,
                device: &chosen.name,
                cpu: &cpu,
                revision: revision.as_deref(),
                threads: rayon::current_num_threads(),
                sparsity: times.sparsity,
                forward_backward: times.forward_backward,
                optimizer: times.optimizer,
                milliseconds: times.total(),
                images_per_second: times.images_per_second(),
                event: times.event,
                steps: &times.steps,
                peak_memory: peak_memory(),
                breakdown: self.breakdown(&times),
                layers: self.layers(&times, &peaks),
                peaks: self.args.layers.then_some(&peaks),
                trace: self.trace(variant)?,
            };
            text += &serde_json::to_string(&line)?;
            text.push('\n');
        }
        Ok(text)
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("a share of the weights is needed, from 0 to less than 1, as in 0.9".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_less_than_one() {
        assert_eq!(share("0.95"), Ok(0.95));
        assert_eq!(share("0"), Ok(0.0));
        for wrong in ["1", "90", "-0.1", "nan", "90%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
