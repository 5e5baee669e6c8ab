//! Measures how fast this processor multiplies and adds: what kernels are compared with.

use std::hint::black_box;
use std::time::Instant;

use crate::bf16::Bf16;
use crate::simd::{Kernel, Lanes, Level};

/// Sums that do not wait for each other: four cycles of latency, two such instructions a cycle, and some to spare.
const SUMS: usize = 12;
const ROUNDS: usize = 100_000;

/// Returns the floating-point operations a second of `level`, from registers, on each thread of rayon's current pool at once
/// or on one alone; the best of some measurements of a few milliseconds.
///
/// # Panics
///
/// Panics if the processor does not have the level.
pub fn flops(level: Level, all_threads: bool) -> f64 {
    fastest(level, (2 * SUMS * ROUNDS * level.width()) as f64, all_threads, || {
        level.run(Fma { factor: black_box(0.5), start: black_box(1.0) })
    })
}

/// Returns the same for products of bf16, of which a lane holds two; only [`Level::Avx512Bf16`] has an instruction for them.
///
/// # Panics
///
/// Panics if the processor does not have the level.
pub fn bf16_flops(level: Level, all_threads: bool) -> f64 {
    let one = Bf16::pair(Bf16::round(1.0), Bf16::round(0.5));
    fastest(level, (4 * SUMS * ROUNDS * level.width()) as f64, all_threads, || {
        level.run_bf16(Dot { factor: black_box(one), start: black_box(one) })
    })
}

fn fastest(level: Level, operations: f64, all_threads: bool, work: impl Fn() -> f32 + Sync) -> f64 {
    let once = || {
        level.during(|| {
            let began = Instant::now();
            black_box(work());
            began.elapsed().as_secs_f64()
        })
    };
    let best = (0..30).map(|_| {
        if all_threads {
            rayon::broadcast(|_| once()).into_iter().map(|seconds| operations / seconds).sum()
        } else {
            operations / once()
        }
    });
    best.fold(0.0, f64::max)
}

struct Fma {
    factor: f32,
    start: f32,
}

impl Kernel for Fma {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let (factor, start) = (L::splat(self.factor), L::splat(self.start));
        let mut sums = [start; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, start);
            }
        }
        sums.into_iter().map(L::sum).sum()
    }
}

struct Dot {
    factor: f32,
    start: f32,
}

impl Kernel for Dot {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let (factor, start) = (L::splat(self.factor), L::splat(self.start));
        let mut sums = [start; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = factor.dot(start, *sum);
            }
        }
        sums.into_iter().map(L::sum).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_instructions_are_faster() {
        // A floor that any processor of this century reaches, and a ceiling that none does.
        for level in Level::available() {
            let flops = flops(level, false);
            assert!(flops > 1e8 && flops < 1e13, "{level:?}: {flops}");
            let flops = bf16_flops(level, false);
            assert!(flops > 1e7 && flops < 2e13, "{level:?} in bf16: {flops}");
        }
    }
}
