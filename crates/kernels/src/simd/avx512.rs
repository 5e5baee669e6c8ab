//! Sixteen floats in a vector of AVX-512.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

/// Runs `kernel` on AVX-512.
///
/// # Safety
///
/// The processor must have AVX-512F and VL, AVX2 and FMA.
// Without VL the compiler keeps sums in the lower half of the registers only, and spills the rest.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx512(pub(super) __m512);

impl Lanes for Avx512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: values of this type exist only inside `run`, whose caller has checked the processor.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: as in `splat`.
        unsafe {
            // Each step adds the halves, as `_mm512_reduce_add_ps` does: of 16 lanes, of 8, of 4, of 2.
            let halves = |a, b| {
                _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
            };
            let (ab, cd) = (halves(a.0, b.0), halves(c.0, d.0));
            let quarters = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0b01_00_11_10>(quarters));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
            let mut four = [0.0; 4];
            _mm_storeu_ps(four.as_mut_ptr(), _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums)));
            four
        }
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
            let bits = _mm512_castps_si512(self.0);
            let high = _mm512_and_si512(bits, _mm512_set1_epi32(!0xffff));
            (Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))), Avx512(_mm512_castsi512_ps(high)))
        }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats.
        Avx512(unsafe { _mm512_zextps256_ps512(_mm256_loadu_ps(from)) })
    }

    #[inline(always)]
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats at each.
        unsafe {
            let low = _mm512_castps_pd(_mm512_castps256_ps512(_mm256_loadu_ps(low)));
            Avx512(_mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(_mm256_loadu_ps(high)))))
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen readable floats.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for sixteen writable floats.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn positive(self) -> u16 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps()) }
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }
}
