//! What a run leaves: its resolved configuration, the network as a file, and the summary.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use bonsai_models::{Architecture, Network};
use bonsai_pruning::channels::Group;
use bonsai_pruning::{Engine, Removes};
use serde::Serialize;
use tracing::warn;

use crate::evaluate;
use crate::experiment::{Experiment, Protocol};
use crate::hardware::{self, Hardware};
use crate::recalibrate;
use crate::records::{Summary, read_metrics, read_summary};
use crate::run::Run;
use crate::snapshot::{self, SnapshotHeader};
use crate::trainee::load_network;

/// What the summary says about how its figures came about.
const PROTOCOL: &str = "trained on the training split; best_epoch is chosen on the validation split among epochs at \
                        the target sparsity; the test split is read once, after the last epoch, for the last network \
                        and the best";

/// The same where a paper's own rule asks for more.
const PAPER_PROTOCOL: &str = "trained on the training split; best_epoch is chosen on the validation split among epochs at \
                              the target sparsity, and tested with the last network after the last epoch; the test \
                              accuracy of every epoch stands in metrics.csv, and nothing is selected by it";

/// Says how a run's figures came about.
fn protocol(experiment: &Experiment) -> String {
    let protocol = match experiment.protocol {
        Protocol::Honest => PROTOCOL,
        Protocol::Paper => PAPER_PROTOCOL,
    };
    match experiment.evaluate.recalibrate {
        0 => protocol.to_string(),
        batches => format!(
            "{protocol}; before each validation and test, statistics of batch normalisation are recomputed over {batches} batches of \
             training images"
        ),
    }
}

/// Says in one line how many units each channel group has left; empty where no channels were removed.
fn shape(architecture: &Architecture, engine: &Engine) -> String {
    let full = architecture.full_channels().map_or_else(|_| Vec::new(), |channels| channels.groups);
    // Units that are masked are still part of the architecture; a network that began smaller has no groups.
    let masked: BTreeMap<&str, usize> =
        engine.groups().map(|(group, kept)| (group.name.as_str(), kept.kept())).collect();
    let built = |group: &Group| architecture.kept.get(&group.name).map_or(group.units, Vec::len);
    let left = |group: &Group| masked.get(group.name.as_str()).copied().unwrap_or_else(|| built(group));
    let lost = full.iter().filter(|group| left(group) < group.units);
    lost.map(|group| format!("{} {}/{}", group.name, left(group), group.units)).collect::<Vec<_>>().join(", ")
}

