//! Products of matrices whose elements are vectors of 16 images.
#![allow(unsafe_code)]

use crate::maps::LANES;
use crate::panels::even;
use crate::simd::Lanes;

/// Rows in a register tile.
const TILE: usize = 4;

/// A matrix of vectors: element (row, i) lies at `row * row_step + i * sum_step`, where sums run over i.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    floats: &'a [f32],
    sum_step: usize,
    row_step: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub fn new(floats: &'a [f32], sum_step: usize, row_step: usize) -> Rows<'a> {
        Rows { floats, sum_step, row_step }
    }

    #[inline(always)]
    fn check(&self, rows: usize, sum: usize) {
        assert!((rows - 1) * self.row_step + (sum - 1) * self.sum_step + LANES <= self.floats.len());
    }
}

/// Writes, or adds, to (m, n) of `to`, at `m * steps[0] + n * steps[1]`, the sum of a (m, i) times b (n, i); the counts are
/// those of m, n and i.
#[inline(always)]
pub(super) fn multiply<L: Lanes>(counts: [usize; 3], a: Rows, b: Rows, to: &mut [f32], steps: [usize; 2], adds: bool) {
    let [rows, columns, sum] = counts;
    if rows == 0 || columns == 0 || sum == 0 {
        return;
    }
    a.check(rows, sum);
    b.check(columns, sum);
    assert!((rows - 1) * steps[0] + (columns - 1) * steps[1] + LANES <= to.len());
    let mut row = 0;
    while row < rows {
        if row + TILE <= rows {
            strip::<L, TILE>(row, [columns, sum], a, b, to, steps, adds);
            row += TILE;
        } else {
            strip::<L, 1>(row, [columns, sum], a, b, to, steps, adds);
            row += 1;
        }
    }
}

#[inline(always)]
fn strip<L: Lanes, const M: usize>(
    row: usize,
    [columns, sum]: [usize; 2],
    a: Rows,
    b: Rows,
    to: &mut [f32],
    steps: [usize; 2],
    adds: bool,
) {
    // With 16 vector registers instead of 32, a tile is narrower.
    let most = if L::WIDTH == LANES { 5 } else { 2 };
    for (column, count) in even(columns, most) {
        // SAFETY: `multiply` has checked the last element of each matrix; rows and columns of the tile exist.
        #[allow(unsafe_code)]
        unsafe {
            match count {
                5 if L::WIDTH == LANES => tile::<L, M, 5>(row, column, sum, a, b, to, steps, adds),
                4 if L::WIDTH == LANES => tile::<L, M, 4>(row, column, sum, a, b, to, steps, adds),
                3 if L::WIDTH == LANES => tile::<L, M, 3>(row, column, sum, a, b, to, steps, adds),
                2 => tile::<L, M, 2>(row, column, sum, a, b, to, steps, adds),
                _ => tile::<L, M, 1>(row, column, sum, a, b, to, steps, adds),
            }
        }
    }
}

/// # Safety
///
/// Rows `row..row + M`, columns `column..column + N` and `sum` terms must exist.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<L: Lanes, const M: usize, const N: usize>(
    row: usize,
    column: usize,
    sum: usize,
    a: Rows,
    b: Rows,
    to: &mut [f32],
    steps: [usize; 2],
    adds: bool,
) {
    for lane in (0..LANES).step_by(L::WIDTH) {
        // SAFETY: the caller vouches for rows, columns and terms.
        unsafe {
            let to = to.as_mut_ptr().add(row * steps[0] + column * steps[1] + lane);
            let mut sums = [[L::splat(0.0); N]; M];
            if adds {
                for m in 0..M {
                    for n in 0..N {
                        sums[m][n] = L::load(to.add(m * steps[0] + n * steps[1]));
                    }
                }
            }
            let mut left = a.floats.as_ptr().add(row * a.row_step + lane);
            let mut right = b.floats.as_ptr().add(column * b.row_step + lane);
            for _ in 0..sum {
                let mut columns = [L::splat(0.0); N];
                for n in 0..N {
                    columns[n] = L::load(right.add(n * b.row_step));
                }
                for m in 0..M {
                    let value = L::load(left.add(m * a.row_step));
                    for n in 0..N {
                        sums[m][n] = value.mul_add(columns[n], sums[m][n]);
                    }
                }
                left = left.wrapping_add(a.sum_step);
                right = right.wrapping_add(b.sum_step);
            }
            for m in 0..M {
                for n in 0..N {
                    sums[m][n].store(to.add(m * steps[0] + n * steps[1]));
                }
            }
        }
    }
}
