//! What the commands say of themselves.

use super::*;

#[test]
fn every_command_teaches_by_examples() {
    for command in [
        &[][..],
        &["train"],
        &["plan"],
        &["eval"],
        &["data"],
        &["model"],
        &["runs"],
        &["bench"],
        &["reproduce"],
        &["table"],
        &["sweep"],
        &["export"],
        &["receipt"],
    ] {
        let call = bonsai(&[command, &["--help"]].concat()).succeeds();
        assert!(call.out.contains("Examples:") && call.out.contains("  bonsai "), "{command:?}: {}", call.out);
    }
}

#[test]
fn train_has_every_documented_flag() {
    let help = bonsai(&["train", "--help"]).out;
    for flag in [
        "--device",
        "--offline",
        "--seed",
        "--epochs",
        "--limit-train",
        "--limit-test",
        "--set",
        "--out",
        "--resume",
        "--plain",
        "--tui",
        "--threads",
        "--data-dir",
        "--strict-data",
        "--scratch-e",
        "--scratch-b",
        "--no-receipt",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn help_names_what_cannot_be_guessed() {
    let models = bonsai(&["model", "--help"]).out;
    assert!(models.contains("resnet20") && models.contains("vit-cifar"), "{models}");
    let train = bonsai(&["train", "--help"]).out;
    for fragment in ["BONSAI_DATASETS", "BONSAI_MIRROR", "SIGTERM", "experiments/README.md", "which is 0 unless"] {
        assert!(train.contains(fragment), "{fragment}: {train}");
    }
}

#[test]
fn no_command_shows_the_help() {
    let call = bonsai(&[]);
    assert_eq!(call.code, 2);
    assert!(call.err.contains("Usage:"), "{}", call.err);
}

#[test]
fn the_version_is_the_crates() {
    assert_eq!(bonsai(&["--version"]).out.trim(), concat!("bonsai ", env!("CARGO_PKG_VERSION")));
}
