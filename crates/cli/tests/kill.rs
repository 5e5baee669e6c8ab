//! Kills training at random instants, twenty times, and resumes it: the end is the same to the last bit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A checkpoint after every iteration, so that about every other kill falls into the writing of one.
const START: &str = "
data = 'shapes10'
epochs = 2
batch_size = 8
[augment]
crop = 4
flip = true
[optimizer]
name = 'sgd'
lr = 0.01
momentum = 0.9
nesterov = true
[lr]
schedule = 'cosine'
[checkpoint]
minutes = 0.0
[scheduler]
";

const LENET: &str = "model = 'lenet5'\ntrain_records = 200";
/// Depthwise convolutions go with the channels that they read.
const MOBILENET: &str = "model = 'mobilenetv2'\ntrain_records = 40";
/// Every layer picks the channels that it reads.
const DENSENET: &str = "model = 'densenet40'\ntrain_records = 40";
/// Both convolutions of a block lose channels; the stream stays whole.
const RESNET: &str = "model = 'resnet20'\ntrain_records = 40";

const WEIGHTS: &str = "name = 'granet'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 1\nevery = 4\n";
/// Tensors get smaller at every event.
const CHANNELS: &str = "name = 'group-magnitude'\nmacs = 0.3\nend_epoch = 2\nevery = 4\n";
/// The penalty of every step follows from the weights, and ends with a cut.
const SHAPED: &str = "name = 'sparse-group-l0'\nlambda = 1e-3\nbeta = 1e-2\nevery = 4\nend_epoch = 1\nmacs = 0.5\n";

const SELECTED: &str = "name = 'group-magnitude'\nmacs = 0.5\nend_epoch = 2\nevery = 4\ngroups = ['selection']\n";
const EXPANDED: &str =
    "name = 'polarization'\nlambda = 1e-3\nt = 1.4\nend_epoch = 1\nmacs = 0.5\ngroups = ['inner', 'expansion']\n";

/// Starts training what `source` names: an experiment, or `--scratch-e` and a run.
fn start(source: &[&OsStr], out: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(["train", "--plain", "--device", "cpu", "--limit-test", "50", "--resume", "--no-receipt", "--out"])
        .arg(out)
        .args(source)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What must not depend on interruptions: the model, and every record but its times.
fn traces(folder: &Path) -> (Vec<u8>, [Vec<String>; 2], Vec<u8>, Vec<String>) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let columns = |name: &str, count: usize| -> Vec<String> {
        let rows = String::from_utf8(read(name)).unwrap();
        rows.lines().map(|line| line.split(',').take(count).collect::<Vec<_>>().join(",")).collect()
    };
    // Of the steps that are looked at, which they are.
    let untimed = [columns("metrics.csv", 12), columns("steps.csv", 2)];
    // The lines about kernels are measurements.
    let events = String::from_utf8(read("events.jsonl")).unwrap();
    let events = events.lines().filter(|line| !line.contains("\"kernels\":")).map(String::from).collect();
    (read("model.safetensors"), untimed, read("layers.csv"), events)
}

fn has_part(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder.join("checkpoint")).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.path().extension().is_some_and(|extension| extension == "part"))
}

#[test]
fn twenty_kills_at_random_instants_change_nothing() {
    kills_change_nothing(LENET, WEIGHTS, 20);
}

#[test]
fn ten_kills_of_a_network_that_gets_smaller_change_nothing() {
    kills_change_nothing(LENET, CHANNELS, 10);
}

#[test]
fn ten_kills_under_a_penalty_on_weights_change_nothing() {
    kills_change_nothing(LENET, SHAPED, 10);
}

#[test]
fn kills_over_a_cut_of_depthwise_convolutions_change_nothing() {
    kills_change_nothing(MOBILENET, CHANNELS, 3);
}

#[test]
fn kills_over_a_cut_of_selections_change_nothing() {
    kills_change_nothing(DENSENET, SELECTED, 3);
}

#[test]
fn kills_over_a_cut_of_expansions_change_nothing() {
    kills_change_nothing(RESNET, EXPANDED, 3);
}

#[test]
fn kills_of_a_baseline_from_scratch_change_nothing() {
    for scheduler in [CHANNELS, WEIGHTS] {
        let folder = tempfile::tempdir().unwrap();
        let experiment = write(folder.path(), LENET, scheduler);
        let run = folder.path().join("run");
        finish(start(&[experiment.as_os_str()], &run));
        kills_of(&[OsStr::new("--scratch-e"), run.as_os_str()], folder.path(), 4);
    }
}

fn kills_change_nothing(model: &str, scheduler: &str, all_kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let experiment = write(folder.path(), model, scheduler);
    kills_of(&[experiment.as_os_str()], folder.path(), all_kills);
}

fn write(folder: &Path, model: &str, scheduler: &str) -> PathBuf {
    let experiment = folder.join("kill.toml");
    std::fs::write(&experiment, format!("{model}{START}{scheduler}")).unwrap();
    experiment
}

fn kills_of(source: &[&OsStr], folder: &Path, all_kills: usize) {
    let straight = folder.join("straight");
    let began = std::time::Instant::now();
    finish(start(source, &straight));
    let whole = began.elapsed();
    let expected = traces(&straight);

    // Delays from a fixed sequence; where they fall depends on the machine, which is the point.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let (mut kills, mut in_writing, mut runs) = (0, 0, 0);
    while kills < all_kills {
        let out: PathBuf = folder.join(format!("killed-{runs}"));
        runs += 1;
        loop {
            let mut child = start(source, &out);
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * (0.05 + 0.6 * random())));
            let ended = child.try_wait().unwrap().is_some();
            if ended || kills == all_kills {
                finish(child);
                break;
            }
            // SIGKILL: nothing in the process can react to it.
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            in_writing += usize::from(has_part(&out));
        }
        assert!(traces(&out) == expected, "run {runs} differs from the one that was left alone");
    }
    println!("{kills} kills over {runs} runs, {in_writing} of them while a checkpoint was being written");
}
