//! bf16, the upper half of an f32: what convolutions and linear layers of [`Precision::Bf16`] multiply.
//!
//! Only operands are rounded, when a block of them is read: maps, gradients and weights are stored in f32, and sums are
//! f32. A product of two bf16 numbers is exact in f32. Two numbers share a lane, and [`Lanes::dot`](crate::simd::Lanes::dot)
//! multiplies both at once:
//!
//! | operand | layout | pairs |
//! |---|---|---|
//! | forward, data gradient | `[channels / 2][pixel][16][2]` | two channels (features) of an image (row); a missing last one is zero |
//! | weight gradient | `[channel][pixel][16]` | two images (rows) of a channel |

use serde::{Deserialize, Serialize};

/// How exactly the dense kernels of convolutions and linear layers multiply; sparse kernels, statistics and sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32.
    #[default]
    F32,
    /// Inputs, weights and gradients are rounded to bf16; products and sums are f32.
    Bf16,
    /// The same in f16, on GPUs: more exact, of less range, so that gradients have to be scaled. Kernels for CPUs take it for f32.
    F16,
}

/// A bf16 number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Bf16(u16);

impl Bf16 {
    /// Rounds to the nearest number, of two as near to the even one; NaN stays NaN.
    #[inline(always)]
    pub fn round(x: f32) -> Bf16 {
        let bits = x.to_bits();
        // A carry out of the mantissa is right: it rounds up to the next power of two, or to infinity.
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        Bf16(if x.is_nan() { bits >> 16 | 0x40 } else { nearest >> 16 } as u16)
    }

    /// Puts two numbers into one lane.
    #[inline(always)]
    pub fn pair(low: Bf16, high: Bf16) -> f32 {
        f32::from_bits(low.0 as u32 | (high.0 as u32) << 16)
    }
}

/// What a kernel stores the floats as that it computes.
pub(crate) trait Stored: Copy + Default + Send + Sync {
    /// Rounds if need be.
    fn of(x: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x
    }
}

impl Stored for Bf16 {
    #[inline(always)]
    fn of(x: f32) -> Bf16 {
        Bf16::round(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(x: f32) -> f32 {
        f32::from_bits(Bf16::pair(Bf16::default(), Bf16::round(x)).to_bits())
    }

    #[test]
    fn ties_go_to_even_numbers() {
        // Eight bits of mantissa: the neighbours of 1 are 1 - 2^-8 and 1 + 2^-7.
        let ulp = 2f32.powi(-7);
        assert_eq!(rounded(1.0 + 0.5 * ulp), 1.0);
        assert_eq!(rounded(1.0 + 0.51 * ulp), 1.0 + ulp);
        assert_eq!(rounded(-1.0 - 1.5 * ulp), -1.0 - 2.0 * ulp);
        assert_eq!(rounded(2.0 - 0.25 * ulp), 2.0);
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert_eq!(rounded(f32::NEG_INFINITY), f32::NEG_INFINITY);
        for payload in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff] {
            assert!(rounded(f32::from_bits(payload)).is_nan(), "{payload:x}");
        }
    }
}
