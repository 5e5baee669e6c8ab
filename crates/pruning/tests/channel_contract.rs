//! The contract of every scheduler that removes channels: one table, one row per configuration, the same promises for all.
//!
//! A small residual network stands in for a real one. Training is imitated by a fixed noise; the scales of
//! normalisations follow the scheduler's own hooks.

use bonsai_pruning::channels::{GroupKind, Role};
use bonsai_pruning::graph::{Node, Op};
use bonsai_pruning::{
    Clock, Engine, EngineState, GateMeans, Graph, GroupScales, Horizon, Kind, LayerSpec, Mask, Options, Removes, build,
    names,
};

const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

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

/// The widths of the network's three groups: the stream, and the insides of two blocks.
type Widths = [usize; 3];

const FULL: Widths = [8, 12, 10];

/// A stem, two residual blocks and a classifier.
fn graph([stream, first, second]: Widths) -> Graph {
    let mut graph = Graph::default();
    let mut node = |op, inputs: &[usize], width| {
        graph.nodes.push(Node { op, inputs: inputs.to_vec(), width });
        graph.nodes.len() - 1
    };
    let mut layers = Vec::new();
    let mut conv = |node: &mut dyn FnMut(Op, &[usize], usize) -> usize, path: &str, x, inputs, outputs| {
        let shape = vec![outputs, inputs, 3, 3];
        layers.push(LayerSpec {
            name: format!("{path}.weight"),
            kind: Kind::Conv,
            shape,
            macs: (outputs * inputs * 9 * 16) as u64,
        });
        let conv = node(Op::Layer { path: path.to_string(), bias: false, padded: true }, &[x], outputs);
        node(Op::BatchNorm { path: format!("{path}_bn") }, &[conv], outputs)
    };
    let image = node(Op::Input, &[], 3);
    let mut x = conv(&mut node, "stem", image, 3, stream);
    for (block, width) in [("a", first), ("b", second)] {
        let y = conv(&mut node, &format!("{block}.conv1"), x, stream, width);
        let y = node(Op::Relu, &[y], width);
        let y = conv(&mut node, &format!("{block}.conv2"), y, width, stream);
        x = node(Op::Add, &[y, x], stream);
    }
    x = node(Op::Pool, &[x], stream);
    x = node(Op::Layer { path: "fc".to_string(), bias: true, padded: false }, &[x], 10);
    node(Op::Output, &[x], 10);
    layers.push(LayerSpec {
        name: "fc.weight".to_string(),
        kind: Kind::Linear,
        shape: vec![10, stream],
        macs: 10 * stream as u64,
    });
    let weights: usize = layers.iter().map(LayerSpec::weights).sum();
    graph.parameters = (weights + 10 + 2 * (3 * stream + first + second)) as u64;
    graph.layers = layers;
    graph.gates = vec!["a.conv1".to_string(), "b.conv1".to_string()];
    graph
}

fn engine(row: &Row, compact: bool) -> Engine {
    let table = format!("{}\ncompact = {compact}", row.table).parse().unwrap();
    let (scheduler, common) = build(&table, RUN).unwrap();
    let options = Options { floor: common.floor, channels: common.channels, ..Options::default() };
    Engine::new(&graph(FULL), scheduler, options).unwrap()
}

