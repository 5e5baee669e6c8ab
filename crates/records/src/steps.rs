//! Where the time of single training steps went.

use serde::{Deserialize, Serialize};

/// A row of `steps.csv`: one training step out of a few that are looked at in every epoch.
///
/// Times are milliseconds. Where a step runs on kernels of our own, the time of all threads is shared out among its parts and
/// divided by their number; on other devices only [`passes`](Self::passes) and [`update`](Self::update) can be told apart. Either
/// way all columns after `milliseconds` add up to it, to the rounding of each to a microsecond. None of it comes out the same
/// when a run is repeated. A mask event at the end of a step is no part of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepRow {
    /// Epoch of the step, counted from 0.
    pub epoch: u64,
    /// Which step of the run, counted from 1.
    pub iteration: u64,
    /// The whole step, from the end of the one before.
    pub milliseconds: f64,
    /// Waiting until the loader had a batch.
    pub loader: f64,
    /// Forward passes of convolutions, dense kernels.
    pub forward_dense: f64,
    /// Data gradients of convolutions, dense kernels.
    pub data_gradient_dense: f64,
    /// Weight gradients of convolutions, dense kernels.
    pub weight_gradient_dense: f64,
    /// Forward passes of convolutions, sparse kernels.
    pub forward_sparse: f64,
    /// Data gradients of convolutions, sparse kernels.
    pub data_gradient_sparse: f64,
    /// Weight gradients of convolutions, sparse kernels.
    pub weight_gradient_sparse: f64,
    /// Depthwise convolutions, both ways.
    pub depthwise: f64,
    /// What convolutions do around their kernels: packed weights, lists of kept ones, sums put together.
    pub around: f64,
    /// Linear layers, both ways.
    pub linear: f64,
    /// Attention between its linear layers, both ways.
    pub attention: f64,
    /// Batch normalisation with rectifier and residual, both ways.
    pub batch_norm: f64,
    /// Layer normalisation, both ways.
    pub layer_norm: f64,
    /// The activation of a perceptron, both ways.
    pub gelu: f64,
    /// Pooling and the shortcut without parameters, both ways.
    pub pooling: f64,
    /// Maps brought into blocks and back.
    pub layout: f64,
    /// Loss and accuracy.
    pub loss: f64,
    /// The optimizer, without masks.
    pub optimizer: f64,
    /// Masks on gradients and weights.
    pub masks: f64,
    /// Images and labels brought to the device.
    pub data: f64,
    /// Threads that wait for a kernel's last task, and memory.
    pub waiting: f64,
    /// What belongs to none of these.
    pub other: f64,
    /// Forward and backward pass on a device whose parts cannot be told apart, between two synchronisations.
    pub passes: f64,
    /// The optimizer's step with its masks on such a device, likewise.
    pub update: f64,
}

impl StepRow {
    /// The parts, which add up to the step, in the order of the columns.
    pub fn parts(&self) -> [f64; 23] {
        [
            self.loader,
            self.forward_dense,
            self.data_gradient_dense,
            self.weight_gradient_dense,
            self.forward_sparse,
            self.data_gradient_sparse,
            self.weight_gradient_sparse,
            self.depthwise,
            self.around,
            self.linear,
            self.attention,
            self.batch_norm,
            self.layer_norm,
            self.gelu,
            self.pooling,
            self.layout,
            self.loss,
            self.optimizer,
            self.masks,
            self.data,
            self.waiting,
            self.other,
            self.passes + self.update,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::csv_header;

    #[test]
    fn every_column_after_the_whole_step_is_a_part_of_it() {
        let header = String::from_utf8(csv_header::<StepRow>()).unwrap();
        let columns: Vec<&str> = header.trim_end().split(',').collect();
        assert_eq!(columns[..3], ["epoch", "iteration", "milliseconds"]);
        for column in &columns[3..] {
            let line: Vec<&str> = columns.iter().map(|other| if other == column { "1" } else { "0" }).collect();
            let text = format!("{header}{}\n", line.join(","));
            let row: StepRow = csv::Reader::from_reader(text.as_bytes()).deserialize().next().unwrap().unwrap();
            assert_eq!(row.parts().iter().sum::<f64>(), 1.0, "{column}");
        }
    }
}
