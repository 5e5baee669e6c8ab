//! Runs one kernel body on whichever vector instructions the processor has.
//!
//! A [`Kernel`] is written once, over a type of [`Lanes`]; [`Level::run`] compiles it three times, for AVX-512, for AVX2
//! with FMA and for any other processor, and chooses at run time. Kernels that multiply bf16 are compiled a fourth time,
//! for AVX-512 with BF16, by [`Level::run_bf16`]. Kernels that only loop over slices ignore the type: the
//! compiler vectorises them with the instructions of the level. (The pattern is that of memchr's `Vector` and pulp's
//! `WithSimd`.)

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod portable;

use std::cell::Cell;
use std::sync::OnceLock;

/// The vector instructions that kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the compiler makes of plain loops; the same on all processors.
    Portable,
    /// AVX2 with fused multiply-add, 8 lanes.
    Avx2,
    /// AVX-512, 16 lanes.
    Avx512,
    /// AVX-512 with products of bf16; the same as [`Level::Avx512`] where all is f32.
    Avx512Bf16,
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

impl Level {
    /// Returns the level in use: the one that `BONSAI_SIMD` (`portable`, `avx2`, `avx512` or `avx512bf16`) names, else the
    /// best.
    ///
    /// # Panics
    ///
    /// Panics if `BONSAI_SIMD` names no level, or one that this processor does not have.
    pub fn current() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        FORCED.get().unwrap_or_else(|| *LEVEL.get_or_init(from_environment))
    }

    /// Returns the levels that this processor has, the best one last.
    pub fn available() -> Vec<Level> {
        let all = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];
        all.into_iter().filter(|level| level.is_available()).collect()
    }

    /// Calls `work` with kernels started by this thread using this level.
    ///
    /// # Panics
    ///
    /// Panics if the processor does not have the level.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        assert!(self.is_available(), "this processor does not have {self:?}");
        let before = FORCED.replace(Some(self));
        let result = work();
        FORCED.set(before);
        result
    }

    /// Counts the floats of a vector.
    pub fn width(self) -> usize {
        match self {
            Level::Portable => 4,
            Level::Avx2 => 8,
            Level::Avx512 | Level::Avx512Bf16 => 16,
        }
    }

    fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && Level::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Level::Avx512.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 => false,
        }
    }

    /// Runs `kernel` with the instructions of this level.
    #[allow(unsafe_code)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Level::Portable => kernel.run::<portable::Portable>(),
            // SAFETY: a `Level` that is in use has been found available by `current` or `during`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => unsafe { avx512::run(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 => unreachable!("not an x86-64 processor"),
        }
    }

    /// Runs `kernel`, which uses [`Lanes::dot`], with the instructions of this level.
    #[allow(unsafe_code)]
    pub(crate) fn run_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: as in `run`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => unsafe { avx512_bf16::run(kernel) },
            other => other.run(kernel),
        }
    }
}

fn from_environment() -> Level {
    let level = match std::env::var("BONSAI_SIMD").as_deref() {
        Err(_) | Ok("") => return *Level::available().last().expect("the portable level is always there"),
        Ok("portable") => Level::Portable,
        Ok("avx2") => Level::Avx2,
        Ok("avx512") => Level::Avx512,
        Ok("avx512bf16") => Level::Avx512Bf16,
        Ok(other) => panic!("BONSAI_SIMD is '{other}'; it may be portable, avx2, avx512 or avx512bf16"),
    };
    assert!(level.is_available(), "BONSAI_SIMD asks for {level:?}, which this processor does not have");
    level
}

/// Work that is compiled for every level.
///
/// `run` and all that it calls in inner loops must be `#[inline(always)]`, or it is compiled without the instructions of
/// the level.
pub(crate) trait Kernel {
    /// What the work returns.
    type Output;

    /// Does the work on vectors of type `L`.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// A vector of `WIDTH` floats; used only inside [`Level::run`], which has checked the processor.
pub(crate) trait Lanes: Copy {
    /// How many floats there are, a divisor of 16.
    const WIDTH: usize;

    /// Returns `value` in every lane.
    fn splat(value: f32) -> Self;

    /// Returns `self * factor + sum`.
    fn mul_add(self, factor: Self, sum: Self) -> Self;

    /// Returns the larger of each two lanes; which one where a lane is not a number is not said.
    fn max(self, other: Self) -> Self;

    /// Returns the sum of the lanes.
    fn sum(self) -> f32;

    /// Returns the sums of the lanes of four vectors, each as [`Lanes::sum`] returns it.
    #[inline(always)]
    fn sums(four: [Self; 4]) -> [f32; 4] {
        four.map(Self::sum)
    }

    /// Asks for the cache line of `at`, which will be read or written at once; any address will do.
    fn prefetch(at: *const f32);

    /// The same for what comes later, and must not take the place of what is in the first cache.
    fn prefetch_into_second(at: *const f32);

    /// Returns `self + other`.
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        other.mul_add(Self::splat(1.0), self)
    }

