//! Puts the crate to published numbers and to the outcome of official code.
//!
//! The file `unstructured.json` is looked for in `$BONSAI_VECTORS`, by default the crate's own `vectors/`. Every key in it is
//! checked where it concerns something that is built; the others are printed. `vectors/README.md` says what the keys mean.

use std::path::PathBuf;

use bonsai_pruning::allocation::erk;
use bonsai_pruning::{
    Clock, Engine, EngineState, Event, Graph, Horizon, Kind, LayerSpec, Mask, Options, Scheduler, Start, build, score,
    select,
};
use serde_json::{Map, Value};

/// The keys that were checked and those that were not, with the reason.
#[derive(Default)]
struct Report {
    checked: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    fn checked(&mut self, key: impl Into<String>) {
        self.checked.push(key.into());
    }

    fn skipped(&mut self, key: impl Into<String>, why: &str) {
        self.skipped.push(format!("{} ({why})", key.into()));
    }
}

#[test]
fn official_numbers_are_met() {
    let path = path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Map<String, Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut report = Report::default();
    for (section, value) in &file {
        match section.as_str() {
            "erk" => object(value).iter().for_each(|(net, value)| check_erk(net, value, &mut report)),
            "granet_toy" => check_granet(object(value), &mut report),
            "misc" => object(value).iter().for_each(|(key, value)| check_misc(key, value, &mut report)),
            "jaxpruner" => object(value).iter().for_each(|(key, value)| check_jaxpruner(key, value, &mut report)),
            "_provenance" => {}
            "flops" => report.skipped("flops", "needs the maps of the models, see the models crate"),
            _ => report.skipped(section, "unknown"),
        }
    }
    println!("{}: {} keys checked", path.display(), report.checked.len());
    report.checked.iter().for_each(|key| println!("  checked {key}"));
    report.skipped.iter().for_each(|key| println!("  skipped {key}"));
    assert!(!report.checked.is_empty(), "{} has no key that this crate knows", path.display());
}

fn path() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
    let given = PathBuf::from(std::env::var_os("BONSAI_VECTORS").unwrap_or_else(|| own.into()));
    if given.is_dir() { given.join("unstructured.json") } else { given }
}

// Reading.

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("an object was expected, not {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number was expected, not {value}"))
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a whole number was expected, not {value}"))
}

/// The numbers of a list, however deeply nested, in order.
fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map_or_else(|| vec![number(value)], |list| list.iter().flat_map(numbers).collect())
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|x| x as f32).collect()
}

fn mask(value: &Value) -> Mask {
    Mask::from_bools(numbers(value).into_iter().map(|x| x != 0.0).collect())
}

fn layers(value: &Value) -> Vec<LayerSpec> {
    let layer = |entry: &Value| {
        let shape: Vec<usize> = numbers(&entry[1]).into_iter().map(|n| n as usize).collect();
        let kind = if shape.len() == 4 { Kind::Conv } else { Kind::Linear };
        LayerSpec { name: entry[0].as_str().unwrap().to_string(), kind, shape, macs: 0 }
    };
    value.as_array().unwrap().iter().map(layer).collect()
}

fn close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance, "{what}[{i}] is {a}, but should be {e}");
    }
}

fn scheduler(table: &str, iterations_per_epoch: u64, epochs: u64) -> Box<dyn Scheduler> {
    let horizon = Horizon { iterations_per_epoch, epochs };
    build(&table.parse().unwrap(), horizon).unwrap_or_else(|error| panic!("{table}: {error}")).0
}

fn clock(iteration: u64) -> Clock {
    Clock { iteration, horizon: Horizon { iterations_per_epoch: 1, epochs: u64::MAX }, lr: 0.1 }
}

// Erdős-Rényi-Kernel.

