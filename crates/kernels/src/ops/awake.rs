//! Keeps the threads of the kernels from falling asleep between the kernels of a training step.
//!
//! A step of a small network is some hundred kernels of well under a millisecond, with a little work of one thread between
//! them. A thread that sleeps meanwhile is late for the next kernel by a good part of it.
//!
//! A thread stays awake in a loop that looks for work. It must not begin that loop while it waits within a part of a kernel:
//! the loop lasts until the step ends, and the step would wait for that part. So a step starts only once all threads are in
//! their loops, where they have no part of its kernels yet, or else without any loop.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use rayon::Yield;

use super::flex::is_ours;

/// How long a step waits for threads to wake up; where other programs have their cores, they stay asleep.
const PATIENCE: Duration = Duration::from_micros(500);

thread_local! {
    /// What this thread is awake for, if it is.
    static AWAKE: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Keeps the other threads of rayon's current pool awake until it is dropped; they look for work, and let other programs
/// run while there is none.
#[must_use = "threads may sleep again once it is dropped"]
#[derive(Debug)]
pub struct Awake(Arc<AtomicBool>);

/// Wakes the threads up for a step on `device`. It does nothing if our kernels do not run there, on a thread that is none of
/// the pool's, or if there is only one.
pub fn awake(device: &Device) -> Awake {
    let wanted = Arc::new(AtomicBool::new(true));
    let threads = rayon::current_num_threads();
    let Some(own) = rayon::current_thread_index().filter(|_| threads > 1 && is_ours(device)) else {
        return Awake(wanted);
    };
    let entered = Arc::new(AtomicUsize::new(1));
    let (still, count) = (wanted.clone(), entered.clone());
    rayon::spawn_broadcast(move |thread| {
        if thread.index() != own && still.load(Relaxed) {
            count.fetch_add(1, Relaxed);
            stay(&still);
        }
    });
    let began = Instant::now();
    while entered.load(Relaxed) < threads {
        if began.elapsed() > PATIENCE {
            wanted.store(false, Relaxed);
            break;
        }
        std::thread::yield_now();
    }
    Awake(wanted)
}

/// Looks for work as long as it is wanted. A thread that does so already goes on with that, for the new reason if the old
/// one is gone.
fn stay(wanted: &Arc<AtomicBool>) {
    let is_awake = AWAKE.with_borrow_mut(|current| {
        let is_awake = current.is_some();
        if !current.as_ref().is_some_and(|current| current.load(Relaxed)) {
            *current = Some(wanted.clone());
        }
        is_awake
    });
    if is_awake {
        return;
    }
    while AWAKE.with_borrow(|current| current.as_ref().is_some_and(|wanted| wanted.load(Relaxed))) {
        if rayon::yield_now() == Some(Yield::Idle) {
            std::thread::yield_now();
        }
    }
    AWAKE.set(None);
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

    #[test]
    fn no_step_waits_for_a_thread_that_waits_for_the_step() {
        let device = Device::flex().autodiff();
        for threads in [2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                for _ in 0..20_000 {
                    let _awake = awake(&device);
                    let sum: u64 = (0..64u32).into_par_iter().with_max_len(1).map(u64::from).sum();
                    assert_eq!(sum, 2016);
                }
            });
        }
    }
}
