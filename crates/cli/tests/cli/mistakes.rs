//! Wrong calls, files and data: one sentence each, and the right exit code.

use super::*;

#[test]
fn wrong_arguments_are_the_users() {
    let granet = "cifar10-resnet20-granet";
    let table: &[(&[&str], &[&str])] = &[
        (&["trian"], &["train"]),
        (&["train"], &["EXPERIMENT"]),
        (&["train", granet, "--devise", "cpu"], &["--device"]),
        (&["train", granet, "--device", "gpu"], &["auto, cpu, ndarray, wgpu, cuda"]),
        (&["train", granet, "--device", "cpu", "--devices", "0,1"], &["--device cpu is the CPU here"]),
        (&["train", granet, "--devices", "0,0"], &["names 0 again"]),
        (&["train", granet, "--devices", "0,one"], &["--devices"]),
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
        (&["eval", "experiments", "--recalibrate", "0"], &["give a whole number from 1 to 100000"]),
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
    for name in ["gmp", "granet", "static", "dense"] {
        let methods = "which belongs to consensus-gating, group-magnitude, lapp, polarization, proximal-slimming";
        let sentence = format!("--macs 0.5: scheduler `{name}` has no key `macs`, {methods}");
        plan(&format!("cifar10-resnet20-{name}"), "0.5").fails(2, &[&sentence]);
    }
    let set = ["plan", "cifar10-resnet20-gmp", "--set", "scheduler.macs=0.5"];
    bonsai(&set).fails(2, &["error: scheduler `gmp` has no key `macs`, which belongs to", "(keys of gmp: "]);
    plan("cifar10-resnet20-polarization", "0.01").fails(2, &["`macs` is 0.01, but this network costs 0.0"]);
    // Where the file gives a share of channels, the cost takes its place.
    for name in ["slimming", "polarization", "proximal-slimming", "group-magnitude"] {
        let call = plan(&format!("cifar10-resnet20-{name}"), "0.3").succeeds();
        // Iteration, epoch, sparsity and its sign, weights, then the cost, which `~` marks as projected.
        let cost = |line: &str| line.split_whitespace().nth(5)?.trim_start_matches('~').replace(',', "").parse().ok();
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
