//! A run in its folder: position, records, checkpoints and the summary around the training loop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bonsai_data::Batch;
use bonsai_models::Network;
use bonsai_pruning::clock::Clock;
use bonsai_pruning::engine::{Change, Engine};
use bonsai_pruning::scheduler::Event;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::checkpoint;
use crate::dashboard::{Dashboard, Plan, Progress};
use crate::diagnose::diagnose;
use crate::evaluate;
use crate::hardware::{self, Hardware};
use crate::meter::Meter;
use crate::parameters::Gradients;
use crate::position::{Best, Position};
use crate::records::{EpochRow, EventLayer, EventRow, LayerRow, Summary};
use crate::run_folder::RunFolder;
use crate::setup::{Parts, Setup};
use crate::snapshot::{self, SnapshotHeader};
use crate::trainee::{Trainee, TraineeState, load_network};

/// What the summary says about how its figures came about.
const PROTOCOL: &str = "trained on the training split; best_epoch is chosen on the validation split among epochs at \
                        the target sparsity; the test split is read once, after the last epoch";

/// What a checkpoint holds besides tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    experiment: String,
    fingerprint: String,
    limit_test: Option<usize>,
    position: Position,
    trainee: TraineeState,
    lengths: std::collections::BTreeMap<String, u64>,
}

/// A run that is under way.
pub struct Run<'a> {
    setup: &'a Setup,
    parts: Parts,
    folder: RunFolder,
    dashboard: Dashboard,
    at: Position,
    meter: Meter,
    fingerprint: String,
    last_checkpoint: Instant,
    /// When the iteration under way began, and the run in this process.
    iteration_began: Instant,
}

impl<'a> Run<'a> {
    /// Opens the run folder and builds the run, or restores it from its newest checkpoint.
    pub fn open(setup: &'a Setup, resume: bool) -> Result<Self> {
        let folder = RunFolder::create(&setup.folder, !resume)?;
        let mut parts = setup.build()?;
        let fingerprint = setup.source.fingerprint()?;
        let loaded = if resume { checkpoint::load_newest(&folder.checkpoints())? } else { None };

        let initial = parts.trainee.begin();
        let layers = parts.trainee.engine.layers().len();
        let mut at = Position { changes: vec![(0, 0); layers], ..Position::default() };
        let mut notes = setup.source.warnings();
        let fresh = loaded.is_none();
        if let Some(loaded) = loaded {
            notes.extend(loaded.warnings);
            let state: State = serde_json::from_value(loaded.state)
                .context("the newest checkpoint was written by another version of bonsai: start anew with --out")?;
            ensure!(
                state.experiment == setup.experiment.to_toml(),
                "{} was started with other settings: resume it with those, or start anew with --out",
                setup.folder.display()
            );
            ensure!(
                state.fingerprint == fingerprint,
                "the data set {} is not the one that {} was started with (fingerprint {fingerprint}, then {}): restore it, or start anew with --out",
                setup.source.set().info().name,
                setup.folder.display(),
                state.fingerprint
            );
            ensure!(
                state.limit_test == setup.limit_test,
                "{} was started {}: resume it in the same way, so that its figures stay comparable",
                setup.folder.display(),
                state.limit_test.map_or("without --limit-test".to_string(), |limit| format!("with --limit-test {limit}")),
            );
            parts.trainee.restore(loaded.tensors, state.trainee)?;
            folder.truncate_to(&state.lengths)?;
            at = state.position;
            at.resumes += 1;
        } else {
            folder.truncate_to(&Default::default())?;
        }

        let experiment = &setup.experiment;
        let detail = format!("{} on {}, {}, {}", experiment.model, setup.source.set(), experiment.scheduler_name(), setup.device_name);
        let plan = Plan {
            title: &experiment.name,
            detail: &detail,
            epochs: parts.horizon.epochs,
            iterations_per_epoch: parts.horizon.iterations_per_epoch,
            first_iteration: at.iteration,
            batch_size: experiment.batch_size,
            records: parts.train.records(),
            layers: &layer_rows(&parts.trainee.engine, &at),
        };
        let dashboard = Dashboard::new(setup.view, &plan, setup.stop.clone());
        let meter = Meter::resumed(at.totals);
        let now = Instant::now();
        let mut run = Self {
            setup,
            parts,
            folder,
            dashboard,
            at,
            meter,
            fingerprint,
            last_checkpoint: now,
            iteration_began: now,
        };
        for note in notes {
            warn!("{note}");
            run.dashboard.note(&note);
        }
        if fresh {
            run.write_config()?;
            if initial.changed {
                run.record_change(0, None, &initial)?;
            }
            run.checkpoint()?;
        } else {
            info!("resumed at iteration {}", run.at.iteration);
            run.dashboard.note(&format!("resumed at iteration {}", run.at.iteration));
        }
        run.iteration_began = Instant::now();
        Ok(run)
    }

