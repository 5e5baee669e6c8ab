//! What many threads have found, put together.

// A kernel's expansion by the macro is not ours to document.
#![allow(missing_docs)]

use cubecl::prelude::*;

use super::{Order, THREADS};

/// What is put together, three numbers for each thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// Number, mean and squared deviations of a set.
    Statistics,
    /// Three sums.
    Sums,
}

/// Returns where the `i`-th vector of a channel lies.
#[cube]
pub fn place(channel: u32, i: u32, #[comptime] of: Order) -> usize {
    let map = i / of.run * of.channels + channel;
    (map * of.run + i % of.run) as usize
}

/// Reads a vector of maps, which may be halves, in f32.
#[cube]
pub fn read<F: Float, N: Size>(maps: &Tensor<Vector<F, N>>, at: usize) -> Vector<f32, N> {
    Vector::cast_from(maps[at])
}

/// Adds up the numbers of a vector.
#[cube]
pub fn across<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector.extract(0usize);
    #[unroll]
    for i in 1..N::value() {
        sum += vector.extract(i);
    }
    sum
}

/// Puts two findings together, statistics by Chan, Golub and LeVeque, 1983.
#[cube]
pub fn both(a: (f32, f32, f32), b: (f32, f32, f32), #[comptime] found: Found) -> (f32, f32, f32) {
    if comptime![found == Found::Sums] {
        (a.0 + b.0, a.1 + b.1, a.2 + b.2)
    } else {
        let count = a.0 + b.0;
        let share = b.0 / max(count, 1.0f32);
        let apart = b.1 - a.1;
        (count, a.1 + apart * share, a.2 + b.2 + apart * apart * a.0 * share)
    }
}

/// Puts together what the threads of each lane have found, of which the first `entries` have; all threads get it.
///
/// Some threads take some entries each, then one takes theirs: that waits less often than a tree.
#[cube]
pub fn merge(
    own: (f32, f32, f32),
    #[comptime] found: Found,
    #[comptime] lanes: u32,
    #[comptime] entries: u32,
) -> (f32, f32, f32) {
    let strands = comptime![1u32 << (entries.ilog2() / 2)];
    let (lane, thread) = (UNIT_POS % lanes, UNIT_POS / lanes);
    let mut first = Shared::<[f32]>::new_slice(THREADS as usize);
    let mut second = Shared::<[f32]>::new_slice(THREADS as usize);
    let mut third = Shared::<[f32]>::new_slice(THREADS as usize);
    first[UNIT_POS as usize] = own.0;
    second[UNIT_POS as usize] = own.1;
    third[UNIT_POS as usize] = own.2;
    sync_cube();
    // Those after the first `strands` entries, which nobody else reads while they change.
    gather(&mut first, &mut second, &mut third, thread < strands, found, strands * lanes, entries / strands);
    sync_cube();
    gather(&mut first, &mut second, &mut third, thread == 0, found, lanes, strands);
    sync_cube();
    (first[lane as usize], second[lane as usize], third[lane as usize])
}

/// Puts into a thread's entry those that follow in steps of `step`, `count` with its own.
#[cube]
fn gather(
    first: &mut Shared<[f32]>,
    second: &mut Shared<[f32]>,
    third: &mut Shared<[f32]>,
    takes_part: bool,
    #[comptime] found: Found,
    #[comptime] step: u32,
    #[comptime] count: u32,
) {
    if takes_part {
        let own = UNIT_POS as usize;
        let mut a = first[own];
        let mut b = second[own];
        let mut c = third[own];
        #[unroll]
        for k in 1..count {
            let at = (UNIT_POS + k * step) as usize;
            let all = both((a, b, c), (first[at], second[at], third[at]), found);
            a = all.0;
            b = all.1;
            c = all.2;
        }
        first[own] = a;
        second[own] = b;
        third[own] = c;
    }
}

/// Puts together what the cubes of a channel have left, `count` numbers of each.
#[cube]
pub fn gather_parts(
    partial: &Tensor<f32>,
    channel: u32,
    #[comptime] found: Found,
    #[comptime] of: Order,
    #[comptime] parts: u32,
) -> (f32, f32, f32) {
    let threads = comptime![THREADS / of.lanes];
    let mut a = 0.0f32;
    let mut b = 0.0f32;
    let mut c = 0.0f32;
    for part in range_stepped(UNIT_POS / of.lanes, parts, threads) {
        let at = ((channel * parts + part) * 3) as usize;
        let all = both((a, b, c), (partial[at], partial[at + 1], partial[at + 2]), found);
        a = all.0;
        b = all.1;
        c = all.2;
    }
    let entries = comptime![parts.next_power_of_two().min(threads)];
    merge((a, b, c), found, of.lanes, entries)
}
