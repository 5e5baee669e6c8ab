//! How a run ends: finished, interrupted and resumed, refused, or lost to numbers that are not finite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_data::DataSet;
use bonsai_training::dashboard::View;
use bonsai_training::experiment::Experiment;
use bonsai_training::records::{KernelsRow, LayerRow, Summary};
use bonsai_training::snapshot;
use bonsai_training::train::{Outcome, Setup, train};
use burn::tensor::Device;

pub const SMALL: &str = "
model = 'lenet5'
data = 'shapes10'
train_records = 120
epochs = 3
batch_size = 20
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
[scheduler]
name = 'granet'
sparsity = 0.9
initial_sparsity = 0.5
end_epoch = 2
every = 4
";

/// The same with another network and a scheduler that removes channels.
pub fn small_with_channels(model: &str, scheduler: &str) -> String {
    let start = SMALL[..SMALL.find("[scheduler]").unwrap()].replace("lenet5", model);
    format!("{start}[scheduler]\n{scheduler}")
}

fn setup(folder: &Path, assignments: &[&str]) -> Setup {
    setup_of(SMALL, folder, assignments)
}

pub fn setup_of(experiment: &str, folder: &Path, assignments: &[&str]) -> Setup {
    let assignments: Vec<String> = assignments.iter().map(|&assignment| assignment.into()).collect();
    Setup {
        asked: "small".into(),
        experiment: Experiment::with_overrides(experiment, "small", &assignments).unwrap(),
        source: bonsai_data::locate(DataSet::Shapes10, None).unwrap(),
        folder: folder.to_path_buf(),
        resume: false,
        device: Device::flex(),
        replicas: Vec::new(),
        device_name: "cpu".into(),
        cheap_reads: true,
        view: View::Plain,
        limit_test: Some(100),
        stop: Arc::new(AtomicBool::new(false)),
        workers: 1,
    }
}

pub fn finished(outcome: Outcome) -> Summary {
    match outcome {
        Outcome::Finished(summary) => *summary,
        Outcome::Interrupted { iteration } => panic!("interrupted at iteration {iteration}"),
    }
}

pub fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[test]
fn a_run_leaves_its_records_and_a_model_that_evaluates_to_the_same_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let setup = setup(&folder, &[]);
    let summary = finished(train(setup.clone()).unwrap());
    assert_eq!(summary.kept, (summary.prunable as f64 * 0.1).round() as u64);
    assert_eq!((summary.epochs, summary.iterations), (3, 18));
    assert_eq!(summary.best_epoch.map(|epoch| epoch >= 1), Some(true), "only epochs at 90 % count: {summary:?}");
    for file in ["config.toml", "metrics.csv", "layers.csv", "events.jsonl", "summary.toml", "model.safetensors"] {
        assert!(!read(&folder, file).is_empty(), "{file} is empty");
    }
    let metrics = String::from_utf8(read(&folder, "metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 1 + 3);
    // The first masks, then every fourth of 18 iterations.
    assert_eq!(mask_events(&folder).len(), 1 + 4);

    let model = folder.join("model.safetensors");
    let evaluation =
        bonsai_training::evaluate::evaluate_snapshot(&model, &setup.source, &setup.device, setup.limit_test, None, 1)
            .unwrap();
    assert_eq!(evaluation.accuracy, summary.final_test_accuracy);
    let snapshot = snapshot::read(&model).unwrap();
    let kept: usize = snapshot.masks.values().map(|mask| mask.kept()).sum();
    assert_eq!(kept as u64, summary.kept);
    assert!(summary.nonzero <= summary.kept);
}

#[test]
fn the_papers_protocol_adds_a_column_and_changes_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, assignments: &[&str]| {
        let folder = folder.path().join(name);
        let summary = finished(train(setup(&folder, assignments)).unwrap());
        (folder, summary)
    };
    let (honest, one) = run("honest", &[]);
    let (paper, other) = run("paper", &["protocol=paper"]);
    assert_eq!(read(&honest, "model.safetensors"), read(&paper, "model.safetensors"));
    assert_eq!((one.best_epoch, one.best_test_accuracy), (other.best_epoch, other.best_test_accuracy));
    assert!(other.protocol.contains("nothing is selected by it") && one.protocol != other.protocol);

    let rows = |folder: &Path| bonsai_training::records::read_metrics(&folder.join("metrics.csv")).unwrap();
    assert!(rows(&honest).iter().all(|row| row.test_accuracy.is_none()));
    assert!(!String::from_utf8(read(&honest, "metrics.csv")).unwrap().contains("test_accuracy"));
    let tested: Vec<f64> = rows(&paper).iter().map(|row| row.test_accuracy.unwrap()).collect();
    assert_eq!(tested.len(), 3);
    assert_eq!(tested[2], other.final_test_accuracy);
    let best = other.best_epoch.unwrap() as usize;
    assert_eq!(Some(tested[best]), other.best_test_accuracy);
    let seconds = |at: usize| Some(rows(&paper)[at].seconds);
    assert_eq!((other.first_epoch_seconds, other.last_epoch_seconds), (seconds(0), seconds(2)));
    for (mut row, expected) in rows(&paper).into_iter().zip(rows(&honest)) {
        row.test_accuracy = None;
        (row.seconds, row.images_per_second) = (expected.seconds, expected.images_per_second);
        assert_eq!(row, expected);
    }
}

