//! What a run writes down: a row an epoch, a row a layer, a line a mask event, and a summary at the end.
//!
//! Accuracies and sparsities are shares from 0 to 1, times are seconds, MACs are multiply-accumulates of one image.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A row of `metrics.csv`: one epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochRow {
    /// Epochs finished before this one; the first is 0.
    pub epoch: u64,
    /// Optimizer steps taken since the start of the run.
    pub iteration: u64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Mean loss over the epoch's training images, as it was trained on.
    pub train_loss: f64,
    /// Share of the epoch's training images that were classified correctly while training.
    pub train_accuracy: f64,
    /// Mean loss over the validation split after the epoch.
    pub valid_loss: f64,
    /// Share of the validation split classified correctly after the epoch.
    pub valid_accuracy: f64,
    /// Share of the prunable weights that is removed.
    pub sparsity: f64,
    /// Prunable weights that are not zero; a kept weight that was grown at the last iteration still is.
    pub nonzero: u64,
    /// MACs for one image with the removed weights left out.
    pub macs: u64,
    /// Learnable parameters that are kept.
    #[serde(default)]
    pub parameters: u64,
    /// MACs of the training so far: each image's forward pass, data gradients and weight gradients, at the MACs of the
    /// weights kept at that step; weight gradients of all weights where a step took those. Multiplications with zeros that
    /// dense kernels do are left out, as are validation, normalisation and the optimizer.
    #[serde(default)]
    pub training_macs: u64,
    /// Wall time of the epoch with its validation, in seconds.
    pub seconds: f64,
    /// Training images per second of training time.
    pub images_per_second: f64,
    /// Share of the test split classified correctly after the epoch; a column only under `protocol = "paper"`, and nothing is
    /// selected by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// What the loss is multiplied by after the epoch; a column only with `precision = "f16"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Optimizer steps since the beginning that were left out because a gradient was not finite; a column only with
    /// `precision = "f16"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
}

/// A row of `layers.csv`: one layer after one epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LayerRow {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Path of the layer's weight, such as `blocks.0.conv1.weight`.
    pub name: String,
    /// Weights of the layer.
    pub weights: u64,
    /// Weights that are kept.
    pub kept: u64,
    /// Share of the layer's weights that is removed.
    pub sparsity: f64,
    /// Weights that were grown in the epoch.
    pub grown: u64,
    /// Weights that were pruned in the epoch.
    pub pruned: u64,
}

/// A line of `events.jsonl`: one change of the masks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EventRow {
    /// Optimizer step after which it happened; 0 is before training.
    pub iteration: u64,
    /// Epoch of that step, counted from 0.
    pub epoch: u64,
    /// Share of all prunable weights that is removed after it.
    pub sparsity: f64,
    /// Prunable weights kept after it.
    pub kept: u64,
    /// Weights that it removed.
    pub pruned: u64,
    /// Weights that it grew.
    pub grown: u64,
    /// Share of each layer's kept weights that was to be dropped and grown again; absent where the event only prunes.
    pub replace: Option<f64>,
    /// The same by layer, in the order of the network.
    pub layers: Vec<EventLayer>,
    /// The channel groups that lost units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<EventGroup>,
    /// Further figures that the scheduler reports, by name.
    pub figures: BTreeMap<String, f64>,
}

/// One layer's part in a mask event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventLayer {
    /// Path of the layer's weight.
    pub name: String,
    /// Weights kept after the event.
    pub kept: u64,
    /// Weights that the event removed.
    pub pruned: u64,
    /// Weights that the event grew.
    pub grown: u64,
}

/// One channel group's part in a mask event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventGroup {
    /// Name of the group.
    pub name: String,
    /// Units kept after the event.
    pub kept: u64,
    /// Units that the event removed.
    pub pruned: u64,
}

/// Another line of `events.jsonl`: which kernels the steps after an event have found to be faster, and by how much.
///
/// Dense and sparse kernels return the same numbers, so these measurements are the only part of a run that does not come
/// out the same when it is repeated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KernelsRow {
    /// Optimizer step after which all choices were made.
    pub iteration: u64,
    /// Every layer that has a choice, in the order of the network.
    pub kernels: Vec<KernelsLayer>,
    /// On a GPU, what the smaller network of a cut needed before its steps were as fast as they can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<TunedKernels>,
}

