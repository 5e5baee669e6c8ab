//! The layout of activations: blocks of 16 images, the image innermost.
//!
//! A block holds `[channel][pixel][16]` floats, so that one vector register is one pixel of 16 images, and every kernel is
//! the same at every map size. Around each map lies a margin of zeros, one pixel wide, so that a 3×3 kernel needs no
//! special case at the border; the margin at the end of a row is the one at the start of the next:
//!
//! ```text
//! 0 0 0 0     a map of 2 × 3 pixels: (2 + 2) · (3 + 1) + 1 pixels are stored
//! 0 a b c
//! 0 d e f
//! 0 0 0 0 0
//! ```
//!
//! Images that a last block lacks are zeros too. Kernels rely on both and keep both.

use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::profile::{Part, Timer};

/// Images in a block.
pub const LANES: usize = 16;

/// The shape of an activation in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Images, of which the last block may lack some.
    pub images: usize,
    /// Channels.
    pub channels: usize,
    /// Rows of a map.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Zeros around a map.
    pub(crate) margin: usize,
}

impl Maps {
    /// Returns the shape of `[images, channels, height, width]`.
    pub fn new([images, channels, height, width]: [usize; 4]) -> Maps {
        Maps { images, channels, height, width, margin: 1 }
    }

    /// Returns `[images, channels, height, width]`.
    pub fn dims(&self) -> [usize; 4] {
        [self.images, self.channels, self.height, self.width]
    }

    /// Counts the blocks.
    pub fn blocks(&self) -> usize {
        self.images.div_ceil(LANES)
    }

    /// Counts the pixels stored for a map, those of the margin included.
    pub fn pixels(&self) -> usize {
        (self.height + 2 * self.margin) * self.row() + self.margin
    }

    /// Counts the floats of all blocks.
    pub fn len(&self) -> usize {
        self.blocks() * self.block()
    }

    /// Tells whether there is no pixel at all.
    pub fn is_empty(&self) -> bool {
        self.dims().contains(&0)
    }

    /// Counts the floats of a block.
    pub(crate) fn block(&self) -> usize {
        self.channels * self.plane()
    }

    /// Counts the floats of one channel of a block.
    pub(crate) fn plane(&self) -> usize {
        self.pixels() * LANES
    }

    /// Counts the pixels from one row to the next.
    pub(crate) fn row(&self) -> usize {
        self.width + self.margin
    }

    /// Returns where in a plane the floats of row `y` are.
    pub(crate) fn floats(&self, y: usize) -> Range<usize> {
        let start = ((y + self.margin) * self.row() + self.margin) * LANES;
        start..start + self.width * LANES
    }

    /// Counts the images of block `block`.
    pub(crate) fn lanes(&self, block: usize) -> usize {
        (self.images - block * LANES).min(LANES)
    }

    /// Writes the zeros around the map in `plane`.
    pub(crate) fn clear_margin<T: Copy + Default>(&self, plane: &mut [T]) {
        self.clear_margin_of(0..self.height, plane);
    }

    /// Writes the zeros before each of `rows`, and those behind the last row of all.
    pub(crate) fn clear_margin_of<T: Copy + Default>(&self, rows: Range<usize>, plane: &mut [T]) {
        let last = rows.end == self.height;
        let mut end = if rows.start == 0 { 0 } else { self.floats(rows.start - 1).end };
        for y in rows {
            let row = self.floats(y);
            // Usually one pixel, which is written faster than by a call.
            match <&mut [T; LANES]>::try_from(&mut plane[end..row.start]) {
                Ok(pixel) => *pixel = [T::default(); LANES],
                Err(_) => plane[end..row.start].fill(T::default()),
            }
            end = row.end;
        }
        if last {
            plane[end..].fill(T::default());
        }
    }

    /// Writes zeros for the images that block `block` lacks.
    pub(crate) fn clear_missing<T: Copy + Default>(&self, block: usize, plane: &mut [T]) {
        self.clear_missing_of(0..self.height, block, plane);
    }

    /// Writes zeros for the images that block `block` lacks, in `rows`.
    pub(crate) fn clear_missing_of<T: Copy + Default>(&self, rows: Range<usize>, block: usize, plane: &mut [T]) {
        let lanes = self.lanes(block);
        if lanes < LANES {
            for pixel in rows.flat_map(|y| self.floats(y).step_by(LANES)) {
                plane[pixel + lanes..pixel + LANES].fill(T::default());
            }
        }
    }

