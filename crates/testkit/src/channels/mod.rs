//! The contract of methods that remove channels.

mod network;
mod training;

use bonsai_pruning::{Cut, Engine, Event, Options, build};

pub use network::{FULL, graph};
use training::train;

use crate::network::RUN;

/// A configuration of a method that removes channels, and its promises.
///
/// A small residual network stands in for a real one; the scales of its normalisations follow the scheduler's own hooks.
/// [`check`](ChannelContract::check) holds the engine's masks, counts and costs to a network of the widths that are left,
/// with channels masked and with channels cut out, interrupted and resumed.
///
/// # Example
///
/// ```
/// use bonsai_testkit::ChannelContract;
///
/// ChannelContract::new("name = 'slimming'\nlambda = 0.01\nchannels = 0.5\nend_epoch = 2").leaves_units(0.5).check();
/// ```
#[derive(Clone, Debug)]
pub struct ChannelContract {
    text: String,
    events: Option<fn(u64) -> Option<f64>>,
    units: Option<f64>,
}

impl ChannelContract {
    /// Takes a `[scheduler]` table, with the scheduler's `name`; one of another crate is
    /// [registered](bonsai_pruning::register) first.
    pub fn new(table: &str) -> Self {
        Self { text: table.to_string(), events: None, units: None }
    }

    /// Promises all events of the run: the function returns the share of the multiply-accumulates that is left at most after
    /// the event of an iteration, and `None` where there is none.
    pub fn events(mut self, events: fn(u64) -> Option<f64>) -> Self {
        self.events = Some(events);
        self
    }

    /// Promises the share of the units inside the blocks that is left in the end.
    pub fn leaves_units(mut self, share: f64) -> Self {
        self.units = Some(share);
        self
    }

    /// Takes the configuration through its runs.
    ///
    /// # Panics
    ///
    /// Where a promise is broken.
    pub fn check(&self) {
        let mut ends = Vec::new();
        for compact in [false, true] {
            println!("{} compact: {compact}", self.text);
            let whole = train(self, compact, &[]);
            let survivors = whole.survivors();
            let units: usize = survivors.iter().map(Vec::len).sum();
            assert!(units < FULL.iter().sum() && whole.engine.sparsity() > 0.0, "nothing is removed");
            if let Some(share) = self.units {
                let inner: usize = survivors[1..].iter().map(Vec::len).sum();
                assert_eq!(inner as f64, share * (FULL[1] + FULL[2]) as f64, "units left: {}", self.text);
            }
            assert!(
                train(self, compact, &[1, 12, 15, 20, 39]).survivors() == survivors,
                "a run that is saved and loaded must keep the units of one that is not: save what the scheduler knows, and \
                 forget in `keep_units` what was cut: {}",
                self.text
            );
            ends.push(survivors);
        }
        assert!(ends[0] == ends[1], "cutting channels out must change no decision: {}", self.text);
    }

    fn engine(&self, compact: bool) -> Engine {
        let table = format!("{}\ncompact = {compact}", self.text).parse().unwrap_or_else(|error| panic!("{error}"));
        let (scheduler, common) = build(&table, RUN).unwrap_or_else(|error| panic!("{error}"));
        let options = Options { floor: common.floor, channels: common.channels, ..Options::default() };
        Engine::new(&graph(FULL), scheduler, options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The share of the cost that the event at an iteration leaves at most: as the test says, or as the event does.
    fn promise(&self, iteration: u64, event: Option<&Event>) -> Option<f64> {
        match self.events {
            Some(events) => events(iteration),
            None => event.and_then(|event| event.cut).map(|cut| match cut {
                Cut::Uniform { macs } | Cut::Global { macs } | Cut::Filled { macs } => macs,
                _ => 1.0,
            }),
        }
    }
}
