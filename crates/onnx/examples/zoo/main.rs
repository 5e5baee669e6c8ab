//! Writes every kind of network as ONNX, with images and the logits that bonsai computes for them:
//! `cargo run --release --example zoo -- FOLDER`, then `python3 experiments/onnx/check.py FOLDER`.

mod cases;

use std::path::Path;

use bonsai_training::tensors::{HostTensor, Tensors, encode};

fn main() {
    let folder = std::env::args().nth(1).expect("give the folder to write to");
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for case in cases::cases(false) {
        let records = if case.architecture.input[1] > 64 { 2 } else { 5 };
        let (images, logits) = case.probe(records);
        let [channels, height, width] = case.architecture.input;
        let probe = Tensors::from([
            ("images".to_string(), HostTensor::f32(vec![records, channels, height, width], images)),
            ("logits".to_string(), HostTensor::f32(vec![records, case.architecture.classes], logits)),
        ]);
        let probe = encode(&probe, &serde_json::Value::Null).expect("a probe can be written");
        let network = case.exported().expect("every network of the zoo can be written");
        std::fs::write(folder.join(format!("{}.onnx", case.name)), network).expect("the network can be written");
        let probe_file = folder.join(format!("{}.probe.safetensors", case.name));
        std::fs::write(probe_file, probe).expect("the probe can be written");
        println!("{}", case.name);
    }
}