#[test]
fn the_papers_column_survives_an_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, cut) = (folder.path().join("straight"), folder.path().join("cut"));
    finished(train(setup(&straight, &["protocol=paper", "checkpoint.minutes=0"])).unwrap());
    let mut rest = setup(&cut, &["protocol=paper", "checkpoint.minutes=0"]);
    rest.stop.store(true, Ordering::Relaxed);
    let mut interruptions = 0;
    // Each call stops after its first step.
    while let Outcome::Interrupted { .. } = train(rest.clone()).unwrap() {
        interruptions += 1;
        rest.resume = true;
        rest.stop.store(interruptions < 15, Ordering::Relaxed);
    }
    assert_eq!(interruptions, 15);
    let column = |folder: &Path| -> Vec<Option<f64>> {
        let rows = bonsai_training::records::read_metrics(&folder.join("metrics.csv")).unwrap();
        rows.iter().map(|row| row.test_accuracy).collect()
    };
    assert_eq!(column(&cut), column(&straight));
    assert!(column(&cut).iter().all(Option::is_some));
}

/// The lines of `events.jsonl` that are not measurements of kernels.
fn mask_events(folder: &Path) -> Vec<String> {
    let events = String::from_utf8(read(folder, "events.jsonl")).unwrap();
    events.lines().filter(|line| !line.contains("\"kernels\":")).map(String::from).collect()
}

#[test]
fn the_first_steps_choose_kernels_for_every_pruned_layer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    finished(train(setup(&folder, &["scheduler.every=12"])).unwrap());
    let events = String::from_utf8(read(&folder, "events.jsonl")).unwrap();
    let rows = events.lines().filter(|line| line.contains("\"kernels\":"));
    let rows: Vec<KernelsRow> = rows.map(|line| serde_json::from_str(line).unwrap()).collect();
    // Three ways backward, three times each, from the first masks on; the twelfth iteration is an event.
    assert_eq!(rows[0].iteration, 9);
    let layers: Vec<LayerRow> =
        csv::Reader::from_path(folder.join("layers.csv")).unwrap().deserialize().map(Result::unwrap).collect();
    let pruned = layers.iter().filter(|layer| layer.epoch == 0 && layer.sparsity > 0.0);
    let pruned: Vec<&str> = pruned.map(|layer| layer.name.as_str()).collect();
    let raced: Vec<&str> = rows[0].kernels.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(raced, pruned);
    for layer in &rows[0].kernels {
        for choice in [&layer.forward, &layer.weight_gradient, &layer.data_gradient] {
            assert_eq!(choice.faster == "dense", choice.dense_ms < choice.sparse_ms, "{layer:?}");
            assert!(choice.dense_ms.min(choice.sparse_ms) > 0.0);
        }
    }
}

#[test]
fn identical_runs_give_identical_bytes_for_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let folders = [folder.path().join("a"), folder.path().join("b")];
    for (folder, workers) in folders.iter().zip([1, 3]) {
        let setup = Setup { workers, ..setup(folder, &[]) };
        finished(train(setup).unwrap());
    }
    for file in ["model.safetensors", "layers.csv"] {
        assert!(read(&folders[0], file) == read(&folders[1], file), "{file} differs");
    }
    assert_eq!(mask_events(&folders[0]), mask_events(&folders[1]));
}

#[test]
fn a_run_that_is_stopped_and_resumed_ends_like_one_that_was_not() {
    stopping_changes_nothing(SMALL, &[], 18);
}

