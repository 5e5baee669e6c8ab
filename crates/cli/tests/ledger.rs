//! Tables of claims and sweeps as a user runs them: killed, stopped, failing half, resumed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A second or two of training.
const SMALL: &str = "
model = 'lenet5'
data = 'shapes10'
train_records = 160
epochs = 2
batch_size = 8
[optimizer]
name = 'sgd'
lr = 0.01
momentum = 0.9
[lr]
schedule = 'cosine'
[checkpoint]
minutes = 0.0
[scheduler]
";
const GRANET: &str = "name = 'granet'\nsparsity = 0.5\ninitial_sparsity = 0.0\nend_epoch = 1\nevery = 4\n";
const GMP: &str = "name = 'gmp'\nsparsity = 0.5\nend_epoch = 1\nevery = 4\n";

/// A made-up paper whose experiments are too long for a test, with short ones in their place.
const PAPER: &str = "
title = 'A paper that was never written'
authors = 'Nobody'
year = 2021
link = 'https://example.org'
table = 'Table 1'
selection = 'best-test'
protocol = 'none'
[[row]]
method = 'GMP'
network = 'LeNet-5'
data = 'shapes10'
experiment = 'gmp'
set = ['epochs=50']
cells = [{ sparsity = 0.8, mean = 90.0, short = { experiment = 'gmp' } }]
[[row]]
method = 'GraNet'
network = 'LeNet-5'
data = 'shapes10'
experiment = 'granet'
set = ['epochs=50']
cells = [{ sparsity = 0.8, mean = 91.0, std = 0.1, short = { experiment = 'granet' } }, { sparsity = 0.9 }]
[[row]]
method = 'LATER'
network = 'LeNet-5'
data = 'shapes10'
not_run = 'nobody has built it'
cells = [{ sparsity = 0.8, mean = 92.0 }]
";

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let experiments = folder.path().join("experiments");
    fs::create_dir_all(experiments.join("claims")).unwrap();
    fs::create_dir_all(experiments.join("sweeps")).unwrap();
    fs::write(experiments.join("granet.toml"), format!("{SMALL}{GRANET}")).unwrap();
    fs::write(experiments.join("gmp.toml"), format!("{SMALL}{GMP}")).unwrap();
    fs::write(experiments.join("claims/paper.toml"), PAPER).unwrap();
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("BONSAI_DATASETS")
        .env_remove("RUST_LOG")
        // Nothing listens there, so that no test ever leaves the machine.
        .env("BONSAI_MIRROR", "http://127.0.0.1:9")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a call left: its code, stdout and stderr.
fn call(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    ended(command(folder, arguments).spawn().unwrap())
}

