//! Runs the `bonsai` binary as a user does: help, errors, and small runs from start to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a call left.
struct Call {
    code: i32,
    out: String,
    err: String,
}

impl Call {
    /// Asserts the exit code and that stderr is one sentence that contains every fragment.
    fn fails(&self, code: i32, fragments: &[&str]) {
        assert_eq!(self.code, code, "stderr: {}", self.err);
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one sentence: {}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for fragment in fragments {
            assert!(self.err.contains(fragment), "`{fragment}` is not in: {}", self.err);
        }
    }

    fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn bonsai_in(folder: &Path, arguments: &[&str]) -> Call {
    let output = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("BONSAI_DATASETS")
        .env_remove("RUST_LOG")
        .env_remove("CARGO")
        // Nothing listens there, so that no test ever leaves the machine.
        .env("BONSAI_MIRROR", "http://127.0.0.1:9")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Call {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn bonsai(arguments: &[&str]) -> Call {
    bonsai_in(&root(), arguments)
}

/// A project folder of its own, with the shipped experiments and no data.
fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("experiments")).unwrap();
    for name in shipped() {
        let file = format!("experiments/{name}.toml");
        fs::copy(root().join(&file), folder.path().join(&file)).unwrap();
    }
    folder
}

fn shipped() -> Vec<String> {
    let files = fs::read_dir(root().join("experiments")).unwrap().map(|entry| entry.unwrap().path());
    let toml = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> = toml.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    names.sort();
    names
}

mod help {
    use super::*;

    #[test]
    fn every_command_teaches_by_examples() {
        for command in [
            &[][..],
            &["train"],
            &["plan"],
            &["eval"],
            &["data"],
            &["model"],
            &["runs"],
            &["bench"],
            &["reproduce"],
            &["table"],
            &["sweep"],
            &["export"],
            &["receipt"],
        ] {
            let call = bonsai(&[command, &["--help"]].concat()).succeeds();
            assert!(call.out.contains("Examples:") && call.out.contains("  bonsai "), "{command:?}: {}", call.out);
        }
    }

    #[test]
    fn train_has_every_documented_flag() {
        let help = bonsai(&["train", "--help"]).out;
        for flag in [
            "--device",
            "--offline",
            "--seed",
            "--epochs",
            "--limit-train",
            "--limit-test",
            "--set",
            "--out",
            "--resume",
            "--plain",
            "--tui",
            "--threads",
            "--data-dir",
            "--strict-data",
            "--scratch-e",
            "--scratch-b",
            "--no-receipt",
        ] {
            assert!(help.contains(flag), "{flag}");
        }
    }

    #[test]
    fn help_names_what_cannot_be_guessed() {
        let models = bonsai(&["model", "--help"]).out;
        assert!(models.contains("resnet20") && models.contains("vit-cifar"), "{models}");
        let train = bonsai(&["train", "--help"]).out;
        for fragment in ["BONSAI_DATASETS", "BONSAI_MIRROR", "SIGTERM", "experiments/README.md", "which is 0 unless"] {
            assert!(train.contains(fragment), "{fragment}: {train}");
        }
    }

    #[test]
    fn no_command_shows_the_help() {
        let call = bonsai(&[]);
        assert_eq!(call.code, 2);
        assert!(call.err.contains("Usage:"), "{}", call.err);
    }

    #[test]
    fn the_version_is_the_crates() {
        assert_eq!(bonsai(&["--version"]).out.trim(), concat!("bonsai ", env!("CARGO_PKG_VERSION")));
    }
}

mod mistakes {
    use super::*;

