//! The files of a run in bad times: kills at every step of a write, damaged bytes, a second process, a resume.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bonsai_models::Architecture;
use bonsai_pruning::mask::Mask;
use bonsai_training::records::{EpochRow, EventRow, LayerRow, StepRow, Summary, read_metrics, read_summary};
use bonsai_training::run_folder::{RunFolder, RunPaths};
use bonsai_training::snapshot::{self, SnapshotHeader};
use bonsai_training::tensors::{HostTensor, Tensors, decode, encode};
use bonsai_training::{checkpoint, hardware::Hardware};
use proptest::prelude::*;
use serde_json::json;

/// A folder in memory where there is one: these tests flush hundreds of files, for which a busy disk takes long.
fn temporary_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn tensors(value: f32) -> Tensors {
    Tensors::from([
        ("fc.weight".to_string(), HostTensor::f32(vec![2, 3], vec![value, 0.0, 1.5, 0.0, -2.5, 4.0])),
        ("moment/fc.weight".to_string(), HostTensor::f32(vec![2, 3], vec![0.25; 6])),
        ("mask/fc.weight".to_string(), HostTensor::bytes(vec![0b11_0101])),
    ])
}

fn save(folder: &Path, iteration: u64) -> PathBuf {
    checkpoint::save(folder, iteration, &tensors(iteration as f32), &json!({ "seconds": 0.1 }), 2).unwrap()
}

/// Names of the entries of a folder with their content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect()
}