    /// Whether all epochs are done.
    pub fn is_done(&self) -> bool {
        self.at.epoch >= self.parts.horizon.epochs
    }

    /// The batches of the epoch that are not done yet.
    pub fn remaining_batches(&self) -> impl Iterator<Item = Batch> + use<> {
        self.parts.train.epoch(self.at.epoch, self.at.batch)
    }

    /// The clock of the iteration under way.
    pub fn clock(&self) -> Clock {
        self.parts.clock(self.at.iteration + 1)
    }

    /// The network, its masks and the optimizer.
    pub fn trainee(&mut self) -> &mut Trainee {
        &mut self.parts.trainee
    }

    /// Whether the iteration under way is the last of its epoch.
    pub fn is_last_of_epoch(&self) -> bool {
        self.at.batch + 1 == self.parts.train.batches()
    }

    /// Runs the network forward and backward.
    pub fn forward_backward(&mut self, batch: &Batch) -> Gradients {
        self.parts.trainee.gradients(batch, &mut self.meter)
    }

    /// Reads loss and accuracy to the host and shows them.
    ///
    /// # Errors
    ///
    /// A loss that is not finite is a [`NonFinite`](crate::diagnose::NonFinite).
    pub fn read_loss(&mut self, gradients: &Gradients) -> Result<()> {
        let clock = self.clock();
        let part = self.meter.read();
        if !part.loss.is_finite() {
            self.dashboard.finish();
            return Err(diagnose(&self.parts.trainee.network, gradients, clock.iteration).into());
        }
        let (images, seconds) = self.at.trained;
        self.dashboard.progress(&Progress {
            epoch: clock.epoch(),
            iteration: clock.iteration,
            loss: part.mean_loss(),
            accuracy: part.accuracy(),
            lr: clock.lr,
            sparsity: self.parts.trainee.engine.sparsity(),
            images_per_second: if seconds > 0.0 { images as f64 / seconds } else { 0.0 },
        });
        Ok(())
    }

    /// Moves on to the next iteration.
    pub fn advance(&mut self, images: usize) {
        let seconds = self.iteration_began.elapsed().as_secs_f64();
        self.iteration_began = Instant::now();
        self.at.iteration += 1;
        self.at.batch += 1;
        self.at.epoch_seconds += seconds;
        self.at.wall_seconds += seconds;
        self.at.trained.0 += images as u64;
        self.at.trained.1 += seconds;
    }

    /// Records a mask event of the iteration under way.
    pub fn record_event(&mut self, event: &Event, change: &Change) -> Result<()> {
        self.record_change(self.at.iteration + 1, event.replace, change)
    }

    fn record_change(&mut self, iteration: u64, replace: Option<f64>, change: &Change) -> Result<()> {
        for ((pruned, grown), layer) in self.at.changes.iter_mut().zip(&change.layers) {
            *pruned += layer.pruned;
            *grown += layer.grown;
        }
        let engine = &self.parts.trainee.engine;
        let row = EventRow {
            iteration,
            epoch: self.parts.clock(iteration).epoch(),
            sparsity: engine.sparsity(),
            kept: engine.kept(),
            pruned: change.layers.iter().map(|layer| layer.pruned as u64).sum(),
            grown: change.layers.iter().map(|layer| layer.grown as u64).sum(),
            replace,
            layers: (change.layers.iter())
                .map(|layer| EventLayer {
                    name: layer.name.clone(),
                    kept: layer.kept as u64,
                    pruned: layer.pruned as u64,
                    grown: layer.grown as u64,
                })
                .collect(),
            figures: engine.observe().into_iter().collect(),
        };
        self.folder.append_event(&row)?;
        self.dashboard.event(&row);
        Ok(())
    }

