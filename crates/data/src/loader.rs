//! Batches of images, prepared on other threads and always the same.

use crate::augment::{Normalisation, View};
use crate::{Augmentation, Images};
use bonsai_random::stream;
use rand::seq::SliceRandom;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

/// The number of batches that each thread holds ready.
const AHEAD: usize = 2;

/// Some records, ready to be put on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Normalised pixels, `records * channels * height * width`; none from a loader [without pixels](Loader::without_pixels).
    pub images: Vec<f32>,
    /// One class per record.
    pub labels: Vec<i32>,
    /// Records, channels, height and width.
    pub shape: [usize; 4],
    /// The index of each record in the images that the loader was given.
    pub records: Vec<u32>,
    /// What is seen of each record.
    pub views: Vec<View>,
}

/// Makes batches out of images.
#[derive(Debug)]
pub struct Loader {
    recipe: Arc<Recipe>,
    workers: usize,
    pixels: bool,
}

#[derive(Debug)]
struct Recipe {
    images: Arc<Images>,
    batch_size: usize,
    normalisation: Normalisation,
    augmentation: Option<Augmentation>,
    seed: u64,
}

impl Loader {
    /// Returns a loader with `workers` threads (at least one), which never change what comes out.
    ///
    /// # Panics
    ///
    /// Panics if the batch size is 0, if mean and deviation do not match the channels, or if the crop is not smaller
    /// than the image ([`Augmentation::check`]).
    pub fn new(
        images: Arc<Images>,
        batch_size: usize,
        mean: &[f32],
        std: &[f32],
        augmentation: Option<Augmentation>,
        seed: u64,
        workers: usize,
    ) -> Self {
        assert!(batch_size > 0, "the batch size is 0");
        assert_eq!([mean.len(), std.len()], [images.shape[0]; 2], "mean and deviation must match the channels");
        if let Some(error) = augmentation.as_ref().and_then(|augmentation| augmentation.check(images.shape).err()) {
            panic!("{error}");
        }
        let normalisation = Normalisation::new(mean, std);
        let recipe = Recipe { images, batch_size, normalisation, augmentation, seed };
        Self { recipe: Arc::new(recipe), workers: workers.max(1), pixels: true }
    }

    /// Leaves the pixels of an epoch's batches to somebody who has the images and is told what is seen of each record.
    pub fn without_pixels(self) -> Self {
        Self { pixels: false, ..self }
    }

    /// Returns the images that batches are made of.
    pub fn images(&self) -> &Images {
        &self.recipe.images
    }

    /// Returns the normalised value of each byte, for each channel.
    pub fn values(&self) -> &[[f32; 256]] {
        self.recipe.normalisation.values()
    }

    /// Returns the number of records of an epoch.
    pub fn records(&self) -> usize {
        self.recipe.images.len()
    }

    /// Returns the number of batches of an epoch; the last one may be smaller than the others.
    pub fn batches(&self) -> usize {
        self.recipe.images.len().div_ceil(self.recipe.batch_size)
    }

    /// Returns the batches of an epoch from `first_batch` on, shuffled and augmented.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Batches {
        let mut order: Vec<u32> = (0..self.recipe.images.len() as u32).collect();
        order.shuffle(&mut stream(self.recipe.seed, "order", epoch));
        Batches::start(self, order, Some(epoch), first_batch)
    }

    /// Returns all batches in the order of the records, as they are.
    pub fn in_order(&self) -> Batches {
        let order = (0..self.recipe.images.len() as u32).collect();
        Batches::start(self, order, None, 0)
    }
}

impl Recipe {
    fn batch(&self, records: &[u32], epoch: Option<u64>, pixels: bool) -> Batch {
        let [channels, height, width] = self.images.shape;
        let view = |record: &u32| match (&self.augmentation, epoch) {
            (Some(augmentation), Some(epoch)) => {
                augmentation.draw(&mut stream(self.seed, "augment", format_args!("{epoch}/{record}")))
            }
            _ => View::WHOLE,
        };
        let views: Vec<View> = records.iter().map(view).collect();
        let len = self.images.record_len();
        let mut images = vec![0.0; if pixels { records.len() * len } else { 0 }];
        for ((&record, &view), out) in records.iter().zip(&views).zip(images.chunks_exact_mut(len)) {
            self.normalisation.write(self.images.record(record as usize), self.images.shape, view, out);
        }
        let labels = records.iter().map(|&record| i32::from(self.images.labels[record as usize])).collect();
        Batch { images, labels, shape: [records.len(), channels, height, width], records: records.to_vec(), views }
    }
}

/// The batches of an epoch, in order.
///
/// Thread `i` of `n` prepares batches `i`, `i + n`, `i + 2n`, … and waits while a few of them are ready. Dropping the
/// iterator ends the threads.
#[derive(Debug)]
pub struct Batches {
    workers: Vec<Worker>,
    next: usize,
    left: usize,
}

#[derive(Debug)]
struct Worker {
    batches: Receiver<Batch>,
    thread: JoinHandle<()>,
}

