//! Every scheduler of this crate that removes weights keeps the contract in `bonsai-testkit`: one table, one row per
//! configuration.

use bonsai_pruning::{Engine, Mask, Options, build, names};
use bonsai_testkit::{Contract, Promise, RUN, graph};

/// What a configuration promises.
struct Row {
    /// The `[scheduler]` table.
    table: &'static str,
    /// The sparsity before the first step.
    start: f64,
    /// What happens at an iteration.
    event: fn(u64) -> Option<Promise>,
    /// Whether the seed has a say.
    random: bool,
}

const ROWS: &[Row] = &[
    Row { table: "name = 'dense'", start: 0.0, event: |_| None, random: false },
    Row {
        table: "name = 'gmp'\nsparsity = 0.9\nend_epoch = 3\nevery = 5",
        start: 0.0,
        event: |t| curve(t, 0, 5, 6, 0.0, 0.9).map(pruned),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nsparsity = 0.8\ninitial_sparsity = 0.3\nstart_epoch = 0.7\nend_epoch = 3.5\nevery = 6",
        start: 0.0,
        event: |t| curve(t, 7, 6, 4, 0.3, 0.8).map(pruned),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nscope = 'global'\nsparsity = 0.9\ninitial_sparsity = 0.2\nend_epoch = 4\nevery = 10",
        start: 0.2,
        event: |t| curve(t, 0, 10, 4, 0.2, 0.9).map(pruned),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nscope = 'lamp'\nsparsity = 0.9\nend_epoch = 3\nevery = 5",
        start: 0.0,
        event: |t| curve(t, 0, 5, 6, 0.0, 0.9).map(pruned),
        random: false,
    },
    Row {
        table: "name = 'granet'\nsparsity = 0.9\nend_epoch = 2\nevery = 4",
        start: 0.0,
        event: |t| t.is_multiple_of(4).then(|| replaced(curve(t, 0, 4, 5, 0.0, 0.9))),
        random: false,
    },
    Row {
        table: "name = 'granet'\nsparsity = 0.85\ninitial_sparsity = 0.5\nstart_epoch = 0.5\nend_epoch = 3\nevery = 7\nreplace = 0.8",
        start: 0.5,
        event: |t| (t >= 5 && (t - 5).is_multiple_of(7)).then(|| replaced(curve(t, 5, 7, 3, 0.5, 0.85))),
        random: true,
    },
    Row {
        table: "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = 0.9\nend_epoch = 2\nevery = 4",
        start: 0.0,
        event: |t| t.is_multiple_of(4).then(|| replaced(curve(t, 0, 4, 5, 0.0, 0.9).filter(|_| t < 20))),
        random: false,
    },
    Row {
        table: "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 3\nevery = 5",
        start: 0.5,
        event: |t| t.is_multiple_of(5).then(|| replaced(curve(t, 0, 5, 6, 0.5, 0.9).filter(|_| t < 30))),
        random: true,
    },
    Row {
        table: "name = 'rigl'\nsparsity = 0.8\nevery = 6",
        start: 0.8,
        event: |t| (t.is_multiple_of(6) && t < 30).then(|| replaced(None)),
        random: true,
    },
    Row {
        table: "name = 'rigl'\nsparsity = 0.5\nallocation = 'uniform'\nevery = 3\nend_epoch = 4\ndrop = 0.6",
        start: 0.5,
        event: |t| (t.is_multiple_of(3) && t < 40).then(|| replaced(None)),
        random: true,
    },
    Row {
        table: "name = 'set'\nsparsity = 0.9\nevery = 10",
        start: 0.9,
        event: |t| (t.is_multiple_of(10) && t < 40).then(|| replaced(None)),
        random: true,
    },
    Row {
        table: "name = 'set'\nsparsity = 0.6\nallocation = 'uniform'\nevery = 1\ndrop = 0.9",
        start: 0.6,
        event: |t| (t < 40).then(|| replaced(None)),
        random: true,
    },
    Row { table: "name = 'static'\nsparsity = 0.9", start: 0.9, event: |_| None, random: true },
    Row { table: "name = 'static'\nsparsity = 0.7\nallocation = 'uniform'", start: 0.7, event: |_| None, random: true },
];

fn pruned(sparsity: f64) -> Promise {
    Promise::prunes_to(sparsity)
}