fn ended(child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn succeeds(folder: &Path, arguments: &[&str]) -> (String, String) {
    let (code, out, err) = call(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

fn fails(folder: &Path, arguments: &[&str], fragments: &[&str]) {
    let (code, out, err) = call(folder, arguments);
    assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one sentence: {err}");
    for fragment in fragments {
        assert!(err.contains(fragment), "`{fragment}` is not in: {err}");
    }
}

/// The files of a name below a folder, sorted.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if entry.file_name() == name {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

const REPRODUCE: [&str; 7] = ["reproduce", "paper", "--short", "--device", "cpu", "--threads", "1"];

mod claims {
    use super::*;

    #[test]
    fn kills_at_random_instants_change_nothing_and_nothing_is_run_twice() {
        let straight = project();
        let began = Instant::now();
        let (out, err) = succeeds(straight.path(), &REPRODUCE);
        let whole = began.elapsed().as_secs_f64();
        assert!(err.contains("4 runs, 0 finished before, 4 to go"), "{err}");
        assert!(out.contains("4 finished (0 of them before), 0 stopped, 0 failed, 0 not started"), "{out}");
        assert!(out.contains("4 cells (2 not comparable, 2 not run)"), "{out}");

        let folder = project();
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let mut kills = 0;
        while kills < 6 {
            let mut child = command(folder.path(), &REPRODUCE).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(whole * (0.03 + 0.15 * random())));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            // SIGKILL: neither the command nor its training can react, but the training sees its stdin end.
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(kills > 1, "the runs were over after {kills} kills");
        succeeds(folder.path(), &REPRODUCE);
        let models = |folder: &TempDir| -> Vec<(PathBuf, Vec<u8>)> {
            let found = files(&folder.path().join("experiments/runs"), "model.safetensors");
            found
                .into_iter()
                .map(|path| (path.strip_prefix(folder.path()).unwrap().into(), fs::read(&path).unwrap()))
                .collect()
        };
        let (one, other) = (models(&straight), models(&folder));
        assert_eq!(one.len(), 4);
        assert!(one == other, "killed runs end in other weights");

        let (out, err) = succeeds(folder.path(), &REPRODUCE);
        assert!(err.contains("4 runs, 4 finished before, 0 to go") && !err.contains("[1/"), "{err}");
        assert!(out.contains("4 finished (4 of them before)"), "{out}");
        table_shows_claims_and_stand_ins(folder.path());
    }

    fn table_shows_claims_and_stand_ins(folder: &Path) {
        let (markdown, _) = succeeds(folder, &["table", "paper"]);
        let lines: Vec<&str> =
            markdown.lines().filter(|line| line.starts_with("| G") || line.starts_with("| L")).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].contains("| 90.00 [unchecked] | ("), "{}", lines[0]);
        for line in &lines[..2] {
            assert!(
                line.contains("not comparable: short recipe (2 of 50 epochs); ") && line.contains("2 of 3 seeds"),
                "{line}"
            );
            assert!(line.contains("| 0, 1 |"), "{line}");
            // Under the paper's rule, the validation's and the last epoch's: three figures, since the column was recorded.
            assert_eq!(line.matches("(").count(), line.matches(")").count());
            assert!(line.split('|').skip(6).take(3).all(|cell| cell.contains(" ± ")), "{line}");
        }
        assert!(lines[2].contains("| 90 % sparse | | | | |") && lines[2].ends_with("| not run |"), "{}", lines[2]);
        assert!(lines[3].ends_with("| not run: nobody has built it |"), "{}", lines[3]);
        for (format, start) in [("csv", "method,network,"), ("latex", "% needs"), ("html", "<!doctype html>")] {
            succeeds(folder, &["table", "paper", "--format", format, "--out", "table"]);
            let text = fs::read_to_string(folder.join("table")).unwrap();
            assert!(text.starts_with(start) && text.contains("nobody has built it"), "{text}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_signal_stops_the_trainings_gracefully() {
        let folder = project();
        let long = ["reproduce", "paper", "--device", "cpu", "--threads", "1", "--seeds", "1"];
        let mut child = command(folder.path(), &long).spawn().unwrap();
        let runs = folder.path().join("experiments/runs");
        while files(&runs, "config.toml").is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let (code, out, err) = ended(child);
        assert_eq!(code, 130, "{err}");
        assert!(
            out.contains("1 stopped, 0 failed, 2 not started") && out.contains("the same command goes on"),
            "{out}"
        );
        assert!(err.contains("stopped, and saved"), "{err}");
        let console = fs::read_to_string(&files(&runs, "console.log")[0]).unwrap();
        assert!(console.contains("everything is saved"), "{console}");
        let (list, _) = succeeds(folder.path(), &[&long[..], &["--list"]].concat());
        assert_eq!(list.matches("not finished").count(), 1, "{list}");
        assert_eq!(list.matches("missing").count(), 2, "{list}");
    }

    #[test]
    fn a_run_that_fails_ends_no_other() {
        let folder = project();
        let path = folder.path().join("experiments/claims/paper.toml");
        let other =
            PAPER.replacen("{ experiment = 'gmp' }", "{ experiment = 'gmp', set = ['model=mlp', 'data=cifar10'] }", 1);
        fs::write(path, other).unwrap();
        let (code, out, err) = call(folder.path(), &[&REPRODUCE[..], &["--offline", "--seeds", "1"]].concat());
        assert_eq!(code, 1, "{err}");
        assert!(out.contains("1 finished (0 of them before), 0 stopped, 1 failed"), "{out}");
        assert!(
            out.contains("GMP, LeNet-5 on shapes10, 80 % sparse: its stand-in, seed 0: ") && out.contains("cifar10"),
            "{out}"
        );
    }

    #[test]
    fn mistakes_are_one_sentence() {
        let folder = project();
        let path = folder.path();
        fails(path, &["table", "papr"], &["unknown table of claims `papr`; did you mean `paper`?"]);
        fails(path, &["reproduce", "zzz"], &["there are paper"]);
        fails(path, &["reproduce", "paper", "--seeds", "0"], &["1 to 1000"]);
        fails(path, &["table", "paper", "--runs", "nowhere"], &["no folder nowhere"]);
        let write = |text: String| fs::write(path.join("experiments/claims/paper.toml"), text).unwrap();
        write(PAPER.replace("selection =", "selecton ="));
        fails(path, &["table", "paper"], &["paper.toml, line 7: unknown key `selecton`; did you mean `selection`?"]);
        write(PAPER.replace("experiment = 'granet'", "experiment = 'granett'"));
        fails(
            path,
            &["table", "paper"],
            &["paper.toml, row `GraNet`: unknown experiment `granett`; did you mean `granet`?"],
        );
        write(PAPER.replace("set = ['epochs=50']", "set = ['epoch=50']"));
        fails(path, &["reproduce", "paper"], &["paper.toml: ", "no key `epoch`; did you mean `epochs`?"]);
        let without =
            PAPER.replace(", short = { experiment = 'gmp' }", "").replace(", short = { experiment = 'granet' }", "");
        write(without);
        fails(path, &["reproduce", "paper", "--short"], &["paper names no stand-in: leave out --short"]);
        fails(path, &["table", "paper", "--readme"], &["--readme"]);
    }
}

mod shipped {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
    }

    fn names() -> Vec<String> {
        let files = fs::read_dir(root().join("experiments/claims")).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> =
            files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
        names.sort();
        names
    }

    /// A copy of the experiments, their claims and results, without runs.
    fn copy() -> TempDir {
        fn copy_all(from: &Path, to: &Path) {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                let (path, target) = (entry.path(), to.join(entry.file_name()));
                if path.is_dir() {
                    if !["runs", "bench"].contains(&entry.file_name().to_str().unwrap()) {
                        copy_all(&path, &target);
                    }
                } else {
                    fs::copy(path, target).unwrap();
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        copy_all(&root().join("experiments"), &folder.path().join("experiments"));
        folder
    }

    #[test]
    fn every_table_of_claims_is_read_and_its_experiments_resolve() {
        let folder = copy();
        assert!(names().contains(&"granet-cifar".to_string()));
        for name in names() {
            let (text, err) = succeeds(folder.path(), &["table", &name]);
            assert!(text.starts_with("# ") && err.is_empty(), "{name}: {err}");
        }
        let (list, _) = succeeds(folder.path(), &["reproduce", "granet-cifar", "--list"]);
        // Dense, GMP, RigL and two of GraNet on two networks and data sets, SET on one network; three seeds each.
        assert_eq!(list.matches("missing").count(), 3 * (4 * (1 + 4 * 3) + 2 * 3), "{list}");
        let (list, _) = succeeds(folder.path(), &["reproduce", "granet-cifar", "--short", "--list"]);
        assert_eq!(list.matches("its stand-in, seed").count(), 4, "{list}");
    }

    #[test]
    fn the_readme_is_up_to_date() {
        let folder = copy();
        let page = folder.path().join("experiments/README.md");
        let committed = fs::read_to_string(&page).unwrap();
        succeeds(folder.path(), &["table", "--readme"]);
        let generated = fs::read_to_string(&page).unwrap();
        assert!(committed == generated, "experiments/README.md is not up to date: run `just table --readme`");
        // The check can fail: an experiment more is a line more.
        fs::copy(folder.path().join("experiments/cifar10-resnet20-gmp.toml"), folder.path().join("experiments/a.toml"))
            .unwrap();
        let (out, _) = succeeds(folder.path(), &["table", "--readme"]);
        assert!(out.contains("written anew") && fs::read_to_string(&page).unwrap().contains("| `a` |"));
    }

    #[test]
    fn every_sweep_expands() {
        let folder = copy();
        for entry in fs::read_dir(root().join("experiments/sweeps")).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string();
            let (table, _) = succeeds(folder.path(), &["sweep", &name, "--list"]);
            assert!(table.lines().count() > 2 && table.contains("missing"), "{table}");
        }
    }
}

mod sweeps {
    use super::*;

    fn write(folder: &Path, text: &str) {
        fs::write(folder.join("experiments/sweeps/s.toml"), text).unwrap();
    }

    #[test]
    fn a_crash_of_one_leaves_the_others_and_what_is_done_is_skipped() {
        let folder = project();
        let path = folder.path();
        write(path, "experiment = 'gmp'\n[sweep]\noptimizer.lr = [0.01, 1000]\nseed = [0, 1]\n");
        let sweep = ["sweep", "s", "--jobs", "2", "--device", "cpu", "--threads", "1"];
        let (code, out, err) = call(path, &sweep);
        assert_eq!(code, 1, "{err}");
        assert!(out.contains("2 finished (0 of them before), 0 stopped, 2 failed, 0 not started"), "{out}");
        assert_eq!(out.matches("iteration").count(), 2, "each failure says where the loss was lost: {out}");
        let line = |text: &str, start: &str| {
            text.lines().find(|line| line.trim_start().starts_with(start)).unwrap().to_string()
        };
        assert!(line(&out, "0.01").contains("2 of 2  finished"), "{out}");
        assert!(line(&out, "1000").contains("0 of 2  not finished"), "{out}");
        assert!(out.contains("best by validation: lr=0.01"), "{out}");
        let (_, _, err) = call(path, &sweep);
        assert!(err.contains("4 runs, 2 finished before, 2 to go"), "{err}");
        fails(path, &["train", "experiments/sweeps/s.toml"], &["s.toml is a sweep", "bonsai sweep"]);
    }

    #[test]
    fn an_array_job_runs_one_task_and_its_results_are_collected() {
        let folder = project();
        let path = folder.path();
        write(path, &format!("{SMALL}{GMP}[sweep]\nscheduler.sparsity = [0.5, 0.75]\nseed = [0, 1]\n"));
        let shared = path.join("shared folder");
        let shared = shared.to_str().unwrap();
        let emit = ["sweep", "s", "--emit", "slurm", "--runs", shared, "--threads", "1", "--device", "cpu"];
        let (script, _) = succeeds(path, &emit);
        assert!(script.starts_with("#!/bin/bash\n") && script.contains("#SBATCH --array=1-4\n"), "{script}");
        // The script itself is run, as Slurm would for the third task.
        let file = path.join("array.sh");
        fs::write(&file, &script).unwrap();
        let output =
            Command::new("bash").arg(&file).env("SLURM_ARRAY_TASK_ID", "3").stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (table, _) = succeeds(path, &["sweep", "s", "--list", "--runs", shared]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("0.5") && lines[1].ends_with("0 of 2  missing"), "{table}");
        assert!(lines[2].contains("0.75") && lines[2].ends_with("1 of 2  not finished"), "{table}");
        assert_eq!(files(Path::new(shared), "summary.toml").len(), 1);

        write(path, &format!("{SMALL}{GMP}[sweep]\nscheduler.sparsity = [0.5]\n"));
        fails(path, &["sweep", "s", "--task", "3/4"], &["expands to 1 run", "written for 4", "--emit slurm"]);
    }

    #[test]
    fn mistakes_are_one_sentence() {
        let folder = project();
        let path = folder.path();
        fails(path, &["sweep", "nothing"], &["no sweep `nothing`", "experiments/sweeps/"]);
        fails(path, &["sweep", "gmp"], &["gmp.toml: it has no section [sweep]", "bonsai train"]);
        write(path, "experiment = 'gmpp'\n[sweep]\nseed = [0]\n");
        fails(path, &["sweep", "s", "--list"], &["s.toml, seed=0: unknown experiment `gmpp`; did you mean `gmp`?"]);
        write(path, "experiment = 'gmp'\n[sweep]\noptimizer.lrr = [0.1]\n");
        fails(path, &["sweep", "s", "--list"], &["s.toml, optimizer.lrr=0.1: ", "did you mean `optimizer.lr`?"]);
        write(path, "experiment = 'gmp'\n[sweep]\nscheduler.sparsity = [0.5, 1.5]\n");
        fails(path, &["sweep", "s"], &["scheduler.sparsity=1.5", "1.5"]);
        write(path, "experiment = 'gmp'\nset = ['seed=1']\n[sweep]\nlog_every = [10, 20]\n");
        fails(path, &["sweep", "s", "--list"], &["log_every=10 and log_every=20 are the same run"]);
        fails(path, &["sweep", "s", "--task", "0/1"], &["as in 3/12"]);
    }
}