    /// Returns `self - other`.
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        other.mul_add(Self::splat(-1.0), self)
    }

    /// Returns `self * factor`.
    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        self.mul_add(factor, Self::splat(0.0))
    }

    /// Reads the first `WIDTH` floats of a slice.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn read(from: &[f32]) -> Self {
        assert!(from.len() >= Self::WIDTH);
        // SAFETY: the floats are there.
        unsafe { Self::load(from.as_ptr()) }
    }

    /// Writes the first `WIDTH` floats of a slice.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn write(self, to: &mut [f32]) {
        assert!(to.len() >= Self::WIDTH);
        // SAFETY: the floats are there.
        unsafe { self.store(to.as_mut_ptr()) }
    }

    /// Returns the bf16 numbers in the lower halves of the lanes, and those in the upper halves.
    fn halves(self) -> (Self, Self);

    /// Returns `sum` plus the upper half of `self` times that of `factor`, plus the lower half times the lower.
    ///
    /// A lane holds two bf16 numbers. Their products are exact in f32, and each of the two additions rounds to nearest;
    /// numbers below 2⁻¹²⁶ count as zero on AVX-512 with BF16, else not. Save for them, the result is the same everywhere.
    #[inline(always)]
    fn dot(self, factor: Self, sum: Self) -> Self {
        let ((low, high), (factor_low, factor_high)) = (self.halves(), factor.halves());
        low.mul_add(factor_low, high.mul_add(factor_high, sum))
    }

    /// Reads half as many floats, the upper lanes are zero.
    ///
    /// # Safety
    ///
    /// They must be readable at `from`.
    #[allow(unsafe_code)]
    unsafe fn load_half(from: *const f32) -> Self;

    /// Reads the lower lanes at `low` and the upper ones at `high`.
    ///
    /// # Safety
    ///
    /// `WIDTH / 2` floats must be readable at each.
    #[allow(unsafe_code)]
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self;

    /// Reads `WIDTH` floats.
    ///
    /// # Safety
    ///
    /// They must be readable at `from`.
    #[allow(unsafe_code)]
    unsafe fn load(from: *const f32) -> Self;

    /// Writes `WIDTH` floats.
    ///
    /// # Safety
    ///
    /// They must be writable at `to`.
    #[allow(unsafe_code)]
    unsafe fn store(self, to: *mut f32);

    /// Returns a bit for each lane, the first one lowest: whether it is greater than 0, which NaN is not.
    fn positive(self) -> u16;

    /// Returns the lanes whose bit is 1, and 0 in the others.
    fn keep(self, bits: u16) -> Self;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Dot<'_> {
        type Output = f32;

        #[inline(always)]
        #[allow(unsafe_code)]
        fn run<L: Lanes>(self) -> f32 {
            let mut sum = L::splat(0.0);
            for (a, b) in self.0.chunks_exact(L::WIDTH).zip(self.1.chunks_exact(L::WIDTH)) {
                // SAFETY: both chunks have `WIDTH` floats.
                sum = unsafe { L::load(a.as_ptr()).mul_add(L::load(b.as_ptr()), sum) };
            }
            sum.sum()
        }
    }

    #[test]
    fn all_levels_multiply_and_add() {
        let a: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..32).map(|i| (i % 5) as f32).collect();
        let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        for level in Level::available() {
            assert_eq!(level.run(Dot(&a, &b)), expected, "{level:?}");
        }
    }

    struct Sums<'a>(&'a [f32]);

    impl Kernel for Sums<'_> {
        type Output = Vec<[f32; 2]>;

        #[inline(always)]
        fn run<L: Lanes>(self) -> Vec<[f32; 2]> {
            let vectors: Vec<L> = self.0.chunks_exact(L::WIDTH).map(L::read).collect();
            let both = |four: &[L]| {
                let together = L::sums([four[0], four[1], four[2], four[3]]);
                [0, 1, 2, 3].map(|i| [four[i].sum(), together[i]])
            };
            vectors.chunks_exact(4).flat_map(both).collect()
        }
    }

    #[test]
    fn four_sums_are_those_of_each() {
        // Numbers whose sum depends on the order.
        let floats: Vec<f32> = (0..640).map(|i| ((i * 7919 % 997) as f32 - 500.0).powi(3) * 1.37e-3).collect();
        for level in Level::available() {
            let sums = level.run(Sums(&floats));
            assert!(!sums.is_empty() && sums.iter().all(|[one, four]| one.to_bits() == four.to_bits()), "{level:?}");
        }
    }

    struct Signs<'a>(&'a [f32; 16]);

    impl Kernel for Signs<'_> {
        type Output = (u16, [f32; 16]);

        #[inline(always)]
        fn run<L: Lanes>(self) -> (u16, [f32; 16]) {
            let (mut bits, mut kept) = (0, [1.0; 16]);
            for lane in (0..16).step_by(L::WIDTH) {
                bits |= L::read(&self.0[lane..]).positive() << lane;
                L::read(&self.0[lane..]).keep(0b1010_0110_1100_0111 >> lane).write(&mut kept[lane..]);
            }
            (bits, kept)
        }
    }

    #[test]
    fn bits_are_lanes() {
        let (nan, small) = (f32::NAN, f32::MIN_POSITIVE / 2.0);
        let floats =
            [1.0, -1.0, 0.0, -0.0, nan, small, -small, 3.0, f32::INFINITY, -7.0, 5.0, 5.5, -5.5, 6.0, 0.0, 9.0];
        for level in Level::available() {
            let (bits, kept) = level.run(Signs(&floats));
            assert_eq!(bits, 0b1010_1101_1010_0001, "{level:?}");
            for (i, kept) in kept.iter().enumerate() {
                let expected = if 0b1010_0110_1100_0111 >> i & 1 == 1 { floats[i].to_bits() } else { 0 };
                assert_eq!(kept.to_bits(), expected, "{level:?} {i}");
            }
        }
    }

    #[test]
    fn a_level_is_forced_for_a_while() {
        let usual = Level::current();
        assert_eq!(Level::Portable.during(Level::current), Level::Portable);
        assert_eq!(Level::current(), usual);
    }
}
