//! Four floats in an array: what 128-bit instructions, which nearly every processor has, hold.
#![allow(unsafe_code)]

use super::Lanes;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Portable([f32; 4]);

impl Lanes for Portable {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; 4])
    }

    // Two operations, not `f32::mul_add`: without the instruction that is a call into the C library.
    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (self.0, factor.0, sum.0);
        Portable([a * e + i, b * f + j, c * g + k, d * h + l])
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        Portable([larger(a, e), larger(b, f), larger(c, g), larger(d, h)])
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn prefetch(_: *const f32) {}

    #[inline(always)]
    fn prefetch_into_second(_: *const f32) {}

    #[inline(always)]
    fn halves(self) -> (Self, Self) {
        let low = self.0.map(|lane| f32::from_bits(lane.to_bits() << 16));
        (Portable(low), Portable(self.0.map(|lane| f32::from_bits(lane.to_bits() & !0xffff))))
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f32) -> Self {
        // SAFETY: the caller vouches for two readable floats.
        let [a, b] = unsafe { from.cast::<[f32; 2]>().read_unaligned() };
        Portable([a, b, 0.0, 0.0])
    }

    #[inline(always)]
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self {
        // SAFETY: the caller vouches for two readable floats at each.
        let ([a, b], [c, d]) =
            unsafe { (low.cast::<[f32; 2]>().read_unaligned(), high.cast::<[f32; 2]>().read_unaligned()) };
        Portable([a, b, c, d])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for four readable floats.
        Portable(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for four writable floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn positive(self) -> u16 {
        let [a, b, c, d] = self.0.map(|lane| u16::from(lane > 0.0));
        a | b << 1 | c << 2 | d << 3
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        let [a, b, c, d] = self.0;
        let lane = |x: f32, bit: u16| f32::from_bits(x.to_bits() & u32::from(bits >> bit & 1).wrapping_neg());
        Portable([lane(a, 0), lane(b, 1), lane(c, 2), lane(d, 3)])
    }
}
