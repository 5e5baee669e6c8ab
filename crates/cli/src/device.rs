//! Chooses where a network runs: the only place of the project that names a device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::Result;
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
}

/// Finds the device of a choice.
///
/// # Errors
///
/// One sentence that says what is missing: an adapter, a driver or a cargo feature.
pub fn choose(choice: Choice) -> Result<Chosen> {
    match choice {
        Choice::Auto => Ok(real_gpu().unwrap_or_else(flex)),
        Choice::Cpu => Ok(flex()),
        Choice::Ndarray => Ok(ndarray()),
        Choice::Wgpu => any_adapter(),
        Choice::Cuda => cuda(),
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
    Chosen { device: Device::flex(), name: "cpu (flex)".to_string(), cheap_reads: true }
}

/// The CPU through burn-ndarray, which burn has deprecated and which serves as a second opinion.
#[allow(deprecated)]
fn ndarray() -> Chosen {
    Chosen { device: Device::ndarray(), name: "cpu (ndarray)".to_string(), cheap_reads: true }
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
    opened(device, "wgpu").ok_or_else(|| user("--device wgpu finds an adapter that cannot be opened: use --device cpu"))
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Chosen> {
    let device = Device::enumerate(DeviceType::Cuda).into_iter().next();
    device
        .and_then(|device| opened(device, "cuda"))
        .ok_or_else(|| user("--device cuda finds no NVIDIA GPU: install its driver or use --device auto"))
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
    let identity = quietly(|| device.identity())?;
    let name = identity.map_or_else(|| backend.to_string(), |identity| format!("{} ({backend})", identity.name));
    Some(Chosen { device, name, cheap_reads: false })
}

/// Runs what may panic in a driver, without the panic's message.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    result.ok()
}
