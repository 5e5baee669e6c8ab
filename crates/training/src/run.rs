//! A run in its folder: position, records and checkpoints around the training loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bonsai_data::Batch;
use bonsai_kernels::{Choices, Kernels};
use bonsai_models::{Network, Sparsity};
use bonsai_pruning::clock::Clock;
use bonsai_pruning::engine::{Change, Engine};
use bonsai_pruning::scheduler::{Event, Removes};
use tracing::{info, warn};

use crate::Mistake;
use crate::checkpoint;
use crate::dashboard::{Dashboard, Plan, Progress};
use crate::diagnose::{all_finite, diagnose};
use crate::evaluate;
use crate::experiment::Protocol;
use crate::first_steps::FirstSteps;
use crate::hardware;
use crate::meter::{Meter, Totals};
use crate::parameters::Gradients;
use crate::position::{Best, Position};
use crate::recalibrate;
use crate::records::{
    EpochRow, EventGroup, EventLayer, EventRow, KernelsChoice, KernelsLayer, KernelsRow, LayerRow, read_metrics,
};
use crate::run_folder::RunFolder;
use crate::sampling::{self, Sample};
use crate::setup::{Parts, Setup};
use crate::state::State;
use crate::trainee::Trainee;

/// How a run folder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// For a run of its own.
    Fresh,
    /// To go on with the run in it.
    Resume,
    /// To go on from the last checkpoint with every loss looked at, since one was lost on the way.
    Replay,
}

/// A run that is under way.
pub struct Run<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) parts: Parts,
    pub(crate) folder: RunFolder,
    pub(crate) dashboard: Dashboard,
    pub(crate) at: Position,
    pub(crate) fingerprint: String,
    meter: Meter,
    last_pruning: u64,
    last_checkpoint: Instant,
    iteration_began: Instant,
    /// When this process took the run up, and the wall time that the run had then.
    opened: (Instant, f64),
    /// Images and seconds of the last few reads, for a rate that neither jumps nor lags.
    recent: (f64, f64),
    last_read: Instant,
    /// MACs for one image with the present masks.
    macs: u64,
    /// Whether the kernels that are faster with the present masks have been written down.
    kernels_recorded: bool,
    /// The step under way, where it is one that is looked at.
    sample: Option<Sample>,
    /// The steps in which a GPU still meets new shapes.
    first_steps: Option<FirstSteps>,
}

