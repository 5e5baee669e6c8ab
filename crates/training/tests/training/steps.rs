//! Masks and moments over real steps of a real network.

use bonsai_models::Precision;
use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_training::experiment::Experiment;
use bonsai_training::meter::Meter;
use bonsai_training::optimizer::Rule;
use bonsai_training::parameters;
use bonsai_training::setup;
use bonsai_training::trainee::Trainee;
use burn::tensor::Device;

use crate::{batch, schedulers, trainee, trainee_by};

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };

const RULES: [Rule; 2] =
    [Rule::Sgd { momentum: 0.9, nesterov: true }, Rule::AdamW { betas: (0.9, 0.999), epsilon: 1e-8 }];

/// Trains over a range of iterations (1-based, inclusive), calling `check` after each.
fn train(trainee: &mut Trainee, iterations: std::ops::RangeInclusive<u64>, mut check: impl FnMut(&Trainee)) -> f64 {
    let mut meter = Meter::default();
    for iteration in iterations {
        let clock = Clock { iteration, horizon: HORIZON, lr: 0.02 };
        let event = trainee.engine.due(&clock);
        let dense = event.as_ref().is_some_and(|event| event.dense_gradients);
        let gradients = trainee.gradients(&batch(20, iteration), dense, &mut meter);
        let dense = dense.then(|| gradients.clone());
        if !event.as_ref().is_some_and(|event| event.skips_step) {
            trainee.step(gradients, &clock);
        }
        if let Some(event) = event {
            trainee.event(&clock, &event, dense.as_ref());
        }
        check(trainee);
    }
    meter.read();
    meter.totals().mean_loss()
}

#[test]
fn masked_weights_and_their_moments_are_exactly_zero_after_every_step() {
    for (rule, scheduler) in schedulers().iter().flat_map(|scheduler| RULES.map(|rule| (rule, scheduler))) {
        let mut trainee = trainee_by(rule, scheduler, HORIZON, &Device::flex());
        trainee.begin();
        train(&mut trainee, 1..=20, |trainee| {
            let weights = parameters::weights(&trainee.network, trainee.engine.layers());
            let (tensors, _) = trainee.save();
            for ((layer, mask), weights) in trainee.engine.layers().iter().zip(trainee.engine.masks()).zip(&weights) {
                let removed = |values: &[f32]| mask.iter().zip(values).all(|(kept, &value)| kept || value == 0.0);
                assert!(removed(weights), "{scheduler}: a removed weight of {} is not zero", layer.name);
                for moment in ["first", "second"] {
                    let Some(moments) = tensors.get(&format!("{moment}/{}", layer.name)) else { continue };
                    let rows = parameters::to_rows(layer, moments.as_f32().unwrap());
                    assert!(removed(&rows), "{scheduler}: a removed weight of {} has a {moment} moment", layer.name);
                }
            }
        });
    }
}

#[test]
fn every_scheduler_ends_at_its_sparsity_and_learns() {
    for scheduler in &schedulers() {
        let mut trainee = trainee(scheduler, HORIZON, &Device::flex());
        trainee.begin();
        let first = train(&mut trainee, 1..=5, |_| ());
        let last = train(&mut trainee, 6..=20, |_| ());
        assert!(last < first, "{scheduler}: loss went from {first} to {last}");
        if scheduler.contains("sparsity = 0.9") && !scheduler.contains("compat") {
            let (kept, total) = (trainee.engine.kept() as f64, trainee.engine.total() as f64);
            let rounding = trainee.engine.layers().len() as f64 / 2.0;
            assert!((kept - 0.1 * total).abs() <= rounding, "{scheduler}: kept {kept} of {total}");
        }
    }
}

#[test]
fn a_saved_and_restored_training_goes_on_bit_by_bit() {
    for (rule, scheduler) in schedulers().iter().flat_map(|scheduler| RULES.map(|rule| (rule, scheduler))) {
        let mut straight = trainee_by(rule.clone(), scheduler, HORIZON, &Device::flex());
        straight.begin();
        train(&mut straight, 1..=10, |_| ());
        let (tensors, state) = straight.save();
        train(&mut straight, 11..=20, |_| ());

        let mut resumed = trainee_by(rule, scheduler, HORIZON, &Device::flex());
        let state = serde_json::to_string(&state).unwrap();
        resumed.restore(tensors, serde_json::from_str(&state).unwrap()).unwrap();
        train(&mut resumed, 11..=20, |_| ());
        assert_eq!(straight.save().0, resumed.save().0, "{scheduler}");
        assert_eq!(straight.engine.masks(), resumed.engine.masks(), "{scheduler}");
    }
}

#[test]
fn gradients_of_pieces_average_to_those_of_the_batch() {
    let whole = trainee("name = 'dense'", HORIZON, &Device::flex());
    let gradients = whole.gradients(&batch(20, 1), true, &mut Meter::default());
    let mut pieces = trainee("name = 'dense'", HORIZON, &Device::flex());
    pieces.options_mut().accumulate = 3;
    let mut meter = Meter::default();
    let summed = pieces.gradients(&batch(20, 1), true, &mut meter);
    assert_eq!(meter.read().records, 20);
    for (name, gradient) in gradients {
        let (one, other) = (parameters::to_host(gradient), parameters::to_host(summed[&name].clone()));
        let largest = one.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for (a, b) in one.iter().zip(&other) {
            assert!((a - b).abs() <= 1e-5 * largest, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn bf16_learns_as_well_as_f32_and_keeps_f32_weights() {
    let losses = [Precision::F32, Precision::Bf16].map(|precision| {
        let mut trainee = trainee("name = 'dense'", HORIZON, &Device::flex());
        trainee.options_mut().precision = precision;
        trainee.begin();
        let losses = [1..=5, 6..=20].map(|iterations| train(&mut trainee, iterations, |_| ()));
        let weights = parameters::weights(&trainee.network, trainee.engine.layers());
        // A master weight in bf16 would end in sixteen zeros.
        assert!(weights.iter().flatten().filter(|weight| weight.to_bits() & 0xffff != 0).count() > 10_000);
        losses
    });
    let [[_, exact], [first, rounded]] = losses;
    assert!(rounded < first && rounded != exact && (rounded / exact - 1.0).abs() < 0.01, "{losses:?}");
}

#[test]
#[allow(deprecated)]
fn halves_are_refused_where_there_are_no_kernels_for_them() {
    let text = include_str!("../../../../experiments/shapes10-resnet20-dense.toml");
    let experiment = Experiment::with_overrides(text, "shapes10", &["precision=bf16".to_string()]).unwrap();
    assert!(experiment.to_toml().contains("precision = \"bf16\""));
    assert!(setup::trainee(&experiment, 100, &Device::flex()).is_ok());
    let error = setup::trainee(&experiment, 100, &Device::ndarray()).err().unwrap().to_string();
    assert!(error.contains("for the CPU kernels and for GPUs only"), "{error}");
    let f16 = Experiment::with_overrides(text, "shapes10", &["precision=f16".to_string()]).unwrap();
    let error = setup::trainee(&f16, 100, &Device::flex()).err().unwrap().to_string();
    assert!(error.contains("on the CPU use precision = \"bf16\""), "{error}");
    let typo = Experiment::with_overrides(text, "shapes10", &["precision=bf17".to_string()]).unwrap_err();
    assert!(typo.contains("bf16"), "{typo}");
}