/// A number in [-1, 1) that depends on its arguments alone.
fn noise(t: u64, name: &str, i: usize) -> f32 {
    let mut x = name.bytes().fold(t + 1, |x, byte| x.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    x = (x ^ i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A training run that knows which of the first units are left and what scale each of them has.
struct Training {
    engine: Engine,
    /// By group: the units of the full network that are left, and their scales.
    left: Vec<(String, Vec<usize>, Vec<f32>)>,
    compact: bool,
    done: u64,
}

impl Training {
    fn start(mut engine: Engine, compact: bool) -> Self {
        let mut left: Vec<(String, Vec<usize>, Vec<f32>)> = engine
            .groups()
            .map(|(group, _)| (group.name.clone(), (0..group.units).collect(), vec![1.0; group.units]))
            .collect();
        for (name, _) in engine.scales() {
            let (_, _, scales) = left.iter_mut().find(|(group, ..)| *group == name).unwrap();
            engine.start_scales(&name, scales);
        }
        engine.begin(&weights(&engine, &left));
        let mut training = Self { engine, left, compact, done: 0 };
        training.check_masks();
        if compact {
            training.cut();
        }
        training
    }

    fn step(&mut self, row: &Row) {
        self.done += 1;
        let clock = Clock { iteration: self.done, horizon: RUN, lr: 0.1 };
        let scaled = self.engine.scales().into_iter().map(|(name, _)| {
            let (group, units, scales) = self.left.iter().find(|(group, ..)| *group == name).unwrap();
            let gradient = units.iter().map(|unit| noise(self.done, &name, *unit) / 10.0).collect();
            GroupScales { group: group.clone(), scales: scales.clone(), gradient }
        });
        let mut groups: Vec<GroupScales> = scaled.collect();
        self.engine.penalty(&clock, &mut groups);
        for GroupScales { group: name, gradient, .. } in groups {
            let (_, _, scales) = self.left.iter_mut().find(|(group, ..)| *group == name).unwrap();
            scales.iter_mut().zip(gradient).for_each(|(scale, gradient)| *scale -= 0.1 * gradient);
            self.engine.after_step(&clock, &name, scales);
        }
        if self.engine.masks_units() {
            let by_group = |what: &str, at: f32| -> Vec<Vec<f32>> {
                let value = |name: &String, unit: &usize| at + noise(0, &format!("{what} {name}"), *unit) / 10.0;
                self.left.iter().map(|(name, units, _)| units.iter().map(|unit| value(name, unit)).collect()).collect()
            };
            let (sizes, slopes) = (by_group("size", 1.0), by_group("slope", 0.0));
            let masks = self.engine.mask_units_of(&sizes);
            assert!(masks.iter().all(|mask| mask.kept() > 0));
            self.engine.learn_masks(&clock, &slopes);
        }
        let event = self.engine.due(&clock);
        if event.is_some() && self.engine.has_gates() {
            let units = |name: &str| &self.left.iter().find(|(group, ..)| group == name).unwrap().1;
            let means = |name: &String| {
                let open: Vec<f32> = units(name).iter().map(|unit| noise(0, name, *unit) / 2.0 + 0.5).collect();
                GateMeans { probability: open.clone(), open }
            };
            let means: Vec<GateMeans> = self.engine.graph().gates.iter().map(means).collect();
            self.engine.see_gates(&means);
        }
        let promised = (row.event)(self.done);
        assert_eq!(event.map(|event| event.cut.is_some()), promised.map(|_| true), "{} at {}", row.table, self.done);
        let (Some(event), Some(macs)) = (event, promised) else { return };
        assert!(event.removes());

        let before: Vec<Mask> = self.engine.groups().map(|(_, kept)| kept.clone()).collect();
        let weights = self.shaped(&clock);
        let change = self.engine.apply(&clock, &event, &weights, None);
        let share = self.engine.macs() as f64 / self.engine.dense_macs() as f64;
        assert!(share <= macs + 1e-12, "{} at {}: {share}", row.table, self.done);
        for ((group, kept), before) in self.engine.groups().zip(&before) {
            assert!(kept.kept() > 0 && kept.iter().zip(before.iter()).all(|(now, before)| before || !now));
            assert!(group.kind == GroupKind::Inner || row.table.contains("stream") || kept.kept() == kept.len());
            if row.table.contains("round_to = 2") {
                assert!(kept.kept().is_multiple_of(2), "{}", group.name);
            }
        }
        let lost: usize = change.groups.iter().map(|group| group.pruned).sum();
        assert_eq!(lost > 0, change.changed);
        self.check_masks();
        if self.compact {
            self.cut();
        }
    }

    /// The weights after one step of the penalties that the method puts on them.
    fn shaped(&mut self, clock: &Clock) -> Vec<Vec<f32>> {
        let mut all = weights(&self.engine, &self.left);
        for layer in self.engine.shaped_layers(clock) {
            assert!(["a.conv1.weight", "b.conv1.weight"].contains(&layer.name.as_str()), "{}", layer.name);
            let at = self.engine.layers().iter().position(|known| *known == layer).unwrap();
            let mut gradient = vec![0.0; layer.weights()];
            self.engine.weight_penalty(clock, &layer, &all[at], &mut gradient);
            all[at].iter_mut().zip(gradient).for_each(|(weight, gradient)| *weight -= 0.1 * gradient);
            self.engine.after_weight_step(clock, &layer, &mut all[at]);
        }
        all
    }

    /// Holds the masks of weights to those of units, and the counts to a network of the widths that are left.
    fn check_masks(&self) {
        let smaller = graph(self.widths());
        assert_eq!(self.engine.macs(), smaller.macs());
        assert_eq!(self.engine.kept(), smaller.weights() as u64);
        assert_eq!(self.engine.parameters(), smaller.parameters);
    }

    fn widths(&self) -> Widths {
        let kept: Vec<usize> = self.engine.groups().map(|(_, kept)| kept.kept()).collect();
        [kept[0], kept[1], kept[2]]
    }

    fn cut(&mut self) {
        for ((_, units, scales), (_, kept)) in self.left.iter_mut().zip(self.engine.groups()) {
            *units = units.iter().zip(kept.iter()).filter_map(|(unit, kept)| kept.then_some(*unit)).collect();
            *scales = scales.iter().zip(kept.iter()).filter_map(|(scale, kept)| kept.then_some(*scale)).collect();
        }
        self.engine.compact(graph(self.widths()));
        assert!(!self.engine.wants_compaction());
        self.check_masks();
    }

    /// The units of the full network that are left, by group.
    fn survivors(&self) -> Vec<Vec<usize>> {
        let kept = |(units, mask): (&Vec<usize>, &Mask)| -> Vec<usize> {
            units.iter().zip(mask.iter()).filter_map(|(unit, kept)| kept.then_some(*unit)).collect()
        };
        self.left.iter().zip(self.engine.groups()).map(|((_, units, _), (_, mask))| kept((units, mask))).collect()
    }
}

/// Weights whose size depends on the units of the full network that they belong to, so that cutting changes no score.
fn weights(engine: &Engine, left: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<Vec<f32>> {
    let place = |layer: &LayerSpec, axis: usize, at: usize| {
        let member = |(group, mask): (&bonsai_pruning::Group, &Mask)| {
            let member =
                group.members.iter().find(|m| (m.role, m.axis, &m.parameter) == (Role::Weight, axis, &layer.name))?;
            let unit = member.places.iter().position(|places| places.contains(&at))?;
            let units = &left.iter().find(|(name, ..)| *name == group.name)?.1;
            mask.get(unit).then_some(units[unit])
        };
        engine.groups().find_map(member).unwrap_or(at)
    };
    let masked = |layer: &LayerSpec, mask: &Mask| {
        let kernel = layer.width() / layer.shape[1];
        let value = |i: usize| {
            let (row, column) = (place(layer, 0, i / layer.width()), place(layer, 1, i % layer.width() / kernel));
            if mask.get(i) { noise(0, &layer.name, (row * 100 + column) * 9 + i % kernel) } else { 0.0 }
        };
        (0..layer.weights()).map(value).collect()
    };
    engine.layers().iter().zip(engine.masks()).map(|(layer, mask)| masked(layer, mask)).collect()
}

fn train(row: &Row, compact: bool, interrupted: &[u64]) -> Training {
    let mut training = Training::start(engine(row, compact), compact);
    for iteration in 1..=RUN.total() {
        training.step(row);
        if interrupted.contains(&iteration) {
            let text = serde_json::to_string(&training.engine.save()).unwrap();
            let state: EngineState = serde_json::from_str(&text).unwrap();
            let mut fresh = engine(row, compact);
            if compact {
                fresh.resume_at(graph(training.widths()));
            }
            fresh.load(state).unwrap();
            assert_eq!((fresh.masks(), fresh.sparsity()), (training.engine.masks(), training.engine.sparsity()));
            training.engine = fresh;
        }
    }
    training
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
fn every_event_keeps_its_promises_and_something_goes() {
    for row in ROWS {
        for compact in [false, true] {
            let training = train(row, compact, &[]);
            let units: usize = training.survivors().iter().map(Vec::len).sum();
            assert!(units < FULL.iter().sum(), "{}", row.table);
            assert!(training.engine.sparsity() > 0.0);
            if let Some(share) = row.units {
                let inner: usize = training.survivors()[1..].iter().map(Vec::len).sum();
                assert_eq!(inner as f64, share * (FULL[1] + FULL[2]) as f64, "{}", row.table);
            }
        }
    }
}

#[test]
fn cutting_channels_out_changes_no_decision() {
    for row in ROWS {
        assert_eq!(train(row, true, &[]).survivors(), train(row, false, &[]).survivors(), "{}", row.table);
    }
}

#[test]
fn a_run_that_is_saved_and_loaded_ends_like_one_that_is_not() {
    for row in ROWS {
        for compact in [false, true] {
            let whole = train(row, compact, &[]).survivors();
            assert_eq!(train(row, compact, &[1, 12, 15, 20, 39]).survivors(), whole, "{}", row.table);
        }
    }
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
