//! The experiments under `experiments/`: whole, exact, and with siblings that can be trained.

use super::*;
use bonsai_models::Network;
use bonsai_pruning::plan::plan;
use bonsai_training::experiment::Experiment;
use bonsai_training::parameters;
use burn::tensor::Device;

fn read(name: &str, changes: &[&str]) -> Experiment {
    let text = fs::read_to_string(root().join(format!("experiments/{name}.toml"))).unwrap();
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    Experiment::with_overrides(&text, name, &changes).unwrap()
}

#[test]
fn all_that_were_promised_are_there() {
    let shipped = shipped();
    let resnet20 = ["dense", "gmp", "granet", "rigl", "set", "static", "dense-short", "granet-short"];
    let promised = resnet20.map(|kind| format!("cifar10-resnet20-{kind}")).into_iter().chain(
        [
            "cifar10-vgg19-granet",
            "cifar100-resnet50-granet",
            "cifar10-vit-gmp",
            "fashion-lenet5-granet",
            "shapes10-resnet20-granet",
            "shapes10-resnet20-group-magnitude",
            "cifar10-vgg19-proximal-slimming",
            "cifar10-resnet56-polarization",
            "cifar10-vgg16-polarization",
        ]
        .map(String::from),
    );
    // Whatever removes channels has a sibling of few epochs.
    for name in shipped.iter().filter(|name| name.starts_with("cifar10-") && !name.ends_with("-short")) {
        let experiment = read(name, &[]);
        let (scheduler, _) = experiment.build_scheduler(experiment.horizon(experiment.records())).unwrap();
        if scheduler.removes() != bonsai_pruning::Removes::Weights {
            assert!(shipped.contains(&format!("{name}-short")), "{name}-short");
        }
    }
    for name in promised {
        assert!(shipped.contains(&name), "{name}");
    }
}

#[test]
fn each_says_everything_and_comes_back_unchanged() {
    for name in shipped() {
        let experiment = read(&name, &[]);
        experiment.check().unwrap();
        assert_eq!(experiment.name, name);
        assert!(experiment.train_records.is_some(), "{name}");
        let again = Experiment::from_toml(&experiment.to_toml(), "other").unwrap();
        assert_eq!(again, experiment, "{name}");
        let stored = format!("{}\n[environment]\nburn = \"0.22.1\"\n", experiment.to_toml());
        assert_eq!(Experiment::from_config(&stored).unwrap(), experiment, "{name}");
    }
}

#[test]
fn each_ends_at_its_sparsity_to_one_weight_or_below_its_cost() {
    for name in shipped() {
        // The large networks are planned with few events, because each one ranks millions of weights.
        let small = name.contains("resnet20") || name.contains("lenet5");
        let mut experiment = read(&name, &[]);
        if !small && experiment.scheduler.contains_key("every") {
            let rare = if name.ends_with("-short") { "scheduler.every=300" } else { "scheduler.every=9000" };
            experiment = read(&name, &[rare]);
        }
        let horizon = experiment.horizon(experiment.records());
        let mut engine = experiment.engine(experiment.records()).unwrap();
        let network = Network::new(&experiment.architecture(), experiment.seed, &Device::flex()).unwrap();
        let weights = parameters::weights(&network, engine.layers());
        let rate = experiment.learning_rate(horizon);
        let plan = plan(&mut engine, horizon, |iteration| rate.at(iteration.saturating_sub(1)), &weights);
        if engine.groups().next().is_some() {
            // Channels go by cost; a plan knows no scales, so that slimming's cuts are not in it.
            let last = plan.events.last().map(|event| event.macs as f64 / engine.dense_macs() as f64);
            let target = engine.scheduler().target_macs().unwrap_or(1.0);
            assert!(last.is_some_and(|macs| macs <= target), "{name}: {last:?} of the MACs instead of {target}");
            continue;
        }
        let sparsity = experiment.scheduler.get("sparsity").map_or(0.0, |value| value.as_float().unwrap());
        let wanted = plan.total as f64 * (1.0 - sparsity);
        assert!((plan.final_kept as f64 - wanted).abs() <= 1.0, "{name}: {} instead of {wanted}", plan.final_kept);
    }
}

#[test]
fn the_short_recipe_is_the_one_that_was_agreed() {
    let granet = read("cifar10-resnet20-granet-short", &[]);
    let horizon = granet.horizon(granet.records());
    assert_eq!((horizon.iterations_per_epoch, horizon.epochs, granet.batch_size), (352, 10, 128));
    assert_eq!((granet.optimizer.lr, granet.optimizer.momentum, granet.optimizer.weight_decay), (0.1, 0.9, 5e-4));
    let rate = granet.learning_rate(horizon);
    assert_eq!((rate.at(351), rate.warmup), (0.1, 352));
    assert!(rate.at(3519) < 1e-6);
    let key = |key: &str| granet.scheduler[key].to_string();
    assert_eq!(
        ["initial_sparsity", "sparsity", "every", "end_epoch", "replace", "replace_min"].map(key),
        ["0.5", "0.9", "100", "5", "0.5", "0.005"]
    );
}

#[test]
fn fewer_epochs_keep_the_proportion() {
    let short = read("cifar10-resnet20-granet-short", &[]).with_epochs(2);
    assert_eq!((short.epochs, short.lr.warmup_epochs), (2, 0.2));
    assert_eq!(
        (short.scheduler["end_epoch"].to_string(), short.scheduler["every"].to_string()),
        ("1".into(), "20".into())
    );
    let steps = read("cifar10-resnet20-gmp", &[]).with_epochs(5);
    assert_eq!(
        (steps.lr.milestones.clone(), steps.scheduler["end_epoch"].to_string()),
        (vec![2.5, 3.75], "2.5".into())
    );
    steps.check().unwrap();
}

#[test]
fn every_experiment_has_a_sibling_that_can_be_trained() {
    for name in shipped() {
        let experiment = read(&name, &[]);
        let sibling = experiment.sibling();
        sibling.check().unwrap_or_else(|message| panic!("{name}: {message}"));
        assert!(sibling.name.starts_with("shapes10-") && !sibling.name.contains("cifar"), "{}", sibling.name);
        assert!(sibling.epochs <= 5, "{name}");
    }
    assert_eq!(read("fashion-lenet5-granet", &[]).sibling_name(), "shapes10-lenet5-granet");
    assert_eq!(read("cifar100-resnet50-granet", &[]).sibling_name(), "shapes10-resnet50-granet");
}