fn restore(folder: &Path, content: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in content {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Every way to damage bytes that the tests below go through: cuts, flips, absurd lengths, something else altogether.
fn damages(intact: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for part in 0..40 {
        let length = intact.len() * part / 40;
        damages.push((format!("cut to {length} bytes"), intact[..length].to_vec()));
    }
    damages.push(("cut by one byte".into(), intact[..intact.len() - 1].to_vec()));
    damages.push(("one byte more".into(), [intact, &[0]].concat()));
    damages.push(("twice".into(), [intact, intact].concat()));
    damages.push(("zeros".into(), vec![0; intact.len()]));
    damages.push(("ones".into(), vec![0xff; intact.len()]));
    for step in 0..80 {
        let bit = (8 * intact.len() - 1) * step / 79;
        let mut bytes = intact.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damages.push((format!("bit {bit} flipped"), bytes));
    }
    for length in [0, 1, intact.len() as u64, 1 << 32, 1 << 60, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        let mut bytes = intact.to_vec();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        damages.push((format!("a header of {length} bytes"), bytes));
    }
    for start in (0..intact.len() - 16).step_by(intact.len() / 16) {
        let mut bytes = intact.to_vec();
        bytes[start..start + 16].fill(0);
        damages.push((format!("16 zeros at {start}"), bytes));
    }
    damages.retain(|(_, bytes)| bytes != intact);
    damages
}

/// A sentence is there, of one line, and does not show the insides of the program.
fn assert_sentence(what: &str, sentence: &str) {
    assert!(sentence.len() > 20 && !sentence.contains('\n') && !sentence.contains("panicked"), "{what}: {sentence:?}");
}

#[test]
fn a_kill_at_every_step_of_writing_a_checkpoint_leaves_one_that_loads() {
    let home = temporary_folder();
    let folder = home.path().join("checkpoint");
    save(&folder, 10);
    save(&folder, 20);
    let before = content(&folder);
    let path = save(&folder, 30);
    let (name, bytes) = (PathBuf::from(path.file_name().unwrap()), fs::read(&path).unwrap());
    let after = content(&folder);
    let part = PathBuf::from(format!("{}.part", name.display()));

    let with = |name: &PathBuf, bytes: &[u8]| {
        let mut state = before.clone();
        state.insert(name.clone(), bytes.to_vec());
        state
    };
    let mut states = vec![(20, before.clone())];
    states.extend((0..=bytes.len()).step_by(17).map(|length| (20, with(&part, &bytes[..length]))));
    states.push((20, with(&part, &bytes)));
    states.push((30, with(&name, &bytes)));
    // A disk that kept the new name but lost the content: not to be expected after the flush, and met all the same.
    states.extend([0, 1, 8, bytes.len() / 2, bytes.len() - 1].map(|length| (20, with(&name, &bytes[..length]))));
    states.push((20, with(&name, &vec![0; bytes.len()])));
    // Older ones are being removed, with an unfinished file of an earlier kill still there.
    let mut stale = after.clone();
    stale.insert("iteration-00000025-0123456789abcdef.safetensors.part".into(), b"stale".to_vec());
    states.push((30, stale));
    states.push((30, after.clone()));

    assert!(states.len() > 15);
    for (expected, state) in states {
        restore(&folder, &state);
        let loaded = checkpoint::load_newest(&folder).unwrap().unwrap();
        assert_eq!((loaded.iteration, loaded.tensors), (expected, tensors(expected as f32)));
        // Going on from there ends in the same folder as if nothing had happened.
        save(&folder, 30);
        assert_eq!(content(&folder), after);
    }
}

#[test]
fn a_kill_during_the_very_first_checkpoint_means_a_start_from_the_beginning() {
    let folder = temporary_folder();
    fs::write(folder.path().join("iteration-00000010-0123456789abcdef.safetensors.part"), b"half").unwrap();
    fs::write(folder.path().join("notes.txt"), b"a user's").unwrap();
    assert!(checkpoint::load_newest(folder.path()).unwrap().is_none());
    save(folder.path(), 10);
    assert_eq!(content(folder.path()).len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_earlier_checkpoints_as_they_were() {
    let (home, other) = (temporary_folder(), temporary_folder());
    save(home.path(), 10);
    save(home.path(), 20);
    let before = content(home.path());
    let name = save(other.path(), 30).file_name().unwrap().to_string_lossy().into_owned();
    std::os::unix::fs::symlink("/dev/full", home.path().join(format!("{name}.part"))).unwrap();
    let error = checkpoint::save(home.path(), 30, &tensors(30.0), &json!({ "seconds": 0.1 }), 2).unwrap_err();
    let sentence = format!("{error:#}");
    assert!(sentence.contains("earlier ones are untouched") && sentence.contains("No space left"), "{sentence}");
    assert_eq!(content(home.path()), before);
    assert_eq!(checkpoint::load_newest(home.path()).unwrap().unwrap().iteration, 20);

    let blocked = home.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let error = checkpoint::save(&blocked.join("checkpoint"), 30, &tensors(30.0), &json!({}), 2).unwrap_err();
    assert_sentence("a file where the folder should be", &format!("{error:#}"));
}

#[test]
fn damaged_safetensors_are_refused_or_read_as_what_they_say() {
    let intact = encode(&tensors(1.0), &json!({ "a": [1, 2.5, "text"], "b": { "c": null } })).unwrap();
    let mut refused = 0;
    for (what, bytes) in damages(&intact) {
        // A flip among the values is another value; that one is there is for the checksums below to find.
        match decode(&bytes) {
            Err(error) => {
                assert_sentence(&what, &format!("{error:#}"));
                refused += 1;
            }
            Ok(_) => assert_eq!(bytes.len(), intact.len(), "{what}"),
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn every_damaged_checkpoint_is_skipped_with_a_sentence() {
    let folder = temporary_folder();
    save(folder.path(), 10);
    let newest = save(folder.path(), 20);
    let intact = fs::read(&newest).unwrap();
    let damages = damages(&intact);
    assert!(damages.len() > 130);
    for (what, bytes) in damages {
        fs::write(&newest, bytes).unwrap();
        let loaded = checkpoint::load_newest(folder.path()).expect(&what).expect(&what);
        assert_eq!((loaded.iteration, loaded.warnings.len()), (10, 1), "{what}");
        assert_sentence(&what, &loaded.warnings[0]);
    }
}

fn network() -> (Tensors, BTreeMap<String, Mask>, SnapshotHeader) {
    let weights = Tensors::from([
        ("fc.weight".to_string(), HostTensor::f32(vec![2, 3], vec![1.0, 0.0, 1.5, 0.0, -2.5, 4.0])),
        ("fc.bias".to_string(), HostTensor::f32(vec![2], vec![0.5, -0.5])),
        ("norm.running_var".to_string(), HostTensor::f32(vec![2], vec![1.0, 0.5])),
    ]);
    let header = SnapshotHeader {
        format: snapshot::FORMAT,
        architecture: Architecture::new("mlp", 10, [1, 28, 28]),
        data: "mnist".into(),
        mean: vec![0.1307],
        std: vec![0.3081],
        scheduler: "granet".into(),
        sparsity: 1.0 / 3.0,
    };
    let mask = Mask::from_bools(vec![true, false, true, false, true, true]);
    (weights, BTreeMap::from([("fc.weight".to_string(), mask)]), header)
}

#[test]
fn every_damaged_network_is_refused_with_a_sentence() {
    let folder = temporary_folder();
    let path = folder.path().join("model.safetensors");
    let (weights, masks, header) = network();
    snapshot::write(&path, &weights, &masks, &header).unwrap();
    let intact = fs::read(&path).unwrap();
    let read = snapshot::read(&path).unwrap();
    assert_eq!((&read.header, &read.weights, &read.masks), (&header, &weights, &masks));
    snapshot::write(&path, &read.weights, &read.masks, &read.header).unwrap();
    assert_eq!(fs::read(&path).unwrap(), intact, "same network, same bytes");

    let damages = damages(&intact);
    assert!(damages.len() > 130);
    for (what, bytes) in damages {
        fs::write(&path, bytes).unwrap();
        let sentence = format!("{:#}", snapshot::read(&path).expect_err(&what));
        assert_sentence(&what, &sentence);
        assert!(sentence.contains("model.safetensors"), "{what}: {sentence}");
    }
    assert!(
        format!("{:#}", snapshot::read(&folder.path().join("absent")).unwrap_err()).contains("absent cannot be read")
    );
    assert!(snapshot::read(folder.path()).is_err());
}

#[test]
fn every_cut_of_a_summary_is_refused_and_no_flip_panics() {
    let folder = temporary_folder();
    let run = RunFolder::create(folder.path(), true).unwrap();
    let path = run.summary();
    let hardware =
        Hardware { cpu: "a cpu".into(), cores: 16, memory: 1 << 34, os: "linux".into(), device: "cpu".into() };
    let summary = Summary { best_epoch: Some(9), best_valid_accuracy: Some(0.75), hardware, ..Summary::default() };
    run.write_summary(&summary).unwrap();
    let intact = fs::read(&path).unwrap();
    // Only the last line end can go unnoticed.
    for length in 0..intact.len() - 1 {
        fs::write(&path, &intact[..length]).unwrap();
        let sentence = format!("{:#}", read_summary(&path).expect_err(&format!("{length} bytes")));
        assert!(sentence.contains("summary.toml is not the summary of a run"), "{sentence}");
    }
    for bit in 0..8 * intact.len() {
        let mut bytes = intact.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let _ = read_summary(&path);
    }
}

#[test]
fn a_second_run_in_a_folder_is_refused_until_the_first_has_ended() {
    let home = temporary_folder();
    let path = home.path().join("seed-0");
    let first = RunFolder::create(&path, true).unwrap();
    first.write_config("seed = 0\n").unwrap();
    for fresh in [true, false] {
        let sentence = RunFolder::create(&path, fresh).unwrap_err().to_string();
        assert!(sentence.contains("another run is writing") && sentence.contains("--out"), "{sentence}");
    }
    // Another process sees it too, where the system's own tool for locks is there to ask.
    if let Ok(status) =
        std::process::Command::new("flock").arg("--nonblock").arg(path.join("lock")).arg("true").status()
    {
        assert!(!status.success());
    }
    drop(first);
    RunFolder::create(&path, false).unwrap();
}

#[test]
fn a_resume_drops_what_came_after_the_checkpoint() {
    let home = temporary_folder();
    let run = RunFolder::create(home.path(), true).unwrap();
    let paths = RunPaths::new(home.path());
    run.write_config("seed = 0\n").unwrap();
    let add = |run: &RunFolder, epoch: u64| {
        run.append_epoch(&EpochRow { epoch, train_loss: 1.0 / (epoch + 1) as f64, ..EpochRow::default() }).unwrap();
        run.append_layer(&LayerRow { epoch, name: "fc.weight".into(), ..LayerRow::default() }).unwrap();
        run.append_event(&EventRow { iteration: 100 * epoch, ..EventRow::default() }).unwrap();
        run.append_step(&StepRow { epoch, iteration: 100 * epoch + 1, ..StepRow::default() }).unwrap();
    };
    add(&run, 0);
    add(&run, 1);
    let lengths = run.lengths().unwrap();
    assert_eq!(lengths.keys().collect::<Vec<_>>(), ["events.jsonl", "layers.csv", "metrics.csv", "steps.csv"]);
    add(&run, 2);
    let whole = content(home.path());
    drop(run);

    // Killed in the middle of a line, then resumed: the end is as if nothing had happened.
    let metrics = fs::read(paths.metrics()).unwrap();
    for length in (lengths["metrics.csv"] as usize..=metrics.len()).step_by(4) {
        fs::write(paths.metrics(), &metrics[..length]).unwrap();
        let run = RunFolder::create(home.path(), false).unwrap();
        run.truncate_to(&lengths).unwrap();
        assert_eq!(read_metrics(&paths.metrics()).unwrap().len(), 2);
        add(&run, 2);
        drop(run);
        assert_eq!(content(home.path()), whole);
    }

    let run = RunFolder::create(home.path(), false).unwrap();
    run.truncate_to(&BTreeMap::new()).unwrap();
    for epoch in 0..3 {
        add(&run, epoch);
    }
    assert_eq!(content(home.path()), whole, "without a checkpoint everything begins again");

    // What cannot be the recorded file is named and stays; the weights of a run do not depend on it.
    let recorded = &metrics[..lengths["metrics.csv"] as usize];
    let damaged = [
        (recorded[..recorded.len() - 1].to_vec(), "fewer than"),
        (vec![b'\n'; recorded.len()], "first line"),
        ([&recorded[..recorded.len() - 1], b"9\n"].concat(), "no line ends"),
    ];
    for (bytes, expected) in damaged {
        fs::write(paths.metrics(), &bytes).unwrap();
        let warnings = run.truncate_to(&lengths).unwrap();
        assert!(
            warnings.len() == 1
                && warnings[0].contains("metrics.csv does not fit the checkpoint")
                && warnings[0].contains(expected),
            "{warnings:?}"
        );
        assert_eq!(fs::read(paths.metrics()).unwrap(), bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_damaged_checkpoint_never_loads(cut in any::<prop::sample::Index>(), flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let folder = temporary_folder();
        let path = save(folder.path(), 10);
        let mut bytes = fs::read(&path).unwrap();
        let intact = bytes.clone();
        for flip in flips {
            let bit = flip.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.truncate(1 + cut.index(2 * bytes.len()));
        prop_assume!(bytes != intact);
        fs::write(&path, bytes).unwrap();
        prop_assert!(checkpoint::load_newest(folder.path()).is_err());
    }
}
