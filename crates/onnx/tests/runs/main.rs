//! Files are decoded and run by an interpreter that shares nothing with the networks, and give the same logits.

#[path = "../../examples/zoo/cases.rs"]
mod cases;
mod interpreter;

use std::collections::BTreeSet;

use bonsai_models::Architecture;
use bonsai_models::operations::{Compute, Operation, Window};
use bonsai_onnx::{Meta, export, export_operations};
use bonsai_pruning::graph::Op;

use interpreter::{Array, Reading, run};

#[test]
fn every_network_computes_the_same_from_its_file() {
    for case in cases::cases(true) {
        let bytes = case.exported().unwrap();
        assert_eq!(bytes, case.exported().unwrap(), "{}: the same network gives the same bytes", case.name);
        let model = Reading::of(&bytes);
        assert_well_formed(&case.name, &model);
        let sparse = model.message(7).messages(15).len();
        assert_eq!(sparse > 0, case.sparse, "{}", case.name);
        // Two batches, since the batch is free.
        for records in [1, 3] {
            let (images, expected) = case.probe(records);
            let [channels, height, width] = case.architecture.input;
            let images = Array::new(&[records, channels, height, width], images);
            let logits = run(&model.message(7), images);
            assert_eq!(logits.shape, [records, case.architecture.classes], "{}", case.name);
            let scale = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
            for (ours, theirs) in logits.values.iter().zip(&expected) {
                assert!((ours - theirs).abs() <= 1e-4 * scale, "{}: {ours} and {theirs}", case.name);
            }
        }
    }
}

/// Names are unique, and every value is there before it is read.
fn assert_well_formed(name: &str, model: &Reading) {
    let graph = model.message(7);
    assert_eq!((model.wholes(1), model.message(8).wholes(2)), (vec![8], vec![17]));
    for (number, expected) in [(11, "images"), (12, "logits")] {
        let value = graph.message(number);
        assert_eq!(value.text(1), expected);
        let dimensions = value.message(2).message(1).message(2).messages(1);
        assert_eq!(dimensions[0].text(2), "batch", "{name}");
        assert!(dimensions[1..].iter().all(|side| side.wholes(1)[0] > 0), "{name}");
    }
    let mut known = BTreeSet::from(["images".to_string()]);
    let sparse = graph.messages(15).into_iter().map(|tensor| tensor.message(1));
    for constant in graph.messages(5).into_iter().chain(sparse) {
        assert!(known.insert(constant.text(8)), "{name}: two constants {}", constant.text(8));
    }
    let mut nodes = BTreeSet::new();
    for node in graph.messages(1) {
        assert!(node.texts(1).iter().all(|input| known.contains(input)), "{name}: {:?}", node.texts(1));
        assert!(known.insert(node.text(2)) && nodes.insert(node.text(3)), "{name}: {}", node.text(3));
    }
    assert!(known.contains("logits"), "{name}");
    let keys: Vec<String> = model.messages(14).iter().map(|entry| entry.text(1)).collect();
    assert_eq!(keys, ["bonsai.data", "bonsai.mean", "bonsai.std"], "{name}");
}

#[test]
fn grouped_convolutions_and_average_pools_are_written() {
    let image = Operation { compute: Compute::Image, inputs: Vec::new(), width: 2 };
    let conv = Compute::Conv { path: "dw".to_string(), kernel: 1, stride: 1, padding: 0, bias: true };
    let then = |compute, input| Operation { compute, inputs: vec![input], width: 2 };
    let operations = [image, then(conv, 0), then(Compute::AveragePool(Window::HALVING), 1), then(Compute::Flatten, 2)];
    let end = [then(Compute::Logits, 3)];
    let operations: Vec<Operation> = operations.into_iter().chain(end).collect();
    let parameter = |name: &str| match name {
        "dw.weight" => Some((&[2usize, 1, 1, 1][..], &[2.0f32, -1.0][..])),
        "dw.bias" => Some((&[2usize][..], &[0.5f32, 0.0][..])),
        _ => None,
    };
    let meta = Meta { mean: vec![0.0, 1.0], std: vec![1.0, 2.0], ..Meta::default() };
    let bytes = export_operations([2, 2, 2], &operations, &parameter, &meta).unwrap();
    let logits =
        run(&Reading::of(&bytes).message(7), Array::new(&[1, 2, 2, 2], vec![1.0, 2.0, 3.0, 4.0, 1.0, 3.0, 5.0, 7.0]));
    // Means of the images are 2.5 and 4, normalised 2.5 and 1.5.
    assert_eq!(logits.values, [5.5, -1.5]);
}

#[test]
fn what_cannot_be_written_is_named() {
    let untold = Operation { compute: Compute::Untold(Op::Pool), inputs: vec![0], width: 1 };
    let image = Operation { compute: Compute::Image, inputs: Vec::new(), width: 1 };
    let meta = Meta { mean: vec![0.0], std: vec![1.0], ..Meta::default() };
    let error = export_operations([1, 2, 2], &[image, untold], &|_| None, &meta).unwrap_err();
    assert!(error.contains("the operation Pool cannot be written as ONNX"), "{error}");

    let mlp = Architecture::new("mlp", 10, [1, 28, 28]);
    let error = export(&mlp, &|_| None, &meta).unwrap_err();
    assert_eq!(error, "mlp: the parameter fc1.weight is missing");
    let error = export(&mlp, &|_| Some((&[3], &[1.0])), &meta).unwrap_err();
    assert!(error.contains("fc1.weight of shape [3] has 1 values"), "{error}");
    let error = export(&mlp, &|_| None, &Meta::default()).unwrap_err();
    assert_eq!(error, "mlp: `mean` has 0 values for images of 1 channels");
}