impl Run<'_> {
    /// Reads the test split, writes the model and the summary; a run that had finished before keeps its own.
    ///
    /// # Errors
    ///
    /// Says what cannot be read or written.
    pub fn finish(mut self) -> Result<Summary> {
        if self.folder.summary().exists() {
            self.dashboard.finish();
            return read_summary(&self.folder.summary());
        }
        let (setup, engine) = (self.setup, &self.parts.trainee.engine);
        let info = setup.source.set().info();
        let recalibrated = self.recalibrated()?;
        let last = recalibrated.as_ref().unwrap_or(&self.parts.trainee.network);
        let best = self.best_network();
        let networks: Vec<&Network> = std::iter::once(last).chain(&best).collect();
        let tested = evaluate::test(&networks, &setup.source, (info.mean, info.std), setup.limit_test, setup.workers)?;
        let best_is_last = self.at.best.is_some_and(|best| best.epoch + 1 == self.at.epoch);
        let best_tested = if best_is_last { tested.first() } else { tested.get(1) };
        self.write_snapshot(&self.folder.model(), recalibrated.as_ref())?;
        let total = self.parts.weights;
        let epochs = read_metrics(&self.folder.metrics())?;
        let summary = Summary {
            experiment: setup.asked.clone(),
            run: setup.experiment.name.clone(),
            baseline: setup.experiment.baseline.as_ref().map(ToString::to_string),
            data: info.name.to_string(),
            data_fingerprint: self.fingerprint.clone(),
            data_warnings: setup.source.warnings(),
            protocol: protocol(&setup.experiment),
            seed: setup.experiment.seed,
            device: setup.device_name.clone(),
            epochs: self.at.epoch,
            iterations: self.at.iteration,
            final_valid_accuracy: self.at.valid_accuracy.unwrap_or(f64::NAN),
            final_test_accuracy: tested[0].accuracy(),
            final_test_loss: tested[0].mean_loss(),
            test_records: tested[0].records,
            best_epoch: self.at.best.map(|best| best.epoch),
            best_valid_accuracy: self.at.best.map(|best| best.accuracy),
            best_test_accuracy: best_tested.map(|totals| totals.accuracy()),
            // A narrow network that is trained from scratch removes no weights.
            target_sparsity: (engine.scheduler().removes() == Removes::Weights
                && self.parts.trainee.architecture().kept.is_empty())
            .then(|| engine.scheduler().target()),
            target_macs: engine.scheduler().target_macs(),
            sparsity: engine.sparsity(),
            kept: engine.kept(),
            nonzero: self.parts.trainee.nonzero(),
            prunable: engine.total(),
            sparsity_of_all: (engine.total() - engine.kept()) as f64 / total as f64,
            parameters: self.parts.parameters,
            kept_parameters: engine.parameters(),
            shape: shape(self.parts.trainee.architecture(), engine),
            macs: engine.macs(),
            dense_macs: engine.dense_macs(),
            training_macs: self.at.training_macs,
            training_macs_of_dense: (self.at.trained.0 > 0)
                .then(|| self.at.training_macs as f64 / (3.0 * engine.dense_macs() as f64 * self.at.trained.0 as f64)),
            wall_seconds: self.wall_seconds(),
            images_per_second: self.at.trained.0 as f64 / self.at.trained.1,
            first_epoch_seconds: epochs.first().map(|row| row.seconds),
            last_epoch_seconds: epochs.last().map(|row| row.seconds),
            peak_memory_bytes: self.at.peak_memory.max(hardware::peak_memory()),
            resumes: self.at.resumes,
            git_revision: hardware::git_revision(),
            hardware: hardware::detect(&setup.device_name),
        };
        self.folder.write_summary(&summary)?;
        self.dashboard.finish();
        Ok(summary)
    }

    /// The network of the best epoch, unless that is the last one; `None`, with a warning, if its file is gone.
    fn best_network(&self) -> Option<Network> {
        let best = self.at.best.filter(|best| best.epoch + 1 != self.at.epoch)?;
        let path = self.best_path(best.epoch);
        let load = || -> Result<Network> {
            let snapshot = snapshot::read(&path)?;
            let (stored, expected) = (&snapshot.header.architecture, self.setup.experiment.architecture());
            ensure!(stored.full() == expected.full(), "{} holds another network", path.display());
            let device = self.setup.device.clone().inner();
            // A new network: a clone would share the running statistics of BatchNorm.
            let network = Network::new(stored, 0, &device).map_err(anyhow::Error::msg)?;
            load_network(network, snapshot.weights, &device)
        };
        load().inspect_err(|error| warn!("the best epoch's test accuracy stays empty: {error:#}")).ok()
    }

    /// Writes the network as it is now, with its masks, and with the statistics that it was validated with where those were
    /// recomputed.
    pub(crate) fn write_snapshot(&self, path: &Path, recalibrated: Option<&Network>) -> Result<()> {
        let info = self.setup.source.set().info();
        let trainee = &self.parts.trainee;
        let header = SnapshotHeader {
            format: snapshot::FORMAT,
            architecture: trainee.architecture().clone(),
            data: info.name.to_string(),
            mean: info.mean.to_vec(),
            std: info.std.to_vec(),
            scheduler: trainee.engine.scheduler().about().name.to_string(),
            sparsity: trainee.engine.sparsity(),
        };
        let weights = trainee.weights();
        let weights = match recalibrated {
            Some(network) => recalibrate::with_statistics_of(network, weights),
            None => weights,
        };
        snapshot::write(path, &weights, &trainee.stored_masks(), &header)
    }

    /// Writes the resolved experiment and what it runs on.
    pub(crate) fn write_config(&self) -> Result<()> {
        #[derive(Serialize)]
        struct Environment {
            git_revision: Option<String>,
            data_fingerprint: String,
            burn: &'static str,
            hardware: Hardware,
        }
        let environment = Environment {
            git_revision: hardware::git_revision(),
            data_fingerprint: self.fingerprint.clone(),
            burn: hardware::BURN_VERSION,
            hardware: hardware::detect(&self.setup.device_name),
        };
        let environment = BTreeMap::from([("environment", environment)]);
        let text = format!("{}\n{}", self.setup.experiment.to_toml(), toml::to_string(&environment)?);
        self.folder.write_config(&text)
    }
}
