//! Every scheduler of this crate that removes channels keeps the contract in `bonsai-testkit`: one table, one row per
//! configuration.

use bonsai_pruning::graph::Op;
use bonsai_pruning::{Engine, Graph, Options, Removes, build, names};
use bonsai_testkit::channels::{FULL, graph};
use bonsai_testkit::{ChannelContract, RUN};

/// What a configuration promises.
struct Row {
    /// The `[scheduler]` table.
    table: &'static str,
    /// At an iteration with an event: the share of the multiply-accumulates that it leaves at most.
    event: fn(u64) -> Option<f64>,
    /// The share of the prunable units that is left in the end, where the configuration says so.
    units: Option<f64>,
}

const ROWS: &[Row] = &[
    Row {
        table: "name = 'group-magnitude'\nmacs = 0.4\nend_epoch = 3\nevery = 5",
        event: |t| cost(t, 0, 5, 6, 0.4),
        units: None,
    },
    Row {
        table: "name = 'group-magnitude'\nscope = 'global'\nmacs = 0.3\nstart_epoch = 0.5\nend_epoch = 3\nevery = 5\nround_to = 2",
        event: |t| cost(t, 5, 5, 5, 0.3),
        units: None,
    },
    Row {
        table: "name = 'group-magnitude'\nscope = 'global'\nmacs = 0.2\nend_epoch = 2\nevery = 10\ngroups = ['inner', 'stream']\nfloor = 0.1",
        event: |t| cost(t, 0, 10, 2, 0.2),
        units: None,
    },
    Row {
        table: "name = 'slimming'\nlambda = 0.01\nchannels = 0.5\nend_epoch = 2",
        event: |t| (t == 20).then_some(1.0),
        units: Some(0.5),
    },
    Row {
        table: "name = 'slimming'\nlambda = 0.01\npenalty = 'tl1'\na = 0.5\nmacs = 0.5\nend_epoch = 1.5",
        event: |t| (t == 15).then_some(0.5),
        units: None,
    },
    Row {
        table: "name = 'proximal-slimming'\nlambda = 1.0\nbeta = 10\npatience = 2\nevery = 6\nend_epoch = 3",
        event: |t| (t <= 30 && t.is_multiple_of(6)).then_some(1.0),
        units: None,
    },
    Row {
        table: "name = 'proximal-slimming'\nlambda = 0.2\nbeta = 10\npenalty = 'mcp'\npatience = 1\nevery = 7\nend_epoch = 2\nmacs = 0.6",
        event: |t| if t == 20 { Some(0.6) } else { (t < 20 && t.is_multiple_of(7)).then_some(1.0) },
        units: None,
    },
    Row {
        table: "name = 'group-magnitude'\nnorm = 'l1'\nmacs = 0.5\nend_epoch = 3\nevery = 5",
        event: |t| cost(t, 0, 5, 6, 0.5),
        units: None,
    },
    Row {
        table: "name = 'group-magnitude'\nnorm = 'l1'\nscope = 'global'\nmacs = 0.5\nend_epoch = 3\nevery = 5",
        event: |t| cost(t, 0, 5, 6, 0.5),
        units: None,
    },
    Row {
        table: "name = 'slimming'\nlambda = 0.01\nchannels = 0.5\nend_epoch = 2\ncompat = 'network-slimming'",
        event: |t| (t == 20).then_some(1.0),
        // One channel more than the share.
        units: Some(10.0 / 22.0),
    },
    Row {
        table: "name = 'lapp'\nmacs = 0.6\nend_epoch = 2\nscore = 'scale'",
        event: |t| (t == 20).then_some(0.6),
        units: None,
    },
    Row {
        table: "name = 'polarization'\nlambda = 0.2\nt = 1.0\nend_epoch = 2",
        event: |t| (t == 20).then_some(1.0),
        units: None,
    },
    Row {
        table: "name = 'polarization'\nlambda = 0.2\nt = 1.4\nend_epoch = 2\nmacs = 0.4\nround_to = 2",
        event: |t| (t == 20).then_some(0.4),
        units: None,
    },
    Row { table: "name = 'uniform-width'\nmacs = 0.4", event: |_| None, units: None },
    Row {
        table: "name = 'uniform-width'\nmacs = 0.3\nkeep = 'largest'\ngroups = ['inner', 'stream']",
        event: |_| None,
        units: None,
    },
    Row {
        table: "name = 'sparse-group-l0'\nlambda = 5.8\nbeta = 1e-3\nevery = 5\ngroup = 'prox'\nend_epoch = 2",
        event: |t| (t == 20).then_some(1.0),
        units: None,
    },
    Row {
        table: "name = 'sparse-group-l0'\nlambda = 1e-3\nbeta = 1e-3\npenalty = 'tl1'\nevery = 5\nend_epoch = 2\nmacs = 0.5",
        event: |t| (t == 20).then_some(0.5),
        units: None,
    },
    Row { table: "name = 'lapp'\nmacs = 0.5\nend_epoch = 2", event: |t| (t == 20).then_some(0.5), units: None },
    Row {
        table: "name = 'lapp'\nmacs = 0.25\nend_epoch = 3\nthreshold_lr = 0.5\ngroups = ['inner', 'stream']\nfloor = 0.2",
        event: |t| (t == 30).then_some(0.25),
        units: None,
    },
    Row {
        table: "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 2",
        event: |t| (t == 20).then_some(0.5),
        units: None,
    },
    Row {
        table: "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 1\nexact = false",
        event: |t| (t == 10).then_some(1.0),
        units: None,
    },
];