    /// Validates, writes the epoch's rows and a checkpoint, and moves on to the next epoch.
    pub fn end_epoch(&mut self) -> Result<()> {
        let began = Instant::now();
        let valid = evaluate::evaluate(&self.parts.trainee.network, &self.parts.valid);
        let clock = self.parts.clock(self.at.iteration);
        let train = self.meter.totals();
        let engine = &self.parts.trainee.engine;
        let images = self.parts.train.records() as f64;
        let layers = layer_rows(engine, &self.at);
        let row = EpochRow {
            epoch: self.at.epoch,
            iteration: self.at.iteration,
            lr: clock.lr,
            train_loss: train.mean_loss(),
            train_accuracy: train.accuracy(),
            valid_loss: valid.mean_loss(),
            valid_accuracy: valid.accuracy(),
            sparsity: engine.sparsity(),
            nonzero: engine.kept(),
            macs: engine.macs(),
            seconds: self.at.epoch_seconds + began.elapsed().as_secs_f64(),
            images_per_second: images / self.at.epoch_seconds,
        };
        self.folder.append_epoch(&row)?;
        for layer in &layers {
            self.folder.append_layer(layer)?;
        }
        self.dashboard.epoch(&row, &layers);
        info!(epoch = row.epoch, train_loss = row.train_loss, valid_accuracy = row.valid_accuracy, sparsity = row.sparsity, "epoch done");

        let better = self.at.best.is_none_or(|best| row.valid_accuracy > best.accuracy);
        if self.at_target_sparsity() && better {
            self.at.best = Some(Best { epoch: self.at.epoch, accuracy: row.valid_accuracy });
            self.write_snapshot("best.safetensors")?;
        }
        self.at.valid_accuracy = Some(row.valid_accuracy);
        self.at.wall_seconds += began.elapsed().as_secs_f64();
        self.at.epoch += 1;
        self.at.batch = 0;
        self.at.epoch_seconds = 0.0;
        self.at.changes.fill((0, 0));
        self.meter = Meter::default();
        self.checkpoint()
    }

    /// Whether the network is as sparse as its schedule ends; rounding may cost a weight a layer.
    fn at_target_sparsity(&self) -> bool {
        let engine = &self.parts.trainee.engine;
        let target = engine.total() as f64 * (1.0 - engine.scheduler().target());
        (engine.kept() as f64 - target).abs() <= engine.layers().len() as f64
    }

    /// Writes a checkpoint if the last one is older than the experiment allows.
    pub fn checkpoint_if_due(&mut self) -> Result<()> {
        let minutes = self.setup.experiment.checkpoint.minutes;
        if self.last_checkpoint.elapsed() >= Duration::from_secs_f64(minutes * 60.0) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Writes a checkpoint.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.meter.read();
        self.at.totals = self.meter.totals();
        let (tensors, trainee) = self.parts.trainee.save();
        let state = State {
            experiment: self.setup.experiment.to_toml(),
            fingerprint: self.fingerprint.clone(),
            limit_test: self.setup.limit_test,
            position: self.at.clone(),
            trainee,
            lengths: self.folder.lengths()?,
        };
        let state = serde_json::to_value(state).context("writing a checkpoint")?;
        let keep = self.setup.experiment.checkpoint.keep;
        checkpoint::save(&self.folder.checkpoints(), self.at.iteration, &tensors, &state, keep)?;
        self.last_checkpoint = Instant::now();
        // A checkpoint's time belongs to no iteration.
        self.iteration_began = Instant::now();
        Ok(())
    }

