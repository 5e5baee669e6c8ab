//! Tells what the first steps on a GPU cost, in which kernels are compiled, and tuned to the shapes of the network.
//!
//! How long they take is known from networks that were trained on the device before: a file beside CubeCL's database
//! ([`bonsai_kernels::cube::tuned`]) holds the shapes of each and the seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use bonsai_kernels::cube::tuned::{self, Kept};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::Experiment;
use crate::records::TunedKernels;
use crate::run_folder::write_atomic;
use crate::tensors::hex;
use crate::trainee::Trainee;

/// Seconds that a shape of layers takes where nothing is known of the device.
const UNKNOWN: f64 = 8.0;
/// Steps after which nothing new is expected, whatever else is found.
const MOST: u32 = 10;

/// What the figures of first steps are kept under.
#[derive(Clone, Debug, PartialEq)]
struct Shapes {
    /// Stands for all that kernels depend on.
    key: String,
    network: String,
    /// Layers of different shapes.
    count: usize,
}

/// The first steps of one network, as they are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Taken {
    network: String,
    /// Shapes of layers that kernels were tuned to; 0 where those of other networks had been tuned to all of them.
    shapes: usize,
    seconds: f64,
}

/// First steps that are under way.
pub(crate) struct FirstSteps {
    shapes: Shapes,
    /// What the database held before them, and after the last one.
    before: Option<Kept>,
    last: Option<Kept>,
    began: Instant,
    /// When the last step ended that met something new.
    news: Duration,
    steps: u32,
    /// Whether a cut has made the network smaller.
    cut: bool,
    /// Whether the step under way, which ends with the cut, is still to end.
    cutting: bool,
}

impl FirstSteps {
    /// Begins before the first step; with it comes what is to be told beforehand, where the device does not know the network.
    pub fn begin(trainee: &Trainee, experiment: &Experiment, device: &str) -> (Self, Option<String>) {
        let first = Self::new(trainee, experiment, false);
        let known = read();
        // Without choices the database was lost, and the file beside it tells how long they take only.
        let is_known = known.contains_key(&first.shapes.key) && first.before.is_some_and(|kept| kept.choices > 0);
        let sentence = format!(
            "the first steps compile and tune kernels on {device} for {} shapes of layers, about {:.0} s",
            first.shapes.count,
            expected(&known, &first.shapes)
        );
        (first, (!is_known).then_some(sentence))
    }

    /// Begins after a cut that made the network smaller.
    pub fn after_cut(trainee: &Trainee, experiment: &Experiment) -> Self {
        Self::new(trainee, experiment, true)
    }

    fn new(trainee: &Trainee, experiment: &Experiment, cut: bool) -> Self {
        let before = tuned::kept();
        let shapes = Shapes::of(trainee, experiment);
        Self { shapes, before, last: before, began: Instant::now(), news: Duration::ZERO, steps: 0, cut, cutting: cut }
    }

    /// Looks at the device after a step; once it has met nothing new, says what was found and what it took.
    pub fn step(&mut self, device: &Device) -> Option<(String, TunedKernels)> {
        // A device that fails tells so when it is used next.
        let _ = device.sync();
        if std::mem::take(&mut self.cutting) {
            self.began = Instant::now();
            return None;
        }
        self.steps += 1;
        let now = tuned::kept();
        let is_new = now != self.last;
        if is_new || self.steps == 1 {
            self.news = self.began.elapsed();
        }
        self.last = now;
        // The second step is the first with moments.
        let settled = self.steps > 2 && !is_new || self.steps >= MOST;
        settled.then(|| self.found())
    }

