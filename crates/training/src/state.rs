//! What a checkpoint holds besides tensors, and what a run that goes on must have in common with it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::Mistake;
use crate::hardware;
use crate::position::Position;
use crate::setup::Setup;
use crate::trainee::TraineeState;

/// What a checkpoint holds besides tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The resolved experiment, as TOML.
    pub experiment: String,
    /// The data set's fingerprint.
    pub fingerprint: String,
    /// The limit on validation and test records.
    pub limit_test: Option<usize>,
    /// Where the run stands.
    pub position: Position,
    /// Optimizer steps and the scheduler.
    pub trainee: TraineeState,
    /// What the device is called.
    pub device: String,
    /// The revision of the sources.
    pub revision: Option<String>,
    /// The lengths of the record files, in bytes.
    pub lengths: BTreeMap<String, u64>,
}

impl State {
    /// Refuses to go on with a run under other settings or on other data.
    pub fn check(&self, setup: &Setup, fingerprint: &str) -> Result<()> {
        let folder = setup.folder.display();
        ensure!(
            self.experiment == setup.experiment.to_toml(),
            Mistake(format!(
                "{folder} was started with other settings: resume it with those, or start anew with --out"
            ))
        );
        ensure!(
            self.fingerprint == fingerprint,
            Mistake(format!(
                "the data set {} is not the one that {folder} was started with (fingerprint {fingerprint}, then {}): restore it, or start anew with --out",
                setup.source.set(),
                self.fingerprint
            ))
        );
        let limit =
            |limit: Option<usize>| limit.map_or("no --limit-test".to_string(), |limit| format!("--limit-test {limit}"));
        ensure!(
            self.limit_test == setup.limit_test,
            Mistake(format!(
                "{folder} was started with {}: resume it in the same way, so that its figures stay comparable",
                limit(self.limit_test)
            ))
        );
        Ok(())
    }

    /// Says what may change the last digits of a resumed run.
    pub fn differences(&self, setup: &Setup) -> Vec<String> {
        let mut found = Vec::new();
        if self.device != setup.device_name {
            found.push(format!("the run was on {} before and goes on on {}", self.device, setup.device_name));
        }
        if self.revision != hardware::git_revision() {
            let name = |revision: &Option<String>| revision.clone().unwrap_or("an unknown one".into());
            let (before, now) = (name(&self.revision), name(&hardware::git_revision()));
            found.push(format!("the run was made by revision {before} before and goes on with {now}"));
        }
        found
    }
}
