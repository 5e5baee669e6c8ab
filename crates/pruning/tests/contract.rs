//! The contract of every scheduler: one table, one row per configuration, the same promises for all.
//!
//! A small network stands in for a real one: a layer with ties, one of zeros only and one of three weights are in it.
//! Training is imitated by a fixed noise on the weights that are kept.

use bonsai_pruning::{Clock, Engine, EngineState, Graph, Horizon, Kind, LayerSpec, Mask, Options, Rules, build, names};

const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

/// What a configuration promises.
struct Row {
    /// The `[scheduler]` table.
    table: &'static str,
    /// The sparsity before the first step.
    start: f64,
    /// At an iteration with an event: the sparsity that it prunes to, if it prunes, and whether it replaces.
    event: fn(u64) -> Option<(Option<f64>, bool)>,
    /// Whether the seed has a say.
    random: bool,
}

const ROWS: &[Row] = &[
    Row { table: "name = 'dense'", start: 0.0, event: |_| None, random: false },
    Row {
        table: "name = 'gmp'\nsparsity = 0.9\nend_epoch = 3\nevery = 5",
        start: 0.0,
        event: |t| curve(t, 0, 5, 6, 0.0, 0.9).map(|s| (Some(s), false)),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nsparsity = 0.8\ninitial_sparsity = 0.3\nstart_epoch = 0.7\nend_epoch = 3.5\nevery = 6",
        start: 0.0,
        event: |t| curve(t, 7, 6, 4, 0.3, 0.8).map(|s| (Some(s), false)),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nscope = 'global'\nsparsity = 0.9\ninitial_sparsity = 0.2\nend_epoch = 4\nevery = 10",
        start: 0.2,
        event: |t| curve(t, 0, 10, 4, 0.2, 0.9).map(|s| (Some(s), false)),
        random: false,
    },
    Row {
        table: "name = 'gmp'\nscope = 'lamp'\nsparsity = 0.9\nend_epoch = 3\nevery = 5",
        start: 0.0,
        event: |t| curve(t, 0, 5, 6, 0.0, 0.9).map(|s| (Some(s), false)),
        random: false,
    },
    Row {
        table: "name = 'granet'\nsparsity = 0.9\nend_epoch = 2\nevery = 4",
        start: 0.0,
        event: |t| t.is_multiple_of(4).then(|| (curve(t, 0, 4, 5, 0.0, 0.9), true)),
        random: false,
    },
    Row {
        table: "name = 'granet'\nsparsity = 0.85\ninitial_sparsity = 0.5\nstart_epoch = 0.5\nend_epoch = 3\nevery = 7\nreplace = 0.8",
        start: 0.5,
        event: |t| (t >= 5 && (t - 5).is_multiple_of(7)).then(|| (curve(t, 5, 7, 3, 0.5, 0.85), true)),
        random: true,
    },
    Row {
        table: "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = 0.9\nend_epoch = 2\nevery = 4",
        start: 0.0,
        event: |t| t.is_multiple_of(4).then(|| (curve(t, 0, 4, 5, 0.0, 0.9).filter(|_| t < 20), true)),
        random: false,
    },
    Row {
        table: "name = 'granet'\ncompat = 'granet-cifar'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 3\nevery = 5",
        start: 0.5,
        event: |t| t.is_multiple_of(5).then(|| (curve(t, 0, 5, 6, 0.5, 0.9).filter(|_| t < 30), true)),
        random: true,
    },
    Row {
        table: "name = 'rigl'\nsparsity = 0.8\nevery = 6",
        start: 0.8,
        event: |t| (t.is_multiple_of(6) && t < 30).then_some((None, true)),
        random: true,
    },
    Row {
        table: "name = 'rigl'\nsparsity = 0.5\nallocation = 'uniform'\nevery = 3\nend_epoch = 4\ndrop = 0.6",
        start: 0.5,
        event: |t| (t.is_multiple_of(3) && t < 40).then_some((None, true)),
        random: true,
    },
    Row {
        table: "name = 'set'\nsparsity = 0.9\nevery = 10",
        start: 0.9,
        event: |t| (t.is_multiple_of(10) && t < 40).then_some((None, true)),
        random: true,
    },
    Row {
        table: "name = 'set'\nsparsity = 0.6\nallocation = 'uniform'\nevery = 1\ndrop = 0.9",
        start: 0.6,
        event: |t| (t < 40).then_some((None, true)),
        random: true,
    },
    Row { table: "name = 'static'\nsparsity = 0.9", start: 0.9, event: |_| None, random: true },
    Row { table: "name = 'static'\nsparsity = 0.7\nallocation = 'uniform'", start: 0.7, event: |_| None, random: true },
];

