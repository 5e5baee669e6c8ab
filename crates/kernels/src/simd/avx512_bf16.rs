//! Sixteen floats in a vector of AVX-512, on processors that multiply bf16.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::{Kernel, Lanes};

/// Runs `kernel` on AVX-512 with BF16.
///
/// # Safety
///
/// The processor must have AVX-512F, VL and BF16, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512Bf16>()
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx512Bf16(Avx512);

impl Lanes for Avx512Bf16 {
    const WIDTH: usize = Avx512::WIDTH;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Avx512Bf16(Avx512::splat(value))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Avx512Bf16(self.0.mul_add(factor.0, sum.0))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx512Bf16(self.0.max(other.0))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.sum()
    }

    #[inline(always)]
    fn sums(four: [Self; 4]) -> [f32; 4] {
        Avx512::sums(four.map(|Avx512Bf16(lanes)| lanes))
    }

    #[inline(always)]
    fn prefetch(at: *const f32) {
        Avx512::prefetch(at);
    }

    #[inline(always)]
    fn prefetch_into_second(at: *const f32) {
        Avx512::prefetch_into_second(at);
    }

    #[inline(always)]
    fn halves(self) -> (Self, Self) {
        let (low, high) = self.0.halves();
        (Avx512Bf16(low), Avx512Bf16(high))
    }

    #[inline(always)]
    fn dot(self, factor: Self, sum: Self) -> Self {
        let pairs = |Avx512Bf16(Avx512(lanes))| {
            // SAFETY: both types are 512 bits, of which every pattern is valid.
            unsafe { std::mem::transmute::<__m512, __m512bh>(lanes) }
        };
        // SAFETY: values of this type exist only inside `run`, whose caller has checked the processor.
        Avx512Bf16(Avx512(unsafe { _mm512_dpbf16_ps(sum.0.0, pairs(self), pairs(factor)) }))
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f32) -> Self {
        // SAFETY: as the caller vouches.
        Avx512Bf16(unsafe { Avx512::load_half(from) })
    }

    #[inline(always)]
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self {
        // SAFETY: as the caller vouches.
        Avx512Bf16(unsafe { Avx512::load_halves(low, high) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the caller vouches.
        Avx512Bf16(unsafe { Avx512::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the caller vouches.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    fn positive(self) -> u16 {
        self.0.positive()
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        Avx512Bf16(self.0.keep(bits))
    }
}
