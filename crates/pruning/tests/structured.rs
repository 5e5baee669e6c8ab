//! Puts proximal maps, penalties and proximal slimming to the reference results in `structured.json`.
//!
//! The file lies in `$BONSAI_VECTORS`, by default the crate's own `vectors/`. Channel groups, shapes and counts are put to it
//! by the models crate.

use bonsai_pruning::Horizon;
use bonsai_pruning::proximal::Penalty;
use bonsai_pruning::schedulers::consensus_gating::ConsensusGating;
use bonsai_pruning::schedulers::lapp::Lapp;
use bonsai_pruning::schedulers::proximal_slimming::ProximalSlimmingConfig;
use serde_json::Value;

fn reference(key: &str) -> Value {
    let folder = std::env::var("BONSAI_VECTORS").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors").to_string());
    let text = std::fs::read_to_string(format!("{folder}/structured.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[key].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap_or(0.0)).collect()
}

fn close(what: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0), "{what}: {ours} instead of {theirs}");
}

#[test]
fn proximal_maps() {
    let mut seen = Vec::new();
    let cases = reference("prox");
    for case in cases.as_array().unwrap() {
        let op = case["op"].as_str().unwrap();
        let penalty = match op {
            "l1" => Penalty::L1,
            "l1/2_half" => Penalty::LHalf,
            "tl1" => Penalty::Tl1,
            "mcp" => Penalty::Mcp,
            _ => panic!("{op} has no map"),
        };
        let (mu, a) = (case["mu"].as_f64().unwrap(), case["a"].as_f64().unwrap_or(0.0));
        for (v, out) in numbers(&case["v"]).into_iter().zip(numbers(&case["out"])) {
            close(&format!("{op} {a} of {v} at {mu}"), penalty.prox(v, mu, a), out);
        }
        seen.push(op);
    }
    assert_eq!(seen.len(), 15);
}

#[test]
fn slopes_of_penalties() {
    let case = reference("slimming_subgradients");
    let lambda = case["s"].as_f64().unwrap();
    // A slope that is not a number in the reference's code is zero in ours.
    for (key, penalty, a) in [
        ("L1", Penalty::L1, 0.0),
        ("TL1_a1", Penalty::Tl1, 1.0),
        ("TL1_a05", Penalty::Tl1, 0.5),
        ("Lp_05", Penalty::LHalf, 0.0),
    ] {
        for (gamma, slope) in numbers(&case["gamma"]).into_iter().zip(numbers(&case[key])) {
            close(&format!("{key} at {gamma}"), penalty.slope(gamma, lambda, a), slope);
        }
    }
}

#[test]
fn steps_of_proximal_slimming() {
    let case = reference("prox_ns");
    let horizon = Horizon { iterations_per_epoch: 10, epochs: 30 };
    let scheduler = |lambda: f64, beta: f64| {
        let table = format!("lambda = {lambda}\nbeta = {beta:.1}\npatience = 1\nevery = 1\nend_epoch = 30");
        toml::from_str::<ProximalSlimmingConfig>(&table).unwrap().init(horizon).unwrap()
    };
    for step in case["steps"].as_array().unwrap() {
        let number = |key: &str| step[key].as_f64().unwrap();
        let (gamma, xi) =
            scheduler(number("lam"), number("beta")).step(number("gamma_sgd"), number("xi"), number("lr"));
        close("gamma", gamma, number("gamma_new"));
        close("xi", xi, number("xi_new"));
    }
    let scheduler = scheduler(0.0045, 100.0);
    let (mut gamma, mut xi, mut step) = (0.5, 0.5, 0);
    for row in case["zero_grad_trace_lr0p1_beta100_lam0p0045"].as_array().unwrap() {
        while step < row["step"].as_u64().unwrap() {
            (gamma, xi) = scheduler.step(gamma, xi, 0.1);
            step += 1;
        }
        close(&format!("gamma at {step}"), gamma, row["gamma"].as_f64().unwrap());
        close(&format!("xi at {step}"), xi, row["xi"].as_f64().unwrap());
    }
}

#[test]
fn slopes_of_lapp_masks() {
    let cases = reference("reading_lapp_mask");
    for case in cases["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let (tau, temperature) = (number("tau"), number("temp"));
        for ((score, slope), hard) in
            numbers(&case["score"]).into_iter().zip(numbers(&case["dtau"])).zip(numbers(&case["hard"]))
        {
            close(&format!("{score} over {tau}"), Lapp::mask_slope(score, tau, temperature), slope);
            assert_eq!(score > tau, hard == 1.0);
        }
    }
}

#[test]
fn polarization_of_gates() {
    let cases = reference("reading_consensus_gate_loss");
    for case in cases["cases"].as_array().unwrap() {
        let means: Vec<f32> = numbers(&case["gbar"]).into_iter().map(|mean| mean as f32).collect();
        let (loss, slopes) = ConsensusGating::polar(&means);
        let near = |ours: f64, theirs: f64| assert!((ours - theirs).abs() < 1e-7, "{ours} instead of {theirs}");
        near(loss, case["polar"].as_f64().unwrap());
        slopes.into_iter().zip(numbers(&case["grad"])).for_each(|(ours, theirs)| near(ours, theirs));
    }
}