/// The cubic curve from `s_i` to `s_f` in `n` steps, written apart from the crate's own.
fn curve(t: u64, t0: u64, dt: u64, n: u64, s_i: f64, s_f: f64) -> Option<f64> {
    let due = t >= t0 && t <= t0 + n * dt && (t - t0).is_multiple_of(dt);
    let left = 1.0 - (t.saturating_sub(t0) / dt) as f64 / n as f64;
    due.then_some(s_f + (s_i - s_f) * left * left * left)
}

/// What every configuration is put through.
const VARIANTS: &[(f64, &[&str])] = &[(0.0, &[]), (0.05, &[]), (0.0, &["stem"]), (0.02, &["ties", "head"])];

const ZEROS: &str = "zeros";

fn graph() -> Graph {
    let layer =
        |name: &str, kind, shape: &[usize], macs| LayerSpec { name: name.into(), kind, shape: shape.to_vec(), macs };
    let layers = vec![
        layer("stem", Kind::Conv, &[4, 3, 3, 3], 10_800),
        layer("ties", Kind::Conv, &[8, 4, 3, 3], 7_200),
        layer(ZEROS, Kind::Linear, &[16, 8], 128),
        layer("tiny", Kind::Linear, &[1, 3], 3),
        layer("head", Kind::Linear, &[10, 16], 160),
    ];
    Graph { layers, parameters: 700, fixed_macs: 11, ..Graph::default() }
}

fn engine(row: &Row, seed: u64, (floor, exclude): (f64, &[&str])) -> Engine {
    let (scheduler, _) = build(&row.table.parse().unwrap(), RUN).unwrap();
    let exclude = exclude.iter().map(|name| name.to_string()).collect();
    Engine::new(&graph(), scheduler, Options { exclude, floor, seed, ..Options::default() }).unwrap()
}

