//! Adds up loss and accuracy where the network runs, so that a GPU is not asked for them at every iteration.

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::loss::correct;

/// Sums over records that were already read to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// The sum of the records' losses.
    pub loss: f64,
    /// Records whose label was predicted.
    pub correct: f64,
    /// Records seen.
    pub records: u64,
}

impl Totals {
    /// The mean loss of a record; NaN if there was none.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.records as f64
    }

    /// The share of records whose label was predicted; NaN if there was none.
    pub fn accuracy(&self) -> f64 {
        self.correct / self.records as f64
    }

    fn add(&mut self, other: Totals) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.records += other.records;
    }
}

/// A running sum of loss and accuracy.
#[derive(Debug, Default)]
pub struct Meter {
    totals: Totals,
    /// Loss and correct count, as one tensor `[2]`, so that reading them is one transfer; one for each device.
    pending: Vec<Tensor<1>>,
    pending_records: u64,
}

impl Meter {
    /// Creates a meter that goes on from `totals`.
    pub fn resumed(totals: Totals) -> Self {
        Self { totals, ..Self::default() }
    }

    /// Adds a batch: its mean loss `[1]`, its logits `[N, classes]` and labels `[N]`, all without autodiff.
    pub fn add(&mut self, loss: Tensor<1>, logits: Tensor<2>, labels: Tensor<1, Int>) {
        let records = labels.dims()[0];
        let sums = Tensor::cat(vec![loss * records as f64, correct(logits, labels)], 0);
        let device = sums.device();
        match self.pending.iter_mut().find(|pending| pending.device() == device) {
            Some(pending) => *pending = pending.clone() + sums,
            None => self.pending.push(sums),
        }
        self.pending_records += records as u64;
    }

    /// Reads what was added since the last call to the host and returns that part alone.
    pub fn read(&mut self) -> Totals {
        let mut part = Totals { records: std::mem::take(&mut self.pending_records), ..Totals::default() };
        for pending in std::mem::take(&mut self.pending) {
            let sums = crate::parameters::to_host(pending);
            part.loss += f64::from(sums[0]);
            part.correct += f64::from(sums[1]);
        }
        self.totals.add(part);
        part
    }

    /// Everything that was read so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
