//! Plans, models, data sets and runs as tables.

use super::*;

#[test]
fn a_plan_ends_exactly_at_its_sparsity() {
    let call = bonsai(&["plan", "cifar10-resnet20-granet"]).succeeds();
    assert!(call.out.contains("26,834 of 268,336 prunable weights stay"), "{}", call.out);
    assert!(call.out.contains("of the MACs of a dense one"), "{}", call.out);
    let layers = bonsai(&["plan", "cifar10-resnet20-gmp", "--layers", "--epochs", "1"]).succeeds();
    assert!(layers.out.matches("\nIteration ").count() > 10, "{}", layers.out);
    assert!(call.out.trim_end().lines().last().unwrap().starts_with("~ is projected"), "{}", call.out);
    let dense = bonsai(&["plan", "cifar10-resnet20-dense"]).succeeds();
    assert!(dense.out.ends_with("training takes all MACs of a dense one\n"), "{}", dense.out);
    assert_eq!(dense.out.lines().count(), 3, "{}", dense.out);
}

#[test]
fn a_plan_says_by_how_much_the_rules_of_a_published_program_miss() {
    let call = bonsai(&["plan", "cifar10-resnet20-granet", "--set", "scheduler.compat=granet-cifar"]).succeeds();
    assert!(call.out.contains("compat rules miss the target by"), "{}", call.out);
    // Methods that remove channels have no target in weights to miss.
    let channels = bonsai(&["plan", "cifar10-resnet20-group-magnitude"]).succeeds();
    assert!(!channels.out.contains("miss the target"), "{}", channels.out);
}

#[test]
fn a_layer_at_its_floor_is_marked() {
    let call = bonsai(&["plan", "cifar10-resnet20-granet", "--set", "scheduler.floor=0.09"]).succeeds();
    assert!(call.out.lines().any(|line| line.ends_with("  floor")), "{}", call.out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(["model", "resnet110"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_model_is_counted_exactly() {
    let call = bonsai(&["model", "resnet20"]).succeeds();
    for fragment in ["268,336 prunable weights", "269,722 parameters", "40,551,040 MACs"] {
        assert!(call.out.contains(fragment), "{fragment}: {}", call.out);
    }
    let projected = bonsai(&["model", "resnet20", "--shortcut", "b"]).succeeds();
    assert!(projected.out.contains("270,896 prunable weights"), "{}", projected.out);
    let imagenet = bonsai(&["model", "resnet50"]).succeeds();
    assert!(imagenet.out.contains("25,557,032 parameters"), "{}", imagenet.out);
    let small = bonsai(&["model", "resnet50", "--classes", "100", "--input", "3x32x32"]).succeeds();
    assert!(small.out.contains("3x32x32, 100 classes"), "{}", small.out);
}

#[test]
fn data_sets_are_listed_with_where_they_lie() {
    let folder = project();
    let call = bonsai_in(folder.path(), &["data", "list"]).succeeds();
    assert!(call.out.contains("bonsai data fetch cifar10") && call.out.contains("built in"), "{}", call.out);
    let built_in = bonsai(&["data", "check", "shapes10"]).succeeds();
    assert!(built_in.out.contains("fingerprint: "), "{}", built_in.out);
}

#[test]
fn no_runs_say_how_to_start_one() {
    let folder = project();
    let call = bonsai_in(folder.path(), &["runs", "list"]).succeeds();
    assert!(call.out.contains("bonsai train shapes10-resnet20-granet"), "{}", call.out);
}