impl<'a> Run<'a> {
    /// Opens the run folder and builds the run, or restores it from its newest checkpoint.
    ///
    /// # Errors
    ///
    /// A sentence that says what cannot be read, does not fit or is in use.
    pub fn open(setup: &'a Setup, opening: Opening) -> Result<Self> {
        let folder = RunFolder::create(&setup.folder, opening == Opening::Fresh)?;
        let mut parts = setup.build()?;
        let fingerprint = setup.source.fingerprint()?;
        let loaded = if opening == Opening::Fresh { None } else { checkpoint::load_newest(&folder.checkpoints())? };

        let mut initial = parts.trainee.begin();
        // A checkpoint holds the masks itself.
        let given = if loaded.is_none() { setup.given_masks(&parts.trainee)? } else { None };
        if let Some(masks) = given {
            initial = parts.trainee.set_masks(masks)?;
        }
        let last_pruning = parts.last_pruning();
        let layers = parts.trainee.engine.layers().len();
        let mut at = Position { changes: vec![(0, 0); layers], ..Position::default() };
        let mut notes = setup.source.warnings();
        notes.extend(setup.experiment.warning(&setup.device));
        let fresh = loaded.is_none();
        if let Some(loaded) = loaded {
            notes.extend(loaded.warnings);
            let state: State = serde_json::from_value(loaded.state).with_context(|| {
                format!("{} is of another version of bonsai: start anew with --out", loaded.path.display())
            })?;
            state.check(setup, &fingerprint)?;
            notes.extend(state.differences(setup));
            parts.trainee.restore(loaded.tensors, state.trainee)?;
            notes.extend(folder.truncate_to(&state.lengths)?);
            at = state.position;
            at.resumes += u32::from(opening == Opening::Resume);
            let from = at.iteration;
            notes.push(match opening {
                Opening::Replay => format!("the loss was lost: replaying from iteration {from} to find out where"),
                Opening::Fresh | Opening::Resume => format!("resumed at iteration {from}"),
            });
        } else {
            ensure!(
                !folder.summary().exists() && read_metrics(&folder.metrics()).is_ok_and(|rows| rows.is_empty()),
                Mistake(format!(
                    "{} holds the records of a run but no checkpoint to go on from: bring its checkpoint/ back, or start anew with --out",
                    setup.folder.display()
                ))
            );
            folder.truncate_to(&BTreeMap::new())?;
        }

        let experiment = &setup.experiment;
        let detail = format!(
            "{} on {}, {}, {}",
            experiment.model,
            setup.source.set(),
            experiment.scheduler_name(),
            setup.device_name
        );
        let mut first_steps = None;
        if !setup.cheap_reads {
            let (first, sentence) = FirstSteps::begin(&parts.trainee, experiment, &setup.device_name);
            first_steps = Some(first);
            notes.extend(sentence);
        }
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
        let now = Instant::now();
        let mut run = Self {
            setup,
            meter: Meter::resumed(at.totals),
            macs: parts.trainee.engine.macs(),
            opened: (now, at.wall_seconds),
            parts,
            folder,
            dashboard,
            at,
            fingerprint,
            last_pruning,
            last_checkpoint: now,
            iteration_began: now,
            kernels_recorded: false,
            sample: None,
            first_steps,
            recent: (0.0, 0.0),
            last_read: now,
        };
        for note in notes {
            info!("{note}");
            run.dashboard.note(&note);
        }
        if fresh {
            run.write_config()?;
            if initial.changed {
                run.record_change(0, None, &initial, BTreeMap::new())?;
            }
            run.checkpoint()?;
        }
        run.iteration_began = Instant::now();
        run.last_read = run.iteration_began;
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

    /// Runs the network forward and backward; `dense` asks for the gradients of removed weights too.
    pub fn forward_backward(&mut self, batch: &Batch, dense: bool) -> Gradients {
        let all = if dense { self.parts.trainee.engine.graph().macs() } else { self.macs };
        self.at.training_macs += batch.labels.len() as u64 * (2 * self.macs + all);
        if sampling::is_due(self.at.batch, self.parts.train.batches()) {
            self.sample = Sample::start(&self.setup.device, self.iteration_began.elapsed());
        }
        let gradients = self.parts.trainee.gradients(batch, dense, &mut self.meter);
        if let Some(sample) = &mut self.sample {
            sample.passes_end(&self.setup.device);
        }
        gradients
    }

    /// Writes down where the time of the step went, if it was looked at.
    fn end_sample(&mut self) -> Result<()> {
        let Some(sample) = self.sample.take() else { return Ok(()) };
        let row = sample.finish(&self.setup.device, self.at.epoch, self.at.iteration + 1);
        row.map_or(Ok(()), |row| self.folder.append_step(&row))
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
        let images_per_second = self.rate(part.records);
        self.dashboard.progress(&Progress {
            epoch: clock.epoch(),
            iteration: clock.iteration,
            loss: part.mean_loss(),
            accuracy: part.accuracy(),
            lr: clock.lr,
            sparsity: self.parts.trainee.engine.sparsity(),
            images_per_second,
        });
        Ok(())
    }

    /// Images per second over the last ten seconds or so.
    fn rate(&mut self, images: u64) -> f64 {
        let (seen, seconds) = self.recent;
        let (seen, seconds) = if seconds > 10.0 { (seen / 2.0, seconds / 2.0) } else { (seen, seconds) };
        self.recent = (seen + images as f64, seconds + self.last_read.elapsed().as_secs_f64());
        self.last_read = Instant::now();
        self.recent.0 / self.recent.1
    }

    /// Moves on to the next iteration.
    pub fn advance(&mut self, images: usize) -> Result<()> {
        self.end_sample()?;
        self.look_at_first_steps()?;
        let seconds = self.iteration_began.elapsed().as_secs_f64();
        self.iteration_began = Instant::now();
        self.at.iteration += 1;
        self.at.batch += 1;
        self.at.epoch_seconds += seconds;
        self.at.trained.0 += images as u64;
        self.at.trained.1 += seconds;
        self.record_kernels()
    }

    /// Tells what the first steps took, once they have met nothing new; those after a cut are recorded too.
    fn look_at_first_steps(&mut self) -> Result<()> {
        let Some(first) = &mut self.first_steps else { return Ok(()) };
        let Some((sentence, tuned)) = first.step(&self.setup.device) else { return Ok(()) };
        let after_cut = first.is_after_cut();
        self.first_steps = None;
        info!("{sentence}");
        if after_cut || tuned.choices != Some(0) {
            self.dashboard.note(&sentence);
        }
        if after_cut {
            let row = KernelsRow { iteration: self.at.iteration + 1, tuned: Some(tuned), ..KernelsRow::default() };
            self.folder.append_kernels(&row)?;
        }
        Ok(())
    }

    /// Records which kernels are faster with the masks of now, once the steps have shown it.
    fn record_kernels(&mut self) -> Result<()> {
        if self.kernels_recorded {
            return Ok(());
        }
        let Some(choices) = self.parts.trainee.choices() else { return Ok(()) };
        self.kernels_recorded = true;
        let kernels = choices.into_iter().map(|(name, choices)| kernels_layer(name, choices)).collect();
        self.folder.append_kernels(&KernelsRow { iteration: self.at.iteration, kernels, tuned: None })
    }

    /// Carries out a mask event of the iteration under way and records it, with the constants that were absorbed for removed
    /// channels, and for a method that learned masks or gates with the accuracy before and after they became final.
    pub fn event(&mut self, clock: &Clock, event: &Event, dense: Option<&Gradients>) -> Result<()> {
        // What an event takes is no part of a step.
        self.end_sample()?;
        let removes = self.parts.trainee.engine.scheduler().removes();
        let learned = matches!(removes, Removes::Masked | Removes::MaskedByScale | Removes::Gated);
        let ends_learning = event.cut.is_some() && learned;
        let before = if ends_learning { Some(self.valid_accuracy()?) } else { None };
        if ends_learning && self.parts.trainee.engine.has_gates() {
            let means = evaluate::gates(&self.parts.trainee.network, &self.parts.train);
            self.parts.trainee.engine.see_gates(&means);
        }
        let kept = self.parts.trainee.architecture().kept.clone();
        let (change, absorbed) = self.parts.trainee.event(clock, event, dense);
        if !self.setup.cheap_reads && self.parts.trainee.architecture().kept != kept {
            self.first_steps = Some(FirstSteps::after_cut(&self.parts.trainee, &self.setup.experiment));
        }
        let named = ["absorbed exactly", "absorbed but for padded borders"].into_iter().zip(absorbed);
        let mut figures: BTreeMap<String, f64> = named
            .filter(|(_, largest)| *largest > 0.0)
            .map(|(name, largest)| (name.to_string(), largest.into()))
            .collect();
        if let Some(before) = before {
            figures.insert("validation accuracy before the cut".to_string(), before);
            figures.insert("validation accuracy after the cut".to_string(), self.valid_accuracy()?);
        }
        self.record_change(clock.iteration, event.replace, &change, figures)?;
        if clock.iteration == self.last_pruning
            && let Some(sentence) = missed_target(&self.parts.trainee.engine)
        {
            warn!("{sentence}");
            self.dashboard.note(&sentence);
        }
        Ok(())
    }

    /// The accuracy on the validation split of the network as it is.
    fn valid_accuracy(&self) -> Result<f64> {
        Ok(self.validate(self.recalibrated()?.as_ref()).accuracy())
    }

    /// Validates the network as it is, or the one that took its place for this.
    fn validate(&self, recalibrated: Option<&Network>) -> Totals {
        let trainee = &self.parts.trainee;
        match recalibrated {
            // Masks are known by the parameters of the network that trains.
            Some(network) => evaluate::evaluate(network, &Sparsity::default(), &self.parts.valid),
            None => evaluate::evaluate(&trainee.effective(), trainee.sparsity(), &self.parts.valid),
        }
    }

    /// The network with its statistics of batch normalisation recomputed, where the experiment asks for it.
    pub(crate) fn recalibrated(&self) -> Result<Option<Network>> {
        let batches = self.setup.experiment.evaluate.recalibrate;
        if batches == 0 {
            return Ok(None);
        }
        let trainee = &self.parts.trainee;
        let (network, architecture) = (trainee.effective(), trainee.architecture());
        recalibrate::recalibrated(&network, architecture, &self.parts.calibration, batches, &self.setup.device)
            .map(Some)
    }

    fn record_change(
        &mut self,
        iteration: u64,
        replace: Option<f64>,
        change: &Change,
        mut figures: BTreeMap<String, f64>,
    ) -> Result<()> {
        for ((pruned, grown), layer) in self.at.changes.iter_mut().zip(&change.layers) {
            *pruned += layer.pruned;
            *grown += layer.grown;
        }
        let engine = &self.parts.trainee.engine;
        self.macs = engine.macs();
        figures.extend(engine.observe());
        figures.extend(engine.explored().map(|share| ("explored".to_string(), share)));
        let dead = engine.dead_units().filter(|dead| *dead > 0);
        figures.extend(dead.map(|dead| ("dead units".to_string(), dead as f64)));
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
            groups: (change.groups.iter())
                .map(|group| EventGroup {
                    name: group.name.clone(),
                    kept: group.kept as u64,
                    pruned: group.pruned as u64,
                })
                .collect(),
            figures,
        };
        self.folder.append_event(&row)?;
        self.kernels_recorded = false;
        self.dashboard.event(&row);
        Ok(())
    }