#[test]
fn a_run_that_is_stopped_on_both_sides_of_a_cut_ends_like_one_that_was_not() {
    let magnitude = "name = 'group-magnitude'\nmacs = 0.5\nend_epoch = 2\nevery = 4";
    let summary = stopping_changes_nothing(&small_with_channels("lenet5", magnitude), &[], 18);
    assert!(summary.macs * 2 <= summary.dense_macs && summary.kept < summary.prunable, "{summary:?}");
    assert!(summary.shape.starts_with("conv1 ") && summary.shape.contains("/20, conv2 "), "{}", summary.shape);
    // A penalty strong enough for the copies of the scales to reach zero at once.
    let proximal =
        "name = 'proximal-slimming'\nlambda = 200\nbeta = 10\npatience = 1\nevery = 2\nend_epoch = 2\nfloor = 0.5";
    let few = ["train_records=40"];
    let summary = stopping_changes_nothing(&small_with_channels("resnet20", proximal), &few, 6);
    assert!(summary.shape.starts_with("blocks.0.conv1 8/16"), "{}", summary.shape);
    let polarization = "name = 'polarization'\nlambda = 0.5\nt = 1.4\nend_epoch = 1.5\nmacs = 0.5";
    let sparse = "name = 'sparse-group-l0'\nlambda = 1e-2\nbeta = 0.1\nevery = 2\nend_epoch = 1.5\nmacs = 0.5";
    let uniform = "name = 'uniform-width'\nmacs = 0.5";
    for (model, scheduler) in [("resnet20", polarization), ("lenet5", sparse), ("lenet5", uniform)] {
        let summary = stopping_changes_nothing(&small_with_channels(model, scheduler), &few, 6);
        assert!(summary.macs * 2 <= summary.dense_macs, "{summary:?}");
    }
}

#[test]
fn a_run_that_learns_masks_or_gates_may_be_stopped_before_at_and_after_the_cut() {
    let few = ["train_records=40"];
    // Two iterations an epoch, six in all; the cut is the fourth.
    let lapp = "name = 'lapp'\nmacs = 0.5\nend_epoch = 2\nthreshold_lr = 10\nlambda = 50";
    let gating = "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 2\ncost = 3000";
    let bypass = ["train_records=40", "bypass=true"];
    for (scheduler, assignments) in [(lapp, &few[..]), (lapp, &bypass[..]), (gating, &few[..])] {
        let summary = stopping_changes_nothing(&small_with_channels("resnet20", scheduler), assignments, 6);
        let left = summary.macs as f64 / summary.dense_macs as f64;
        assert!((left - 0.5).abs() <= 0.005, "{scheduler}: {left} of the multiply-accumulates are left");
        assert_eq!(summary.target_macs, Some(0.5));
    }
}

#[test]
fn a_cut_that_ends_learning_records_the_accuracy_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let gating = "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 2";
    let setup = setup_of(&small_with_channels("resnet20", gating), &folder, &["train_records=40"]);
    finished(train(setup.clone()).unwrap());
    let [event] = &mask_events(&folder)[..] else { panic!("one cut") };
    for figure in ["accuracy before the cut", "accuracy after the cut", "distance of a gate's mean from one half"] {
        assert!(event.contains(figure), "{event}");
    }
    // The model that is left has no gates and reads like any other.
    let model = folder.join("model.safetensors");
    let snapshot = snapshot::read(&model).unwrap();
    assert!(!snapshot.header.architecture.gates && snapshot.weights.keys().all(|name| !name.contains("gate")));
    bonsai_training::evaluate::evaluate_snapshot(&model, &setup.source, &setup.device, setup.limit_test, None, 1)
        .unwrap();
}

#[test]
fn what_a_learned_method_cannot_have_is_said_before_the_run() {
    let refused = |model: &str, scheduler: &str| {
        Experiment::with_overrides(&small_with_channels(model, scheduler), "small", &[]).unwrap_err()
    };
    let gating = "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 2";
    assert!(refused("vgg11", gating).contains("this network has no gates"), "{}", refused("vgg11", gating));
    let unmet = refused("resnet20", "name = 'lapp'\nmacs = 0.01\nend_epoch = 2");
    assert!(unmet.contains("`macs` is 0.01, but this network costs 0."), "{unmet}");
    let late = refused("resnet20", "name = 'lapp'\nmacs = 0.5\nend_epoch = 4");
    assert!(late.contains("`end_epoch` is 4, but must lie in the 3 epochs of the run"), "{late}");
}

