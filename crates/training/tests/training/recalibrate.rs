//! Statistics of batch normalisation that are recomputed: which images they come from, which numbers they are, what they change.

use std::sync::Arc;

use bonsai_data::{Images, Loader};
use bonsai_models::{Architecture, Network};
use bonsai_training::evaluate::evaluate_snapshot;
use bonsai_training::experiment::Experiment;
use bonsai_training::recalibrate::{loader, recalibrated};
use bonsai_training::snapshot;
use bonsai_training::tensors::Tensors;
use bonsai_training::train::train;
use bonsai_training::trainee::{network_tensors, tensors};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::loop_ends::{SMALL, finished, read, setup_of, small_with_channels, stopping_changes_nothing};

/// Images whose brightness and contrast differ from one to the next.
fn images(records: usize) -> Arc<Images> {
    let shape = [3, 8, 8];
    let pixel = |i: usize| ((i * 2_654_435_761) >> 7) % (20 + i / 192 % 200) + i / 4096 % 30;
    let pixels = (0..records * 192).map(|i| pixel(i) as u8).collect();
    Arc::new(Images { pixels, labels: vec![0; records], shape, classes: 10 })
}

fn statistic<'a>(tensors: &'a Tensors, name: &str) -> &'a [f32] {
    tensors[name].as_f32().unwrap()
}

/// The means and unbiased variances of what burn's own convolution makes of each batch, averaged over the images, in f64.
fn by_hand(weight: &[f32], batches: &Loader, count: usize) -> [Vec<f64>; 2] {
    let device = Device::flex();
    let weight = Tensor::<4>::from_data(TensorData::new(weight.to_vec(), [16, 3, 3, 3]), &device);
    let (mut means, mut variances, mut seen) = (vec![0.0; 16], vec![0.0; 16], 0.0);
    for batch in batches.epoch(0, 0).take(count) {
        let records = batch.labels.len();
        let (x, _) = tensors(&batch, 0..records, &device);
        let maps = conv2d(x, weight.clone(), None, ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
        let maps: Vec<f32> = maps.into_data().try_to_vec().unwrap();
        for channel in 0..16 {
            let of_image = |image: usize| &maps[(image * 16 + channel) * 64..][..64];
            let values: Vec<f64> = (0..records).flat_map(of_image).map(|value| f64::from(*value)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            means[channel] += records as f64 * mean;
            variances[channel] += records as f64 * squares / (values.len() - 1) as f64;
        }
        seen += records as f64;
    }
    [means, variances].map(|sums| sums.into_iter().map(|sum| sum / seen).collect())
}

#[test]
fn the_statistics_are_those_of_a_hand_computation_and_nothing_else_changes() {
    let device = Device::flex();
    let architecture = Architecture::new("resnet20", 10, [3, 8, 8]);
    let network = Network::new(&architecture, 3, &device.clone().autodiff()).unwrap();
    let before = network_tensors(&network);
    let batches = loader(images(600), &[0.5, 0.4, 0.3], &[0.2, 0.25, 0.3], 2);
    // Two whole batches, and with a third the rest of the images.
    for (count, all) in [(2, false), (3, true), (1000, true)] {
        let after = network_tensors(&recalibrated(&network, &architecture, &batches, count, &device).unwrap());
        let [means, variances] = by_hand(statistic(&before, "conv.weight"), &batches, count);
        for (name, expected) in [("bn.running_mean", means), ("bn.running_var", variances)] {
            for (ours, expected) in statistic(&after, name).iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                    "{name}: {ours} {expected}"
                );
            }
        }
        for (name, tensor) in &after {
            let is_statistic = name.contains("running");
            assert_eq!(tensor == &before[name], !is_statistic, "{name}");
            assert!(tensor.as_f32().unwrap().iter().all(|value| value.is_finite()), "{name}");
        }
        let again = loader(images(600), &[0.5, 0.4, 0.3], &[0.2, 0.25, 0.3], 1);
        let again = network_tensors(&recalibrated(&network, &architecture, &again, count, &device).unwrap());
        assert!(again == after, "the same images give other statistics");
        if all {
            assert_eq!(batches.epoch(0, 0).count(), 3);
        }
    }
    assert!(network_tensors(&network) == before, "the network itself has changed");
}

#[test]
fn the_images_are_those_that_train_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup_of(SMALL, folder.path(), &[]);
    let parts = setup.build().unwrap();
    let all = setup.source.train().unwrap();
    assert_eq!(parts.calibration.records(), 120);
    let info = setup.source.set().info();
    let plain = Loader::new(Arc::new(all), 120, info.mean, info.std, None, 0, 1).in_order().next().unwrap();
    let shown: Vec<f32> = parts.calibration.in_order().flat_map(|batch| batch.images).collect();
    assert!(shown == plain.images, "they are augmented, or not the first of the training split");
}

