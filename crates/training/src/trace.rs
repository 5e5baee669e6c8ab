//! Counts what one quiet training step asks of its device: reads to the host, and kernels.

use std::collections::BTreeMap;

use anyhow::Result;
use bonsai_kernels::cube::launches;
use burn::tensor::Device;

use crate::bench::{WARM_UP, noise, synced};
use crate::experiment::Experiment;
use crate::meter::Meter;
use crate::parameters::reads;
use crate::setup::trainee;
use bonsai_pruning::clock::Clock;

/// What a step without an event or a log line does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Tensors that are read to the host.
    pub reads: u64,
    /// Kernels, the most often started ones first; none on the CPU.
    pub kernels: Vec<Kernels>,
    /// Bytes that the device's allocator has given out, where it says so.
    pub memory: Option<u64>,
}

/// Kernels of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernels {
    /// The name that CubeCL gives them, without its path.
    pub name: String,
    /// How often they are started in a step.
    pub launches: u64,
    /// The time that they take, each waited for, in milliseconds.
    pub milliseconds: f64,
}

impl Trace {
    /// Kernels that are started in a step.
    pub fn launches(&self) -> u64 {
        self.kernels.iter().map(|kernels| kernels.launches).sum()
    }
}

/// Traces a step of an experiment's network with the masks that it begins with.
///
/// # Errors
///
/// A sentence if the experiment cannot be built or the device fails.
pub fn trace(experiment: &Experiment, device: &Device) -> Result<Trace> {
    let mut trainee = trainee(experiment, experiment.records(), device)?;
    trainee.begin();
    let batch = noise(experiment);
    let mut meter = Meter::default();
    let clock = Clock { iteration: 1, horizon: experiment.horizon(experiment.records()), lr: 1e-6 };
    let mut step = || -> Result<()> {
        let gradients = trainee.gradients(&batch, false, &mut meter);
        trainee.step(gradients, &clock);
        synced(device).map(|_| ())
    };
    for _ in 0..WARM_UP {
        step()?;
    }
    let before = reads();
    let (done, counted) = launches::count(&mut step);
    done?;
    let reads = reads() - before;
    let (done, timed) = launches::time(&mut step);
    done?;
    let memory = device.memory_pool_usage().map(|usage| usage.bytes_reserved);

    let mut kinds: BTreeMap<String, Kernels> = BTreeMap::new();
    for (name, kernels) in counted {
        let name = short(name);
        let kind = kinds.entry(name.clone()).or_insert(Kernels { name, launches: 0, milliseconds: 0.0 });
        kind.launches += kernels.launches;
    }
    for (name, kernels) in timed {
        if let Some(kind) = kinds.get_mut(&short(name)) {
            kind.milliseconds += 1000.0 * kernels.time.as_secs_f64();
        }
    }
    let mut kernels: Vec<Kernels> = kinds.into_values().collect();
    kernels.sort_by_key(|kernels| std::cmp::Reverse(kernels.launches));
    Ok(Trace { reads, kernels, memory })
}

/// Returns the last part of a type's path, without its parameters.
fn short(name: &str) -> String {
    let path = name.split('<').next().unwrap_or(name);
    path.rsplit("::").next().unwrap_or(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_by_the_end_of_its_path() {
        assert_eq!(short("burn_cubecl::kernel::binary::kernel_binop<f32, AddOp>"), "kernel_binop");
        assert_eq!(short("Convolve"), "Convolve");
    }
}
