//! Baselines of finished runs: their shape, trained from scratch.
//!
//! Zhuang Liu, Mingjie Sun, Tinghui Zhou, Gao Huang, Trevor Darrell: "Rethinking the Value of Network Pruning" (2019),
//! <https://arxiv.org/abs/1810.05270>. Scratch-E trains the pruned network with new initial weights for as many epochs as the run
//! had; Scratch-B for as many as cost what training the dense network for the run's epochs costs:
//!
//! ```text
//! epochs_B = floor(epochs · MACs_dense / MACs_pruned)
//! ```
//!
//! Warm-up and milestones keep their proportion. Where weights were removed one by one, the masks of the run stay as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Experiment;
use crate::Mistake;
use crate::records::read_summary;
use crate::run_folder::RunPaths;
use crate::setup::digest;
use crate::snapshot;

/// How long a baseline trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// For as many epochs as the run: Scratch-E.
    Epochs,
    /// For as many MACs as dense training takes over the epochs of the run: Scratch-B.
    Macs,
}

/// The section `[baseline]`: which finished run's shape is trained from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// How long it trains.
    pub budget: Budget,
    /// The run, by name and seed.
    pub of: String,
    /// The run's network, whose masks are taken; absent where only channels were removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// The SHA-256 of the run's `model.safetensors`.
    pub sha256: String,
    /// The units that are left of each channel group that lost some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Vec<usize>>,
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = match self.budget {
            Budget::Epochs => "Scratch-E: as many epochs",
            Budget::Macs => "Scratch-B: the MACs of dense training",
        };
        write!(f, "the shape of {} from scratch, {budget}", self.of)
    }
}

/// Between the seed of a run and that of its baseline, so that initial weights, order and crops are new ones.
const NEXT_SEED: u64 = 1000;

impl Experiment {
    /// Returns the experiment that trains the shape of the finished run in `folder` from scratch.
    ///
    /// # Errors
    ///
    /// Says that the run has not finished, has removed nothing or cannot be read.
    pub fn from_scratch(folder: &Path, budget: Budget) -> Result<Self> {
        let paths = RunPaths::new(folder);
        let place = folder.display();
        ensure!(
            paths.summary().is_file(),
            Mistake(format!(
                "the run in {place} has not finished, so its shape is not known: go on with it by --resume"
            ))
        );
        ensure!(
            paths.model().is_file(),
            Mistake(format!(
                "the run in {place} has lost its model.safetensors, which holds its shape and its masks: bring the file back, \
                 or train the run again"
            ))
        );
        let text = std::fs::read_to_string(paths.config());
        let text = text.with_context(|| format!("{} cannot be read", paths.config().display()))?;
        let run = Self::from_config(&text).map_err(|message| anyhow::anyhow!("the run in {place}: {message}"))?;
        ensure!(
            run.baseline.is_none(),
            Mistake(format!("the run in {place} is itself a baseline: name the run whose shape it has"))
        );
        let summary = read_summary(&paths.summary())?;
        let network = snapshot::read(&paths.model())?;
        let masked = network.masks.values().any(|mask| mask.kept() < mask.len());
        let kept = network.header.architecture.kept.clone();
        ensure!(
            masked || !kept.is_empty(),
            Mistake(format!("the run in {place} has removed nothing: its baseline is the run itself"))
        );
        let (letter, epochs) = match budget {
            Budget::Epochs => ('e', run.epochs),
            Budget::Macs => {
                let ratio = summary.dense_macs as f64 / summary.macs.max(1) as f64;
                ('b', (run.epochs as f64 * ratio) as u64)
            }
        };
        let model = paths.model();
        let baseline = Baseline {
            budget,
            of: format!("{} seed {}", run.name, run.seed),
            sha256: digest(&model)?,
            // The run that goes on may do so from another folder.
            model: masked.then(|| std::path::absolute(&model)).transpose()?,
            kept,
        };
        let mut scratch = run.with_epochs(epochs);
        scratch.name = format!("{}-scratch-{letter}", run.name);
        scratch.seed = run.seed + NEXT_SEED;
        let exclude = run.scheduler.get("exclude").filter(|_| masked && baseline.kept.is_empty()).cloned();
        scratch.scheduler = match masked {
            true => Table::from_iter([
                ("name".to_string(), Value::from("static")),
                ("sparsity".to_string(), Value::from(network.header.sparsity)),
                ("given".to_string(), Value::from(true)),
            ]),
            false => Table::from_iter([("name".to_string(), Value::from("dense"))]),
        };
        scratch.scheduler.extend(exclude.map(|names| ("exclude".to_string(), names)));
        scratch.baseline = Some(baseline);
        scratch.check().map_err(|message| Mistake(format!("the baseline of the run in {place}: {message}")))?;
        Ok(scratch)
    }

    /// Returns the experiment on the network of which only some units are left, without a scheduler.
    pub(crate) fn on_shape(&self, kept: BTreeMap<String, Vec<usize>>) -> Self {
        let mut shaped = self.clone();
        shaped.scheduler = Table::from_iter([("name".to_string(), Value::from("dense"))]);
        let (of, sha256) = (String::new(), String::new());
        shaped.baseline = Some(Baseline { budget: Budget::Epochs, of, model: None, sha256, kept });
        shaped
    }

    /// Checks that masks are given where they are said to be.
    pub(super) fn check_baseline(&self) -> Result<(), String> {
        let given = self.scheduler.get("given").and_then(Value::as_bool).unwrap_or(false);
        let here = self.baseline.as_ref().is_some_and(|baseline| baseline.model.is_some());
        match (given, here) {
            (true, false) => {
                Err("scheduler.given is true, but there are no masks: `bonsai train --scratch-e RUN` takes \
                                  those of a finished run"
                    .to_string())
            }
            (false, true) => {
                Err("baseline.model brings masks, but scheduler.given is not true: leave [scheduler] of a \
                                  baseline as it is"
                    .to_string())
            }
            _ => Ok(()),
        }
    }
}
