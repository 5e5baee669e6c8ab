//! Runs on a GPU, Mesa's software adapter where there is no other: what kernels are tuned to is kept, widths are rounded.

use super::*;

const DENSE: &str = "model = \"mlp\"\ndata = \"shapes10\"\ntrain_records = 64\nepochs = 1\nbatch_size = 16\n\
    [optimizer]\nname = \"sgd\"\nlr = 0.01\n[lr]\nschedule = \"constant\"\n[scheduler]\nname = \"dense\"\n";
const CHANNELS: &str = "name = \"group-magnitude\"\nmacs = 0.5\nscope = \"uniform\"\nend_epoch = 0.5\nevery = 10\n";

/// Trains an experiment of the project into `out`, with `caches` for the user's cache folder.
fn train_on_gpu(project: &Path, caches: &Path, experiment: &str, out: &str, more: &[&str]) -> Call {
    let small =
        ["train", experiment, "--limit-test", "32", "--plain", "--no-receipt", "--device", "wgpu", "--out", out];
    call(project, caches, &[&small[..], more].concat())
}

fn call(project: &Path, caches: &Path, arguments: &[&str]) -> Call {
    let output = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(arguments)
        .current_dir(project)
        .env("XDG_CACHE_HOME", caches)
        // Without a folder of one's own Mesa has a sentence to say, too.
        .env("XDG_RUNTIME_DIR", project)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Call {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn log(project: &Path, out: &str) -> String {
    fs::read_to_string(project.join(out).join("run.log")).unwrap()
}

#[test]
fn a_second_run_on_a_gpu_tunes_nothing_anew_and_a_folder_that_is_no_use_ends_no_run() {
    let project = tempfile::tempdir().unwrap();
    let (project, caches) = (project.path(), project.path().join("caches"));
    fs::write(project.join("dense.toml"), DENSE).unwrap();
    let channels = DENSE.replace("train_records = 64", "train_records = 320").replace("name = \"dense\"\n", CHANNELS);
    fs::write(project.join("channels.toml"), channels).unwrap();
    let first = train_on_gpu(project, &caches, "channels.toml", "first", &[]);
    if first.err.contains("finds no adapter") && std::env::var_os("BONSAI_REQUIRE_WGPU").is_none() {
        println!("skipped: this machine has no wgpu adapter");
        return;
    }
    let first = first.succeeds();
    assert!(first.out.contains("the first steps compile and tune kernels on"), "{}\n{}", first.out, first.err);
    let told = log(project, "first");
    assert!(told.contains("kernels were tuned within"), "{told}");
    assert!(told.contains("the smaller network had"), "{told}");
    let events = fs::read_to_string(project.join("first/events.jsonl")).unwrap();
    let tuned = events.lines().find(|line| line.contains("\"tuned\"")).unwrap();
    assert!(tuned.contains("\"choices\":") && !tuned.contains("\"choices\":0"), "{tuned}");
    // What widths are rounded to is part of the run.
    let config = fs::read_to_string(project.join("first/config.toml")).unwrap();
    assert!(config.contains("round_to = 8"), "{config}");
    assert!(fs::read_dir(caches.join("bonsai/gpu")).unwrap().count() > 1, "a database, and what first steps took");

    let second = train_on_gpu(project, &caches, "channels.toml", "second", &[]).succeeds();
    assert!(!second.out.contains("the first steps compile"), "{}", second.out);
    let told = log(project, "second");
    assert!(told.contains("the network needed no kernel to be tuned anew"), "{told}");
    assert!(told.contains("the smaller network needed no kernel to be tuned anew"), "{told}");
    assert!(!told.contains("tuned within") && !told.contains("tuned anew, within"), "{told}");

    // A database that is none any more, and a folder that cannot be: a sentence each.
    for entry in fs::read_dir(caches.join("bonsai/gpu")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "db") {
            fs::write(entry, "no database ".repeat(1000)).unwrap();
        }
    }
    train_on_gpu(project, &caches, "dense.toml", "damaged", &[]).succeeds();
    let told = log(project, "damaged");
    assert_eq!(told.matches("was damaged").count(), 1, "{told}");
    assert!(told.contains("kernels were tuned within"), "{told}");
    fs::write(project.join("file"), "").unwrap();
    let eval = ["eval", "damaged", "--limit-test", "32", "--device", "wgpu"];
    let call = call(project, &project.join("file"), &eval).succeeds();
    assert_eq!(call.err.matches("cannot be written").count(), 1, "{}", call.err);

    let several = ["--devices", "0,1"];
    train_on_gpu(project, &caches, "dense.toml", "several", &several)
        .fails(2, &["there is no number 1", "counted from 0"]);
}