/// The cost left by the cubic curve from the whole network to `m` in `n` steps, written apart from the crate's own.
fn cost(t: u64, t0: u64, dt: u64, n: u64, m: f64) -> Option<f64> {
    let due = t >= t0 && t <= t0 + n * dt && (t - t0).is_multiple_of(dt);
    let left = 1.0 - (t.saturating_sub(t0) / dt) as f64 / n as f64;
    due.then_some(m + (1.0 - m) * left * left * left)
}

#[test]
fn every_scheduler_that_removes_channels_has_a_row() {
    for name in names() {
        let line = format!("name = '{name}'");
        let row = ROWS.iter().any(|row| row.table.lines().next() == Some(&line));
        let weights = ["dense", "gmp", "granet", "rigl", "set", "static"].contains(&name);
        assert!(row != weights, "`{name}` is missing in the table");
    }
}

#[test]
fn every_row_keeps_the_contract() {
    for row in ROWS {
        let contract = ChannelContract::new(row.table).events(row.event);
        row.units.map_or(contract.clone(), |share| contract.leaves_units(share)).check();
    }
}

#[test]
#[should_panic(expected = "units left")]
fn another_share_of_units_breaks_the_contract() {
    ChannelContract::new("name = 'slimming'\nlambda = 0.01\nchannels = 0.5\nend_epoch = 2").leaves_units(0.25).check();
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let refused = |table: &str, graph: &Graph, exclude: &[&str]| {
        let (scheduler, common) = build(&table.parse().unwrap(), RUN).unwrap();
        assert_ne!(scheduler.removes(), Removes::Weights);
        let exclude = exclude.iter().map(|name| name.to_string()).collect();
        Engine::new(graph, scheduler, Options { exclude, channels: common.channels, ..Options::default() })
            .err()
            .unwrap()
    };
    let magnitude = "name = 'group-magnitude'\nmacs = 0.01\nend_epoch = 2\nevery = 5";
    assert!(
        refused(magnitude, &graph(FULL), &[]).starts_with("`macs` is 0.01, but this network costs 0."),
        "{}",
        refused(magnitude, &graph(FULL), &[])
    );
    let heads = "name = 'group-magnitude'\nmacs = 0.9\nend_epoch = 2\nevery = 5\ngroups = ['heads']";
    assert_eq!(refused(heads, &graph(FULL), &[]), "this network has no channel group of kind heads that may be pruned");
    let spared = "name = 'group-magnitude'\nmacs = 0.9\nend_epoch = 2\nevery = 5";
    assert_eq!(
        refused(spared, &graph(FULL), &["a.conv1.weight", "b.conv1.weight"]),
        "this network has no channel group of kind inner, heads that may be pruned"
    );
    let mut plain = graph(FULL);
    plain.nodes.iter_mut().filter(|node| matches!(node.op, Op::BatchNorm { .. })).for_each(|node| node.op = Op::Relu);
    let slimming = "name = 'slimming'\nlambda = 1e-4\nchannels = 0.5\nend_epoch = 2";
    assert_eq!(
        refused(slimming, &plain, &[]),
        "channels are ranked by the scale of their batch normalisation, and no group of kind inner, heads has one of its own"
    );
    let gating = "name = 'consensus-gating'\nmacs = 0.5\nend_epoch = 2";
    assert_eq!(
        refused(gating, &Graph { gates: Vec::new(), ..graph(FULL) }, &[]),
        "this network has no gates on a group of kind inner, heads that may be pruned; resnet20 to resnet110 have them on \
         their inner groups, unless a bypass runs around them"
    );
    assert_eq!(
        refused(gating, &graph(FULL), &["a.conv1.weight"]),
        "`a.conv1` has gates, so that `exclude` may not name its layer and `groups` must hold its kind"
    );
    let lapp = "name = 'lapp'\nmacs = 0.01\nend_epoch = 2";
    assert!(refused(lapp, &graph(FULL), &[]).starts_with("`macs` is 0.01, but this network costs 0."));
    assert!(refused(slimming, &Graph { nodes: Vec::new(), ..graph(FULL) }, &[]).contains("coupling of `stem.weight`"));
    let polarization = "name = 'polarization'\nlambda = 1e-4\nt = 1.2\nend_epoch = 2";
    assert_eq!(refused(polarization, &plain, &[]), refused(slimming, &plain, &[]));
    // No target is missed in silence, whatever the method.
    for table in [
        polarization,
        "name = 'slimming'\nlambda = 1e-4\nend_epoch = 2",
        "name = 'proximal-slimming'\nlambda = 1e-4\nbeta = 1\npatience = 1\nevery = 1\nend_epoch = 2",
        "name = 'sparse-group-l0'\nlambda = 1e-4\nbeta = 1\nevery = 1\nend_epoch = 2",
        "name = 'uniform-width'",
    ] {
        let sentence = refused(&format!("{table}\nmacs = 0.01"), &graph(FULL), &[]);
        assert!(sentence.starts_with("`macs` is 0.01, but this network costs 0."), "{table}: {sentence}");
    }
}