    #[test]
    fn wrong_arguments_are_the_users() {
        let granet = "cifar10-resnet20-granet";
        let table: &[(&[&str], &[&str])] = &[
            (&["trian"], &["train"]),
            (&["train"], &["EXPERIMENT"]),
            (&["train", granet, "--devise", "cpu"], &["--device"]),
            (&["train", granet, "--device", "gpu"], &["auto, cpu, ndarray, wgpu, cuda"]),
            (&["train", granet, "--seed", "-1"], &["give a whole number from 0"]),
            (&["train", granet, "--epochs", "-1"], &["give a whole number from 1 to 100000"]),
            (&["train", granet, "--limit-train", "-1"], &["give a whole number of at least 1"]),
            (&["train", granet, "--threads", "-1"], &["1 to 1024"]),
            (&["train", granet, "--seed", "18446744073709551615"], &["--seed"]),
            (&["train", granet, "--epochs", "0"], &["--epochs"]),
            (&["train", granet, "--epochs", "many"], &["--epochs"]),
            (&["train", granet, "--limit-train", "0"], &["--limit-train"]),
            (&["train", granet, "--limit-test", "0"], &["--limit-test"]),
            (&["train", granet, "--threads", "0"], &["1 to 1024"]),
            (&["train", granet, "--plain", "--tui"], &["cannot be used with"]),
            (&["train", granet, "--tui"], &["--plain"]),
            (&["train", "cifar10-resnet20-grant"], &["did you mean `cifar10-resnet20-granet`?"]),
            (&["train", "experiments"], &["is a folder"]),
            (&["train", "no/such.toml"], &["there is no file no/such.toml"]),
            (&["plan", "zzz"], &["unknown experiment `zzz`", "shapes10-resnet20-granet"]),
            (&["eval", "no-such-run"], &["there is no run `no-such-run`", "runs list"]),
            (&["eval", "experiments"], &["holds no model.safetensors"]),
            (&["export", "no-such-run", "--onnx", "x.onnx"], &["there is no run `no-such-run`"]),
            (&["export", "experiments"], &["--onnx"]),
            (&["export", "experiments", "--packed", "x", "--sparse"], &["--onnx"]),
            (&["receipt", "no-such-run"], &["there is no run `no-such-run`"]),
            (&["train", "--scratch-e", "no-such-run"], &["there is no run `no-such-run`"]),
            (&["train", "--scratch-e", "experiments"], &["there is no run `experiments`"]),
            (&["train", granet, "--scratch-b", "x"], &["cannot be used with"]),
            (&["train", "--scratch-e", "x", "--scratch-b", "x"], &["cannot be used with"]),
            (&["train", granet, "--set", "scheduler.name=static", "--set", "scheduler.given=true"], &["given"]),
            (&["data", "fetch", "cifar"], &["unknown data set `cifar`", "did you mean `cifar10`?"]),
            (&["data", "check", "imagenet"], &["cifar10, cifar100, mnist, fashion-mnist, shapes10"]),
            (&["model", "resnet21"], &["did you mean", "resnet20"]),
            (&["model", "zzz"], &["resnet20", "vgg19"]),
            (&["model", "resnet20", "--input", "32"], &["3x32x32"]),
            (&["model", "resnet20", "--input", "3x0x32"], &["3x32x32"]),
            (&["model", "resnet20", "--classes", "0"], &["--classes"]),
            (&["model", "resnet20", "--shortcut", "C"], &["A, B"]),
            (&["model", "vgg19", "--shortcut", "B"], &["shortcut"]),
            (&["model", "vgg19", "--input", "3x8x8"], &["32"]),
            (&["runs", "show", "zzz", "--folder", "experiments"], &["there is no run `zzz`"]),
        ];
        for (arguments, fragments) in table {
            eprintln!("{arguments:?}");
            bonsai(arguments).fails(2, fragments);
        }
    }

    #[test]
    fn a_bad_set_is_named() {
        let table: &[(&str, &[&str])] = &[
            ("optimizer.lr", &["path.to.key=value"]),
            ("=0.1", &["path.to.key=value"]),
            ("optimizer.lrr=0.1", &["did you mean `optimizer.lr`?"]),
            ("lr=0.1", &["optimizer.lr"]),
            ("epoch=3", &["did you mean `epochs`?"]),
            ("zzz=1", &["no key `zzz`"]),
            ("optimizer.lr=fast", &["takes a number"]),
            ("optimizer.lr=nan", &["optimizer.lr is NaN", "above 0"]),
            ("optimizer.lr=inf", &["optimizer.lr is inf"]),
            ("optimizer.lr=-1", &["optimizer.lr is -1"]),
            ("optimizer.momentum=1", &["optimizer.momentum is 1", "below 1"]),
            ("optimizer.nesterov=2", &["true or false"]),
            ("optimizer.name=adam", &["`adam`", "did you mean `adamw`?"]),
            ("epochs=0", &["epochs is 0"]),
            ("epochs=1.5", &["whole number"]),
            ("batch_size=0", &["batch_size is 0"]),
            ("batch_size=-3", &["batch_size"]),
            ("train_records=1000000", &["train_records is 1000000", "45000"]),
            ("augment.crop=32", &["augment.crop is 32", "0 to 31"]),
            ("lr.schedule=cosin", &["did you mean `cosine`?"]),
            ("lr.milestones=[120, 80]", &["must rise"]),
            ("epochs=40", &["lr.milestones has 80", "--epochs"]),
            ("model=resnet21", &["resnet20"]),
            ("data=cifar", &["did you mean `cifar10`?"]),
            ("name=../up", &["names a folder"]),
            ("scheduler.name=grant", &["granet"]),
            ("scheduler.sparsity=1.5", &["1.5"]),
            ("scheduler.sparsity=nan", &["NaN"]),
            ("scheduler.evry=100", &["did you mean `every`?"]),
            ("scheduler.every=0", &["every"]),
            ("scheduler.every=-1", &["`every` takes a whole number of 0 or more, not -1"]),
            ("scheduler.flor=0.1", &["did you mean `floor`?", "exclude, floor"]),
            ("scheduler.floor=much", &["takes a number"]),
            ("scheduler.name=gmp", &["the keys of granet remain", "[scheduler] in cifar10-resnet20-granet.toml"]),
            ("scheduler.exclude=[\"stem.weigth\"]", &["stem.weigth"]),
        ];
        for (assignment, fragments) in table {
            eprintln!("{assignment}");
            bonsai(&["plan", "cifar10-resnet20-granet", "--set", assignment]).fails(2, fragments);
        }
    }

