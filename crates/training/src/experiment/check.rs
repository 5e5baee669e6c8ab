//! Checks that every value of an experiment lies in its range, cheapest first.

use bonsai_pruning::engine::{Engine, Options};
use bonsai_pruning::registry::Common;

use super::{Experiment, LrSchedule, OptimizerName};
use crate::recalibrate::has_batch_norm;

impl Experiment {
    /// Checks every value, the network and the scheduler against each other.
    ///
    /// # Errors
    ///
    /// One sentence that names the field, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        self.check_values()?;
        self.engine(self.records()).map(|_| ())
    }

    /// Checks everything but the scheduler.
    pub(super) fn check_values(&self) -> Result<(), String> {
        self.check_counts()?;
        self.architecture().check()?;
        self.check_baseline()?;
        self.check_evaluate()?;
        self.check_optimizer()?;
        self.check_lr()
    }

    /// Builds the engine that prunes this experiment's network in a training on `train_records` records.
    ///
    /// # Errors
    ///
    /// One sentence: an unknown scheduler, key or excluded layer, or a sparsity that the network cannot have.
    pub fn engine(&self, train_records: usize) -> Result<Engine, String> {
        let (scheduler, common) = self.build_scheduler(self.horizon(train_records))?;
        let architecture = self.architecture();
        let Common { exclude, floor, channels } = common;
        let options = Options { exclude, floor, seed: self.seed, channels };
        let mut engine = Engine::new(&architecture.full().graph()?, scheduler, options)?;
        if !architecture.kept.is_empty() {
            engine.resume_at(architecture.graph()?);
        }
        Ok(engine)
    }

    fn check_counts(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !self.name.chars().all(plain) || self.name.starts_with('.') || self.name.is_empty() {
            let fitting: String = self.name.chars().map(|c| if plain(c) { c } else { '-' }).collect();
            let fitting = fitting.trim_matches(['-', '.']);
            return Err(format!(
                "name is `{}`, but it names a folder, of letters from a to z, digits, -, _ and . only: add `name = \"{}\"` to \
                 the file",
                self.name,
                if fitting.is_empty() { "experiment" } else { fitting }
            ));
        }
        whole("epochs", self.epochs, 1, 100_000)?;
        whole("batch_size", self.batch_size as u64, 1, 65_536)?;
        whole("log_every", self.log_every, 1, 1_000_000)?;
        // TOML has no larger whole numbers, and config.toml must hold the seed.
        whole("seed", self.seed, 0, i64::MAX as u64)?;
        if let Some(records) = self.train_records {
            let info = self.data.info();
            whole("train_records", records as u64, 1, (info.train - info.validation) as u64)?;
        }
        let side = self.data.info().shape[1] as u64;
        whole("augment.crop", self.augment.crop as u64, 0, side - 1)?;
        number("checkpoint.minutes", self.checkpoint.minutes, 0.0, 100_000.0)?;
        whole("checkpoint.keep", self.checkpoint.keep as u64, 1, 1000)
    }

    fn check_evaluate(&self) -> Result<(), String> {
        let batches = self.evaluate.recalibrate;
        whole("evaluate.recalibrate", batches as u64, 0, 100_000)?;
        if batches > 0 && !has_batch_norm(&self.architecture()) {
            return Err(format!(
                "evaluate.recalibrate is {batches}, but {} has no batch normalisation: remove it",
                self.model
            ));
        }
        Ok(())
    }

    fn check_optimizer(&self) -> Result<(), String> {
        let settings = &self.optimizer;
        positive("optimizer.lr", settings.lr, 1000.0)?;
        share("optimizer.momentum", settings.momentum)?;
        number("optimizer.weight_decay", settings.weight_decay, 0.0, 1.0)?;
        share("optimizer.betas", settings.betas[0])?;
        share("optimizer.betas", settings.betas[1])?;
        // Below this it is 0 in f32, and a weight without a gradient would become 0 / 0.
        number("optimizer.epsilon", settings.epsilon, 1e-30, 1.0)?;
        if let Some(norm) = settings.clip_norm {
            positive("optimizer.clip_norm", norm, 1e9)?;
        }
        whole("optimizer.accumulate", settings.accumulate as u64, 1, self.batch_size as u64)?;
        share("optimizer.label_smoothing", settings.label_smoothing)?;
        match settings.name {
            OptimizerName::Sgd if settings.nesterov && settings.momentum == 0.0 => {
                Err("optimizer.nesterov is true, but it needs optimizer.momentum above 0".to_string())
            }
            OptimizerName::AdamW if settings.nesterov || settings.momentum != 0.0 => {
                Err("optimizer.momentum and optimizer.nesterov belong to sgd; adamw takes optimizer.betas".to_string())
            }
            OptimizerName::Sgd | OptimizerName::AdamW => Ok(()),
        }
    }

    fn check_lr(&self) -> Result<(), String> {
        let settings = &self.lr;
        number("lr.warmup_epochs", settings.warmup_epochs, 0.0, self.epochs as f64)?;
        positive("lr.gamma", settings.gamma, 1.0)?;
        number("lr.final_lr", settings.final_lr, 0.0, self.optimizer.lr)?;
        for &milestone in &settings.milestones {
            if !(milestone > 0.0 && milestone < self.epochs as f64) {
                return Err(format!(
                    "lr.milestones has {milestone}, but the training has {} epochs: set it between, or use --epochs, \
                     which moves it along",
                    self.epochs
                ));
            }
        }
        if settings.milestones.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(format!("lr.milestones is {:?}, but it must rise", settings.milestones));
        }
        let stepped = settings.schedule == LrSchedule::MultiStep;
        if stepped && settings.milestones.is_empty() {
            return Err(
                "lr.schedule is multi-step, but lr.milestones is missing; add for example milestones = [80, 120]"
                    .to_string(),
            );
        }
        if !stepped && !settings.milestones.is_empty() {
            return Err(
                "lr.milestones belongs to lr.schedule = \"multi-step\"; remove it or change the schedule".to_string()
            );
        }
        Ok(())
    }
}

/// Checks a count.
fn whole(field: &str, value: u64, low: u64, high: u64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{field} is {value}, but it must lie in {low} to {high}"))
    }
}

/// Checks a finite number; NaN lies in no range.
fn number(field: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{field} is {value}, but it must lie in {low} to {high}"))
    }
}

/// Checks a number above 0.
fn positive(field: &str, value: f64, high: f64) -> Result<(), String> {
    if value > 0.0 && value <= high {
        Ok(())
    } else {
        Err(format!("{field} is {value}, but it must be above 0 and at most {high}"))
    }
}

/// Checks a number from 0 up to, but not including, 1.
fn share(field: &str, value: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(format!("{field} is {value}, but it must be at least 0 and below 1"))
    }
}
