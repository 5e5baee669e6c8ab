//! Eight floats in a vector of AVX2.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

/// Runs `kernel` on AVX2.
///
/// # Safety
///
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx2(__m256);

impl Lanes for Avx2 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: values of this type exist only inside `run`, whose caller has checked the processor.
        Avx2(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0f32; 8];
        // SAFETY: the array has eight floats.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn prefetch(at: *const f32) {
        // SAFETY: a prefetch of an address that is not mapped does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_into_second(at: *const f32) {
        // SAFETY: as in `prefetch`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    fn halves(self) -> (Self, Self) {
        // SAFETY: as in `splat`.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let high = _mm256_and_si256(bits, _mm256_set1_epi32(!0xffff));
            (Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))), Avx2(_mm256_castsi256_ps(high)))
        }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f32) -> Self {
        // SAFETY: the caller vouches for four readable floats.
        Avx2(unsafe { _mm256_zextps128_ps256(_mm_loadu_ps(from)) })
    }

    #[inline(always)]
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self {
        // SAFETY: the caller vouches for four readable floats at each.
        Avx2(unsafe { _mm256_loadu2_m128(high, low) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight writable floats.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn positive(self) -> u16 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, _mm256_setzero_ps())) as u16 }
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), each);
            Avx2(_mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each))))
        }
    }
}
