//! Chooses where a network runs: the only place of the project that names a device.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bonsai_kernels::cube::tuned;
use burn::tensor::{Device, DeviceKind, DeviceType};
use clap::ValueEnum;

use crate::error::user;

/// One of these exists on every Linux machine with a GPU: Mesa's, NVIDIA's, AMD's and Windows' (in WSL).
const GPU_NODES: [&str; 4] = ["/dev/dri", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg"];

/// What `--device` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// A discrete GPU if there is one (on macOS the integrated one), else the CPU.
    #[default]
    Auto,
    /// The CPU: bonsai's own kernels on burn-flex.
    Cpu,
    /// The CPU, through burn-ndarray.
    Ndarray,
    /// Any GPU adapter, a software one included, through wgpu.
    Wgpu,
    /// An NVIDIA GPU through CUDA; needs a build with `--features cuda`.
    Cuda,
}

/// A device that can be used.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device, without autodiff.
    pub device: Device,
    /// What it is called in the records.
    pub name: String,
    /// Whether reading a number from it costs next to nothing.
    pub cheap_reads: bool,
    /// What is wrong with the folder in which kernels' choices are kept.
    pub warning: Option<String>,
    /// Further devices of the same kind, which `--devices` asks for.
    pub others: Vec<Device>,
}

impl Chosen {
    /// Says on stderr what there is to be warned of, where no log is kept.
    pub fn warn(&self) {
        if let Some(warning) = &self.warning {
            eprintln!("warning: {warning}");
        }
    }
}

/// Finds the device of a choice.
///
/// # Errors
///
/// One sentence that says what is missing: an adapter, a driver or a cargo feature.
pub fn choose(choice: Choice) -> Result<Chosen> {
    if !matches!(choice, Choice::Cpu | Choice::Ndarray) {
        tuned::keep();
    }
    match choice {
        Choice::Auto => Ok(real_gpu().unwrap_or_else(flex)),
        Choice::Cpu => Ok(flex()),
        Choice::Ndarray => Ok(ndarray()),
        Choice::Wgpu => any_adapter(),
        Choice::Cuda => cuda(),
    }
}

/// Finds the devices of a choice by their numbers, the first of which takes the steps.
///
/// # Errors
///
/// One sentence that says what there is instead.
pub fn choose_several(choice: Choice, numbers: &[usize]) -> Result<Chosen> {
    let asked = numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    if let Some((at, twice)) = numbers.iter().enumerate().find(|(at, number)| numbers[..*at].contains(number)) {
        return Err(user(format!("--devices {asked} names {twice} again in place {}: name each once", at + 1)));
    }
    let first = choose(choice)?;
    if first.cheap_reads {
        return Err(user(format!(
            "--devices {asked} shares batches out over GPUs, but --device {} is the CPU here, which burn counts as one \
             device with all its cores: leave --devices away",
            choice.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
        )));
    }
    let same = same_kind(&first.device);
    let mut devices = Vec::new();
    for number in numbers {
        let Some(device) = same.get(*number) else {
            let count =
                if same.len() == 1 { "is one device".to_string() } else { format!("are {} devices", same.len()) };
            return Err(user(format!(
                "--devices {asked}: there is no number {number}; of the kind of {} there {count}, counted from 0",
                first.name
            )));
        };
        devices.push(device.clone());
    }
    let backend = if adapters().contains(&first.device) { "wgpu" } else { "cuda" };
    let names: Option<Vec<String>> = devices.iter().map(|device| named(device, backend)).collect();
    let others = devices.split_off(1);
    let main = devices.pop().and_then(|device| opened(device, backend));
    let (Some(main), Some(names)) = (main, names) else {
        return Err(user(format!("--devices {asked}: one of them cannot be opened; its driver may be too old")));
    };
    Ok(Chosen { name: names.join(" + "), others, ..main })
}

/// Lists the devices that are of the same kind as one, in their order.
fn same_kind(device: &Device) -> Vec<Device> {
    let adapters = adapters();
    let kinds: [fn(usize) -> DeviceKind; 3] =
        [DeviceKind::DiscreteGpu, DeviceKind::IntegratedGpu, DeviceKind::VirtualGpu];
    let of_kind = |kind: fn(usize) -> DeviceKind| -> Vec<Device> {
        (0..adapters.len()).map(|at| Device::wgpu(kind(at))).filter(|device| adapters.contains(device)).collect()
    };
    #[allow(unused_mut)]
    let mut kinds: Vec<Vec<Device>> = kinds.into_iter().map(of_kind).collect();
    #[cfg(feature = "cuda")]
    kinds.push(Device::enumerate(DeviceType::Cuda).into_vec());
    // A software adapter is the only one of its kind.
    kinds.into_iter().find(|kind| kind.contains(device)).unwrap_or_else(|| vec![device.clone()])
}

