//! Keeps the threads of the kernels from falling asleep between the kernels of a training step.
//!
//! A step of a small network is some hundred kernels of well under a millisecond, with a little work of one thread between
//! them. A thread that sleeps meanwhile is late for the next kernel by a good part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use burn::tensor::Device;
use rayon::Yield;

use super::flex::is_ours;

/// Keeps the other threads of rayon's current pool awake until it is dropped; they look for work, and let other programs
/// run while there is none.
#[must_use = "threads may sleep again once it is dropped"]
#[derive(Debug)]
pub struct Awake(Arc<AtomicBool>);

/// Wakes the threads up for a step on `device`. It does nothing if our kernels do not run there, on a thread that is none of
/// the pool's, or if there is only one.
pub fn awake(device: &Device) -> Awake {
    let wanted = Arc::new(AtomicBool::new(true));
    let Some(own) = rayon::current_thread_index().filter(|_| rayon::current_num_threads() > 1 && is_ours(device))
    else {
        return Awake(wanted);
    };
    let still = wanted.clone();
    rayon::spawn_broadcast(move |thread| {
        while thread.index() != own && still.load(Relaxed) {
            if rayon::yield_now() == Some(Yield::Idle) {
                std::thread::yield_now();
            }
        }
    });
    Awake(wanted)
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn kernels_run_while_threads_are_awake() {
        let device = Device::flex().autodiff();
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let sums: Vec<u64> = pool.install(|| {
                let sum = |_| {
                    let _awake = awake(&device);
                    let _twice = awake(&device);
                    (0..1000u32).into_par_iter().with_max_len(7).map(u64::from).sum()
                };
                (0..20).map(sum).collect()
            });
            assert_eq!(sums, [499_500; 20]);
        }
        // Nor does it matter from outside of the pool.
        let _awake = awake(&device);
        assert_eq!((0..1000u64).into_par_iter().sum::<u64>(), 499_500);
    }
}
