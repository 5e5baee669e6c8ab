//! The page of runs in every state: it loads nothing, escapes what runs are called, and survives what they hold.

use std::path::Path;

use bonsai_records::{EpochRow, EventLayer, EventRow, LayerRow, StepRow, Summary};
use bonsai_report::baseline::Dense;
use bonsai_report::entry::{Entry, Extras, entries};
use bonsai_report::figures::sections;
use bonsai_report::page::page;
use bonsai_report::run::Run;
use bonsai_report::{model, tensorboard};
use toml::Table;

/// A finished run of so many epochs, pruned to 90 %.
fn run(experiment: &str, seed: u64, epochs: u64) -> Run {
    let config = format!(
        "name = {experiment:?}\nseed = {seed}\ndata = 'cifar10'\nbatch_size = 10\ntrain_records = 100\n[scheduler]\nname = 'gmp'\n"
    );
    let row = |epoch: u64| EpochRow {
        epoch,
        iteration: 10 * (epoch + 1),
        train_loss: 2.0 / (epoch + 1) as f64,
        valid_loss: 2.5 / (epoch + 1) as f64,
        train_accuracy: 0.5,
        valid_accuracy: 0.4,
        sparsity: 0.9,
        macs: 1000,
        parameters: 100,
        seconds: 2.0,
        images_per_second: 60.0,
        ..EpochRow::default()
    };
    let step = |epoch| StepRow {
        epoch,
        iteration: 10 * epoch + 1,
        milliseconds: 3.0,
        forward_sparse: 2.0,
        batch_norm: 1.0,
        ..StepRow::default()
    };
    let layer = |epoch| LayerRow {
        epoch,
        name: "fc.weight".into(),
        weights: 1000,
        kept: 100,
        sparsity: 0.9,
        ..LayerRow::default()
    };
    let event = |iteration| EventRow {
        iteration,
        sparsity: 0.9,
        kept: 100,
        pruned: 50,
        grown: 20,
        layers: vec![EventLayer { name: "fc.weight".into(), kept: 100, pruned: 50, grown: 20 }],
        ..EventRow::default()
    };
    Run {
        folder: "runs/x".into(),
        config: config.parse::<Table>().unwrap(),
        epochs: (0..epochs).map(row).collect(),
        layers: (0..epochs).map(layer).collect(),
        events: if epochs > 0 { [0, 5, 9].map(event).into() } else { Vec::new() },
        kernels: Vec::new(),
        steps: (0..epochs).map(step).collect(),
        summary: Some(Summary {
            run: experiment.into(),
            data: "cifar10".into(),
            seed,
            epochs,
            prunable: 1000,
            kept: 100,
            nonzero: 100,
            sparsity: 0.9,
            macs: 1000,
            dense_macs: 10_000,
            parameters: 1000,
            final_test_accuracy: 0.4,
            ..Summary::default()
        }),
    }
}

fn drawn(runs: Vec<Run>) -> (Vec<Entry>, String) {
    let entries = entries(runs.into_iter().map(|run| (run, Extras::default())).collect());
    let page = page(&entries, Path::new("report.html"));
    (entries, page)
}

