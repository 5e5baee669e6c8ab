//! Counts and times the kernels that are started on a GPU.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cubecl::logging::{LaunchObservation, LaunchObserver, TimingMethod, TimingRequest};

/// Kernels of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernels {
    /// How often they were started.
    pub launches: u64,
    /// The time that they took, if they were timed.
    pub time: Duration,
}

/// What was started, by the name that CubeCL gives a kernel.
pub type Launches = BTreeMap<&'static str, Kernels>;

struct Watch {
    seen: Mutex<Launches>,
    timing: TimingRequest,
}

impl Watch {
    fn see(&self, kernel: &'static str, change: impl FnOnce(&mut Kernels)) {
        change(self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(kernel).or_default());
    }
}

impl LaunchObserver for Watch {
    fn launched(&self, kernel: &'static str) {
        self.see(kernel, |kernels| kernels.launches += 1);
    }

    fn timing(&self) -> TimingRequest {
        self.timing
    }

    fn timed(&self, kernel: &'static str, duration: Duration, _: TimingMethod) {
        self.see(kernel, |kernels| kernels.time += duration);
    }
}

/// Runs `what` and counts the kernels that it starts on any GPU; none on the CPU.
///
/// burn queues operations: `what` has to end with a synchronisation to start all of its own.
pub fn count<T>(what: impl FnOnce() -> T) -> (T, Launches) {
    watch(TimingRequest::None, what)
}

/// The same, and times each kernel, waiting for it, so that they take longer together than they do otherwise.
pub fn time<T>(what: impl FnOnce() -> T) -> (T, Launches) {
    watch(TimingRequest::Resolved, what)
}

fn watch<T>(timing: TimingRequest, what: impl FnOnce() -> T) -> (T, Launches) {
    let watch = Arc::new(Watch { seen: Mutex::default(), timing });
    let watching = LaunchObservation::new(watch.clone());
    let result = what();
    drop(watching);
    let seen = std::mem::take(&mut *watch.seen.lock().unwrap_or_else(PoisonError::into_inner));
    (result, seen)
}