fn check_erk(net: &str, value: &Value, report: &mut Report) {
    let specs = layers(&value["layers"]);
    let borrowed: Vec<&LayerSpec> = specs.iter().collect();
    let total: usize = specs.iter().map(LayerSpec::weights).sum();
    for (key, value) in object(value) {
        match key.as_str() {
            "layers" => {}
            "total_prunable" => {
                assert_eq!(total as u64, whole(value), "{net}");
                report.checked(format!("erk/{net}/total_prunable"));
            }
            "erk_density" => {
                for (density, variants) in object(value) {
                    let at: f64 = density.parse().unwrap();
                    for (variant, expected) in object(variants) {
                        let what = format!("erk/{net}/{density}/{variant}");
                        let ours = erk(&borrowed, at);
                        let kernel =
                            |layer: &LayerSpec| layer.shape.iter().sum::<usize>() as f64 / layer.weights() as f64;
                        match variant.as_str() {
                            "granet_core_py" => close(&what, &ours, &numbers(expected), 1e-8),
                            "realized" => {
                                let kept: f64 =
                                    specs.iter().zip(&ours).map(|(layer, d)| layer.weights() as f64 * d).sum();
                                close(&what, &[kept / total as f64], &[number(expected)], 1e-8);
                            }
                            "rigl" | "jaxpruner" => {
                                close(&what, &whole_counts_erk(&borrowed, at, kernel), &numbers(expected), 1e-8)
                            }
                            "jaxpruner_ER_no_kernel_first_layer_excluded" => {
                                let plain = |layer: &LayerSpec| {
                                    let (out, inputs) = (layer.shape[0], layer.shape[1]);
                                    (out + inputs) as f64 / (out * inputs) as f64
                                };
                                close(&what, &whole_counts_erk(&borrowed[1..], at, plain), &numbers(expected), 1e-8);
                            }
                            "lamp_repo" => {
                                // Rounded to whole weights there, and dense layers found one at a time: one weight of slack.
                                for ((layer, ours), theirs) in specs.iter().zip(&ours).zip(numbers(expected)) {
                                    let slack = 1.0 / layer.weights() as f64 + 1e-6;
                                    assert!(
                                        (ours - theirs).abs() <= slack,
                                        "{what}: {ours} is not {theirs} for {}",
                                        layer.name
                                    );
                                }
                            }
                            "max_abs_dev_vs_granet" => continue,
                            _ => {
                                report.skipped(what, "unknown variant");
                                continue;
                            }
                        }
                        report.checked(what);
                    }
                }
            }
            _ => report.skipped(format!("erk/{net}/{key}"), "unknown"),
        }
    }
}

/// ERK as RigL and jaxpruner write it: the numbers of removed weights are rounded down before they are summed.
fn whole_counts_erk(layers: &[&LayerSpec], density: f64, raw: impl Fn(&LayerSpec) -> f64) -> Vec<f64> {
    let raw: Vec<f64> = layers.iter().map(|layer| raw(layer)).collect();
    let mut dense = vec![false; layers.len()];
    loop {
        let (mut ones, mut divisor, mut highest) = (0.0, 0.0, 0.0f64);
        for (l, layer) in layers.iter().enumerate() {
            let n = layer.weights() as f64;
            let zeros = ((1.0 - density) * n).floor();
            if dense[l] {
                ones -= zeros;
            } else {
                ones += n - zeros;
                divisor += raw[l] * n;
                highest = highest.max(raw[l]);
            }
        }
        let eps = ones / divisor;
        if eps * highest <= 1.0 {
            return raw.iter().zip(dense).map(|(raw, dense)| if dense { 1.0 } else { eps * raw }).collect();
        }
        raw.iter().zip(&mut dense).for_each(|(raw, dense)| *dense |= *raw == highest);
    }
}

// GraNet.

fn check_granet(toy: &Map<String, Value>, report: &mut Report) {
    for (key, value) in toy {
        match key.as_str() {
            "layers" | "weights" | "grads" | "momentum" | "sparse_init_mask" | "settings" => {}
            "prune_rate_cosine" => check_replace_curve(value, report),
            "granet_schedules" => {
                object(value).iter().for_each(|(name, value)| check_granet_schedule(name, value, report))
            }
            _ if key.contains("cifar")
                && value.get("mask_after_global_prune").is_some()
                && value.get("nnz_before").is_some() =>
            {
                check_granet_step(key, value, toy, report)
            }
            _ if key.contains("imagenet") => {
                report.skipped(format!("granet_toy/{key}"), "the ImageNet code's rules are not built")
            }
            _ => report.skipped(format!("granet_toy/{key}"), "unknown"),
        }
    }
}