/// Asserts what holds for every page.
fn sound(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
    assert!(!page.contains("<script") && !page.contains("@import") && !page.contains("url("));
    // The only address is the name of SVG's vocabulary, which nobody loads.
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count(), "{addresses}");
    for attribute in ["src=", "srcset=", "<iframe", "<object", "<embed", "<img"] {
        assert!(!page.contains(attribute), "{attribute}");
    }
    for tag in ["section", "figure", "svg", "table", "tr", "td", "div", "g", "text"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

fn has(page: &str, id: &str) -> bool {
    page.contains(&format!("id=\"{id}\""))
}

#[test]
fn runs_of_two_experiments_have_all_sections() {
    let (entries, page) = drawn(vec![run("a-gmp", 0, 3), run("a-gmp", 1, 3), run("a-set", 0, 3), run("a-set", 1, 3)]);
    sound(&page);
    let ids = [
        "runs",
        "learning",
        "pareto",
        "sparsity",
        "layers",
        "time",
        "seeds",
        "configuration",
        "accuracy-epochs",
        "accuracy-time",
        "accuracy-macs",
        "loss-epochs",
        "pareto-macs",
        "pareto-parameters",
        "pareto-milliseconds",
        "sparsity-epochs",
        "turnover-gmp-seed-0",
        "layers-gmp-seed-0",
        "layers-set-seed-0",
        "images-per-second",
        "steps-gmp-seed-0",
        "steps-set-seed-0",
    ];
    for id in ids {
        assert!(has(&page, id), "{id}");
    }
    // Every link within the page leads somewhere.
    for link in page.split("href=\"#").skip(1) {
        let target = link.split('"').next().unwrap();
        assert!(has(&page, target), "{target}");
    }
    for figure in sections(&entries).iter().flat_map(|section| &section.figures) {
        let file = figure.picture.file();
        assert!(file.starts_with("<svg") && file.contains("width=\"360\"") && !file.contains("var("), "{}", figure.id);
        assert!(!figure.id.contains(['/', ' ', '.']), "{}", figure.id);
    }
}

#[test]
fn names_are_escaped() {
    let mut evil = run("<script>alert(1)</script>&\"'", 0, 2);
    evil.layers[0].name = "<b>layer</b>".into();
    evil.summary.as_mut().unwrap().data_warnings = vec!["<i>warning</i>".into()];
    let (entries, page) = drawn(vec![evil, run("plain", 0, 2)]);
    sound(&page);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<b>layer") && !page.contains("<i>warning"));
    let folder = tempfile::tempdir().unwrap();
    let path = tensorboard::write(&entries[0], folder.path()).unwrap();
    assert!(path.starts_with(folder.path()) && !path.to_string_lossy().contains('<'), "{}", path.display());
}

#[test]
fn runs_that_hold_little_or_nonsense_are_shown_as_they_are() {
    let mut lost = run("lost", 0, 3);
    for row in &mut lost.epochs {
        (row.train_loss, row.valid_loss, row.valid_accuracy, row.images_per_second) =
            (f64::NAN, f64::INFINITY, f64::NAN, 0.0);
    }
    let summary = lost.summary.as_mut().unwrap();
    (summary.final_valid_accuracy, summary.images_per_second) = (f64::NAN, f64::INFINITY);
    let unfinished = Run { summary: None, ..run("unfinished", 0, 1) };
    let empty = Run { summary: None, config: Table::new(), ..run("empty", 0, 0) };
    let bare = Run { config: Table::new(), layers: Vec::new(), events: Vec::new(), ..run("bare", 0, 2) };
    for one in [&lost, &unfinished, &empty, &bare, &run("one-epoch", 0, 1), &run("none", 0, 0)] {
        sound(&drawn(vec![one.clone()]).1);
    }
    let (_, page) = drawn(vec![lost, unfinished, empty, bare]);
    sound(&page);
    assert!(page.contains("not finished: 1 epoch") && page.contains("No epoch is recorded"));
    sound(&drawn(vec![]).1);
}

#[test]
fn an_accuracy_off_its_target_does_not_count() {
    let mut missed = run("x-missed", 0, 2);
    let summary = missed.summary.as_mut().unwrap();
    (summary.kept, summary.target_sparsity) = (300, Some(0.9));
    let (_, page) = drawn(vec![missed, run("x-dense", 0, 2)]);
    sound(&page);
    assert!(page.contains("does not count: 300 weights stay where 100 were asked for"));
    assert!(page.contains("class=\"open c0\""));
}

#[test]
fn the_distance_from_the_dense_run_is_always_shown() {
    let dense = |seed| {
        let mut dense = run("x-dense", seed, 2);
        dense.config["scheduler"]["name"] = "dense".into();
        let summary = dense.summary.as_mut().unwrap();
        (summary.kept, summary.macs, summary.final_test_accuracy) = (1000, 10_000, 0.425);
        dense
    };
    let page_of = |all: Vec<(Run, Extras)>| {
        let page = page(&entries(all), Path::new("report.html"));
        sound(&page);
        assert!(page.contains("<th>under dense</th>"));
        page
    };
    let plain = |run| (run, Extras::default());
    assert!(page_of(vec![plain(run("x-gmp", 0, 2)), plain(dense(0))]).contains("<td>2.50</td>"));
    assert!(page_of(vec![plain(run("x-gmp", 1, 2)), plain(dense(0))]).contains("<td>2.50 (other seed)</td>"));
    // Also where it lies beside the runs of the page, and the one of the same seed before another.
    let beside = Extras { dense: Dense::of(&dense(1)), ..Extras::default() };
    assert!(page_of(vec![(run("x-gmp", 1, 2), beside.clone())]).contains("<td>2.50</td>"));
    assert!(page_of(vec![(run("x-gmp", 1, 2), beside), plain(dense(0))]).contains("<td>2.50</td>"));
    assert!(page_of(vec![plain(run("x-gmp", 0, 2))]).contains("<td>–</td>"));
    // A dense run alone has no distance.
    assert!(!drawn(vec![dense(0)]).1.contains("under dense"));
}

#[test]
fn dead_channels_raise_an_alarm() {
    let weight = model::Weight { shape: vec![2, 1, 1, 2], values: vec![1.0; 4], kept: vec![true, false, false, false] };
    let extras = Extras { model: [("fc.weight".to_string(), weight)].into(), ..Extras::default() };
    let entries = entries(vec![(run("x", 0, 2), extras)]);
    let page = page(&entries, Path::new("report.html"));
    sound(&page);
    assert!(page.contains("Dead channels in fc: 1 of 2 output channels (50.00 %) have no weight left"));
    assert!(has(&page, "weights-x-seed-0") && page.contains("label alarm"));
}

#[test]
fn many_runs_keep_their_colours_apart() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let (entries, page) = drawn(names.iter().map(|name| run(name, 0, 2)).collect());
    sound(&page);
    assert_eq!(entries.last().unwrap().group, 8);
    assert!(page.contains("line c1 dashed"));
}
