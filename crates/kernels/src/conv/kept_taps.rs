//! The sparse kernel of the forward pass and of the data gradient: as [`super::taps`], but each output channel sums its own
//! list of taps.
//!
//! A tile is four rows of four pixels of one output channel, or two where registers or rows are few. All output channels of
//! a tile follow each other, for a group of input channels at a time, so that the input pixels around it stay in the first
//! cache. Taps above and below the map are not left out; they read the margin.
//!
//! With one tap a list has few entries for each group, so groups are larger and tiles smaller: eight pixels. All groups of a
//! tile follow each other, so that its sums stay in the second cache.
#![allow(unsafe_code)]

use std::ops::Range;

use super::ahead::Ahead;
use super::pattern::Entries;
use super::plan::Start;
use super::taps::{Place, Taps};
use crate::maps::{LANES, Maps};
use crate::simd::{Kernel, Lanes};

/// Some output channels of one block.
pub(super) struct Work<'a> {
    /// The shape of the input.
    pub from: Maps,
    /// The block of the input.
    pub input: &'a [f32],
    /// The shape of the output.
    pub to: Maps,
    /// Planes of the output.
    pub output: &'a mut [f32],
    /// The rectangle that all taps lie in.
    pub taps: &'a Taps,
    /// Which output pixels can be written.
    pub place: &'a Place,
    /// Those rows of them that are.
    pub rows: Range<usize>,
    /// The taps of all output channels.
    pub entries: &'a Entries,
    /// The output channel of the first plane.
    pub first: usize,
    /// What the sums start from.
    pub start: Start,
    /// What comes next.
    pub ahead: &'a mut Ahead,
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        self.check();
        // Steps from pixel to pixel that the compiler knows cost no instructions.
        match (self.taps.step, self.place.step) {
            (1, 1) => self.all::<L, 1, 1>(),
            (2, 1) => self.all::<L, 2, 1>(),
            (1, 2) => self.all::<L, 1, 2>(),
            _ => self.all::<L, 0, 0>(),
        }
    }
}

impl Work<'_> {
    /// Writes all rows; the steps through input and output are `I` and `O` or, where these are 0, any.
    #[inline(always)]
    fn all<L: Lanes, const I: usize, const O: usize>(&mut self) {
        let (rows, columns, groups) = (self.rows.clone(), self.place.columns, self.entries.groups);
        let channels = self.output.len() / self.to.plane();
        let is_point = self.taps.height * self.taps.width == 1;
        // Sixteen sums need as many registers, and more.
        let tall = L::WIDTH == LANES && (I, O) == (1, 1) && columns.is_multiple_of(4) && !is_point;
        let height = |left: usize| match left {
            4.. if tall => 4,
            _ if is_point && columns >= 8 => 1,
            _ => left.min(2),
        };
        let width = if is_point && columns >= 8 { 8 } else { 4 };
        let mut tiles = 0;
        let mut y = 0;
        while y < rows.len() {
            y += height(rows.len() - y);
            tiles += columns.div_ceil(width);
        }
        self.ahead.over(groups * tiles * channels);
        let (outer, inner) = if is_point { (1, groups) } else { (groups, 1) };
        for first in 0..outer {
            let mut y = rows.start;
            while y < rows.end {
                let height = height(rows.end - y);
                let mut x = 0;
                while x < columns {
                    let mut wide = 0;
                    for group in first * inner..(first + 1) * inner {
                        wide = match (columns - x, height) {
                            (_, 4) => self.channels::<L, I, O, 4, 4>(group, y, x),
                            (8.., 1) if is_point => self.channels::<L, I, O, 1, 8>(group, y, x),
                            (4.., 2) => self.channels::<L, I, O, 2, 4>(group, y, x),
                            (4.., _) => self.channels::<L, I, O, 1, 4>(group, y, x),
                            (2.., 2) => self.channels::<L, I, O, 2, 2>(group, y, x),
                            (2.., _) => self.channels::<L, I, O, 1, 2>(group, y, x),
                            (_, 2) => self.channels::<L, I, O, 2, 1>(group, y, x),
                            (_, _) => self.channels::<L, I, O, 1, 1>(group, y, x),
                        };
                    }
                    x += wide;
                }
                y += height;
            }
        }
    }

    /// Makes sure that no pointer of [`Work::channels`] leaves its slice.
    fn check(&self) {
        let Work { from, to, taps, place, rows, entries, .. } = self;
        assert_eq!(self.input.len(), from.block());
        assert!(rows.end <= place.rows);
        assert_eq!(self.output.len() % to.plane(), 0);
        assert!(self.first + self.output.len() / to.plane() <= entries.channels());
        assert!(place.row + place.step * (place.rows - 1) < to.height);
        assert!(place.column + place.step * (place.columns - 1) < to.width);
        assert!(taps.margin(place, from.width) <= from.margin);
        assert!(taps.margin_above(place, from.height) <= from.margin);
    }

    /// Writes, or after the first group adds to, `R` rows of `P` pixels of all output channels; returns `P`.
    #[inline(always)]
    fn channels<L: Lanes, const I: usize, const O: usize, const R: usize, const P: usize>(
        &mut self,
        group: usize,
        y: usize,
        x: usize,
    ) -> usize {
        let Work { from, to, taps, place, entries, .. } = *self;
        let row = taps.top + (taps.step * y + from.margin) as isize;
        let column = taps.left + (taps.step * x + from.margin) as isize;
        let start = (row * from.row() as isize + column) * LANES as isize;
        let pixel = (place.row + place.step * y + to.margin) * to.row() + place.column + place.step * x + to.margin;
        let (step, over) = if I == 0 { (taps.step, place.step) } else { (I, O) };
        let (down, right) = (step * from.row() * LANES, step * LANES);
        let adds = group > 0 || self.start == Start::Output;
        for channel in 0..self.output.len() / to.plane() {
            self.ahead.step::<L>();
            let list = entries.of(group, self.first + channel..self.first + channel + 1);
            if adds && list.is_empty() {
                continue;
            }
            for lane in (0..LANES).step_by(L::WIDTH) {
                // SAFETY: `check` has found that the rectangle of taps of each of these output pixels lies within a plane
                // and its margin; entries lie in that rectangle, in channels of the input, by their construction for
                // `from`. The pixels written lie within the plane of `channel`, which this task borrows alone.
                unsafe {
                    let input = self.input.as_ptr().wrapping_offset(start).wrapping_add(lane);
                    let output = self.output.as_mut_ptr().add(channel * to.plane() + pixel * LANES + lane);
                    let mut sums = [[L::splat(0.0); P]; R];
                    if adds {
                        for r in 0..R {
                            for p in 0..P {
                                sums[r][p] = L::load(output.add(over * (r * to.row() + p) * LANES));
                            }
                        }
                    }
                    for entry in list {
                        let weight = L::splat(entry.weight);
                        let input = input.wrapping_add(entry.offset as usize);
                        for r in 0..R {
                            for p in 0..P {
                                sums[r][p] =
                                    L::load(input.wrapping_add(r * down + p * right)).mul_add(weight, sums[r][p]);
                            }
                        }
                    }
                    for r in 0..R {
                        for p in 0..P {
                            sums[r][p].store(output.add(over * (r * to.row() + p) * LANES));
                        }
                    }
                }
            }
        }
        P
    }
}