    /// Validates, writes the epoch's rows and a checkpoint, and moves on to the next epoch.
    pub fn end_epoch(&mut self) -> Result<()> {
        let began = Instant::now();
        let recalibrated = self.recalibrated()?;
        let valid = self.validate(recalibrated.as_ref());
        if !valid.loss.is_finite() {
            self.dashboard.finish();
            return Err(diagnose(&self.parts.trainee.network, &Gradients::new(), self.at.iteration).into());
        }
        let test_accuracy = self.test_accuracy(recalibrated.as_ref())?;
        let scaling = self.parts.trainee.loss_scaling();
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
            nonzero: self.parts.trainee.nonzero(),
            macs: engine.macs(),
            parameters: engine.parameters(),
            training_macs: self.at.training_macs,
            seconds: self.at.epoch_seconds + began.elapsed().as_secs_f64(),
            images_per_second: images / self.at.epoch_seconds,
            test_accuracy,
            loss_scale: scaling.map(|(scale, _)| scale),
            skipped_steps: scaling.map(|(_, skipped)| skipped),
        };
        self.note_skipped_steps(scaling);
        self.folder.append_epoch(&row)?;
        for layer in &layers {
            self.folder.append_layer(layer)?;
        }
        self.dashboard.epoch(&row, &layers);
        info!(
            epoch = row.epoch + 1,
            train_loss = row.train_loss,
            valid_accuracy = row.valid_accuracy,
            sparsity = row.sparsity,
            "epoch done"
        );

