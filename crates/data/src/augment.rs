//! Random crops and flips, and the normalisation that turns bytes into floats.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// The random changes that a training image undergoes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augmentation {
    /// The number of pixels by which an image is moved at most, in each direction; 0 for none.
    pub crop: usize,
    /// What fills the border that a move lays bare.
    pub padding: Padding,
    /// Whether every other image, at random, is mirrored left to right.
    pub flip: bool,
}

/// What lies around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// Black, before normalisation.
    Zero,
    /// The image mirrored at its border pixels, which are not repeated.
    Reflect,
}

impl Augmentation {
    /// Checks that the crop leaves something of an image of this shape.
    ///
    /// # Errors
    ///
    /// Returns a sentence that names the field, the value and the range.
    pub fn check(&self, shape: [usize; 3]) -> Result<(), String> {
        let limit = shape[1].min(shape[2]);
        if self.crop >= limit {
            return Err(format!("crop is {}, expected 0 to {} for images of this size", self.crop, limit - 1));
        }
        Ok(())
    }

    /// Draws where one image is looked at.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> View {
        // The flip is drawn always and first, so that switching it on leaves the crops as they were.
        let flip = rng.random_bool(0.5) && self.flip;
        let mut offset = || rng.random_range(0..=2 * self.crop) as isize - self.crop as isize;
        View { top: offset(), left: offset(), flip, padding: self.padding }
    }
}

/// A window of an image's size on the padded image, seen directly or in a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    top: isize,
    left: isize,
    flip: bool,
    padding: Padding,
}

impl View {
    /// The image as it is.
    pub const WHOLE: View = View { top: 0, left: 0, flip: false, padding: Padding::Zero };

    /// Returns the row and the column of a record of this height and width that each row and column of the window shows;
    /// padding shows none, and is black before normalisation.
    pub fn sources(&self, [height, width]: [usize; 2]) -> [Vec<Option<usize>>; 2] {
        let mut columns = sources(width, self.left, self.padding);
        if self.flip {
            columns.reverse();
        }
        [sources(height, self.top, self.padding), columns]
    }
}

/// Normalised values of all bytes, per channel: `(byte / 255 - mean) / std`.
#[derive(Debug)]
pub(crate) struct Normalisation(Vec<[f32; 256]>);

impl Normalisation {
    pub fn new(mean: &[f32], std: &[f32]) -> Self {
        let table = |(mean, std)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
        Self(mean.iter().zip(std).map(table).collect())
    }

    /// The value of each byte, for each channel.
    pub fn values(&self) -> &[[f32; 256]] {
        &self.0
    }

    /// Writes the view of a record of C, H and W as normalised floats.
    pub fn write(&self, record: &[u8], shape: [usize; 3], view: View, out: &mut [f32]) {
        let [_, height, width] = shape;
        let [rows, columns] = view.sources([height, width]);
        let channels = record.chunks_exact(height * width).zip(out.chunks_exact_mut(height * width));
        for ((pixels, out), values) in channels.zip(&self.0) {
            for (out, row) in out.chunks_exact_mut(width).zip(&rows) {
                match row {
                    Some(row) => {
                        let pixels = &pixels[row * width..][..width];
                        for (out, column) in out.iter_mut().zip(&columns) {
                            *out = values[usize::from(column.map_or(0, |column| pixels[column]))];
                        }
                    }
                    None => out.fill(values[0]),
                }
            }
        }
    }
}

/// Returns where each of `len` pixels comes from if the window is moved by `offset`; padding has no place.
fn sources(len: usize, offset: isize, padding: Padding) -> Vec<Option<usize>> {
    let last = len as isize - 1;
    let source = |index: isize| match padding {
        _ if (0..=last).contains(&index) => Some(index as usize),
        Padding::Zero => None,
        Padding::Reflect if index < 0 => Some(-index as usize),
        Padding::Reflect => Some((2 * last - index) as usize),
    };
    (0..=last).map(|index| source(index + offset)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_random::stream;

    const ZERO: Padding = Padding::Zero;
    const REFLECT: Padding = Padding::Reflect;

    /// A row of four pixels 1 2 3 4, seen through a window.
    fn row(left: isize, flip: bool, padding: Padding) -> Vec<f32> {
        let mut out = vec![f32::NAN; 4];
        let view = View { top: 0, left, flip, padding };
        Normalisation::new(&[0.0], &[1.0 / 255.0]).write(&[1, 2, 3, 4], [1, 1, 4], view, &mut out);
        out.iter().map(|value| value.round()).collect()
    }

    #[test]
    fn four_pixels_moved() {
        assert_eq!(row(0, false, ZERO), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(row(2, false, ZERO), [3.0, 4.0, 0.0, 0.0]);
        assert_eq!(row(-1, false, ZERO), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(row(2, false, REFLECT), [3.0, 4.0, 3.0, 2.0]);
        assert_eq!(row(-3, false, REFLECT), [4.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn the_mirror_comes_after_the_move() {
        assert_eq!(row(1, true, ZERO), [0.0, 4.0, 3.0, 2.0]);
        assert_eq!(row(-2, true, REFLECT), [2.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn padding_is_black_before_normalisation() {
        let (mean, std) = (0.25f32, 0.5f32);
        let view = View { top: 1, left: 0, flip: false, padding: ZERO };
        let mut out = [0.0; 2];
        Normalisation::new(&[mean], &[std]).write(&[255, 51], [1, 2, 1], view, &mut out);
        assert_eq!(out, [(0.2 - mean) / std, -mean / std]);
    }

    #[test]
    fn every_channel_has_its_own_normalisation() {
        let mut out = [0.0; 2];
        Normalisation::new(&[0.0, 1.0], &[1.0, 2.0]).write(&[255, 255], [2, 1, 1], View::WHOLE, &mut out);
        assert_eq!(out, [1.0, 0.0]);
    }

    #[test]
    fn all_offsets_come_up_and_half_the_images_are_mirrored() {
        let augmentation = Augmentation { crop: 2, padding: ZERO, flip: true };
        let mut rng = stream(0, "test", "offsets");
        let views: Vec<View> = (0..1000).map(|_| augmentation.draw(&mut rng)).collect();
        for offset in -2..=2 {
            assert!(views.iter().any(|view| view.top == offset) && views.iter().any(|view| view.left == offset));
        }
        assert!(views.iter().all(|view| view.top.abs() <= 2 && view.left.abs() <= 2));
        assert!((450..550).contains(&views.iter().filter(|view| view.flip).count()));
    }

    #[test]
    fn a_crop_as_large_as_the_image_is_refused() {
        let augmentation = |crop| Augmentation { crop, padding: REFLECT, flip: false };
        assert_eq!(augmentation(31).check([3, 32, 32]), Ok(()));
        let error = augmentation(32).check([3, 32, 32]).unwrap_err();
        assert_eq!(error, "crop is 32, expected 0 to 31 for images of this size");
    }
}