    #[test]
    fn a_share_of_the_macs_is_met_or_refused() {
        let plan = |name: &str, macs: &str| bonsai(&["plan", name, "--macs", macs]);
        for value in ["0", "1.5", "nan", "half", "-0.5"] {
            plan("cifar10-resnet20-polarization", value).fails(2, &["--macs", "above 0 and at most 1"]);
        }
        plan("cifar10-resnet20-gmp", "0.5").fails(2, &["`gmp`", "`macs`"]);
        plan("cifar10-resnet20-polarization", "0.01").fails(2, &["`macs` is 0.01, but this network costs 0.0"]);
        // Where the file gives a share of channels, the cost takes its place.
        for name in ["slimming", "polarization", "proximal-slimming", "group-magnitude"] {
            let call = plan(&format!("cifar10-resnet20-{name}"), "0.3").succeeds();
            // Iteration, epoch, sparsity and its sign, weights, then the cost, which `~` marks as projected.
            let cost =
                |line: &str| line.split_whitespace().nth(5)?.trim_start_matches('~').replace(',', "").parse().ok();
            let macs: Vec<u64> = call.out.lines().filter_map(cost).filter(|macs| *macs > 1_000_000).collect();
            assert!(macs.last().is_some_and(|last| (*last as f64) < 0.3 * 40_551_040.0), "{name}: {macs:?}");
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let good = fs::read_to_string(root().join("experiments/cifar10-resnet20-granet.toml")).unwrap();
        let table: &[(&str, &str, &[&str])] = &[
            ("epochs = 160", "epoch = 160", &["bad.toml, line 7", "`epoch`", "did you mean `epochs`?"]),
            ("epochs = 160", "epochs = 160\nepochs = 161", &["bad.toml, line 8"]),
            ("epochs = 160", "epochs = \"many\"", &["bad.toml, line 7: expected a whole number", "not \"many\""]),
            ("epochs = 160", "epochs = -1", &["bad.toml, line 7", "a whole number of 0 or more, not -1"]),
            ("name = \"sgd\"\n", "", &["`name` is missing in [optimizer]", "name = \"sgd\""]),
            ("epochs = 160", "epochs = 0", &["epochs is 0"]),
            ("epochs = 160", "epochs = ", &["bad.toml, line 7"]),
            ("epochs = 160", "epochs = 99999999999999999999", &["bad.toml, line 7"]),
            ("momentum = 0.9", "momentom = 0.9", &["did you mean `momentum`?"]),
            ("every = 1000", "evry = 1000", &["bad.toml, line 35", "did you mean `every`?"]),
            ("every = 1000", "", &["every"]),
            ("model = \"resnet20\"\n", "", &["`model` is missing", "model = \"resnet20\""]),
            ("[lr]\n", "[lrs]\n", &["did you mean `lr`?"]),
            ("[optimizer]", "[optimizer", &["bad.toml, line"]),
            ("sparsity = 0.9\n", "sparsity = nan\n", &["sparsity"]),
            ("sparsity = 0.9\n", "sparsity = 1.0\n", &["sparsity"]),
            ("lr = 0.1\n", "lr = nan\n", &["optimizer.lr is NaN"]),
            ("data = \"cifar10\"", "data = \"cifar\"", &["bad.toml, line 5", "did you mean `cifar10`?"]),
        ];
        for (from, to, fragments) in table {
            eprintln!("{from} -> {to}");
            assert!(good.contains(from));
            let path = folder.path().join("bad.toml");
            fs::write(&path, good.replacen(from, to, 1)).unwrap();
            bonsai(&["plan", path.to_str().unwrap()]).fails(2, fragments);
        }
    }

    #[test]
    fn what_is_long_or_moves_the_cursor_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.toml");
        for text in [format!("epochs = \"{}\"", "many".repeat(1000)), format!("\u{1b}[31m{} = 1", "x".repeat(1000))] {
            fs::write(&path, text).unwrap();
            let call = bonsai(&["plan", path.to_str().unwrap()]);
            call.fails(2, &["bad.toml, line 1"]);
            assert!(call.err.len() < 600 && !call.err.contains('\u{1b}'), "{}", call.err);
        }
    }