    /// Puts images `[images, channels, height, width]` into blocks.
    ///
    /// # Panics
    ///
    /// Panics if `images` has another length than the shape says.
    pub fn from_nchw(&self, images: &[f32]) -> Buffer {
        assert_eq!(images.len(), self.dims().iter().product::<usize>(), "images of {:?}", self.dims());
        let mut out = Buffer::any(self.len());
        let map = self.height * self.width;
        out.par_chunks_mut(self.plane()).enumerate().for_each_init(timer, |_, (i, plane)| {
            let (block, channel) = (i / self.channels, i % self.channels);
            plane.fill(0.0);
            for lane in 0..self.lanes(block) {
                let from = ((block * LANES + lane) * self.channels + channel) * map;
                for (y, row) in images[from..from + map].chunks_exact(self.width).enumerate() {
                    for (pixel, value) in plane[self.floats(y)].chunks_exact_mut(LANES).zip(row) {
                        pixel[lane] = *value;
                    }
                }
            }
        });
        out
    }

    /// Takes images `[images, channels, height, width]` out of blocks.
    ///
    /// # Panics
    ///
    /// Panics if `blocks` has another length than the shape says.
    pub fn to_nchw(&self, blocks: &[f32]) -> Buffer {
        assert_eq!(blocks.len(), self.len(), "blocks of {:?}", self.dims());
        let mut out = Buffer::any(self.dims().iter().product());
        let map = self.height * self.width;
        out.par_chunks_mut((self.channels * map).max(1)).enumerate().for_each_init(timer, |_, (image, out)| {
            let (block, lane) = (image / LANES, image % LANES);
            for (channel, out) in out.chunks_exact_mut(map).enumerate() {
                let plane = &blocks[block * self.block() + channel * self.plane()..][..self.plane()];
                for (y, row) in out.chunks_exact_mut(self.width).enumerate() {
                    for (value, pixel) in row.iter_mut().zip(plane[self.floats(y)].chunks_exact(LANES)) {
                        *value = pixel[lane];
                    }
                }
            }
        });
        out
    }

    /// Returns the shape of these maps where two channels share a lane.
    pub(crate) fn in_pairs(&self) -> Maps {
        Maps { channels: self.channels.div_ceil(2), ..*self }
    }

    /// Copies blocks into ones with a margin of `margin` pixels.
    pub(crate) fn with_margin(&self, blocks: &[f32], margin: usize) -> (Maps, Buffer) {
        let wide = Maps { margin, ..*self };
        let mut out = Buffer::any(wide.len());
        out.par_chunks_mut(wide.plane()).zip(blocks.par_chunks(self.plane())).for_each_init(timer, |_, (to, from)| {
            wide.clear_margin(to);
            for y in 0..self.height {
                to[wide.floats(y)].copy_from_slice(&from[self.floats(y)]);
            }
        });
        (wide, out)
    }
}

/// Counts the time of a task.
fn timer() -> Timer<'static> {
    Part::Layout.time()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_back_from_blocks() {
        for dims in [[1, 1, 1, 1], [16, 3, 4, 5], [17, 2, 3, 3], [40, 5, 2, 7]] {
            let maps = Maps::new(dims);
            let images: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| i as f32 + 1.0).collect();
            let blocks = maps.from_nchw(&images);
            assert_eq!(*maps.to_nchw(&blocks), images[..]);
            // Nothing but the images is there: margins and missing images are zero.
            assert_eq!(blocks.iter().filter(|value| **value != 0.0).count(), images.len());
            let (wide, copy) = maps.with_margin(&blocks, 3);
            assert_eq!(*wide.to_nchw(&copy), images[..]);
            assert_eq!(copy.iter().filter(|value| **value != 0.0).count(), images.len());
        }
    }

    #[test]
    fn margins_and_missing_images_are_cleared() {
        let maps = Maps::new([5, 2, 3, 4]);
        let mut plane = vec![1.0; maps.plane()];
        maps.clear_margin(&mut plane);
        assert_eq!(plane.iter().sum::<f32>(), (3 * 4 * LANES) as f32);
        maps.clear_missing(0, &mut plane);
        assert_eq!(plane.iter().sum::<f32>(), (3 * 4 * 5) as f32);
    }
}