/// Weights are replaced, after they were pruned where there is a sparsity.
fn replaced(sparsity: Option<f64>) -> Promise {
    sparsity.map_or_else(Promise::replaces, pruned).and_replaces()
}

/// The cubic curve from `s_i` to `s_f` in `n` steps, written apart from the crate's own.
fn curve(t: u64, t0: u64, dt: u64, n: u64, s_i: f64, s_f: f64) -> Option<f64> {
    let due = t >= t0 && t <= t0 + n * dt && (t - t0).is_multiple_of(dt);
    let left = 1.0 - (t.saturating_sub(t0) / dt) as f64 / n as f64;
    due.then_some(s_f + (s_i - s_f) * left * left * left)
}

impl Row {
    fn contract(&self) -> Contract {
        Contract::new(self.table).starts_at(self.start).events(self.event).random(self.random)
    }
}

fn engine(table: &str, exclude: &[&str]) -> Engine {
    let (scheduler, _) = build(&table.parse().unwrap(), RUN).unwrap();
    let exclude = exclude.iter().map(|name| name.to_string()).collect();
    Engine::new(&graph(), scheduler, Options { exclude, ..Options::default() }).unwrap()
}

fn zeros(engine: &Engine) -> Vec<Vec<f32>> {
    engine.layers().iter().map(|layer| vec![0.0; layer.weights()]).collect()
}

/// Schedulers that remove channels; their rows are in `channel_contract.rs`.
const CHANNELS: &[&str] = &[
    "consensus-gating",
    "group-magnitude",
    "lapp",
    "polarization",
    "proximal-slimming",
    "slimming",
    "sparse-group-l0",
    "uniform-width",
];

#[test]
fn every_scheduler_that_removes_weights_has_a_row() {
    for name in names().into_iter().filter(|name| !CHANNELS.contains(name)) {
        let line = format!("name = '{name}'");
        assert!(ROWS.iter().any(|row| row.table.lines().next() == Some(&line)), "`{name}` is missing in the table");
    }
}

#[test]
fn every_row_keeps_the_contract() {
    for row in ROWS {
        row.contract().check();
    }
}

#[test]
fn gradual_magnitude_pruning_never_brings_a_weight_back() {
    for row in ROWS.iter().filter(|row| row.table.starts_with("name = 'gmp'")) {
        row.contract().never_grows().check();
    }
}

#[test]
#[should_panic(expected = "weights return at")]
fn a_scheduler_that_regrows_breaks_the_promise_never_to() {
    Contract::new("name = 'set'\nsparsity = 0.5\nevery = 5").never_grows().check();
}

#[test]
#[should_panic(expected = "iteration 15 is promised to leave a sparsity of 0.5")]
fn a_wrong_sparsity_breaks_the_contract() {
    Contract::new("name = 'gmp'\nsparsity = 0.9\nend_epoch = 3\nevery = 15").prunes_to(15, 0.5).check();
}

#[test]
fn excluded_layers_are_not_seen_and_their_cost_stays() {
    let mut engine = engine("name = 'static'\nsparsity = 0.9", &["stem", "ties"]);
    assert_eq!(engine.layers().iter().map(|layer| &layer.name[..]).collect::<Vec<_>>(), ["zeros", "tiny", "head"]);
    engine.begin(&zeros(&engine));
    let kept: Vec<u64> = engine.masks().iter().map(|mask| Mask::kept(mask) as u64).collect();
    assert_eq!(kept.iter().sum::<u64>(), 29);
    assert_eq!(engine.macs(), 11 + 10_800 + 7_200 + kept.iter().sum::<u64>());
}

#[test]
fn uniform_random_masks_keep_the_networks_first_layer_dense_unless_it_is_excluded() {
    let kept = |table, exclude: &[&str]| {
        let mut engine = engine(table, exclude);
        engine.begin(&zeros(&engine)).layers.iter().map(|layer| layer.kept).collect::<Vec<_>>()
    };
    assert_eq!(kept("name = 'static'\nsparsity = 0.7\nallocation = 'uniform'", &[]), [108, 49, 21, 1, 27]);
    assert_eq!(kept("name = 'static'\nsparsity = 0.4\nallocation = 'uniform'", &["stem"]), [172, 77, 2, 96]);
}