/// A number in [-1, 1) that depends on its arguments alone.
fn noise(t: u64, layer: &str, i: usize) -> f32 {
    let mut x = layer.bytes().fold(t + 1, |x, byte| x.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    x = (x ^ i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A training run that has only weights, moments and masks.
struct Training {
    engine: Engine,
    weights: Vec<Vec<f32>>,
    moments: Vec<Vec<f32>>,
    done: u64,
}

impl Training {
    fn start(mut engine: Engine) -> Self {
        let value = |layer: &LayerSpec, i| match layer.name.as_str() {
            ZEROS => 0.0,
            "ties" => (noise(0, "ties", i) * 3.0).round() / 10.0,
            name => noise(0, name, i),
        };
        let mut weights: Vec<Vec<f32>> =
            engine.layers().iter().map(|layer| (0..layer.weights()).map(|i| value(layer, i)).collect()).collect();
        let change = engine.begin(&weights);
        for (weights, layer) in weights.iter_mut().zip(&change.layers) {
            multiply(weights, &layer.retained);
        }
        let moments = weights.iter().map(|weights| vec![0.0; weights.len()]).collect();
        Self { engine, weights, moments, done: 0 }
    }

    /// Takes one step and checks what its event promises.
    fn step(&mut self, row: &Row, least: &[usize]) {
        self.done += 1;
        let clock = Clock { iteration: self.done, horizon: RUN, lr: 0.1 };
        self.train();
        let event = self.engine.due(&clock);
        let promised = (row.event)(self.done);
        assert_eq!(
            event.map(|event| (event.sparsity.is_some(), event.replace.is_some())),
            promised.map(|(s, r)| (s.is_some(), r)),
            "at {}",
            self.done
        );
        let (Some(event), Some((sparsity, _))) = (event, promised) else { return };
        assert!(event.sparsity.is_none_or(|s| (s - sparsity.unwrap()).abs() < 1e-12));

        let before = self.engine.masks().to_vec();
        let gradients = self.gradients();
        let change = self.engine.apply(&clock, &event, &self.weights, event.dense_gradients.then_some(&gradients[..]));
        for (l, layer) in change.layers.iter().enumerate() {
            multiply(&mut self.weights[l], &layer.retained);
            multiply(&mut self.moments[l], &layer.retained);
        }
        self.check(&before, &change, sparsity, event.sparsity.is_none(), least);
    }

    fn train(&mut self) {
        for ((layer, mask), (weights, moments)) in
            self.engine.layers().iter().zip(self.engine.masks()).zip(self.weights.iter_mut().zip(&mut self.moments))
        {
            for i in (0..mask.len()).filter(|&i| mask.get(i)) {
                let step = noise(self.done, &layer.name, i);
                match layer.name.as_str() {
                    ZEROS => {}
                    "ties" => weights[i] += step.round() / 10.0,
                    _ => weights[i] += step / 10.0,
                }
                moments[i] += 1.0;
            }
        }
    }

    /// Gradients with many ties and, in one layer, without a single value.
    fn gradients(&self) -> Vec<Vec<f32>> {
        let gradient =
            |name: &str, i| if name == "tiny" { 0.0 } else { (noise(self.done + 1000, name, i) * 4.0).round() };
        self.engine
            .layers()
            .iter()
            .map(|layer| (0..layer.weights()).map(|i| gradient(&layer.name, i)).collect())
            .collect()
    }

    fn check(
        &self,
        before: &[Mask],
        change: &bonsai_pruning::Change,
        sparsity: Option<f64>,
        counts_stay: bool,
        least: &[usize],
    ) {
        let total: usize = before.iter().map(Mask::len).sum();
        let kept: usize = change.layers.iter().map(|layer| layer.kept).sum();
        let exact = self.engine.scheduler().rules() == Rules::Exact;
        assert_eq!((kept as u64, total as u64), (self.engine.kept(), self.engine.total()));
        assert_eq!(change.sparsity, 1.0 - kept as f64 / total as f64);
        match sparsity {
            Some(sparsity) if exact => assert_eq!(kept, promised_count(total, sparsity, least), "at {}", self.done),
            Some(sparsity) => assert!(kept < (total as f64 * (1.0 - sparsity)) as usize, "at {}", self.done),
            None => assert_eq!(kept, before.iter().map(Mask::kept).sum::<usize>()),
        }
        for (l, layer) in change.layers.iter().enumerate() {
            let (before, after) = (&before[l], &self.engine.masks()[l]);
            assert_eq!((after.len(), after.kept()), (before.len(), layer.kept));
            assert_eq!(before.kept() + layer.grown - layer.pruned, layer.kept);
            assert!(!exact || layer.kept >= least[l], "{} keeps {}", layer.name, layer.kept);
            assert!(!counts_stay || layer.pruned == layer.grown);
            for i in 0..after.len() {
                let retained = layer.retained.get(i);
                assert!(!retained || before.get(i) && after.get(i), "what is retained was kept before and is now");
                assert!(after.get(i) || self.weights[l][i] == 0.0 && self.moments[l][i] == 0.0);
                assert!(
                    before.get(i) || self.weights[l][i] == 0.0 && self.moments[l][i] == 0.0,
                    "what grows starts at zero"
                );
            }
        }
    }
}

fn multiply(values: &mut [f32], mask: &Mask) {
    for (value, kept) in values.iter_mut().zip(mask.iter()) {
        *value *= f32::from(u8::from(kept));
    }
}

fn promised_count(total: usize, sparsity: f64, least: &[usize]) -> usize {
    ((total as f64 * (1.0 - sparsity)).round_ties_even() as usize).max(least.iter().sum())
}

fn least(engine: &Engine, floor: f64) -> Vec<usize> {
    engine.layers().iter().map(|layer| ((layer.weights() as f64 * floor).ceil() as usize).max(1)).collect()
}

/// Trains to the end, through JSON after the iterations in `interrupted`.
fn train(row: &Row, seed: u64, variant: (f64, &[&str]), interrupted: &[u64]) -> (Vec<Mask>, Vec<Vec<f32>>) {
    let first = engine(row, seed, variant);
    let least = least(&first, variant.0);
    let mut training = Training::start(first);
    for iteration in 1..=RUN.total() {
        training.step(row, &least);
        if interrupted.contains(&iteration) {
            let text = serde_json::to_string(&training.engine.save()).unwrap();
            let state: EngineState = serde_json::from_str(&text).unwrap();
            let mut fresh = engine(row, seed, variant);
            fresh.load(state).unwrap();
            assert_eq!(fresh.masks(), training.engine.masks());
            assert_eq!(fresh.observe(), training.engine.observe());
            training.engine = fresh;
        }
    }
    (training.engine.masks().to_vec(), training.weights)
}

#[test]
fn every_scheduler_that_removes_weights_has_a_row() {
    // Those that remove channels have theirs in `channel_contract.rs`.
    for name in names()
        .into_iter()
        .filter(|name| !["consensus-gating", "group-magnitude", "lapp", "slimming", "proximal-slimming"].contains(name))
    {
        let line = format!("name = '{name}'");
        assert!(ROWS.iter().any(|row| row.table.lines().next() == Some(&line)), "`{name}` is missing in the table");
    }
}

#[test]
fn every_event_keeps_its_promises() {
    for row in ROWS {
        for &variant in VARIANTS {
            println!("{:?} {variant:?}", row.table);
            train(row, 0, variant, &[]);
        }
    }
}

#[test]
fn the_start_is_exact_and_leaves_no_layer_empty() {
    for row in ROWS {
        for &variant in VARIANTS {
            let mut engine = engine(row, 3, variant);
            let weights: Vec<Vec<f32>> = engine.layers().iter().map(|layer| vec![0.0; layer.weights()]).collect();
            let change = engine.begin(&weights);
            let least = least(&engine, variant.0);
            if engine.scheduler().rules() == Rules::Exact {
                assert_eq!(
                    engine.kept() as usize,
                    promised_count(engine.total() as usize, row.start, &least),
                    "{}",
                    row.table
                );
                assert!(engine.masks().iter().zip(least).all(|(mask, least)| mask.kept() >= least));
            } else {
                // Drawn one by one: within four standard deviations of a fair coin.
                let expected = engine.total() as f64 * (1.0 - row.start);
                assert!((engine.kept() as f64 - expected).abs() <= 4.0 * (engine.total() as f64).sqrt() / 2.0);
            }
            assert!(
                change
                    .layers
                    .iter()
                    .zip(engine.masks())
                    .all(|(layer, mask)| layer.retained == *mask && layer.grown == 0)
            );
            assert_eq!(change.changed, row.start > 0.0);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_masks_and_another_one_others_where_chance_has_a_say() {
    for row in ROWS {
        let masks = |seed| train(row, seed, VARIANTS[0], &[]).0;
        assert_eq!(masks(1), masks(1));
        assert_eq!(masks(1) == masks(2), !row.random, "{}", row.table);
    }
}

#[test]
fn a_run_that_is_saved_and_loaded_ends_like_one_that_is_not() {
    for row in ROWS {
        for &variant in VARIANTS {
            let whole = train(row, 5, variant, &[]);
            assert_eq!(train(row, 5, variant, &[1, 10, 17, 20, 39]), whole, "{}", row.table);
        }
    }
}

#[test]
fn gradual_magnitude_pruning_never_brings_a_weight_back() {
    for row in ROWS.iter().filter(|row| row.table.starts_with("name = 'gmp'")) {
        let first = engine(row, 0, VARIANTS[0]);
        let least = least(&first, 0.0);
        let mut training = Training::start(first);
        for _ in 0..RUN.total() {
            let before = training.engine.masks().to_vec();
            training.step(row, &least);
            let after = training.engine.masks();
            assert!(
                before.iter().zip(after).all(|(before, after)| before.iter().zip(after.iter()).all(|(b, a)| b || !a))
            );
        }
    }
}

#[test]
fn excluded_layers_are_not_seen_and_their_cost_stays() {
    let row = ROWS.iter().find(|row| row.table == "name = 'static'\nsparsity = 0.9").unwrap();
    let mut engine = engine(row, 0, (0.0, &["stem", "ties"]));
    assert_eq!(engine.layers().iter().map(|layer| &layer.name[..]).collect::<Vec<_>>(), [ZEROS, "tiny", "head"]);
    engine.begin(&[vec![0.0; 128], vec![0.0; 3], vec![0.0; 160]]);
    let kept: Vec<u64> = engine.masks().iter().map(|mask| mask.kept() as u64).collect();
    assert_eq!(kept.iter().sum::<u64>(), 29);
    assert_eq!(engine.macs(), 11 + 10_800 + 7_200 + kept.iter().sum::<u64>());
}

#[test]
fn uniform_random_masks_keep_the_networks_first_layer_dense_unless_it_is_excluded() {
    let kept = |table, exclude: &[&str]| {
        let row = Row { table, start: 0.0, event: |_| None, random: true };
        let mut engine = engine(&row, 0, (0.0, exclude));
        let weights: Vec<Vec<f32>> = engine.layers().iter().map(|layer| vec![0.0; layer.weights()]).collect();
        engine.begin(&weights).layers.iter().map(|layer| layer.kept).collect::<Vec<_>>()
    };
    assert_eq!(kept("name = 'static'\nsparsity = 0.7\nallocation = 'uniform'", &[]), [108, 49, 21, 1, 27]);
    assert_eq!(kept("name = 'static'\nsparsity = 0.4\nallocation = 'uniform'", &["stem"]), [172, 77, 2, 96]);
}