/// Trains an experiment straight, and again with a stop after every iteration, and compares what they leave.
pub fn stopping_changes_nothing(experiment: &str, assignments: &[&str], iterations: u32) -> Summary {
    let folder = tempfile::tempdir().unwrap();
    let straight = folder.path().join("straight");
    finished(train(setup_of(experiment, &straight, assignments)).unwrap());

    let stopped = folder.path().join("stopped");
    let first = setup_of(experiment, &stopped, assignments);
    first.stop.store(true, Ordering::Relaxed);
    let mut outcome = train(first).unwrap();
    let mut resumes = 0;
    while let Outcome::Interrupted { .. } = outcome {
        let next = Setup { resume: true, ..setup_of(experiment, &stopped, assignments) };
        next.stop.store(true, Ordering::Relaxed);
        outcome = train(next).unwrap();
        resumes += 1;
    }
    assert_eq!(resumes, iterations);
    let summary = finished(outcome);
    assert_eq!(summary.resumes, iterations);
    for file in ["model.safetensors", "layers.csv"] {
        assert!(read(&straight, file) == read(&stopped, file), "{file} differs");
    }
    assert_eq!(mask_events(&straight), mask_events(&stopped));
    // Losses too, to the last bit; only times differ.
    let untimed = |folder: &Path| -> Vec<String> {
        let text = String::from_utf8(read(folder, "metrics.csv")).unwrap();
        text.lines().map(|line| line.split(',').take(11).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(untimed(&straight), untimed(&stopped));
    let model = straight.join("model.safetensors");
    let Setup { source, device, limit_test, .. } = setup_of(experiment, &straight, assignments);
    let evaluation =
        bonsai_training::evaluate::evaluate_snapshot(&model, &source, &device, limit_test, None, 1).unwrap();
    assert_eq!(evaluation.accuracy, summary.final_test_accuracy);
    summary
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_with_other_settings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let first = setup(&folder, &[]);
    first.stop.store(true, Ordering::Relaxed);
    train(first).unwrap();

    let error = train(setup(&folder, &[])).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    let other = Setup { resume: true, ..setup(&folder, &["optimizer.lr=0.02"]) };
    let error = train(other).unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_names_layer_and_iteration_and_keeps_a_good_checkpoint() {
    // Read at every iteration, or rarely as on a GPU; checkpoints at epochs, or after every iteration.
    for (cheap_reads, minutes) in [(true, "10.0"), (false, "10.0"), (true, "0.0"), (false, "0.0")] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("run");
        let minutes = format!("checkpoint.minutes={minutes}");
        let setup = Setup { cheap_reads, ..setup(&folder, &["optimizer.lr=1000", &minutes]) };
        let error = format!("{:#}", train(setup).unwrap_err());
        assert!(error.contains("loss of iteration"), "{error}");
        assert!(error.contains("weight") || error.contains("bias"), "no layer is named: {error}");
        let iteration: u64 = error.split("iteration ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(iteration <= 12, "found late: {error}");
        let checkpoint = bonsai_training::checkpoint::load_newest(&folder.join("checkpoint")).unwrap().unwrap();
        assert!(checkpoint.iteration < iteration);
        for tensor in checkpoint.tensors.values() {
            assert!(tensor.as_f32().map_or(true, |values| values.iter().all(|value| value.is_finite())));
        }
    }
}

#[test]
fn a_run_on_wgpu_reads_rarely_and_finishes_at_its_sparsity() {
    let Some(wgpu) = crate::wgpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let first =
        Setup { device: wgpu.clone(), cheap_reads: false, ..setup(&folder, &["epochs=1", "scheduler.end_epoch=1"]) };
    let again = Setup { resume: true, stop: Arc::new(AtomicBool::new(false)), ..first.clone() };
    first.stop.store(true, Ordering::Relaxed);
    assert!(matches!(train(first).unwrap(), Outcome::Interrupted { iteration: 1 }));
    let summary = finished(train(again).unwrap());
    assert_eq!(summary.kept, (summary.prunable as f64 * 0.1).round() as u64);
}

#[test]
fn a_finished_run_keeps_its_summary_and_records_without_a_checkpoint_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    finished(train(setup(&folder, &[])).unwrap());
    let (summary, metrics) = (read(&folder, "summary.toml"), read(&folder, "metrics.csv"));

    finished(train(Setup { resume: true, ..setup(&folder, &[]) }).unwrap());
    assert!(read(&folder, "summary.toml") == summary);

    std::fs::remove_dir_all(folder.join("checkpoint")).unwrap();
    let error = train(Setup { resume: true, ..setup(&folder, &[]) }).unwrap_err().to_string();
    assert!(error.contains("no checkpoint to go on from"), "{error}");
    assert!(read(&folder, "metrics.csv") == metrics);
}

#[test]
fn weight_decay_reaches_all_parameters_or_the_weights_of_layers_alone() {
    let decayed = |decay: &str| {
        let setup = setup(Path::new("unused"), &["optimizer.weight_decay=0.5", decay]);
        let mut trainee = setup.build().unwrap().trainee;
        trainee.options_mut().decayed.clone()
    };
    let weights = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"];
    let biases = ["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"];
    assert!(decayed("optimizer.decay='weights'").iter().eq(weights));
    assert_eq!(decayed("optimizer.decay='all'"), weights.iter().chain(&biases).map(|name| name.to_string()).collect());
}