/// Kernels that a GPU had to compile and to tune for shapes that it had not met.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TunedKernels {
    /// Kernels that were tuned anew; absent where nothing is kept that could be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<u64>,
    /// Kernels that were compiled anew, on devices whose compiled kernels are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<u64>,
    /// Seconds until the last of them was done, the steps themselves included.
    pub seconds: f64,
}

/// The kernels of one layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KernelsLayer {
    /// Path of the layer's weight.
    pub name: String,
    /// The forward pass, with the normalisations beside it.
    pub forward: KernelsChoice,
    /// The weight gradient, within the layer's whole backward pass.
    pub weight_gradient: KernelsChoice,
    /// The data gradient, within the layer's whole backward pass.
    pub data_gradient: KernelsChoice,
}

/// The faster kernels of one direction, and the reason.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KernelsChoice {
    /// `"dense"` or `"sparse"`.
    pub faster: String,
    /// The shortest time measured with dense kernels, in milliseconds.
    pub dense_ms: f64,
    /// The same with sparse kernels.
    pub sparse_ms: f64,
}

/// The content of `summary.toml`: what came out of a run, and on what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Name of the experiment that was asked for.
    pub experiment: String,
    /// Name of the run, after the data that was really used.
    pub run: String,
    /// Which finished run this one trains the shape of from scratch, and for how long; absent where it is no baseline.
    #[serde(default)]
    pub baseline: Option<String>,
    /// Name of the data set that was really used.
    pub data: String,
    /// SHA-256 over the content of the data set's files.
    pub data_fingerprint: String,
    /// What was to be said about the data, such as a checksum that is not the published one.
    pub data_warnings: Vec<String>,
    /// How the figures below were selected and measured.
    pub protocol: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Device that trained, as the command line named it.
    pub device: String,
    /// Epochs finished.
    pub epochs: u64,
    /// Optimizer steps taken.
    pub iterations: u64,
    /// Share of the validation split classified correctly by the network as training left it; not a number where none was used.
    pub final_valid_accuracy: f64,
    /// Share of the test split classified correctly by the network as training left it.
    pub final_test_accuracy: f64,
    /// Mean loss of that network over the test split.
    pub final_test_loss: f64,
    /// Images of the test split that were used.
    pub test_records: u64,
    /// Epoch with the best validation accuracy among those at the target sparsity, counted from 0; absent where none is.
    pub best_epoch: Option<u64>,
    /// Validation accuracy of that epoch.
    pub best_valid_accuracy: Option<f64>,
    /// Test accuracy of that epoch's network; absent where it was not kept.
    pub best_test_accuracy: Option<f64>,
    /// Share of the prunable weights that was to be removed in the end; absent where whole channels were.
    #[serde(default)]
    pub target_sparsity: Option<f64>,
    /// Share of the dense network's MACs that was to be left in the end; absent where no method asked for one.
    #[serde(default)]
    pub target_macs: Option<f64>,
    /// Share of the prunable weights that is removed.
    pub sparsity: f64,
    /// Prunable weights that are kept, which is what sparsity counts.
    pub kept: u64,
    /// Prunable weights that are not zero; a kept weight that was grown at the last iteration still is.
    pub nonzero: u64,
    /// Prunable weights.
    pub prunable: u64,
    /// Share of all convolution and linear weights that is removed, those excluded from pruning counted as kept.
    pub sparsity_of_all: f64,
    /// Learnable parameters of the dense network.
    pub parameters: u64,
    /// Learnable parameters that are kept.
    #[serde(default)]
    pub kept_parameters: u64,
    /// Units that are left of each channel group that lost some, `name left/all`, in one line; empty where none did.
    #[serde(default)]
    pub shape: String,
    /// MACs for one image with the removed weights left out.
    pub macs: u64,
    /// MACs for one image of the dense network.
    pub dense_macs: u64,
    /// MACs of the whole training, counted as in `metrics.csv`.
    #[serde(default)]
    pub training_macs: u64,
    /// The same, as a share of training the dense network on as many images.
    #[serde(default)]
    pub training_macs_of_dense: Option<f64>,
    /// Wall time of the run over all its processes, checkpoints and validation included, in seconds.
    pub wall_seconds: f64,
    /// Training images per second of training time.
    pub images_per_second: f64,
    /// Seconds of the first epoch, its validation included; absent in a run of no epochs.
    #[serde(default)]
    pub first_epoch_seconds: Option<f64>,
    /// The same of the last epoch, when the network is as small as it gets.
    #[serde(default)]
    pub last_epoch_seconds: Option<f64>,
    /// The most memory that the process held, in bytes; absent where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// How often the run was interrupted and resumed.
    pub resumes: u32,
    /// Git revision of the sources, with `-dirty` where files differed; absent without git.
    pub git_revision: Option<String>,
    /// The machine.
    pub hardware: Hardware,
}