    #[test]
    fn files_that_are_no_experiments_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_string()
        };
        bonsai(&["plan", &file("empty.toml", b"")]).fails(2, &["missing"]);
        bonsai(&["plan", &file("binary.toml", &[0, 159, 146, 150])]).fails(2, &["is no text file"]);
        bonsai(&["plan", &file("large.toml", &vec![b'#'; 2 << 20])]).fails(2, &["2097152 bytes"]);
        bonsai(&[
            "plan",
            &file("a b.toml", fs::read(root().join("experiments/cifar10-resnet20-gmp.toml")).unwrap().as_slice()),
        ])
        .fails(2, &["names a folder", "add `name = \"a-b\"` to the file"]);
        for bytes in [&b"no tensors at all"[..], b"", b"\x02\0\0\0\0\0\0\0{}"] {
            bonsai(&["eval", &file("model.safetensors", bytes)]).fails(2, &["this is no model.safetensors of bonsai"]);
        }
    }

    #[test]
    fn damaged_data_is_a_failure_and_absent_data_a_mistake() {
        let folder = project();
        let absent = ["data", "check", "mnist"];
        bonsai_in(folder.path(), &absent).fails(2, &["mnist", "bonsai data fetch mnist"]);
        let mnist = folder.path().join("datasets/mnist");
        fs::create_dir_all(&mnist).unwrap();
        for file in
            ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
        {
            fs::write(mnist.join(file), b"not idx").unwrap();
        }
        bonsai_in(folder.path(), &absent).fails(1, &["mnist"]);
        bonsai_in(folder.path(), &["data", "fetch", "cifar10"]).fails(1, &["127.0.0.1:9"]);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_says_how_it_is_built() {
        bonsai(&["train", "shapes10-resnet20-granet", "--device", "cuda"]).fails(2, &["--features cuda"]);
    }
}

mod shipped_experiments {
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
        // Whatever removes channels has a sibling of ten epochs.
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
                let rare = if name.ends_with("-short") { "scheduler.every=800" } else { "scheduler.every=9000" };
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
}

mod listings {
    use super::*;

    #[test]
    fn a_plan_ends_exactly_at_its_sparsity() {
        let call = bonsai(&["plan", "cifar10-resnet20-granet"]).succeeds();
        assert!(call.out.contains("26,834 of 268,336 prunable weights stay"), "{}", call.out);
        assert!(call.out.contains("of the MACs of a dense one"), "{}", call.out);
        let layers = bonsai(&["plan", "cifar10-resnet20-gmp", "--layers", "--epochs", "1"]).succeeds();
        assert!(layers.out.matches("\nIteration ").count() > 10, "{}", layers.out);
        assert!(call.out.trim_end().lines().last().unwrap().starts_with("~ is projected"), "{}", call.out);
        let dense = bonsai(&["plan", "cifar10-resnet20-dense"]).succeeds();
        assert!(dense.out.ends_with("training takes all MACs of a dense one\n"), "{}", dense.out);
        assert_eq!(dense.out.lines().count(), 3, "{}", dense.out);
    }

    #[test]
    fn a_plan_says_by_how_much_the_rules_of_a_published_program_miss() {
        let call = bonsai(&["plan", "cifar10-resnet20-granet", "--set", "scheduler.compat=granet-cifar"]).succeeds();
        assert!(call.out.contains("compat rules miss the target by"), "{}", call.out);
    }