    fn found(&self) -> (String, TunedKernels) {
        let seconds = self.news.as_secs_f64();
        let (Some(before), Some(last)) = (self.before, self.last) else {
            let sentence = format!("kernels were compiled and tuned within {seconds:.1} s, for this process alone");
            return (sentence, TunedKernels { seconds, ..TunedKernels::default() });
        };
        let choices = last.choices.saturating_sub(before.choices);
        let compiled = last.compiled.saturating_sub(before.compiled);
        let whose = if self.cut { "the smaller network" } else { "the network" };
        let sentence = match (choices, self.cut) {
            (0, _) => format!("{whose} needed no kernel to be tuned anew; its first step ended after {seconds:.1} s"),
            (_, true) => format!("{whose} had {choices} kernels tuned anew, within {seconds:.1} s"),
            (_, false) => {
                format!("{choices} kernels were tuned within {seconds:.1} s; later runs on this device know them")
            }
        };
        if choices > 0 {
            keep(&self.shapes, self.shapes.count, seconds);
        } else if !read().contains_key(&self.shapes.key) {
            // Tuned for another network: no measure of what tuning takes.
            keep(&self.shapes, 0, seconds);
        }
        let compiled = (last.compiled > 0).then_some(compiled);
        (sentence, TunedKernels { choices: Some(choices), compiled, seconds })
    }

    /// Whether they are those after a cut.
    pub fn is_after_cut(&self) -> bool {
        self.cut
    }
}

impl Shapes {
    fn of(trainee: &Trainee, experiment: &Experiment) -> Self {
        let layers = &trainee.engine.graph().layers;
        let distinct: BTreeSet<String> =
            layers.iter().map(|layer| format!("{:?} {:?} {}", layer.kind, layer.shape, layer.macs)).collect();
        let Experiment { batch_size, precision, optimizer, .. } = experiment;
        let all = format!("{distinct:?} {batch_size} {} {precision:?} {:?}", optimizer.accumulate, optimizer.name);
        let network = format!("{}, batch {batch_size}", experiment.model);
        Self { key: hex(&Sha256::digest(all)[..4]), network, count: distinct.len() }
    }
}

/// Seconds that the first steps of a network are expected to take.
fn expected(known: &BTreeMap<String, Taken>, shapes: &Shapes) -> f64 {
    if let Some(taken) = known.get(&shapes.key) {
        return taken.seconds;
    }
    let (seconds, of) = known
        .values()
        .filter(|taken| taken.shapes > 0)
        .fold((0.0, 0), |(s, n), taken| (s + taken.seconds, n + taken.shapes));
    shapes.count as f64 * if of > 0 { seconds / of as f64 } else { UNKNOWN }
}

/// What is kept of the device; nothing where nothing is kept, or what stands there is no such file.
fn read() -> BTreeMap<String, Taken> {
    let text = tuned::beside("toml").and_then(|path| fs::read_to_string(path).ok());
    text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
}

/// Keeps what first steps took. It is an estimate for later ones: where it cannot be written, they go without.
fn keep(of: &Shapes, shapes: usize, seconds: f64) {
    let Some(path) = tuned::beside("toml") else { return };
    let mut known = read();
    let taken = Taken { network: of.network.clone(), shapes, seconds: (seconds * 10.0).round() / 10.0 };
    known.insert(of.key.clone(), taken);
    if let Ok(text) = toml::to_string(&known) {
        let _ = write_atomic(&path, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_networks_took_tells_what_is_to_come() {
        let shapes = |key: &str, count| Shapes { key: key.to_string(), network: "x".to_string(), count };
        let taken = |shapes, seconds| Taken { network: "x".to_string(), shapes, seconds };
        let mut known = BTreeMap::new();
        assert_eq!(expected(&known, &shapes("a", 7)), 7.0 * UNKNOWN);
        known.insert("a".to_string(), taken(7, 21.0));
        known.insert("b".to_string(), taken(3, 19.0));
        known.insert("d".to_string(), taken(0, 0.5));
        assert_eq!(expected(&known, &shapes("a", 7)), 21.0);
        assert_eq!(expected(&known, &shapes("c", 5)), 20.0);
    }
}