/// Tells whether a choice stands for a GPU here, software adapters included.
pub fn is_gpu(choice: Choice) -> bool {
    match choice {
        Choice::Cpu | Choice::Ndarray => false,
        Choice::Wgpu | Choice::Cuda => true,
        Choice::Auto => choose(choice).is_ok_and(|chosen| !chosen.cheap_reads),
    }
}

/// Starts the threads of the CPU kernels, of which the calling one is the first: as many as there are cores if not said.
///
/// Were it none of them, it would hand each kernel over and sleep until it is done, which costs a training step of a small
/// network a tenth of its time.
///
/// # Errors
///
/// Fails if the threads cannot be started.
pub fn set_threads(threads: Option<usize>) -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).use_current_thread().build_global();
    // Threads that run already are as many as there are cores.
    if threads.is_some() { Ok(started?) } else { Ok(()) }
}

/// The CPU through burn-flex.
pub fn flex() -> Chosen {
    Chosen {
        device: Device::flex(),
        name: "cpu (flex)".to_string(),
        cheap_reads: true,
        warning: None,
        others: Vec::new(),
    }
}

/// The CPU through burn-ndarray, which burn has deprecated and which serves as a second opinion.
#[allow(deprecated)]
fn ndarray() -> Chosen {
    Chosen {
        device: Device::ndarray(),
        name: "cpu (ndarray)".to_string(),
        cheap_reads: true,
        warning: None,
        others: Vec::new(),
    }
}

/// The first GPU that is one: discrete, on macOS integrated, never a software adapter.
fn real_gpu() -> Option<Chosen> {
    // Looking for adapters loads every graphics driver, some of which complain on stderr where there is no screen.
    if cfg!(target_os = "linux") && !GPU_NODES.iter().any(|node| Path::new(node).exists()) {
        return None;
    }
    let adapters = adapters();
    let kind = if cfg!(target_os = "macos") { DeviceKind::IntegratedGpu } else { DeviceKind::DiscreteGpu };
    let found = (0..adapters.len()).map(|index| Device::wgpu(kind(index))).find(|device| adapters.contains(device));
    found.and_then(|device| opened(device, "wgpu")).or_else(|| cuda().ok())
}

