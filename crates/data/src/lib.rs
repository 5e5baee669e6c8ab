//! Reads images and labels and hands them out in augmented batches.
