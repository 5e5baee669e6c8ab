//! Keeps a data set's images on a GPU as bytes, and cuts batches out of them there.
//!
//! What is seen of each record is drawn on the host, as for batches that are made there; a batch then costs a few numbers for
//! each of its rows and columns instead of four bytes for each of its pixels. A table gives the normalised value of each byte,
//! the same table that the host uses, so that batches are equal to the last bit.

use std::ops::Range;

use bonsai_data::{Batch, Images, View};
use bonsai_kernels::cube::memory;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Images on a device.
#[derive(Clone, Debug)]
pub struct Resident {
    /// Four bytes each, since the smallest number that WGSL knows has four.
    words: Tensor<1, Int>,
    /// The normalised value of each byte, channel after channel.
    values: Tensor<1>,
    /// Where each channel begins in a record, and in `values`; `[1, channels, 1, 1]`.
    planes: [Tensor<4, Int>; 2],
    shape: [usize; 3],
    device: Device,
}

impl Resident {
    /// Puts images on a device; `values` are the normalised ones of each byte, for each channel.
    ///
    /// # Errors
    ///
    /// Says why they do not fit there.
    pub fn new(images: &Images, values: &[[f32; 256]], device: &Device) -> Result<Self, String> {
        let plain = device.clone().inner();
        fits(images.pixels.len() as u64, memory(&plain))?;
        let word = |bytes: &[u8]| i32::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)));
        let words: Vec<i32> = images.pixels.chunks(4).map(word).collect();
        let ints = |numbers: Vec<i32>| {
            let len = numbers.len();
            Tensor::<1, Int>::from_data(TensorData::new(numbers, [len]), &plain)
        };
        let [channels, height, width] = images.shape;
        let planes = [height * width, 256].map(|step| {
            ints((0..channels).map(|channel| (channel * step) as i32).collect()).reshape([1, channels, 1, 1])
        });
        let values: Vec<f32> = values.iter().flatten().copied().collect();
        let values = TensorData::new(values, [256 * channels]);
        let resident = Self {
            words: ints(words),
            values: Tensor::from_data(values, &plain),
            planes,
            shape: images.shape,
            device: device.clone(),
        };
        plain.sync().map_err(|error| format!("the device did not take them ({error:?})"))?;
        Ok(resident)
    }

    /// The size of the images on the device, in megabytes.
    pub fn megabytes(&self) -> u64 {
        (4 * self.words.dims()[0] as u64).div_ceil(1_000_000)
    }

    /// Returns a range of a batch's records: images `[N, C, H, W]` and labels `[N]`.
    pub fn tensors(&self, batch: &Batch, range: Range<usize>) -> (Tensor<4>, Tensor<1, Int>) {
        let images = self.images(&batch.records[range.clone()], &batch.views[range.clone()]);
        let images = if self.device.is_autodiff() { Tensor::from_inner(images) } else { images };
        let labels = TensorData::new(batch.labels[range.clone()].to_vec(), [range.len()]);
        (images, Tensor::from_data(labels, &self.device))
    }

    /// Returns what is seen of some records, normalised.
    fn images(&self, records: &[u32], views: &[View]) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        let shape @ [count, ..] = [records.len(), channels, height, width];
        // Where each record, each of its rows and each of its columns begins; below zero outside of the record.
        let mut places = Vec::with_capacity(count * (1 + height + width));
        for (&record, view) in records.iter().zip(views) {
            let [rows, columns] = view.sources([height, width]);
            places.push(record as i32 * (channels * height * width) as i32);
            places.extend(rows.iter().map(|row| row.map_or(-1, |row| (row * width) as i32)));
            places.extend(columns.iter().map(|column| column.map_or(-1, |column| column as i32)));
        }
        let device = self.words.device();
        let places = Tensor::<2, Int>::from_data(TensorData::new(places, [count, 1 + height + width]), &device);
        let starts = places.clone().narrow(1, 0, 1).reshape([count, 1, 1, 1]);
        let rows = places.clone().narrow(1, 1, height).reshape([count, 1, height, 1]);
        let columns = places.narrow(1, 1 + height, width).reshape([count, 1, 1, width]);
        let seen = rows.clone().greater_equal_elem(0).int() * columns.clone().greater_equal_elem(0).int();

        let [in_record, in_values] = self.planes.clone();
        let bytes = starts + in_record + rows.clamp_min(0) + columns.clamp_min(0);
        let size = shape.iter().product::<usize>();
        let words = self.words.clone().select(0, bytes.clone().bitwise_right_shift_scalar(2).reshape([size]));
        let shifts = bytes.bitwise_and_scalar(3).bitwise_left_shift_scalar(3).reshape([size]);
        let pixels = words.bitwise_right_shift(shifts).bitwise_and_scalar(255).reshape(shape) * seen;
        self.values.clone().select(0, (pixels + in_values).reshape([size])).reshape(shape)
    }
}

/// Tells whether as many bytes find a place, given the largest buffer and, where it is known, all of the memory.
fn fits(bytes: u64, memory: Option<(u64, Option<u64>)>) -> Result<(), String> {
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    if bytes > i32::MAX as u64 {
        return Err(format!("{} MB are more than a device's numbers count", megabytes(bytes)));
    }
    let Some((largest, all)) = memory else { return Ok(()) };
    if bytes > largest {
        return Err(format!("{} MB are more than one buffer of {} MB", megabytes(bytes), megabytes(largest)));
    }
    match all {
        Some(all) if bytes > all / 4 => {
            Err(format!("{} MB are more than a quarter of its {} MB", megabytes(bytes), megabytes(all)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_leave_no_room_stay_on_the_host() {
        assert_eq!(fits(150_000_000, None), Ok(()));
        assert_eq!(fits(150_000_000, Some((1 << 28, None))), Ok(()));
        assert_eq!(fits(150_000_000, Some((1 << 28, Some(1 << 33)))), Ok(()));
        let short = fits(150_000_000, Some((128_000_000, None))).unwrap_err();
        assert_eq!(short, "150 MB are more than one buffer of 128 MB");
        let short = fits(150_000_000, Some((1 << 30, Some(512_000_000)))).unwrap_err();
        assert_eq!(short, "150 MB are more than a quarter of its 512 MB");
        assert!(fits(1 << 31, None).is_err());
    }
}