        let at_target = self.at.iteration >= self.last_pruning;
        if at_target && self.at.best.is_none_or(|best| row.valid_accuracy > best.accuracy) {
            self.at.best = Some(Best { epoch: self.at.epoch, accuracy: row.valid_accuracy });
            self.write_snapshot(&self.best_path(self.at.epoch), recalibrated.as_ref())?;
        }
        self.at.valid_accuracy = Some(row.valid_accuracy);
        self.at.epoch += 1;
        self.at.batch = 0;
        self.at.epoch_seconds = 0.0;
        self.at.changes.fill((0, 0));
        self.meter = Meter::default();
        self.checkpoint()?;
        self.forget_older_bests();
        Ok(())
    }

    /// Says how many steps of the epoch were left out because gradients were too large for f16.
    fn note_skipped_steps(&mut self, scaling: Option<(f64, u64)>) {
        let Some((scale, skipped)) = scaling else { return };
        let new = skipped - self.at.skipped_steps;
        self.at.skipped_steps = skipped;
        if new > 0 {
            let sentence = format!(
                "{new} steps of epoch {} were left out: gradients were too large for f16, and the loss is now scaled by {scale}",
                self.at.epoch + 1
            );
            info!("{sentence}");
            self.dashboard.note(&sentence);
        }
    }

    /// The test accuracy of the network as it is, where `protocol = "paper"` asks for it; it goes into its column only.
    fn test_accuracy(&self, recalibrated: Option<&Network>) -> Result<Option<f64>> {
        let (setup, info) = (self.setup, self.setup.source.set().info());
        match setup.experiment.protocol {
            Protocol::Honest => Ok(None),
            Protocol::Paper => {
                let networks = [recalibrated.unwrap_or(&self.parts.trainee.network)];
                let tested =
                    evaluate::test(&networks, &setup.source, (info.mean, info.std), setup.limit_test, setup.workers)?;
                Ok(Some(tested[0].accuracy()))
            }
        }
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
    ///
    /// # Errors
    ///
    /// Nothing is written if the loss or a weight is not finite, so that the last good checkpoint stays.
    pub fn checkpoint(&mut self) -> Result<()> {
        let part = self.meter.read();
        let (tensors, trainee) = self.parts.trainee.save();
        let finite = tensors.values().all(|tensor| tensor.as_f32().is_ok_and(all_finite) || tensor.as_bytes().is_ok());
        if !part.loss.is_finite() || !finite {
            self.dashboard.finish();
            return Err(diagnose(&self.parts.trainee.network, &Gradients::new(), self.at.iteration).into());
        }
        self.at.totals = self.meter.totals();
        self.at.wall_seconds = self.wall_seconds();
        self.at.peak_memory = self.at.peak_memory.max(hardware::peak_memory());
        let state = State {
            experiment: self.setup.experiment.to_toml(),
            fingerprint: self.fingerprint.clone(),
            limit_test: self.setup.limit_test,
            position: self.at.clone(),
            trainee,
            device: self.setup.device_name.clone(),
            revision: hardware::git_revision(),
            lengths: self.folder.lengths()?,
        };
        let state = serde_json::to_value(state).context("writing a checkpoint")?;
        let keep = self.setup.experiment.checkpoint.keep;
        checkpoint::save(&self.folder.checkpoints(), self.at.iteration, &tensors, &state, keep)?;
        self.last_checkpoint = Instant::now();
        // A checkpoint's time belongs to no iteration.
        self.iteration_began = Instant::now();
        self.last_read = self.iteration_began;
        Ok(())
    }

    /// Seconds since the run began, over all its processes.
    pub fn wall_seconds(&self) -> f64 {
        let (opened, before) = self.opened;
        before + opened.elapsed().as_secs_f64()
    }

    /// Where the network of the best epoch is kept until the end.
    pub(crate) fn best_path(&self, epoch: u64) -> PathBuf {
        self.folder.checkpoints().join(format!("best-{epoch:05}.safetensors"))
    }

    /// Removes the networks of best epochs that no kept checkpoint refers to.
    fn forget_older_bests(&self) {
        let files = std::fs::read_dir(self.folder.checkpoints()).into_iter().flatten().flatten();
        let mut bests: Vec<PathBuf> = (files.map(|file| file.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("best-")))
            .collect();
        bests.sort();
        // Each kept checkpoint refers to one at most.
        for old in bests.iter().rev().skip(self.setup.experiment.checkpoint.keep + 1) {
            if let Err(error) = std::fs::remove_file(old) {
                warn!("{} could not be removed: {error}", old.display());
            }
        }
    }
}