/// The best adapter that wgpu reaches: a discrete GPU, an integrated one, a virtual one, else a software one.
fn any_adapter() -> Result<Chosen> {
    let adapters = adapters();
    let named = [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0), DeviceKind::Cpu];
    let best = named.map(Device::wgpu).into_iter().find(|device| adapters.contains(device));
    let Some(device) = best.or_else(|| adapters.into_iter().next()) else {
        return Err(user(
            "--device wgpu finds no adapter: install a GPU driver with Vulkan, or Mesa's software adapter \
             (apt-get install mesa-vulkan-drivers libvulkan1), or use --device cpu",
        ));
    };
    opened(device, "wgpu").ok_or_else(|| {
        user("--device wgpu finds an adapter that cannot be opened: its driver may be too old; update it, or use --device cpu")
    })
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Chosen> {
    let device = Device::enumerate(DeviceType::Cuda).into_iter().next();
    device.and_then(|device| opened(device, "cuda")).ok_or_else(|| {
        user("--device cuda finds no NVIDIA GPU that can be opened: install or update its driver, or use --device auto")
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Chosen> {
    Err(user(
        "--device cuda is not part of this build: build it with `cargo build --release --bin bonsai --features cuda`, \
         or use --device wgpu, which runs on NVIDIA GPUs too",
    ))
}

/// Lists the adapters that wgpu reaches without opening any; burn panics when a device without adapter is used.
fn adapters() -> Vec<Device> {
    quietly(|| Device::enumerate(DeviceType::Wgpu).into_vec()).unwrap_or_default()
}

/// Opens a device and names it, or gives nothing where its driver fails, which burn answers with a panic.
fn opened(device: Device, backend: &str) -> Option<Chosen> {
    let name = named(&device, backend)?;
    let kept = quietly(|| tuned::keep_for(&device));
    let warning = kept.unwrap_or_else(|| Err("what kernels are tuned to cannot be kept".to_string())).err();
    Some(Chosen { device, name, cheap_reads: false, warning, others: Vec::new() })
}

/// Opens a device and gives its name, or nothing where its driver fails.
fn named(device: &Device, backend: &str) -> Option<String> {
    let identity = quietly(|| device.identity())?;
    Some(identity.map_or_else(|| backend.to_string(), |identity| format!("{} ({backend})", identity.name)))
}

/// How a device ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// A tensor found no place.
    Memory,
    /// It answers no more: the driver was reset, the card was unplugged, a kernel ran for too long.
    Lost,
}

impl Failure {
    /// Recognises what CubeCL, wgpu and the drivers say.
    fn of(message: &str) -> Option<Failure> {
        let message = message.to_lowercase();
        let says = |any: &[&str]| any.iter().any(|words| message.contains(words));
        if says(&[
            "out of device memory",
            "out of memory",
            "outofmemory",
            "out_of_memory",
            "can't allocate buffer of size",
        ]) {
            return Some(Failure::Memory);
        }
        says(&["device is poisoned", "device was poisoned", "device lost", "devicelost", "parent device is lost"])
            .then_some(Failure::Lost)
    }

    /// One sentence that says how to go on.
    fn sentence(self, device: &str, batch_size: usize, kept: &str) -> String {
        match self {
            Failure::Memory if batch_size > 1 => format!(
                "{device} ran out of memory with a batch of {batch_size}{kept}: `--set optimizer.accumulate=2` trains the \
                 same batch in two parts, `--set batch_size={}` a smaller one, both in a run of their own (--out)",
                batch_size / 2
            ),
            Failure::Memory => {
                format!("{device} ran out of memory with a single image{kept}: use another device or a smaller network")
            }
            Failure::Lost => format!(
                "{device} stopped answering (its driver was reset, or it was taken away){kept}: go on with --resume, if need \
                 be after a restart or with --device cpu"
            ),
        }
    }
}

/// Runs what burn ends with a panic when the device fails, and turns that into a sentence; other panics stay what they are.
/// `kept` says what is not lost, after a comma.
///
/// # Errors
///
/// Says what became of the device, or what `run` says, in the words of its user where the device is to blame.
pub fn guarded<T>(chosen: &Chosen, batch_size: usize, kept: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    if chosen.cheap_reads {
        return run();
    }
    let failed = Arc::new(Mutex::new(None));
    let (seen, said) = (failed.clone(), Arc::new(std::panic::take_hook()));
    let loudly = said.clone();
    std::panic::set_hook(Box::new(move |info| match Failure::of(&info.to_string()) {
        // The panics that follow the first are no better informed.
        Some(failure) => {
            seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
        None => loudly(info),
    }));
    let result = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(Box::new(move |info| said(info)));
    let failed = *failed.lock().unwrap_or_else(PoisonError::into_inner);
    match (result, failed) {
        (Ok(Err(error)), _) => match Failure::of(&format!("{error:#}")) {
            Some(failure) => Err(anyhow::anyhow!(failure.sentence(&chosen.name, batch_size, kept))),
            None => Err(error),
        },
        (Ok(done), _) => done,
        (Err(_), Some(failure)) => Err(anyhow::anyhow!(failure.sentence(&chosen.name, batch_size, kept))),
        (Err(panic), None) => resume_unwind(panic),
    }
}

/// Runs what may panic in a driver, without the panic's message.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Chosen {
        Chosen { cheap_reads: false, name: "a GPU (wgpu)".to_string(), ..flex() }
    }

    #[test]
    fn a_device_that_fails_ends_in_one_sentence() {
        let after = |message: &'static str| {
            let error = guarded(&gpu(), 128, ", all is kept", || -> Result<()> { panic!("{message}") }).unwrap_err();
            error.to_string()
        };
        for message in [
            "An IO error happened\nCaused by:\n  out of device memory allocating 8589934592 bytes\n0: backtrace",
            "wgpu error: Out of Memory",
            "can't allocate buffer of size: 17179869184",
        ] {
            let sentence = after(message);
            assert!(
                sentence.starts_with("a GPU (wgpu) ran out of memory with a batch of 128, all is kept:"),
                "{sentence}"
            );
            assert!(sentence.contains("batch_size=64") && !sentence.contains('\n'), "{sentence}");
        }
        for message in ["The device is poisoned\nCaused by: reset", "Validation Error: Parent device is lost"] {
            assert!(after(message).contains("stopped answering") && after(message).contains("--resume"), "{message}");
        }
        let single = guarded(&gpu(), 1, "", || -> Result<()> { anyhow::bail!("ERROR_OUT_OF_MEMORY") }).unwrap_err();
        assert!(single.to_string().contains("a single image"), "{single}");

        // Others stay what they are; in the same test, since all share the process's panic hook.
        let panicked =
            catch_unwind(|| guarded(&gpu(), 128, ", all is kept", || -> Result<()> { panic!("index out of bounds") }));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"index out of bounds"));
        let error =
            guarded(&gpu(), 128, ", all is kept", || -> Result<()> { anyhow::bail!("the disk is full") }).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!(guarded(&gpu(), 128, ", all is kept", || Ok(7)).unwrap(), 7);
    }
}
