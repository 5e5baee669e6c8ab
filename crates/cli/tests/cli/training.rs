//! Small runs from start to end, and what becomes of them.

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
    assert!(page.contains("id=\"steps-shapes10-resnet20-granet-seed-0\""), "where steps go");
    assert!(page.contains("<th>under dense</th>"));
    let events = fs::read_to_string(project.join(run).join("events.jsonl")).unwrap();
    assert!(events.lines().next().unwrap().contains("\"explored\":"), "{events}");

    bonsai_in(project, &["report", run, "--figures", "figures", "--tensorboard", "events"]).succeeds();
    assert!(project.join("figures/accuracy-epochs.svg").is_file());
    for entry in fs::read_dir(project.join("figures")).unwrap().map(|entry| entry.unwrap().path()) {
        let png = fs::read(entry.with_extension("png")).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 1000, "{}", entry.display());
        // Width in the header, four pixels to the unit.
        assert_eq!(png[16..20], 1440u32.to_be_bytes(), "{}", entry.display());
    }
    let folder = project.join("events/shapes10-resnet20-granet/seed-0");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);

    // An exported network lies beside the run, and the page leads to both files.
    let onnx = format!("{run}/model.onnx");
    bonsai_in(project, &["export", run, "--onnx", &onnx]).succeeds();
    bonsai_in(project, &["report", run]).succeeds();
    let page = fs::read_to_string(project.join("report.html")).unwrap();
    let files = page.split("id=\"files\"").nth(1).unwrap();
    let links: Vec<&str> = files.split("href=\"").skip(1).map(|link| link.split('"').next().unwrap()).collect();
    for file in ["model.onnx", "model.safetensors", "steps.csv", "config.toml"] {
        assert!(links.iter().any(|link| link.ends_with(file)), "{file}: {links:?}");
    }
    assert!(links.iter().all(|link| fs::metadata(project.join(link)).unwrap().len() > 0));

    let same = bonsai_in(project, &["compare", "shapes10-resnet20-granet", run]).succeeds();
    assert!(same.out.contains("test accuracy, last network, %") && same.out.contains("0.00, n = 1"), "{}", same.out);
    let no_dense = "shapes10-resnet20-granet: no dense run of the same recipe and seed to measure it against";
    assert!(same.out.contains(no_dense), "{}", same.out);
    let show = bonsai_in(project, &["runs", "show", run]).succeeds();
    assert!(show.out.contains("\ndense       no dense run of the same recipe to measure it against\n"), "{}", show.out);
    the_distance_from_a_dense_run_is_said_everywhere(project, run);
    bonsai_in(project, &["report", "shapes10-resnet20-grant"]).fails(2, &["did you mean"]);
    bonsai_in(project, &["compare", "absent", run]).fails(2, &["there is no run `absent`"]);
}

fn the_distance_from_a_dense_run_is_said_everywhere(project: &Path, run: &str) {
    let dense = train(project, "shapes10-resnet20-dense", &[]).succeeds();
    assert!(!dense.out.contains("\ndense "), "{}", dense.out);
    let show = bonsai_in(project, &["runs", "show", run]).succeeds();
    assert!(show.out.contains(" shapes10-resnet20-dense, seed 0\n"), "{}", show.out);
    let list = bonsai_in(project, &["runs", "list"]).succeeds();
    let row = list.out.lines().find(|line| line.starts_with("shapes10-resnet20-granet")).unwrap();
    let points = row.split_whitespace().nth_back(1).unwrap();
    assert!(points.parse::<f64>().is_ok(), "{}", list.out);
    let both = bonsai_in(project, &["compare", "shapes10-resnet20-granet", "shapes10-resnet20-dense"]).succeeds();
    assert!(both.out.contains("points under dense, same recipe and seeds"), "{}", both.out);
    assert!(!both.out.contains("shapes10-resnet20-dense: "), "{}", both.out);
    bonsai_in(project, &["report", run]).succeeds();
    let page = fs::read_to_string(project.join("report.html")).unwrap();
    assert!(page.contains(&format!("<td>{points}</td>")), "the page measures it against the run beside it");
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
fn a_few_steps_of_an_epoch_tell_where_their_time_went() {
    let folder = project();
    let run = trained(folder.path(), "shapes10-resnet20-granet", &["--set", "batch_size=8"]);
    let rows = bonsai_training::records::read_steps(&run.join("steps.csv")).unwrap();
    let places: Vec<(u64, u64)> = rows.iter().map(|row| (row.epoch, row.iteration)).collect();
    // The middle of each quarter of twelve batches.
    assert_eq!(places, [(0, 2), (0, 5), (0, 8), (0, 11)]);
    for row in rows {
        let sum: f64 = row.parts().iter().sum();
        assert!(row.milliseconds > 0.0 && (sum - row.milliseconds).abs() < 0.05, "{row:?}");
        assert!(row.forward_dense + row.forward_sparse > 0.0 && row.batch_norm > 0.0 && row.optimizer > 0.0, "{row:?}");
        assert!(row.passes == 0.0 && row.update == 0.0, "{row:?}");
    }
}

#[test]
fn statistics_are_recomputed_where_there_are_some() {
    let folder = project();
    let eval = |run: &str, more: &[&str]| {
        bonsai_in(folder.path(), &[&["eval", run, "--limit-test", "32", "--device", "cpu"][..], more].concat())
    };
    let run = trained(folder.path(), "shapes10-resnet20-dense", &[]);
    let before = fs::read(run.join("model.safetensors")).unwrap();
    let (plain, again) = (eval("run", &[]).succeeds(), eval("run", &["--recalibrate", "1"]).succeeds());
    assert_ne!(plain.out, again.out);
    assert_eq!(eval("run", &["--recalibrate", "1"]).succeeds().out, again.out);
    assert!(fs::read(run.join("model.safetensors")).unwrap() == before, "the file has changed");
    fs::remove_dir_all(&run).unwrap();
    trained(folder.path(), "shapes10-resnet20-dense", &["--set", "model=lenet5"]);
    eval("run", &["--recalibrate", "1"]).fails(2, &["lenet5 has no batch normalisation: there are no statistics"]);
    train(folder.path(), "shapes10-resnet20-dense", &["--set", "model=lenet5", "--set", "evaluate.recalibrate=3"])
        .fails(2, &["evaluate.recalibrate is 3, but lenet5 has no batch normalisation"]);
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
    for (experiment, last) in [("shapes10-resnet20-group-magnitude", "compact"), ("shapes10-resnet20-granet", "sparse")]
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
        let ratio =
            value(&original, "dense_macs").parse::<f64>().unwrap() / value(&original, "macs").parse::<f64>().unwrap();
        assert_eq!(longer.code, 0, "{}", longer.err);
        let path = folder.path().join(format!("experiments/runs/{experiment}-scratch-b/seed-1000/summary.toml"));
        assert_eq!(value(&fs::read_to_string(path).unwrap(), "epochs"), (ratio as u64).to_string());

        // A baseline that is begun again looks for the masks where they were; a shape is in its own experiment.
        let experiment = folder.path().join("scratch.toml");
        let (before, environment) = config.split_once("[environment]").unwrap();
        let sections = environment.split("\n[").skip(1).filter(|section| !section.starts_with("environment."));
        let after: String = sections.map(|section| format!("[{section}\n")).collect();
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
    let call =
        train(folder.path(), "shapes10-resnet20-dense", &["--resume", "--out", "here", "--threads", "1"]).succeeds();
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