    #[test]
    fn a_layer_at_its_floor_is_marked() {
        let call = bonsai(&["plan", "cifar10-resnet20-granet", "--set", "scheduler.floor=0.09"]).succeeds();
        assert!(call.out.lines().any(|line| line.ends_with("  floor")), "{}", call.out);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bonsai"))
            .args(["model", "resnet110"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_model_is_counted_exactly() {
        let call = bonsai(&["model", "resnet20"]).succeeds();
        for fragment in ["268,336 prunable weights", "269,722 parameters", "40,551,040 MACs"] {
            assert!(call.out.contains(fragment), "{fragment}: {}", call.out);
        }
        let projected = bonsai(&["model", "resnet20", "--shortcut", "b"]).succeeds();
        assert!(projected.out.contains("270,896 prunable weights"), "{}", projected.out);
        let imagenet = bonsai(&["model", "resnet50"]).succeeds();
        assert!(imagenet.out.contains("25,557,032 parameters"), "{}", imagenet.out);
        let small = bonsai(&["model", "resnet50", "--classes", "100", "--input", "3x32x32"]).succeeds();
        assert!(small.out.contains("3x32x32, 100 classes"), "{}", small.out);
    }

    #[test]
    fn data_sets_are_listed_with_where_they_lie() {
        let folder = project();
        let call = bonsai_in(folder.path(), &["data", "list"]).succeeds();
        assert!(call.out.contains("bonsai data fetch cifar10") && call.out.contains("built in"), "{}", call.out);
        let built_in = bonsai(&["data", "check", "shapes10"]).succeeds();
        assert!(built_in.out.contains("fingerprint: "), "{}", built_in.out);
    }

    #[test]
    fn no_runs_say_how_to_start_one() {
        let folder = project();
        let call = bonsai_in(folder.path(), &["runs", "list"]).succeeds();
        assert!(call.out.contains("bonsai train shapes10-resnet20-granet"), "{}", call.out);
    }
}

mod benchmarks {
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
}

mod training {
    use super::*;

    const SMALL: [&str; 10] =
        ["--epochs", "1", "--limit-train", "96", "--limit-test", "32", "--plain", "--no-receipt", "--device", "cpu"];

    fn train(folder: &Path, experiment: &str, more: &[&str]) -> Call {
        bonsai_in(folder, &[&["train", experiment][..], &SMALL, more].concat())
    }

    #[test]
    fn a_run_leaves_a_folder_that_can_be_listed_shown_evaluated_and_resumed() {
        let folder = project();
        let call = train(folder.path(), "shapes10-resnet20-granet", &[]).succeeds();
        assert!(call.out.contains("sparsity    90.00 %"), "{}", call.out);
        let run = "experiments/runs/shapes10-resnet20-granet/seed-0";
        for file in
            ["config.toml", "metrics.csv", "layers.csv", "events.jsonl", "summary.toml", "run.log", "model.safetensors"]
        {
            assert!(folder.path().join(run).join(file).is_file(), "{file}");
        }
        let list = bonsai_in(folder.path(), &["runs", "list"]).succeeds();
        assert!(list.out.contains("shapes10-resnet20-granet/seed-0") && list.out.contains("finished"), "{}", list.out);
        let show = bonsai_in(folder.path(), &["runs", "show", "shapes10-resnet20-granet"]).succeeds();
        assert!(show.out.contains("prunable weights stay"), "{}", show.out);
        let eval = bonsai_in(folder.path(), &["eval", run, "--limit-test", "32", "--device", "cpu"]).succeeds();
        assert!(eval.out.contains("accuracy"), "{}", eval.out);
        let named = ["eval", "shapes10-resnet20-granet/seed-0", "--limit-test", "32", "--device", "cpu"];
        assert_eq!(bonsai_in(folder.path(), &named).succeeds().out, eval.out);

        train(folder.path(), "shapes10-resnet20-granet", &[]).fails(2, &["already holds a run", "--resume"]);
        let lock = fs::File::open(folder.path().join(run).join("lock")).unwrap();
        lock.lock().unwrap();
        train(folder.path(), "shapes10-resnet20-granet", &[]).fails(2, &["another run is writing"]);
        drop(lock);
        train(folder.path(), "shapes10-resnet20-granet", &["--resume", "--set", "optimizer.lr=0.05"])
            .fails(2, &["lr = 0.1", "lr = 0.05"]);
        bonsai_in(
            folder.path(),
            &[
                "train",
                "shapes10-resnet20-granet",
                "--resume",
                "--limit-test",
                "32",
                "--plain",
                "--no-receipt",
                "--device",
                "cpu",
            ],
        )
        .succeeds();

        a_run_is_drawn_and_compared(folder.path(), run);
        damaged_records_leave_the_rest(folder.path(), &folder.path().join(run));
    }

    fn a_run_is_drawn_and_compared(project: &Path, run: &str) {
        bonsai_in(project, &["report", "shapes10-resnet20-granet"]).succeeds();
        let page = fs::read_to_string(project.join("report.html")).unwrap();
        for id in ["accuracy-epochs", "sparsity-epochs", "weights-shapes10-resnet20-granet-seed-0", "configuration"] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        // The plan and the initial weights come from the configuration alone.
        assert!(page.contains("The plan") || page.contains("the plan"), "the plan");
        assert!(page.contains("drawn again from the seed"), "the initial weights");
        assert!(page.contains("href=\"experiments/runs/shapes10-resnet20-granet/seed-0/model.safetensors\""));
        assert!(!page.contains("https:") && !page.contains("<script"));
        let events = fs::read_to_string(project.join(run).join("events.jsonl")).unwrap();
        assert!(events.lines().next().unwrap().contains("\"explored\":"), "{events}");

        bonsai_in(project, &["report", run, "--figures", "figures", "--tensorboard", "events"]).succeeds();
        assert!(project.join("figures/accuracy-epochs.svg").is_file());
        let folder = project.join("events/shapes10-resnet20-granet/seed-0");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);

        let same = bonsai_in(project, &["compare", "shapes10-resnet20-granet", run]).succeeds();
        assert!(
            same.out.contains("test accuracy, last network, %") && same.out.contains("0.00, n = 1"),
            "{}",
            same.out
        );
        bonsai_in(project, &["report", "shapes10-resnet20-grant"]).fails(2, &["did you mean"]);
        bonsai_in(project, &["compare", "absent", run]).fails(2, &["there is no run `absent`"]);
    }

    fn damaged_records_leave_the_rest(project: &Path, run: &Path) {
        let show = || bonsai_in(project, &["runs", "show", "shapes10-resnet20-granet"]);
        for rows in ["", "epoch,iteration\nzero,none\n"] {
            fs::write(run.join("metrics.csv"), rows).unwrap();
            let call = show().succeeds();
            assert!(call.out.contains("prunable weights stay"), "{}", call.out);
            assert!(call.err.starts_with("warning: ") && call.err.lines().count() == 1, "{}", call.err);
        }
        bonsai_in(project, &["report", "shapes10-resnet20-granet"]).fails(1, &["metrics.csv is damaged: line 2"]);
        let summary = fs::read_to_string(run.join("summary.toml")).unwrap();
        fs::write(run.join("summary.toml"), summary.replace("epochs = 1", "epochs = \"one\"")).unwrap();
        let call = show();
        call.fails(1, &["summary.toml is not the summary of a run: line ", "expected a whole number"]);
        assert!(!call.err.contains('|'), "{}", call.err);
        fs::remove_file(run.join("config.toml")).unwrap();
        train(project, "shapes10-resnet20-granet", &["--resume"]).fails(2, &["config.toml is missing", "--out"]);
    }

    /// Trains briefly, without a receipt.
    fn trained(folder: &Path, experiment: &str, more: &[&str]) -> PathBuf {
        train(folder, experiment, &[&["--out", "run"][..], more].concat()).succeeds();
        folder.join("run")
    }

    #[test]
    fn a_compact_network_leaves_by_its_file_alone() {
        let folder = project();
        let run = trained(folder.path(), "shapes10-resnet20-group-magnitude", &[]);
        let summary = fs::read_to_string(run.join("summary.toml")).unwrap();
        assert!(!summary.contains("= nan") && summary.contains("training_macs = "), "{summary}");
        let alone = tempfile::tempdir().unwrap();
        let call = |arguments: &[&str]| bonsai_in(alone.path(), arguments);
        fs::copy(run.join("model.safetensors"), alone.path().join("a.safetensors")).unwrap();
        let eval = |file: &str| call(&["eval", file, "--limit-test", "32", "--device", "cpu"]);
        let expected = eval("a.safetensors").succeeds().out;

        let exported = ["export", "a.safetensors", "--onnx", "a.onnx", "--packed", "b.safetensors", "--probe", "p"];
        let told = call(&exported).succeeds().out;
        assert!(told.contains("a.onnx: ") && told.contains("compact"), "{told}");
        assert_eq!(eval("b.safetensors").succeeds().out, expected);
        call(&["export", "a.safetensors", "--packed", "./a.safetensors"]).fails(2, &["is the network itself"]);
        call(&["export", "a.onnx", "--onnx", "c.onnx"]).fails(2, &["this is no model.safetensors of bonsai"]);

        // One unit more in the description than in the weights, and one letter that makes another network.
        let bytes = fs::read(alone.path().join("a.safetensors")).unwrap();
        let at = |text: &[u8]| bytes.windows(text.len()).position(|window| window == text).unwrap() + text.len();
        for place in [at(b"kept"), at(b"resnet2")] {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            fs::write(alone.path().join("damaged.safetensors"), damaged).unwrap();
            for arguments in [&["eval", "damaged.safetensors"][..], &["export", "damaged.safetensors", "--onnx", "x"]] {
                call(arguments).fails(1, &["damaged.safetensors is not a network that can be used"]);
            }
        }
    }

    #[test]
    fn a_receipt_has_a_line_for_every_form_of_a_network() {
        for (experiment, last) in
            [("shapes10-resnet20-group-magnitude", "compact"), ("shapes10-resnet20-granet", "sparse")]
        {
            let folder = project();
            let run = trained(folder.path(), experiment, &["--set", "batch_size=16"]);
            assert!(!run.join("receipt.csv").exists());
            let call = bonsai_in(folder.path(), &["receipt", "run", "--repeats", "1", "--device", "cpu"]).succeeds();
            let rows = fs::read_to_string(run.join("receipt.csv")).unwrap();
            for name in ["dense", "masked", last] {
                assert!(call.out.lines().any(|line| line.starts_with(name)), "{name}: {}", call.out);
                assert!(rows.lines().any(|line| line.starts_with(name)), "{name}: {rows}");
            }
            let cell = |row: usize, column: usize| -> f64 {
                rows.lines().nth(row).unwrap().split(',').nth(column).unwrap().parse().unwrap()
            };
            // MACs, parameters and bytes fall; times are positive.
            for column in 1..4 {
                assert!(cell(3, column) < cell(1, column), "{rows}");
            }
            assert!((1..=3).all(|row| cell(row, 5) > 0.0 && cell(row, 6) > 0.0), "{rows}");
        }
    }

    #[test]
    fn the_shape_of_a_run_is_trained_from_scratch() {
        for (experiment, scheduler) in
            [("shapes10-resnet20-group-magnitude", "dense"), ("shapes10-resnet20-granet", "static")]
        {
            let folder = project();
            let run = trained(folder.path(), experiment, &[]);
            let read = |folder: &Path, file: &str| fs::read_to_string(folder.join(file)).unwrap();
            let value = |summary: &str, key: &str| {
                let line = summary.lines().find(|line| line.split(' ').next() == Some(key)).unwrap().to_string();
                line.split_once(" = ").unwrap().1.to_string()
            };
            let small = ["--limit-test", "32", "--plain", "--no-receipt", "--device", "cpu", "--epochs", "2"];
            let call = |more: &[&str]| {
                let to = ["train", "--scratch-e", "run", "--limit-train", "96"];
                bonsai_in(folder.path(), &[&to[..], &small, more].concat())
            };
            let told = call(&[]).succeeds().out;
            assert!(told.contains("baseline    the shape of "), "{told}");
            let scratch = folder.path().join(format!("experiments/runs/{experiment}-scratch-e/seed-1000"));
            let (config, summary) = (read(&scratch, "config.toml"), read(&scratch, "summary.toml"));
            assert!(config.contains("[baseline]") && config.contains(&format!("name = \"{scheduler}\"")), "{config}");
            let original = read(&run, "summary.toml");
            for key in ["macs", "dense_macs", "kept", "prunable", "kept_parameters", "parameters", "sparsity"] {
                assert_eq!(value(&summary, key), value(&original, key), "{key}");
            }
            // The masks are the run's, the weights are not.
            let stored = |folder: &Path| bonsai_training::snapshot::read(&folder.join("model.safetensors")).unwrap();
            let (ours, theirs) = (stored(&scratch), stored(&run));
            assert_eq!((&ours.masks, &ours.header.architecture), (&theirs.masks, &theirs.header.architecture));
            assert_ne!(ours.weights, theirs.weights);

            call(&["--resume"]).succeeds();
            call(&["--seed", "0"]).fails(2, &["--seed 0 is the run's own"]);
            let longer =
                ["train", "--scratch-b", "run", "--device", "cpu", "--plain", "--limit-test", "32", "--no-receipt"];
            let longer = bonsai_in(folder.path(), &longer);
            // One epoch of the run becomes as many as its MACs went down.
            let ratio = value(&original, "dense_macs").parse::<f64>().unwrap()
                / value(&original, "macs").parse::<f64>().unwrap();
            assert_eq!(longer.code, 0, "{}", longer.err);
            let path = folder.path().join(format!("experiments/runs/{experiment}-scratch-b/seed-1000/summary.toml"));
            assert_eq!(value(&fs::read_to_string(path).unwrap(), "epochs"), (ratio as u64).to_string());

            // A baseline that is begun again looks for the masks where they were; a shape is in its own experiment.
            let experiment = folder.path().join("scratch.toml");
            let (before, environment) = config.split_once("[environment]").unwrap();
            let after = environment.split_once("\n[").map_or(String::new(), |(_, after)| format!("[{after}"));
            fs::write(&experiment, format!("{before}{after}")).unwrap();
            fs::remove_file(run.join("model.safetensors")).unwrap();
            call(&["--out", "elsewhere"]).fails(2, &["has lost its model.safetensors"]);
            if scheduler == "static" {
                let anew = ["train", "scratch.toml", "--out", "anew", "--device", "cpu", "--plain", "--no-receipt"];
                bonsai_in(folder.path(), &anew).fails(2, &["there is no file", "model.safetensors", "baseline.model"]);
            }
            fs::remove_file(run.join("summary.toml")).unwrap();
            call(&["--out", "elsewhere"]).fails(2, &["has not finished"]);
        }
        let folder = project();
        let run = trained(folder.path(), "shapes10-resnet20-dense", &[]);
        let summary = fs::read_to_string(run.join("summary.toml")).unwrap();
        assert!(summary.contains(&format!("\ntraining_macs = {}\n", 96_u64 * 3 * 40_551_040)), "{summary}");
        assert!(summary.contains("\ntraining_macs_of_dense = 1.0\n"), "{summary}");
        bonsai_in(folder.path(), &["train", "--scratch-e", "run"]).fails(2, &["has removed nothing"]);
    }

    #[test]
    fn absent_data_is_replaced_with_a_banner_under_its_own_name() {
        let folder = project();
        for (name, used, more) in [
            ("fashion-lenet5-granet", "shapes10-lenet5-granet", &["--offline"][..]),
            ("cifar10-resnet20-gmp", "shapes10-resnet20-gmp", &[]),
        ] {
            let call = train(folder.path(), name, more).succeeds();
            for fragment in [&format!("NOT {name}"), &format!("Training {used} instead")] {
                assert!(call.err.contains(fragment.as_str()), "{}", call.err);
            }
            let summary = folder.path().join(format!("experiments/runs/{used}/seed-0/summary.toml"));
            assert!(fs::read_to_string(summary).unwrap().contains("data = \"shapes10\""));
        }
        train(folder.path(), "fashion-lenet5-granet", &["--offline", "--strict-data"]).fails(2, &["fashion-mnist"]);
        let again = train(folder.path(), "fashion-lenet5-granet", &["--offline", "--resume"]).succeeds();
        assert!(again.out.contains("shapes10-lenet5-granet"), "{}", again.out);
    }

    #[test]
    fn nothing_to_resume_starts_the_run() {
        let folder = project();
        let call = train(folder.path(), "shapes10-resnet20-dense", &["--resume", "--out", "here", "--threads", "1"])
            .succeeds();
        assert!(call.err.contains("nothing to resume"), "{}", call.err);
        assert!(folder.path().join("here/summary.toml").is_file());
    }

    #[test]
    fn a_loss_that_is_not_finite_is_a_failure_that_run_log_tells() {
        let folder = project();
        let settings = ["model=lenet5", "optimizer.lr=1000", "batch_size=8", "lr.warmup_epochs=0", "name=lost"];
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let call = train(folder.path(), "shapes10-resnet20-dense", &settings);
        call.fails(1, &["iteration"]);
        assert!(!call.err.contains('\u{1b}') && call.err.lines().count() == 1, "{}", call.err);
        let log = fs::read_to_string(folder.path().join("experiments/runs/lost/seed-0/run.log")).unwrap();
        let sentence = call.err.trim().strip_prefix("error: ").unwrap();
        assert!(log.contains("bonsai 0.") && log.contains(sentence), "{log}");
    }
}