/// One step of the official code on three small layers: prune to a sparsity, then replace.
fn check_granet_step(key: &str, step: &Value, toy: &Map<String, Value>, report: &mut Report) {
    let specs = layers(&toy["layers"]);
    let sizes: Vec<usize> = specs.iter().map(LayerSpec::weights).collect();
    let split = |all: &Value| -> Vec<Vec<f32>> {
        let mut values = floats(all).into_iter();
        sizes.iter().map(|&n| values.by_ref().take(n).collect()).collect()
    };
    let per_layer =
        |field: &str| -> Vec<Value> { specs.iter().map(|layer| step[field][&layer.name].clone()).collect() };
    let (mut weights, gradients, mut momentum) =
        (split(&toy["weights"]), split(&toy["grads"]), split(&toy["momentum"]));
    let counts = |masks: &[Mask]| masks.iter().map(Mask::kept).collect::<Vec<_>>();
    let expected_counts = |field: &str| per_layer(field).iter().map(|n| whole(n) as usize).collect::<Vec<_>>();
    // A step starts dense or from the sparse masks; its first counts tell which.
    let sparse = || {
        split(&toy["sparse_init_mask"])
            .iter()
            .map(|m| m.iter().map(|x| *x != 0.0).collect())
            .map(Mask::from_bools)
            .collect()
    };
    let start: Vec<Mask> =
        if expected_counts("nnz_before") == sizes { sizes.iter().map(|&n| Mask::dense(n)).collect() } else { sparse() };
    for (mask, values) in start.iter().chain(&start).zip(weights.iter_mut().chain(&mut momentum)) {
        multiply(values, mask);
    }
    assert_eq!(counts(&start), expected_counts("nnz_before"), "{key}");

    let engine = || {
        let table = "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = 0.8\nend_epoch = 5\nevery = 1";
        let graph = Graph { layers: specs.clone(), parameters: 0, fixed_macs: 0, ..Graph::default() };
        let mut engine = Engine::new(&graph, scheduler(table, 10, 10), Options::default()).unwrap();
        let masks = specs.iter().zip(&start).map(|(layer, mask)| (layer.name.clone(), mask.pack())).collect();
        engine
            .load(EngineState {
                scheduler: "granet".into(),
                masks,
                units: Default::default(),
                explored: Default::default(),
                state: Value::Null,
                last: None,
            })
            .unwrap();
        engine
    };
    // Without a rate the official code's pruning did nothing, as past the end of its schedule.
    let prune = step.get("curr_prune_rate").and_then(Value::as_f64).map_or(Event::default(), Event::prune);
    if let (Some(rate), Some(k)) = (prune.sparsity, step.get("num_params_to_keep_int")) {
        let total: usize = sizes.iter().sum();
        assert_eq!((total as f64 * (1.0 - rate)) as u64, whole(k), "{key}");
    }
    let mut pruned = engine();
    let mut change = pruned.apply(&clock(4), &prune, &weights, None);
    for (l, expected) in per_layer("mask_after_global_prune").iter().enumerate() {
        assert_eq!(pruned.masks()[l], mask(expected), "{key}: {} after pruning", specs[l].name);
    }
    if step.get("nnz_after_prune").is_some() {
        assert_eq!(counts(pruned.masks()), expected_counts("nnz_after_prune"), "{key}");
    }
    if step.get("mask_after_regen").is_some() {
        let share = step.get("prune_rate").unwrap_or(&toy["settings"]["prune_rate"]);
        let event = prune.and_replace(number(share)).keeping_regrown();
        let mut regrown = engine();
        change = regrown.apply(&clock(4), &event, &weights, Some(&gradients));
        for (l, expected) in per_layer("mask_after_regen").iter().enumerate() {
            assert_eq!(regrown.masks()[l], mask(expected), "{key}: {} after regrowth", specs[l].name);
        }
        assert_eq!(counts(regrown.masks()), expected_counts("nnz_after_regen"), "{key}");
    }
    for (field, values) in [("weights_after", &mut weights), ("momentum_after", &mut momentum)] {
        for (l, layer) in change.layers.iter().enumerate() {
            multiply(&mut values[l], &layer.retained);
            if step.get(field).is_some() {
                assert_eq!(values[l], floats(&step[field][&layer.name]), "{key}: {field} of {}", layer.name);
            }
        }
    }
    report.checked(format!("granet_toy/{key}"));
}