#[test]
fn training_stays_the_same_and_the_model_is_the_one_that_was_validated() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = "name = 'gmp'\nsparsity = 0.9\nend_epoch = 2\nevery = 4";
    let few = ["train_records=40", "protocol=paper"];
    let run = |name: &str, more: &[&str]| {
        let folder = folder.path().join(name);
        let setup = setup_of(&small_with_channels("resnet20", scheduler), &folder, &[&few[..], more].concat());
        (finished(train(setup.clone()).unwrap()), folder, setup)
    };
    let (plain, plain_folder, _) = run("plain", &[]);
    let (ours, ours_folder, setup) = run("recalibrated", &["evaluate.recalibrate=1"]);
    let weights = |folder: &std::path::Path| snapshot::read(&folder.join("model.safetensors")).unwrap().weights;
    let (of_plain, of_ours) = (weights(&plain_folder), weights(&ours_folder));
    for (name, tensor) in &of_ours {
        assert_eq!(tensor == &of_plain[name], !name.contains("running"), "{name}");
    }
    assert!(
        ours.protocol.contains("recomputed over 1 batches of training images")
            && !plain.protocol.contains("recomputed")
    );
    assert!(ours.final_test_loss != plain.final_test_loss);
    let model = ours_folder.join("model.safetensors");
    let found = evaluate_snapshot(&model, &setup.source, &setup.device, setup.limit_test, None, 1).unwrap();
    assert_eq!((found.accuracy, found.loss), (ours.final_test_accuracy, ours.final_test_loss));
    // The column of every epoch is of the same network.
    let rows = bonsai_training::records::read_metrics(&ours_folder.join("metrics.csv")).unwrap();
    assert_eq!(rows.last().unwrap().test_accuracy, Some(ours.final_test_accuracy));
    assert!(String::from_utf8(read(&ours_folder, "config.toml")).unwrap().contains("[evaluate]\nrecalibrate = 1"));
    assert!(!String::from_utf8(read(&plain_folder, "config.toml")).unwrap().contains("[evaluate]"));

    // Over other images the file alone gives other statistics, and says so where there are none.
    let other = evaluate_snapshot(&model, &setup.source, &setup.device, setup.limit_test, Some(1), 1).unwrap();
    assert!(other.loss.is_finite() && other.loss != found.loss);
}

#[test]
fn a_run_that_is_stopped_and_resumed_is_recalibrated_like_one_that_was_not() {
    let magnitude = "name = 'group-magnitude'\nmacs = 0.5\nend_epoch = 2\nevery = 2";
    let few = ["train_records=40", "evaluate.recalibrate=1"];
    let summary = stopping_changes_nothing(&small_with_channels("resnet20", magnitude), &few, 6);
    assert!(summary.macs * 2 <= summary.dense_macs);
    // A method that masks while it learns is validated as it is masked.
    let lapp = "name = 'lapp'\nmacs = 0.5\nend_epoch = 2\nthreshold_lr = 10\nlambda = 50";
    stopping_changes_nothing(&small_with_channels("resnet20", lapp), &few, 6);
}

#[test]
fn a_network_without_batch_normalisation_has_nothing_to_recompute() {
    let refused = |assignment: &str| Experiment::with_overrides(SMALL, "small", &[assignment.to_string()]).unwrap_err();
    assert_eq!(
        refused("evaluate.recalibrate=5"),
        "evaluate.recalibrate is 5, but lenet5 has no batch normalisation: remove it"
    );
    assert!(refused("evaluate.recalibrate=-1").contains("whole number"), "{}", refused("evaluate.recalibrate=-1"));
    assert!(refused("evaluate.recalibrate=lots").contains("takes a whole number"));
    assert!(refused("evaluate.recalibrat=5").contains("did you mean `evaluate.recalibrate`?"));
    let text = SMALL.replace("[scheduler]", "[evaluate]\nrecalibrat = 5\n[scheduler]");
    assert!(Experiment::from_toml(&text, "small").unwrap_err().contains("did you mean `recalibrate`?"));

    let device = Device::flex();
    let architecture = Architecture::new("lenet5", 10, [1, 28, 28]);
    let network = Network::new(&architecture, 0, &device).unwrap();
    let batches = Loader::new(Arc::new(Images::empty([1, 28, 28], 10)), 3, &[0.5], &[0.25], None, 0, 1);
    let sentence = recalibrated(&network, &architecture, &batches, 1, &device).unwrap_err().to_string();
    assert_eq!(sentence, "lenet5 has no batch normalisation: there are no statistics to recompute");
}
