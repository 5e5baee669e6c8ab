//! Images and labels as bytes in memory.

/// The records of one split: pixels as published, one label each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// All pixels, `records * channels * height * width`.
    pub pixels: Vec<u8>,
    /// One class per record, below `classes`.
    pub labels: Vec<u8>,
    /// Channels, height and width of a record.
    pub shape: [usize; 3],
    /// The number of classes.
    pub classes: usize,
}

impl Images {
    /// Returns no records of the given shape.
    pub fn empty(shape: [usize; 3], classes: usize) -> Self {
        Self { pixels: Vec::new(), labels: Vec::new(), shape, classes }
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the number of bytes of one record.
    pub fn record_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the pixels of one record.
    ///
    /// # Panics
    ///
    /// Panics if there is no such record.
    pub fn record(&self, index: usize) -> &[u8] {
        let len = self.record_len();
        &self.pixels[index * len..(index + 1) * len]
    }

    /// Cuts off the last `n` records (all, if there are fewer) as the validation split and returns (train, validation).
    pub fn split_validation(mut self, n: usize) -> (Images, Images) {
        let train = self.len().saturating_sub(n);
        let valid = Images {
            pixels: self.pixels.split_off(train * self.record_len()),
            labels: self.labels.split_off(train),
            shape: self.shape,
            classes: self.classes,
        };
        (self, valid)
    }

    /// Keeps the first `n` records.
    pub fn truncate(&mut self, n: usize) {
        self.labels.truncate(n);
        self.pixels.truncate(self.labels.len() * self.record_len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Images {
        Images { pixels: vec![1, 2, 3, 4, 5, 6], labels: vec![0, 1, 0], shape: [1, 1, 2], classes: 2 }
    }

    #[test]
    fn validation_is_the_end_of_train() {
        let (train, valid) = three().split_validation(1);
        assert_eq!((train.pixels, train.labels), (vec![1, 2, 3, 4], vec![0, 1]));
        assert_eq!((valid.pixels, valid.labels), (vec![5, 6], vec![0]));
    }

    #[test]
    fn a_validation_larger_than_train_takes_everything() {
        let (train, valid) = three().split_validation(7);
        assert_eq!((train.len(), valid.len()), (0, 3));
    }

    #[test]
    fn truncate_keeps_the_first_records_and_never_adds_any() {
        let mut images = three();
        images.truncate(9);
        assert_eq!(images.len(), 3);
        images.truncate(1);
        assert_eq!((images.pixels, images.labels), (vec![1, 2], vec![0]));
    }
}