fn multiply(values: &mut [f32], mask: &Mask) {
    values.iter_mut().zip(mask.iter()).for_each(|(value, kept)| *value *= f32::from(u8::from(kept)));
}

fn check_replace_curve(value: &Value, report: &mut Report) {
    for (key, values) in object(value) {
        let length = match key.as_str() {
            "doc" | "T_max" => continue,
            "values" => whole(&value["T_max"]),
            other => match other.rsplit_once("_T").and_then(|(_, length)| length.parse().ok()) {
                Some(length) => length,
                None => {
                    report.skipped(format!("granet_toy/prune_rate_cosine/{key}"), "unknown");
                    continue;
                }
            },
        };
        let granet = scheduler("name = 'granet'\nsparsity = 0.9\nend_epoch = 10\nevery = 1", 1, length);
        for (iteration, expected) in object(values) {
            let figures = granet.observe(&clock(iteration.parse().unwrap()));
            assert_eq!(figures[0].0, "replace");
            // The official class accumulates rounding errors of its own.
            close(&format!("prune_rate_cosine/{key}/{iteration}"), &[figures[0].1], &[number(expected)], 1e-12);
        }
        report.checked(format!("granet_toy/prune_rate_cosine/{key}"));
    }
}

fn check_granet_schedule(name: &str, value: &Value, report: &mut Report) {
    let what = format!("granet_toy/granet_schedules/{name}");
    let field = |field: &str| number(&value[field]);
    let (length, every, end) = (whole(&value["len_loader"]), whole(&value["freq"]), field("final_prune_epoch"));
    let (start, stop) = (value.get("init_prune_epoch").map_or(0.0, number), end.ceil() as u64 + 1);
    let (s_i, s_f) = (1.0 - field("init_density"), 1.0 - field("final_density"));
    let table = format!(
        "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = {s_f:?}\ninitial_sparsity = {s_i:?}\nstart_epoch = {start:?}\n\
         end_epoch = {end:?}\nevery = {every}"
    );
    let granet = scheduler(&table, length, stop);
    let sparsity = |step: u64| granet.due(&clock(step * every)).and_then(|event| event.sparsity);
    let (first, last) = (whole(&value["first_event_is_prune_iter"]), whole(&value["last_event_is_prune_iter"]));
    let expected = numbers(&value["sparsity_by_prune_iter"]);
    for step in 1..=last + 3 {
        match sparsity(step) {
            Some(actual) => {
                assert!((first..=last).contains(&step), "{what}: {step}");
                if let Some(expected) = expected.get(step as usize) {
                    close(&format!("{what}/{step}"), &[actual], &[*expected], 1e-9);
                }
            }
            None => assert!(!(first..=last).contains(&step), "{what}: {step}"),
        }
    }
    close(&what, &[sparsity(last).unwrap()], &[field("final_realised_sparsity")], 1e-12);
    report.checked(what);
}

// Formulas and scores.

fn check_misc(key: &str, value: &Value, report: &mut Report) {
    match key {
        "zhu_gupta_formula" => {
            check_zhu_gupta(value);
            for (name, case) in object(value).iter().filter(|(_, case)| case.get("events").is_some()) {
                check_zhu_gupta(case);
                report.checked(format!("misc/{key}/{name}"));
            }
        }
        "lamp" => check_lamp(value),
        "snip_toy" => check_snip(value),
        "unifplus_resnet20_optionA" => return report.skipped(format!("misc/{key}"), "Unif+ is not built"),
        "globalmp_off_by_one" | "globalmp_mt_step2" => {
            return report.skipped(format!("misc/{key}"), "Global MP is not built");
        }
        _ => return report.skipped(format!("misc/{key}"), "the method is not built"),
    }
    report.checked(format!("misc/{key}"));
}

