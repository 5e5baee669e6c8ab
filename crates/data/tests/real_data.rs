//! Reads the real data sets where they are at hand: in `$BONSAI_DATASETS`, or beside the project in `../shared`.

use bonsai_data::{DataSet, Error, Source, locate};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the folder of the real data sets, unpacked on the first call.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        if let Some(folder) = std::env::var_os("BONSAI_DATASETS") {
            return Some(PathBuf::from(folder));
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/datasets/unpack");
        if !script.is_file() {
            return None;
        }
        let output = Command::new(script).output().ok()?;
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    FOLDER.get_or_init(find).as_deref()
}

fn source(set: DataSet) -> Option<Source> {
    let source = folder().and_then(|folder| match locate(set, Some(folder)) {
        Err(Error::Missing { .. }) => None,
        found => Some(found.unwrap()),
    });
    if source.is_none() {
        println!("skipped: the real {set} is not at hand (set BONSAI_DATASETS)");
    }
    source
}

#[test]
fn every_set_at_hand_has_the_announced_records() {
    for set in DataSet::ALL {
        let Some(source) = source(set) else { continue };
        let info = set.info();
        for (images, records) in [(source.train().unwrap(), info.train), (source.test().unwrap(), info.test)] {
            assert_eq!((images.len(), images.shape, images.classes), (records, info.shape, info.classes), "{set}");
            assert_eq!(images.pixels.len(), records * images.record_len());
            let mut seen = vec![0usize; info.classes];
            images.labels.iter().for_each(|&label| seen[usize::from(label)] += 1);
            assert!(seen.iter().all(|&count| count > 0), "{set}: {seen:?}");
        }
        println!("{set}: {} {:?}", source.fingerprint().unwrap(), source.warnings());
    }
}

#[test]
fn the_means_of_the_training_splits_are_the_announced_ones() {
    for set in DataSet::ALL {
        let Some(source) = source(set) else { continue };
        let (info, train) = (set.info(), source.train().unwrap());
        let plane = info.shape[1] * info.shape[2];
        for (channel, &mean) in info.mean.iter().enumerate() {
            let planes = train.pixels.chunks_exact(plane).skip(channel).step_by(info.shape[0]);
            let sum: u64 = planes.flatten().map(|&pixel| u64::from(pixel)).sum();
            let measured = sum as f64 / 255.0 / (train.len() * plane) as f64;
            assert!((measured - f64::from(mean)).abs() < 1e-3, "{set}, channel {channel}: {measured}");
        }
    }
}

#[test]
fn mnist_and_fashion_mnist_are_the_published_files() {
    for set in [DataSet::Mnist, DataSet::FashionMnist] {
        if let Some(source) = source(set) {
            assert_eq!(source.warnings(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_reconstructed_cifar10_is_used_with_one_warning() {
    let Some(source) = source(DataSet::Cifar10) else { return };
    if source.folder().unwrap().join("INEXACT.txt").is_file() {
        let warnings = source.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].ends_with("INEXACT.txt lists the records"), "{warnings:?}");
    }
}
