//! Computes the loss: softmax cross-entropy with label smoothing.
//!
//! Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016:
//! the target is `1 − ε` on the label plus `ε / classes` everywhere.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Returns the mean cross-entropy of `logits` `[N, classes]` against `labels` `[N]`, as a tensor of one element.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let records = labels.dims()[0];
    let log_probabilities = log_softmax(logits, 1);
    let on_label = -log_probabilities.clone().gather(1, labels.reshape([records, 1])).mean();
    if smoothing == 0.0 {
        return on_label;
    }
    on_label * (1.0 - smoothing) - log_probabilities.mean() * smoothing
}

/// Counts the records whose largest logit is their label, as a tensor of one element.
pub fn correct(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let records = labels.dims()[0];
    logits.argmax(1).reshape([records]).equal(labels).float().sum()
}
