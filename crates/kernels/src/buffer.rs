//! Memory for activations: aligned to cache lines and used again.
//!
//! A training step allocates and frees the same hundreds of megabytes as the step before it. Fresh pages cost more than
//! many of the kernels that write them, so freed buffers wait in a pool for the next one of their size. The pool and what is
//! in use together hold at most half as much again as was once in use at the same time, or [`POOL_BYTES`] if that is more.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex};

use crate::bf16::Bf16;

/// Bytes that memory is aligned to: a cache line.
pub(crate) const ALIGNMENT: usize = 64;
/// The size of a huge page of Linux on x86-64 and most other processors.
const HUGE: usize = 2 << 20;
/// Bytes that may always be kept.
const POOL_BYTES: usize = 1 << 30;

/// A slice of floats that starts at a cache line.
pub struct Buffer {
    memory: NonNull<f32>,
    len: usize,
}

// SAFETY: a buffer owns its memory, as a `Vec<f32>` does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Returns `len` floats of any value.
    pub fn any(len: usize) -> Buffer {
        let len = len.max(1);
        let Taken { memory, outgrown } = POOL.lock().expect("no thread panics with the pool in hand").take(len);
        outgrown.into_iter().for_each(release);
        Buffer { memory: memory.unwrap_or_else(|| allocate(len)), len }
    }

    /// Returns `len` zeros.
    pub fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::any(len);
        buffer.fill(0.0);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `memory` holds `len` initialised floats: they were zeros at first, and floats ever since.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let free = Free { memory: self.memory, len: self.len };
        let refused = match POOL.lock() {
            Ok(mut pool) => pool.put(free),
            Err(_) => Some(free),
        };
        refused.into_iter().for_each(release);
    }
}

/// A type of 16 bits, any of which are one of its values.
///
/// # Safety
///
/// That is so, and its alignment is at most that of a float.
pub(crate) unsafe trait Half {}

// SAFETY: a `Bf16` is a `u16`.
unsafe impl Half for Bf16 {}
// SAFETY: any 16 bits are a `u16`.
unsafe impl Half for u16 {}

/// A slice of values of 16 bits, two in each float of a buffer.
pub(crate) struct Halves<T = Bf16> {
    memory: Buffer,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Half> Halves<T> {
    /// Returns `len` values, any.
    pub fn any(len: usize) -> Halves<T> {
        Halves { memory: Buffer::any(len.div_ceil(2)), len, of: PhantomData }
    }
}

impl<T: Half> Deref for Halves<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the buffer holds at least `len / 2` initialised floats, and a `T` is any 16 bits.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Half> DerefMut for Halves<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

/// Memory that nothing uses.
struct Free {
    memory: NonNull<f32>,
    len: usize,
}

#[derive(Default)]
struct Pool {
    /// By length, with the number of the request that last wanted it.
    free: BTreeMap<usize, (usize, Vec<NonNull<f32>>)>,
    /// Requests so far.
    requests: usize,
    /// Bytes in `free`.
    kept: usize,
    /// Bytes of all buffers.
    used: usize,
    /// The most there were of these.
    peak: usize,
}

/// What the pool gives for a buffer.
struct Taken {
    /// Memory of its size.
    memory: Option<NonNull<f32>>,
    /// Memory to give back to the system, where new memory would be too much beside it.
    outgrown: Vec<Free>,
}

// SAFETY: the pool owns what it holds.
unsafe impl Send for Pool {}

impl Pool {
    fn take(&mut self, len: usize) -> Taken {
        let bytes = layout(len).size();
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        self.requests += 1;
        let (last, memory) = self.free.entry(len).or_default();
        *last = self.requests;
        let memory = memory.pop();
        let mut outgrown = Vec::new();
        match memory {
            Some(_) => self.kept -= bytes,
            None => {
                while self.used + self.kept > self.limit() {
                    // What is left from shapes that are used no more goes first.
                    let lengths = self.free.iter_mut().filter(|(_, (_, memory))| !memory.is_empty());
                    let Some((len, (_, memory))) = lengths.min_by_key(|(_, (last, _))| *last) else { break };
                    if let Some(memory) = memory.pop() {
                        self.kept -= layout(*len).size();
                        outgrown.push(Free { memory, len: *len });
                    }
                }
            }
        }
        Taken { memory, outgrown }
    }

    /// Keeps what a buffer leaves behind, or returns it where the pool is full.
    fn put(&mut self, free: Free) -> Option<Free> {
        let bytes = layout(free.len).size();
        self.used -= bytes;
        if self.used + self.kept + bytes > self.limit() {
            return Some(free);
        }
        self.kept += bytes;
        self.free.entry(free.len).or_default().1.push(free.memory);
        None
    }

    /// Returns the bytes that buffers and pool may hold together.
    fn limit(&self) -> usize {
        (self.peak + self.peak / 2).max(POOL_BYTES)
    }
}

fn release(free: Free) {
    // SAFETY: `allocate` made the memory with this layout, and nothing uses it any more.
    unsafe { dealloc(free.memory.as_ptr().cast(), layout(free.len)) }
}

fn layout(len: usize) -> Layout {
    let layout = Layout::array::<f32>(len);
    let alignment = if layout.as_ref().is_ok_and(|layout| layout.size() >= HUGE) { HUGE } else { ALIGNMENT };
    layout.and_then(|layout| layout.align_to(alignment)).expect("a length that fits into memory")
}

fn allocate(len: usize) -> NonNull<f32> {
    let layout = layout(len);
    // SAFETY: `len` is at least 1, so the layout has a size.
    let memory = unsafe { alloc(layout) };
    let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE {
        // SAFETY: the memory is ours; the advice changes how it is mapped, not what it holds, and may be refused.
        unsafe { libc::madvise(memory.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    // SAFETY: the memory has as many bytes.
    unsafe { memory.write_bytes(0, layout.size()) };
    memory.cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_at_cache_lines_and_come_back() {
        let first = Buffer::zeros(12_345);
        let address = first.as_ptr();
        assert_eq!(address as usize % ALIGNMENT, 0);
        drop(first);
        let second = Buffer::any(12_345);
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), 12_345);
    }
}