fn check_zhu_gupta(case: &Value) {
    let (t0, n, dt) = (whole(&case["t0"]), whole(&case["n"]), whole(&case["dt"]));
    let end = t0 + n * dt;
    let table = format!(
        "name = 'gmp'\nsparsity = {:?}\ninitial_sparsity = {:?}\nstart_epoch = {t0}\nend_epoch = {end}\nevery = {dt}",
        number(&case["s_f"]),
        number(&case["s_i"]),
    );
    // One iteration an epoch, so that epochs are iterations.
    let gmp = scheduler(&table, 1, end + dt);
    let due = |t: u64| {
        if t == 0 { Some(gmp.start().sparsity()) } else { gmp.due(&clock(t)).and_then(|event| event.sparsity) }
    };
    for (t, expected) in object(&case["events"]) {
        let actual = due(t.parse().unwrap()).unwrap_or_else(|| panic!("zhu_gupta: nothing is due at {t}"));
        close(&format!("zhu_gupta/{t}"), &[actual], &[number(expected)], 1e-12);
    }
    let events = (1..=end + dt).filter(|t| gmp.due(&clock(*t)).is_some()).count() as u64;
    assert_eq!(events, n + u64::from(t0 > 0));
    assert!(t0 > 0 || matches!(gmp.start(), Start::Scored { .. } | Start::Dense));
}

fn check_lamp(value: &Value) {
    let scores: Vec<Vec<f32>> = value["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .map(|weights| score::lamp(&weights, &Mask::dense(weights.len())))
        .collect();
    for (l, expected) in value["scores_official__normalize_scores"].as_array().unwrap().iter().enumerate() {
        let ours: Vec<f64> = scores[l].iter().map(|score| f64::from(*score)).collect();
        close(&format!("lamp/{l}"), &ours, &numbers(expected), 1e-6);
    }
    let masks: Vec<Mask> = scores.iter().map(|scores| Mask::dense(scores.len())).collect();
    for (sparsity, expected) in object(&value["survivors"]) {
        let k = whole(&expected["num_surv"]) as usize;
        let counts = select::top_k_per_layer(&scores, &masks.iter().collect::<Vec<_>>(), &vec![0; scores.len()], k);
        let expected: Vec<usize> = numbers(&expected["per_layer_surviving"]).into_iter().map(|n| n as usize).collect();
        assert_eq!(counts, expected, "lamp/{sparsity}");
    }
}

fn check_snip(value: &Value) {
    let scores = score::sensitivity(&floats(&value["w"]), Some(&floats(&value["g"])));
    let sum: f32 = scores.iter().sum();
    let shares: Vec<f64> = scores.iter().map(|score| f64::from(score / sum)).collect();
    close("snip_toy", &shares, &numbers(&value["score_abs_gw_over_sum"]), 1e-6);
    for (key, expected) in object(value) {
        if let Some(k) = key.strip_prefix("keep").and_then(|rest| rest.strip_suffix("_idx")) {
            let kept = select::top_k(&scores, &Mask::dense(scores.len()), k.parse().unwrap());
            let kept: Vec<f64> = (0..kept.len()).filter(|&i| kept.get(i)).map(|i| i as f64).collect();
            assert_eq!(kept, numbers(expected));
        }
    }
}

fn check_jaxpruner(key: &str, value: &Value, report: &mut Report) {
    match key {
        "topk_mask" => {
            for case in value.as_array().unwrap() {
                let scores = floats(&case["scores"]);
                let k = select::count(scores.len(), number(&case["sparsity"])).max(1);
                assert_eq!(
                    select::top_k(&scores, &Mask::dense(scores.len()), k),
                    mask(&case["mask"]),
                    "topk_mask of {case}"
                );
            }
        }
        "rigl_drop_fraction" => {
            let (alpha, end) = (number(&value["alpha"]), whole(&value["end"]));
            let table = format!("name = 'rigl'\nsparsity = 0.9\nevery = 100\nend_epoch = {end}\ndrop = {alpha:?}");
            let rigl = scheduler(&table, 1, 2 * end);
            for (variant, values) in object(value) {
                match variant.as_str() {
                    "doc" | "alpha" | "end" | "begin" => {}
                    "cosine" => {
                        for (t, expected) in object(values) {
                            let figures = rigl.observe(&clock(t.parse().unwrap()));
                            close(&format!("rigl_drop_fraction/{t}"), &[figures[0].1], &[number(expected)], 1e-12);
                        }
                    }
                    _ => report.skipped(format!("jaxpruner/{key}/{variant}"), "RigL has the cosine only"),
                }
            }
        }
        "polynomial_schedule" => {
            return report.skipped(format!("jaxpruner/{key}"), "a step ahead of the paper's formula, not built");
        }
        _ => return report.skipped(format!("jaxpruner/{key}"), "not built"),
    }
    report.checked(format!("jaxpruner/{key}"));
}
