//! Puts proximal maps, penalties and the methods that use them to the reference results in `structured.json`.
//!
//! The file lies in `$BONSAI_VECTORS`, by default the crate's own `vectors/`. Channel groups, shapes and counts are put to it
//! by the models crate.

use bonsai_pruning::Horizon;
use bonsai_pruning::proximal::Penalty;
use bonsai_pruning::schedulers::consensus_gating::ConsensusGating;
use bonsai_pruning::schedulers::lapp::Lapp;
use bonsai_pruning::schedulers::polarization;
use bonsai_pruning::schedulers::proximal_slimming::ProximalSlimmingConfig;
use bonsai_pruning::schedulers::slimming;
use bonsai_pruning::schedulers::sparse_group_l0::{SparseGroupL0Config, group_prox};
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
fn polarization_and_its_gradient() {
    let file = reference("polarization");
    let cases = file["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let (gamma, t) = (numbers(&case["gamma"]), case["t"].as_f64().unwrap());
        let what = format!("{gamma:?} at {t}");
        close(&what, polarization::regularizer(&gamma, t), case["R"].as_f64().unwrap());
        let ours = polarization::gradient(&gamma, t);
        let theirs = numbers(&case["grad_with_mean"]);
        assert_eq!(ours.len(), theirs.len());
        ours.into_iter().zip(theirs).for_each(|(ours, theirs)| close(&what, ours, theirs));
    }
}

#[test]
fn the_share_of_large_scales_at_the_minimum_of_polarization() {
    let cases = reference("polarization_theorem");
    for case in cases.as_array().unwrap() {
        let (n, t) = (case["n"].as_u64().unwrap() as usize, case["t"].as_f64().unwrap());
        close("share", (0.5 - t / 4.0).clamp(0.0, 1.0), case["rho"].as_f64().unwrap());
        // The minimum lies where every scale is 0 or 1: try how many of them are.
        let value = |ones: usize| {
            let scales: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < ones))).collect();
            polarization::regularizer(&scales, t)
        };
        let lowest = (0..=n).map(value).fold(f64::INFINITY, f64::min);
        let best: Vec<f64> = (0..=n).filter(|&ones| value(ones) <= lowest + 1e-9).map(|ones| ones as f64).collect();
        assert_eq!(best, numbers(&case["optimal_k_at_a"]), "{n} scales at {t}");
    }
}

#[test]
fn thresholds_of_polarization() {
    let file = reference("polarization_hist_threshold");
    for case in file["cases"].as_array().unwrap() {
        let scales: Vec<f32> = numbers(&case["w"]).into_iter().map(|w| w as f32).collect();
        let threshold = polarization::threshold(&scales);
        close("threshold", threshold, case["threshold_grad"].as_f64().unwrap());
        let kept = scales.iter().filter(|scale| f64::from(**scale) > threshold).count();
        assert_eq!(kept as u64, case["kept"].as_u64().unwrap());
    }
}

#[test]
fn thresholds_of_slimming() {
    let cases = reference("ns_global_threshold");
    for case in cases.as_array().unwrap() {
        let scales: Vec<f32> = numbers(&case["gamma"]).into_iter().map(|gamma| gamma as f32).collect();
        let threshold = slimming::threshold(scales.iter(), case["percent"].as_f64().unwrap());
        assert_eq!(threshold, case["threshold"].as_f64().unwrap() as f32);
        let kept: Vec<Value> = scales.iter().map(|scale| Value::from(*scale > threshold)).collect();
        assert_eq!(&kept, case["keep"].as_array().unwrap());
    }
}

#[test]
fn copies_of_weights_in_sparse_group_l0() {
    let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
    let cases = reference("rvsm_u_update");
    for case in cases.as_array().unwrap() {
        let (lambda, beta) = (case["lam"].as_f64().unwrap(), case["beta"].as_f64().unwrap());
        for (key, penalty) in
            [("u_l0", "penalty = 'l0'"), ("u_l1", "penalty = 'l1'"), ("u_tl1_a1", "penalty = 'tl1'\na = 1.0")]
        {
            let table = format!("lambda = {lambda:?}\nbeta = 2.5\nevery = 1\nend_epoch = 1\n{penalty}");
            let scheduler = toml::from_str::<SparseGroupL0Config>(&table).unwrap().init(horizon).unwrap();
            for (w, u) in numbers(&case["w"]).into_iter().zip(numbers(&case[key])) {
                close(&format!("{key} of {w} at {beta}"), scheduler.copy(w, beta), u);
            }
        }
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
fn proximal_maps_of_groups() {
    let cases = reference("prox_group_lasso");
    for case in cases.as_array().unwrap() {
        let mut filter: Vec<f32> = numbers(&case["w"]).into_iter().map(|w| w as f32).collect();
        let size = if case["sqrt_group_size"].as_bool().unwrap() { filter.len() as f64 } else { 1.0 };
        group_prox(&mut filter, case["mu"].as_f64().unwrap() * size.sqrt());
        for (ours, theirs) in filter.into_iter().zip(numbers(&case["out"])) {
            assert!((f64::from(ours) - theirs).abs() < 1e-6, "{ours} instead of {theirs}");
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