impl Batches {
    fn start(loader: &Loader, order: Vec<u32>, epoch: Option<u64>, first: usize) -> Self {
        let recipe = &loader.recipe;
        // Evaluation reads pixels whoever has them.
        let pixels = loader.pixels || epoch.is_none();
        let batches = order.len().div_ceil(recipe.batch_size);
        let left = batches.saturating_sub(first);
        let workers = loader.workers.min(left);
        let order = Arc::new(order);
        let worker = |index| {
            let (recipe, order) = (Arc::clone(recipe), Arc::clone(&order));
            let (sender, batches) = sync_channel(AHEAD);
            let work = move || {
                for records in order.chunks(recipe.batch_size).skip(first + index).step_by(workers) {
                    // Nobody waits any more: the iterator was dropped.
                    if sender.send(recipe.batch(records, epoch, pixels)).is_err() {
                        return;
                    }
                }
            };
            let thread = Builder::new().name(format!("batches-{index}")).spawn(work);
            Worker { batches, thread: thread.expect("the operating system starts a thread") }
        };
        Self { workers: (0..workers).map(worker).collect(), next: 0, left }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.left == 0 {
            return None;
        }
        let batch = self.workers[self.next].batches.recv().expect("a worker sends all its batches");
        self.next = (self.next + 1) % self.workers.len();
        self.left -= 1;
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        // Every channel is closed before the first thread is waited for, so that all end at the same time.
        let threads: Vec<JoinHandle<()>> = self.workers.drain(..).map(|worker| worker.thread).collect();
        for thread in threads {
            // Its panic, if any, has already reached the reader of the batches.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;
    use std::collections::BTreeSet;

    /// Ten images of 1 x 4 x 4 pixels, each of a shade of its own.
    fn images() -> Arc<Images> {
        let pixels = (0..10u8).flat_map(|record| (0..16).map(move |pixel| record * 20 + pixel)).collect();
        Arc::new(Images { pixels, labels: (0..10).collect(), shape: [1, 4, 4], classes: 10 })
    }

    fn loader(seed: u64, workers: usize) -> Loader {
        let augmentation = Augmentation { crop: 2, padding: Padding::Reflect, flip: true };
        Loader::new(images(), 3, &[0.5], &[0.25], Some(augmentation), seed, workers)
    }

    fn all(batches: Batches) -> Vec<Batch> {
        batches.collect()
    }

    #[test]
    fn an_epoch_holds_every_record_once_and_ends_in_a_partial_batch() {
        let batches = all(loader(0, 2).epoch(0, 0));
        let shapes: Vec<[usize; 4]> = batches.iter().map(|batch| batch.shape).collect();
        assert_eq!(shapes, [[3, 1, 4, 4], [3, 1, 4, 4], [3, 1, 4, 4], [1, 1, 4, 4]]);
        assert_eq!(loader(0, 2).batches(), 4);
        let records: BTreeSet<u32> = batches.iter().flat_map(|batch| batch.records.clone()).collect();
        assert_eq!(records, (0..10).collect());
        for batch in batches {
            let labels: Vec<i32> = batch.records.iter().map(|&record| record as i32).collect();
            assert_eq!(batch.labels, labels);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let one = all(loader(7, 1).epoch(3, 0));
        for workers in [0, 2, 3, 16] {
            assert_eq!(all(loader(7, workers).epoch(3, 0)), one, "{workers} threads");
        }
    }

    #[test]
    fn a_resumed_epoch_continues_the_uninterrupted_one() {
        let whole = all(loader(7, 2).epoch(3, 0));
        for first in 0..=whole.len() {
            assert_eq!(all(loader(7, 3).epoch(3, first)), whole[first..]);
        }
        assert_eq!(all(loader(7, 3).epoch(3, 99)), []);
    }

    #[test]
    fn seed_and_epoch_change_order_and_augmentation() {
        let records = |seed, epoch| all(loader(seed, 1).epoch(epoch, 0)).concat_records();
        assert_eq!(records(0, 0), records(0, 0));
        assert_ne!(records(0, 0), records(0, 1));
        assert_ne!(records(0, 0), records(1, 0));
    }

    #[test]
    fn a_record_is_augmented_alike_wherever_it_lies_in_the_order() {
        let mut small = Loader::new(images(), 10, &[0.5], &[0.25], None, 7, 1);
        let recipe = Arc::get_mut(&mut small.recipe).unwrap();
        recipe.augmentation = Some(Augmentation { crop: 2, padding: Padding::Reflect, flip: true });
        let one = recipe.batch(&[4], Some(3), true);
        let many = recipe.batch(&[9, 4], Some(3), true);
        assert_eq!(one.images, many.images[16..]);
    }

    #[test]
    fn in_order_gives_the_plain_records() {
        let batches = all(loader(0, 2).in_order());
        assert_eq!(batches.concat_records(), (0..10).collect::<Vec<u32>>());
        let pixels: Vec<f32> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
        let expected: Vec<f32> = images().pixels.iter().map(|&byte| (f32::from(byte) / 255.0 - 0.5) / 0.25).collect();
        assert_eq!(pixels, expected);
    }

    #[test]
    fn dropping_the_iterator_early_ends_its_threads() {
        let loader = loader(0, 3);
        for taken in 0..4 {
            let mut batches = loader.epoch(0, 0);
            assert_eq!(batches.by_ref().take(taken).count(), taken);
            drop(batches);
        }
        // Every thread held a reference to the recipe.
        assert_eq!(Arc::strong_count(&loader.recipe), 1);
    }

    #[test]
    fn no_records_give_no_batches() {
        let loader = Loader::new(Arc::new(Images::empty([1, 4, 4], 10)), 3, &[0.5], &[0.25], None, 0, 2);
        assert_eq!((loader.batches(), loader.epoch(0, 0).count(), loader.in_order().count()), (0, 0, 0));
    }

    trait Records {
        fn concat_records(&self) -> Vec<u32>;
    }

    impl Records for Vec<Batch> {
        fn concat_records(&self) -> Vec<u32> {
            self.iter().flat_map(|batch| batch.records.clone()).collect()
        }
    }
}