/// Says by how much the cost misses the method's target, where it is more than a hundredth of it.
fn missed_target(engine: &Engine) -> Option<String> {
    let target = engine.scheduler().target_macs()?;
    let left = engine.macs() as f64 / engine.dense_macs() as f64;
    let off = left / target - 1.0;
    (off.abs() > 0.01).then(|| {
        format!(
            "{left:.4} of the multiply-accumulates are left, {:.1} % off the target of {target}: no unit that could go or stay \
             comes nearer",
            100.0 * off
        )
    })
}

/// One row per prunable layer, as it is now.
fn layer_rows(engine: &Engine, at: &Position) -> Vec<LayerRow> {
    (engine.full_layers().iter().zip(engine.masks()).zip(&at.changes))
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

/// Describes the choices of the layer `name`.
fn kernels_layer(name: String, choices: Choices) -> KernelsLayer {
    let Choices { forward, weight, data } = choices;
    let [forward, weight_gradient, data_gradient] = [forward, weight, data].map(|choice| KernelsChoice {
        faster: if choice.kernels == Kernels::Dense { "dense" } else { "sparse" }.to_string(),
        dense_ms: choice.dense.as_secs_f64() * 1e3,
        sparse_ms: choice.sparse.as_secs_f64() * 1e3,
    });
    KernelsLayer { name, forward, weight_gradient, data_gradient }
}