    /// Reads the test split, once, and writes the model and the summary.
    pub fn finish(mut self) -> Result<Summary> {
        let (setup, engine) = (self.setup, &self.parts.trainee.engine);
        let network = &self.parts.trainee.network;
        let last = evaluate::test(network, &setup.source, setup.limit_test, setup.workers)?;
        let best = match self.at.best {
            Some(best) if best.epoch + 1 == self.at.epoch => Some(last.accuracy()),
            Some(_) => {
                let snapshot = snapshot::read(&self.folder.path().join("best.safetensors"))?;
                let device = setup.device.clone().inner();
                // A new network: a clone would share the running statistics of BatchNorm.
                let best = Network::new(&snapshot.header.architecture, 0, &device).map_err(anyhow::Error::msg)?;
                let network = load_network(best, snapshot.weights, &device)?;
                Some(evaluate::test(&network, &setup.source, setup.limit_test, setup.workers)?.accuracy())
            }
            None => None,
        };
        self.write_snapshot("model.safetensors")?;
        let info = setup.source.set().info();
        let summary = Summary {
            experiment: setup.asked.clone(),
            run: setup.experiment.name.clone(),
            data: info.name.to_string(),
            data_fingerprint: self.fingerprint.clone(),
            data_warnings: setup.source.warnings(),
            protocol: PROTOCOL.to_string(),
            seed: setup.experiment.seed,
            device: setup.device_name.clone(),
            epochs: self.at.epoch,
            iterations: self.at.iteration,
            final_valid_accuracy: self.at.valid_accuracy.unwrap_or(f64::NAN),
            final_test_accuracy: last.accuracy(),
            final_test_loss: last.mean_loss(),
            test_records: last.records,
            best_epoch: self.at.best.map(|best| best.epoch),
            best_valid_accuracy: self.at.best.map(|best| best.accuracy),
            best_test_accuracy: best,
            target_sparsity: engine.scheduler().target(),
            sparsity: engine.sparsity(),
            nonzero: engine.kept(),
            prunable: engine.total(),
            parameters: self.parts.parameters,
            macs: engine.macs(),
            dense_macs: self.parts.dense_macs,
            wall_seconds: self.at.wall_seconds,
            images_per_second: self.at.trained.0 as f64 / self.at.trained.1,
            peak_memory_bytes: hardware::peak_memory(),
            resumes: self.at.resumes,
            git_revision: hardware::git_revision(),
            hardware: Hardware::detect(&setup.device_name),
        };
        self.folder.write_summary(&summary)?;
        self.dashboard.finish();
        Ok(summary)
    }

    fn write_snapshot(&self, name: &str) -> Result<()> {
        let info = self.setup.source.set().info();
        let header = SnapshotHeader {
            format: 1,
            architecture: self.setup.experiment.architecture(),
            data: info.name.to_string(),
            mean: info.mean.to_vec(),
            std: info.std.to_vec(),
            scheduler: self.parts.trainee.engine.scheduler().about().name.to_string(),
            sparsity: self.parts.trainee.engine.sparsity(),
        };
        let trainee = &self.parts.trainee;
        snapshot::write(&self.folder.path().join(name), &trainee.weights(), &trainee.stored_masks(), &header)
    }

    fn write_config(&self) -> Result<()> {
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
            burn: hardware::burn_version(),
            hardware: Hardware::detect(&self.setup.device_name),
        };
        let environment = std::collections::BTreeMap::from([("environment", environment)]);
        let text = format!("{}\n{}", self.setup.experiment.to_toml(), toml::to_string(&environment)?);
        self.folder.write_config(&text)
    }
}

/// One row per prunable layer, as it is now.
fn layer_rows(engine: &Engine, at: &Position) -> Vec<LayerRow> {
    (engine.layers().iter().zip(engine.masks()).zip(&at.changes))
        .map(|((layer, mask), &(pruned, grown))| LayerRow {
            epoch: at.epoch,
            name: layer.name.clone(),
            weights: layer.weights() as u64,
            kept: mask.kept() as u64,
            sparsity: 1.0 - mask.kept() as f64 / layer.weights() as f64,
            grown: grown as u64,
            pruned: pruned as u64,
        })
        .collect()
}
