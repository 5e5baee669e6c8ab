//! Kills training at random instants, twenty times, and resumes it: the end is the same to the last bit.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A checkpoint after every iteration, so that about every other kill falls into the writing of one.
const START: &str = "
model = 'lenet5'
data = 'shapes10'
train_records = 200
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

const WEIGHTS: &str = "name = 'granet'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 1\nevery = 4\n";
/// Tensors get smaller at every event.
const CHANNELS: &str = "name = 'group-magnitude'\nmacs = 0.3\nend_epoch = 2\nevery = 4\n";
/// The penalty of every step follows from the weights, and ends with a cut.
const SHAPED: &str = "name = 'sparse-group-l0'\nlambda = 1e-3\nbeta = 1e-2\nevery = 4\nend_epoch = 1\nmacs = 0.5\n";

fn start(experiment: &Path, out: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(["train", "--plain", "--device", "cpu", "--limit-test", "50", "--resume", "--no-receipt", "--out"])
        .args([out, experiment])
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
    kills_change_nothing(WEIGHTS, 20);
}

#[test]
fn ten_kills_of_a_network_that_gets_smaller_change_nothing() {
    kills_change_nothing(CHANNELS, 10);
}

#[test]
fn ten_kills_under_a_penalty_on_weights_change_nothing() {
    kills_change_nothing(SHAPED, 10);
}

fn kills_change_nothing(scheduler: &str, all_kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let experiment = folder.path().join("kill.toml");
    std::fs::write(&experiment, format!("{START}{scheduler}")).unwrap();
    let straight = folder.path().join("straight");
    let began = std::time::Instant::now();
    finish(start(&experiment, &straight));
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
        let out: PathBuf = folder.path().join(format!("killed-{runs}"));
        runs += 1;
        loop {
            let mut child = start(&experiment, &out);
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
