//! What a configuration promises, and the runs that hold it to its word.

use bonsai_pruning::{Engine, Event, Mask, Options, Rules, build};
use toml::Table;

use crate::network::{RUN, graph};
use crate::training::{Training, least, promised_count, train};

/// What an event is expected to do.
///
/// # Example
///
/// ```
/// use bonsai_testkit::Promise;
///
/// let promise = Promise::prunes_to(0.9).and_replaces();
/// assert_eq!((promise.sparsity, promise.replaces), (Some(0.9), true));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Promise {
    /// The sparsity after the event, if it prunes; 0 for an event that restores everything.
    pub sparsity: Option<f64>,
    /// Whether it replaces weights.
    pub replaces: bool,
}

impl Promise {
    /// The event leaves this sparsity.
    pub fn prunes_to(sparsity: f64) -> Self {
        Self { sparsity: Some(sparsity), ..Self::default() }
    }

    /// The event brings every weight back.
    pub fn restores() -> Self {
        Self::prunes_to(0.0)
    }

    /// The event replaces weights and leaves every layer's count as it was.
    pub fn replaces() -> Self {
        Self::default().and_replaces()
    }

    /// The event also replaces weights.
    pub fn and_replaces(self) -> Self {
        Self { replaces: true, ..self }
    }
}

/// A floor and the layers that are left out.
pub(crate) type Variant = (f64, &'static [&'static str]);

/// What every configuration is put through.
const VARIANTS: &[Variant] = &[(0.0, &[]), (0.05, &[]), (0.0, &["stem"]), (0.02, &["ties", "head"])];

/// A configuration and its promises.
#[derive(Clone, Debug)]
pub struct Contract {
    pub(crate) table: Table,
    start: Option<f64>,
    events: Option<fn(u64) -> Option<Promise>>,
    single: Vec<(u64, f64)>,
    random: Option<bool>,
    grows: bool,
}

impl Contract {
    /// Takes a `[scheduler]` table, with the scheduler's `name`; one of another crate is
    /// [registered](bonsai_pruning::register) first.
    ///
    /// # Panics
    ///
    /// When the text is not TOML.
    pub fn new(table: &str) -> Self {
        let table = table.parse().unwrap_or_else(|error| panic!("the [scheduler] table is not TOML: {error}"));
        Self { table, start: None, events: None, single: Vec::new(), random: None, grows: true }
    }

    /// Promises the sparsity before the first step.
    pub fn starts_at(mut self, sparsity: f64) -> Self {
        self.start = Some(sparsity);
        self
    }

    /// Promises all events of the run: the function returns what happens at an iteration, and `None` where nothing does.
    pub fn events(mut self, events: fn(u64) -> Option<Promise>) -> Self {
        self.events = Some(events);
        self
    }

    /// Promises that the event at one iteration leaves a sparsity; 0 where everything is restored.
    pub fn prunes_to(mut self, iteration: u64, sparsity: f64) -> Self {
        self.single.push((iteration, sparsity));
        self
    }

    /// Promises that the seed has a say in the masks, or that it has none.
    pub fn random(mut self, random: bool) -> Self {
        self.random = Some(random);
        self
    }

    /// Promises that a weight once removed never returns.
    pub fn never_grows(mut self) -> Self {
        self.grows = false;
        self
    }

    /// Takes the configuration through its runs.
    ///
    /// # Panics
    ///
    /// Where a promise is broken; the message names the iteration and the layer.
    pub fn check(&self) {
        self.check_single_promises();
        for &variant in VARIANTS {
            println!("{} {variant:?}", self.table);
            self.check_start(variant);
            let whole = train(self, 5, variant, &[]);
            assert!(
                train(self, 5, variant, &[1, 10, 17, 20, 39]) == whole,
                "a run that is saved and loaded must end with the masks and weights of one that is not: save what the \
                 scheduler knows"
            );
        }
        let masks = |seed| train(self, seed, VARIANTS[0], &[]).0;
        assert!(masks(1) == masks(1), "the same seed must give the same masks");
        if let Some(random) = self.random {
            assert_eq!(masks(1) != masks(2), random, "whether another seed gives other masks");
        }
    }

    fn check_single_promises(&self) {
        let engine = self.engine(0, VARIANTS[0]);
        for &(iteration, sparsity) in &self.single {
            let event = engine.due(&bonsai_pruning::Clock { iteration, horizon: RUN, lr: 0.1 });
            let reached = event.as_ref().and_then(sparsity_after);
            assert!(
                reached.is_some_and(|reached| (reached - sparsity).abs() < 1e-12),
                "iteration {iteration} is promised to leave a sparsity of {sparsity}, but its event is {event:?}"
            );
        }
    }

    fn check_start(&self, variant: Variant) {
        let mut engine = self.engine(3, variant);
        let weights: Vec<Vec<f32>> = engine.layers().iter().map(|layer| vec![0.0; layer.weights()]).collect();
        let start = self.start.unwrap_or_else(|| engine.scheduler().start().sparsity());
        let change = engine.begin(&weights);
        let least = least(&engine, variant.0);
        if engine.scheduler().rules() == Rules::Exact {
            assert_eq!(engine.kept() as usize, promised_count(engine.total() as usize, start, &least), "at the start");
            assert!(engine.masks().iter().zip(least).all(|(mask, least)| mask.kept() >= least), "a layer is too small");
        } else {
            // Drawn one by one: within four standard deviations of a fair coin.
            let expected = engine.total() as f64 * (1.0 - start);
            assert!((engine.kept() as f64 - expected).abs() <= 4.0 * (engine.total() as f64).sqrt() / 2.0);
        }
        let untouched =
            |(layer, mask): (&bonsai_pruning::LayerChange, &Mask)| layer.retained == *mask && layer.grown == 0;
        assert!(change.layers.iter().zip(engine.masks()).all(untouched));
        assert_eq!(change.changed, start > 0.0);
    }

    pub(crate) fn engine(&self, seed: u64, (floor, exclude): Variant) -> Engine {
        let (scheduler, _) = build(&self.table, RUN).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(self.table["name"].as_str(), Some(scheduler.about().name), "the scheduler's own name");
        let exclude = exclude.iter().map(|name| name.to_string()).collect();
        Engine::new(&graph(), scheduler, Options { exclude, floor, seed, ..Options::default() })
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the event at an iteration is promised to do: as the test says, or as the scheduler itself does.
    pub(crate) fn promise(&self, iteration: u64, event: Option<&Event>) -> Option<Promise> {
        match self.events {
            Some(events) => events(iteration),
            None => event.map(|event| Promise { sparsity: sparsity_after(event), replaces: event.replace.is_some() }),
        }
    }

    pub(crate) fn may_grow(&self) -> bool {
        self.grows
    }

    /// Starts a run.
    pub(crate) fn start(&self, seed: u64, variant: Variant) -> Training {
        Training::start(self.engine(seed, variant))
    }
}

/// The sparsity that an event asks for.
pub(crate) fn sparsity_after(event: &Event) -> Option<f64> {
    event.sparsity.or(event.restore.then_some(0.0))
}
