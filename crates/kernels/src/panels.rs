//! The layout of vectors for linear layers and transformers: panels of 16 rows side by side, the row innermost.
//!
//! A panel holds `[feature][pixel][16]` floats, as a block of [`crate::maps`] does but without margins: one vector register
//! is one feature of 16 rows. A batch of vectors is cut into panels of up to 13 × 16 rows; a batch of token sequences has a
//! panel for each 16 images, whose pixels are the tokens, so that attention too works on 16 images at once.
//!
//! Rows that a last panel lacks hold finite numbers that mean nothing; in gradients they are zero, so that sums over all
//! rows are right.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::LANES;

/// Pixels of a panel of plain rows: few enough for the cache, and odd, so that features fall into different parts of it.
const PIXELS: usize = 13;

/// How rows `[rows, features]` lie in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panels {
    /// How many panels there are.
    pub panels: usize,
    /// Vectors of 16 rows in a panel and feature.
    pub pixels: usize,
    rows: usize,
    pixel_step: usize,
    lane_step: usize,
}

impl Panels {
    /// Returns the panels of `rows` vectors.
    pub fn of_rows(rows: usize) -> Panels {
        let vectors = rows.div_ceil(LANES).max(1);
        let panels = vectors.div_ceil(PIXELS);
        Panels { panels, pixels: vectors.div_ceil(panels), rows, pixel_step: LANES, lane_step: 1 }
    }

    /// Returns the panels of `images` sequences of `tokens` vectors: an image is a lane, a token a pixel.
    pub fn of_tokens(images: usize, tokens: usize) -> Panels {
        let panels = images.div_ceil(LANES);
        Panels { panels, pixels: tokens, rows: images * tokens, pixel_step: 1, lane_step: tokens }
    }

    /// Counts the rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Counts the floats of one feature of a panel.
    pub fn plane(&self) -> usize {
        self.pixels * LANES
    }

    /// Counts the floats of all panels with `features` features.
    pub fn len(&self, features: usize) -> usize {
        self.panels * features * self.plane()
    }

    /// Returns the row of a lane, if it is there.
    fn row(&self, panel: usize, pixel: usize, lane: usize) -> Option<usize> {
        let row = panel * LANES * self.pixels + pixel * self.pixel_step + lane * self.lane_step;
        (row < self.rows).then_some(row)
    }

    /// Puts rows `[rows, features]` into panels; missing rows are zero.
    ///
    /// # Panics
    ///
    /// Panics if `rows` has another length.
    pub fn pack(&self, rows: &[f32], features: usize) -> Buffer {
        assert_eq!(rows.len(), self.rows * features, "{} rows of {features}", self.rows);
        let mut out = Buffer::any(self.len(features));
        if features == 0 {
            return out;
        }
        out.par_chunks_mut(features * self.plane()).enumerate().for_each(|(panel, out)| {
            for pixel in 0..self.pixels {
                for first in (0..features).step_by(LANES) {
                    let count = LANES.min(features - first);
                    let mut square = [[0.0f32; LANES]; LANES];
                    for lane in 0..LANES {
                        if let Some(row) = self.row(panel, pixel, lane) {
                            for (i, value) in rows[row * features + first..][..count].iter().enumerate() {
                                square[i][lane] = *value;
                            }
                        }
                    }
                    for (i, vector) in square[..count].iter().enumerate() {
                        out[(first + i) * self.plane() + pixel * LANES..][..LANES].copy_from_slice(vector);
                    }
                }
            }
        });
        out
    }

    /// Takes rows `[rows, features]` out of panels.
    ///
    /// # Panics
    ///
    /// Panics if `panels` has another length.
    pub fn unpack(&self, panels: &[f32], features: usize) -> Buffer {
        assert_eq!(panels.len(), self.len(features), "panels of {} rows of {features}", self.rows);
        let mut out = Buffer::any(self.rows * features);
        if features == 0 {
            return out;
        }
        out.par_chunks_mut(LANES * self.pixels * features).enumerate().for_each(|(panel, out)| {
            let panels = &panels[panel * features * self.plane()..][..features * self.plane()];
            for pixel in 0..self.pixels {
                for first in (0..features).step_by(LANES) {
                    let count = LANES.min(features - first);
                    let mut square = [[0.0f32; LANES]; LANES];
                    for (i, vector) in square[..count].iter_mut().enumerate() {
                        vector.copy_from_slice(&panels[(first + i) * self.plane() + pixel * LANES..][..LANES]);
                    }
                    for lane in 0..LANES {
                        if let Some(row) = self.row(panel, pixel, lane) {
                            let row = row - panel * LANES * self.pixels;
                            for (i, value) in out[row * features + first..][..count].iter_mut().enumerate() {
                                *value = square[i][lane];
                            }
                        }
                    }
                }
            }
        });
        out
    }
}

/// Cuts `count` into as few parts of at most `most` as possible, of nearly equal size: where each starts, and its size.
#[inline(always)]
pub(crate) fn even(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| (part * count / parts, (part + 1) * count / parts - part * count / parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_panels() {
        for panels in [1, 15, 16, 17, 208, 209, 500].map(Panels::of_rows).into_iter().chain([
            Panels::of_tokens(1, 1),
            Panels::of_tokens(17, 5),
            Panels::of_tokens(32, 3),
        ]) {
            for features in [1, 16, 37] {
                let rows: Vec<f32> = (0..panels.rows() * features).map(|i| i as f32 + 1.0).collect();
                let packed = panels.pack(&rows, features);
                assert_eq!(*panels.unpack(&packed, features), rows[..]);
                // Nothing but the rows is there: missing ones are zero.
                assert_eq!(packed.iter().filter(|value| **value != 0.0).count(), rows.len());
            }
        }
    }

    #[test]
    fn parts_differ_by_at_most_one() {
        assert_eq!(even(65, 13).collect::<Vec<_>>(), [(0, 13), (13, 13), (26, 13), (39, 13), (52, 13)]);
        assert_eq!(even(7, 3).collect::<Vec<_>>(), [(0, 2), (2, 2), (4, 3)]);
        assert_eq!(even(0, 3).count(), 0);
    }
}