impl Summary {
    /// Checks that the figures are possible ones.
    ///
    /// # Errors
    /// Names the first figure that is not.
    pub fn check(&self) -> Result<()> {
        let shares = [
            ("final_valid_accuracy", Some(self.final_valid_accuracy)),
            ("final_test_accuracy", Some(self.final_test_accuracy)),
            ("best_valid_accuracy", self.best_valid_accuracy),
            ("best_test_accuracy", self.best_test_accuracy),
            ("target_sparsity", self.target_sparsity),
            ("sparsity", Some(self.sparsity)),
        ];
        for (name, share) in shares {
            let share = share.unwrap_or(f64::NAN);
            ensure!(share.is_nan() || (0.0..=1.0).contains(&share), "{name} is {share}, and must lie between 0 and 1");
        }
        ensure!(
            self.nonzero <= self.kept && self.kept <= self.prunable,
            "nonzero is {}, kept {} and prunable {}, which must rise in this order",
            self.nonzero,
            self.kept,
            self.prunable
        );
        Ok(())
    }
}

/// The machine of a run; what cannot be found out is `"unknown"` or 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Model name of the processor.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Memory of the machine, in bytes.
    pub memory: u64,
    /// Operating system and instruction set.
    pub os: String,
    /// Device that trained, as the command line named it.
    pub device: String,
}

/// A row of `receipt.csv`: what one form of a run's network costs on the machine that measured it.
///
/// Every row is of the same images and of one machine, measured in turn; none of it comes out the same when it is repeated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReceiptRow {
    /// `dense`: all weights; `masked`: zeros, and dense kernels that multiply them; `sparse`: kernels that leave zeros out; `compact`:
    /// removed channels cut out.
    pub network: String,
    /// MACs for one image.
    pub macs: u64,
    /// Learnable parameters that are kept.
    pub parameters: u64,
    /// Bytes of the network's file, `sparse` in its packed form.
    pub bytes: u64,
    /// Images in a batch.
    pub images: u64,
    /// The median of a forward pass in evaluation, in milliseconds.
    pub forward_ms: f64,
    /// The median of a training step with its optimizer, in milliseconds.
    pub step_ms: f64,
    /// The dense network's time for a forward pass, divided by this one's.
    pub forward_speedup: f64,
    /// The dense network's time for a training step, divided by this one's.
    pub step_speedup: f64,
    /// Why it is no faster, or not as much as its MACs are fewer.
    pub why: String,
}

/// Gives the first line of a file of such rows.
///
/// # Panics
/// Never for rows of plain fields.
pub fn csv_header<Row: Serialize + Default>() -> Vec<u8> {
    let text = csv_rows(&[Row::default()], true).expect("a row of plain fields can be written");
    text.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default().to_vec()
}

/// Writes rows as CSV lines, under a header if asked.
///
/// # Errors
/// A row that is not flat.
pub fn csv_rows<Row: Serialize>(rows: &[Row], header: bool) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().has_headers(header).from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_in_the_documented_order() {
        let line = |header: Vec<u8>| String::from_utf8(header).unwrap();
        assert_eq!(
            line(csv_header::<EpochRow>()),
            "epoch,iteration,lr,train_loss,train_accuracy,valid_loss,valid_accuracy,sparsity,nonzero,macs,parameters,training_macs,seconds,images_per_second\n"
        );
        assert_eq!(line(csv_header::<LayerRow>()), "epoch,name,weights,kept,sparsity,grown,pruned\n");
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let row = EventRow {
            iteration: 100,
            replace: Some(0.5),
            layers: vec![EventLayer { name: "stem.weight".into(), kept: 4, pruned: 1, grown: 0 }],
            figures: BTreeMap::from([("threshold".to_string(), 0.25)]),
            ..EventRow::default()
        };
        let line = serde_json::to_string(&row).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<EventRow>(&line).unwrap(), row);
    }
}
