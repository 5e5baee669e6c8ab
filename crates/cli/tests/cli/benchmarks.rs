//! `bonsai bench` as its readers parse it.

use super::*;

#[test]
fn each_sparsity_is_a_line_of_json() {
    let arguments = ["bench", "shapes10-resnet20-granet", "--set", "batch_size=16", "--steps", "2"];
    let call = bonsai(&[&arguments[..], &["--sparsity", "0,0.9", "--format", "json"]].concat()).succeeds();
    let lines: Vec<serde_json::Value> = call.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", call.out);
    for (line, sparsity) in lines.iter().zip([0.0, 0.9]) {
        assert!((line["sparsity"].as_f64().unwrap() - sparsity).abs() < 1e-5, "{line}");
        assert_eq!(line["steps"].as_array().unwrap().len(), 2);
        assert!(line["milliseconds"].as_f64().unwrap() > 0.0 && line["event"].is_null(), "{line}");
        assert!(line["breakdown"].is_null() && line["layers"].is_null(), "{line}");
    }
}

#[test]
fn the_parts_of_a_step_add_up_to_it() {
    let arguments =
        ["bench", "shapes10-resnet20-granet", "--set", "batch_size=16", "--steps", "2", "--sparsity", "0.9"];
    let profiled = [&arguments[..], &["--device", "cpu", "--breakdown", "--layers"]].concat();
    let call = bonsai(&[&profiled[..], &["--format", "json"]].concat()).succeeds();
    let line: serde_json::Value = serde_json::from_str(&call.out).unwrap();
    let parts = line["breakdown"]["parts"].as_array().unwrap();
    let sum: f64 = parts.iter().map(|part| part["milliseconds"].as_f64().unwrap()).sum();
    let step = line["breakdown"]["milliseconds"].as_f64().unwrap();
    assert!((sum / step - 1.0).abs() < 1e-6, "{sum} {step}");
    // ResNet-20 has 19 convolutions.
    let layers = line["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| layer["count"].as_f64().unwrap()).sum::<f64>(), 19.0);
    assert!(layers.iter().any(|layer| layer["sparse"] == true), "{layers:?}");

    let call = bonsai(&profiled).succeeds();
    for expected in ["sparse convolution forward", "optimizer", "other", "16 × 32 × 32 → 16, 3 × 3", "one thread"]
    {
        assert!(call.out.contains(expected), "{}", call.out);
    }
}
