//! Where a step's time goes, part by part and convolution by convolution, as tables and as JSON.

use std::time::Duration;

use bonsai_kernels::Precision;
use bonsai_kernels::peak::{bf16_flops, flops};
use bonsai_kernels::profile::{Convolutions, Direction, Part, Profile, Work};
use bonsai_kernels::simd::Level;
use serde::Serialize;

use crate::table::{Table, percent};

/// The parts of a step, which add up to it.
#[derive(Serialize)]
pub struct Breakdown {
    /// The mean of a recorded step, in milliseconds.
    milliseconds: f64,
    parts: Vec<PartTime>,
    /// Milliseconds of one thread to prepare a batch, which happens beside the steps.
    batch_preparation: f64,
}

#[derive(Serialize)]
struct PartTime {
    name: &'static str,
    /// The time of all threads, divided by their number.
    milliseconds: f64,
}

/// Convolutions of one shape.
#[derive(Serialize)]
pub struct Layer {
    /// Channels, height and width of an input.
    input: [usize; 3],
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    sparse: bool,
    precision: Precision,
    /// How many such convolutions a step has.
    count: f64,
    forward: Speed,
    data_gradient: Speed,
    weight_gradient: Speed,
}

#[derive(Serialize)]
struct Speed {
    /// Of a step, as in [`PartTime`].
    milliseconds: f64,
    /// Of a thread, counting executed multiply-accumulates as two operations.
    gflops: f64,
    /// The share of the peak of a thread, in the layer's precision.
    peak: f64,
}

/// The most multiply-accumulates that the processor was seen to do.
#[derive(Serialize)]
pub struct Peak {
    level: String,
    /// Whether the kernels use these instructions.
    in_use: bool,
    threads: usize,
    /// 10⁹ operations a second of one thread alone.
    one_thread: f64,
    /// The same of all threads together.
    all_threads: f64,
    /// The same in bf16.
    all_threads_bf16: f64,
}

impl Breakdown {
    /// Shares the time of `steps` recorded steps out.
    pub fn new(profile: &Profile, steps: usize, batch_preparation: f64) -> Self {
        let of_step = |time: Duration| of_step(profile, steps, time);
        let parts = Part::ALL.iter().map(|part| part.name()).zip(profile.parts);
        let parts = parts.chain([("other", profile.other())]);
        Self {
            milliseconds: milliseconds(profile.wall) / steps as f64,
            parts: parts.map(|(name, time)| PartTime { name, milliseconds: of_step(time) }).collect(),
            batch_preparation,
        }
    }

    /// Returns a table of the parts that took any time.
    pub fn table(&self) -> String {
        let mut table = Table::new(&["<part", "ms", "share"]);
        let mut row = |name: &str, ms: f64| {
            table.row(vec![name.to_string(), format!("{ms:.2}"), percent(ms / self.milliseconds)])
        };
        for part in self.parts.iter().filter(|part| part.milliseconds > 0.0) {
            row(part.name, part.milliseconds);
        }
        row("step", self.milliseconds);
        format!(
            "where a step goes (mean of the faster half of as many other steps):\n\n{}\nBeside it a thread of the loader prepares a batch in {:.2} ms.\n",
            table.render(),
            self.batch_preparation
        )
    }
}

impl Layer {
    /// Lists the convolutions of `steps` recorded steps.
    pub fn of(profile: &Profile, steps: usize, peak: &Peak) -> Vec<Self> {
        let layer = |Convolutions { shape, calls, directions }: &Convolutions| {
            let speed = |direction: Direction| {
                let work: &Work = &directions[direction as usize];
                let gflops = work.flops() / 1e9;
                let all_threads = match shape.precision {
                    // Layers are recorded on the CPU, where none is f16.
                    Precision::F32 | Precision::F16 => peak.all_threads,
                    Precision::Bf16 => peak.all_threads_bf16,
                };
                let peak = gflops / (all_threads / peak.threads as f64);
                Speed { milliseconds: of_step(profile, steps, work.time), gflops, peak }
            };
            Layer {
                input: shape.input,
                outputs: shape.outputs,
                kernel: shape.kernel,
                stride: shape.stride,
                sparse: shape.sparse,
                precision: shape.precision,
                count: *calls as f64 / steps as f64,
                forward: speed(Direction::Forward),
                data_gradient: speed(Direction::Data),
                weight_gradient: speed(Direction::Weight),
            }
        };
        profile.convolutions.iter().map(layer).collect()
    }
}

/// Returns a table of convolutions.
pub fn layer_table(layers: &[Layer]) -> String {
    let mut table = Table::new(&[
        "<convolution",
        "<kernels",
        "count",
        "forward",
        "GF/s",
        "peak",
        "data gr.",
        "GF/s",
        "peak",
        "weight gr.",
        "GF/s",
        "peak",
    ]);
    for layer in layers {
        let ([channels, height, width], [rows, columns]) = (layer.input, layer.kernel);
        let stride = if layer.stride == 1 { String::new() } else { format!(", stride {}", layer.stride) };
        let mut cells = vec![
            format!("{channels} × {height} × {width} → {}, {rows} × {columns}{stride}", layer.outputs),
            match (layer.sparse, layer.precision) {
                (true, _) => "sparse",
                (false, Precision::F32) => "dense",
                (false, Precision::Bf16) => "dense bf16",
                (false, Precision::F16) => "dense f16",
            }
            .to_string(),
            format!("{}", layer.count),
        ];
        for speed in [&layer.forward, &layer.data_gradient, &layer.weight_gradient] {
            cells.extend(match speed.milliseconds {
                0.0 => ["-", "-", "-"].map(String::from),
                ms => [format!("{ms:.2}"), format!("{:.0}", speed.gflops), format!("{:.0} %", 100.0 * speed.peak)],
            });
        }
        table.row(cells);
    }
    format!(
        "convolutions (ms of a step; GF/s of a thread and their share of its peak, executed taps):\n\n{}",
        table.render()
    )
}

impl Peak {
    /// Measures all levels of this processor.
    pub fn measure() -> Vec<Self> {
        let peak = |level: Level| Peak {
            level: format!("{level:?}"),
            in_use: level == Level::current(),
            threads: rayon::current_num_threads(),
            one_thread: flops(level, false) / 1e9,
            all_threads: flops(level, true) / 1e9,
            all_threads_bf16: bf16_flops(level, true) / 1e9,
        };
        Level::available().into_iter().map(peak).collect()
    }
}

/// Returns the peak of the instructions that the kernels use.
pub fn in_use(peaks: &[Peak]) -> &Peak {
    peaks.iter().find(|peak| peak.in_use).expect("the level in use is available")
}

/// Returns a table of peaks.
pub fn peak_table(peaks: &[Peak]) -> String {
    let mut table = Table::new(&["<multiply-adds in registers", "one thread", "all threads", "in bf16"]);
    for peak in peaks {
        let gflops = |gflops: f64| format!("{gflops:.0} GF/s");
        table.row(vec![
            peak.level.clone(),
            gflops(peak.one_thread),
            gflops(peak.all_threads),
            gflops(peak.all_threads_bf16),
        ]);
    }
    format!("\n{}", table.render())
}

fn of_step(profile: &Profile, steps: usize, time: Duration) -> f64 {
    milliseconds(time) / (profile.threads as f64 * steps as f64)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
