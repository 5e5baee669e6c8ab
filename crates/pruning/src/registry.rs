//! Turns the `[scheduler]` table of an experiment into a scheduler: one line per method.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::clock::Horizon;
use crate::method::{added, added_names};
use crate::scheduler::Removes;
use crate::scheduler::Scheduler;
use crate::schedulers::{
    consensus_gating::ConsensusGatingConfig, dense::DenseConfig, gmp::GmpConfig, granet::GranetConfig,
    group_magnitude::GroupMagnitudeConfig, lapp::LappConfig, polarization::PolarizationConfig,
    proximal_slimming::ProximalSlimmingConfig, rigl::RiglConfig, set::SetConfig, slimming::SlimmingConfig,
    sparse_group_l0::SparseGroupL0Config, r#static::StaticConfig, uniform_width::UniformWidthConfig,
};
use crate::suggest::suggestion;
use crate::units::ChannelOptions;

/// Reads a scheduler's own keys and builds it for a run of a length.
pub(crate) type Build = fn(Table, Horizon) -> Result<Box<dyn Scheduler>, String>;

const SCHEDULERS: &[(&str, Build)] = &[
    ("consensus-gating", |table, run| Ok(Box::new(read::<ConsensusGatingConfig>(table)?.init(run)?))),
    ("dense", |table, run| Ok(Box::new(read::<DenseConfig>(table)?.init(run)?))),
    ("gmp", |table, run| Ok(Box::new(read::<GmpConfig>(table)?.init(run)?))),
    ("granet", |table, run| Ok(Box::new(read::<GranetConfig>(table)?.init(run)?))),
    ("group-magnitude", |table, run| Ok(Box::new(read::<GroupMagnitudeConfig>(table)?.init(run)?))),
    ("lapp", |table, run| Ok(Box::new(read::<LappConfig>(table)?.init(run)?))),
    ("polarization", |table, run| Ok(Box::new(read::<PolarizationConfig>(table)?.init(run)?))),
    ("proximal-slimming", |table, run| Ok(Box::new(read::<ProximalSlimmingConfig>(table)?.init(run)?))),
    ("rigl", |table, run| Ok(Box::new(read::<RiglConfig>(table)?.init(run)?))),
    ("set", |table, run| Ok(Box::new(read::<SetConfig>(table)?.init(run)?))),
    ("slimming", |table, run| Ok(Box::new(read::<SlimmingConfig>(table)?.init(run)?))),
    ("sparse-group-l0", |table, run| Ok(Box::new(read::<SparseGroupL0Config>(table)?.init(run)?))),
    ("static", |table, run| Ok(Box::new(read::<StaticConfig>(table)?.init(run)?))),
    ("uniform-width", |table, run| Ok(Box::new(read::<UniformWidthConfig>(table)?.init(run)?))),
];

/// The keys that every scheduler understands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// Exact names of layers that stay dense.
    pub exclude: Vec<String>,
    /// The share of its weights, or units, that every layer, or group, keeps at least.
    pub floor: f64,
    /// `groups`, `round_to` and `compact`, which schedulers that remove channels understand.
    pub channels: ChannelOptions,
}

/// Builds the scheduler that a `[scheduler]` table describes: `name`, the common keys, and the method's own.
///
/// # Errors
///
/// A sentence that names the key and what it may be.
pub fn build(table: &Table, horizon: Horizon) -> Result<(Box<dyn Scheduler>, Common), String> {
    let mut own = table.clone();
    let name = match own.remove("name") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("`name` of the scheduler is {other}, but must be a string")),
        None => return Err(format!("the scheduler has no `name`{}", suggestion("", names()))),
    };
    let Some(build) = built_in(&name).or_else(|| added(&name)) else {
        return Err(format!("there is no scheduler `{name}`{}", suggestion(&name, names())));
    };
    let usual = ChannelOptions::default();
    let groups = own.remove("groups");
    let round_to = own.remove("round_to");
    let compact = own.remove("compact");
    let for_channels = [("groups", groups.is_some()), ("round_to", round_to.is_some()), ("compact", compact.is_some())];
    let common = Common {
        channels: ChannelOptions {
            groups: groups.map_or(Ok(usual.groups), |value| {
                common(
                    "groups",
                    value,
                    "a list of \"inner\", \"stream\", \"selection\", \"heads\", \"head-dims\" and \"embedding\"",
                )
            })?,
            round_to: round_to.map_or(Ok(usual.round_to), |value| common("round_to", value, "a whole number"))?,
            compact: compact.map_or(Ok(usual.compact), |value| common("compact", value, "true or false"))?,
        },
        exclude: own
            .remove("exclude")
            .map_or(Ok(Vec::new()), |value| common("exclude", value, "a list of layer names"))?,
        floor: own.remove("floor").map_or(Ok(0.0), |value| common("floor", value, "a number"))?,
    };
    let scheduler = build(own, horizon).map_err(|error| format!("scheduler `{name}`: {error}"))?;
    if let Some((key, _)) = for_channels.iter().find(|(_, given)| *given)
        && scheduler.removes() == Removes::Weights
    {
        return Err(format!("scheduler `{name}`: `{key}` belongs to schedulers that remove channels"));
    }
    Ok((scheduler, common))
}

/// Returns the names of all schedulers, those that were [registered](crate::register) included.
pub fn names() -> Vec<&'static str> {
    let mut names = built_in_names();
    names.extend(added_names());
    names
}

/// Returns the names of the schedulers that have a key of their own of this name.
///
/// # Example
///
/// ```
/// assert_eq!(bonsai_pruning::registry::with_key("drop"), ["rigl", "set"]);
/// ```
pub fn with_key(key: &str) -> Vec<&'static str> {
    // Any value will do: a key that a method does not know is refused before its value is looked at.
    let table = Table::from_iter([(key.to_string(), Value::from(0.5))]);
    let horizon = Horizon { iterations_per_epoch: 1, epochs: 1 };
    let refused = format!("unknown field `{key}`");
    let knows = |name: &str| {
        let build = built_in(name).or_else(|| added(name));
        build.is_some_and(|build| build(table.clone(), horizon).err().is_none_or(|error| !error.contains(&refused)))
    };
    names().into_iter().filter(|name| knows(name)).collect()
}

/// Returns the names of the schedulers of this crate.
pub fn built_in_names() -> Vec<&'static str> {
    SCHEDULERS.iter().map(|(name, _)| *name).collect()
}

/// Returns how a scheduler of this crate is built.
pub(crate) fn built_in(name: &str) -> Option<Build> {
    SCHEDULERS.iter().find(|(known, _)| *known == name).map(|(_, build)| *build)
}

fn common<T: DeserializeOwned>(key: &str, value: Value, expected: &str) -> Result<T, String> {
    let text = value.to_string();
    value.try_into().map_err(|_| format!("`{key}` of the scheduler is {text}, but must be {expected}"))
}

pub(crate) fn read<T: DeserializeOwned>(table: Table) -> Result<T, String> {
    // The message spans lines where it points at a key.
    table.try_into().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: Horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };

    fn refused(table: &str) -> String {
        build(&table.parse().unwrap(), RUN).err().unwrap()
    }

    #[test]
    fn every_name_is_the_one_that_its_scheduler_gives_itself() {
        for name in built_in_names() {
            let mut table =
                Table::from_iter([("name".to_string(), Value::from(name)), ("sparsity".to_string(), Value::from(0.5))]);
            table.insert("every".to_string(), Value::from(5));
            table.insert("end_epoch".to_string(), Value::from(2));
            for key in ["macs", "lambda", "beta", "t"] {
                table.insert(key.to_string(), Value::from(0.5));
            }
            table.insert("patience".to_string(), Value::from(3));
            // Not every method knows every key.
            let scheduler = loop {
                match build(&table, RUN) {
                    Ok((scheduler, _)) => break scheduler,
                    Err(error) => {
                        let key = error.split('`').nth(3).unwrap().to_string();
                        assert!(table.remove(&key).is_some(), "{error}");
                    }
                }
            };
            assert_eq!(scheduler.about().name, name);
            assert!(scheduler.about().citation.len() > 10);
        }
    }

    #[test]
    fn common_keys_are_read_for_every_scheduler() {
        let (_, common) =
            build(&"name = 'dense'\nexclude = ['fc.weight']\nfloor = 0.01".parse().unwrap(), RUN).unwrap();
        assert_eq!(common, Common { exclude: vec!["fc.weight".to_string()], floor: 0.01, ..Common::default() });
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(refused("name = 'granett'"), "there is no scheduler `granett`; did you mean `granet`?");
        assert!(refused("sparsity = 0.5").starts_with("the scheduler has no `name`; there are `gmp`, `set`, "));
        assert_eq!(
            refused("name = 'dense'\nround_to = 8"),
            "scheduler `dense`: `round_to` belongs to schedulers that remove channels"
        );
        assert_eq!(refused("name = 3"), "`name` of the scheduler is 3, but must be a string");
        assert_eq!(refused("name = 'dense'\nfloor = 'x'"), "`floor` of the scheduler is \"x\", but must be a number");
        assert_eq!(
            refused("name = 'static'\nsparsty = 0.5"),
            "scheduler `static`: unknown field `sparsty`, expected one of `sparsity`, `allocation`, `given`"
        );
        assert_eq!(refused("name = 'static'"), "scheduler `static`: missing field `sparsity`");
        assert_eq!(
            refused("name = 'static'\nsparsity = 1.5"),
            "scheduler `static`: `sparsity` is 1.5, but must be at least 0 and below 1"
        );
        assert!(refused("name = 'gmp'\nsparsity = 0.5\nevery = -1\nend_epoch = 1").contains("expected u64"));
        assert!(
            refused("name = 'granet'\nsparsity = 0.5\nevery = 1\nend_epoch = 1\ncompat = 'x'").contains("granet-cifar")
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>().prop_map(Value::from),
            Just(Value::from(f64::NAN)),
            (-1.0f64..5.0).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-2i64..30).prop_map(Value::from),
            prop_oneof![Just("erk"), Just("global"), Just("granet-cifar"), Just("")].prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn absurd_tables_give_a_sentence_and_sound_ones_a_scheduler_that_never_fails(
            name in 0..built_in_names().len(),
            keys in prop::collection::btree_map(
                prop::sample::select(vec!["sparsity", "initial_sparsity", "macs", "channels", "lambda", "beta", "t", "growth", "group", "norm", "keep", "patience", "a", "penalty", "round_to", "groups", "compact", "start_epoch", "end_epoch", "every", "replace",
                    "replace_min", "drop", "allocation", "scope", "compat", "floor", "exclude"]), value(), 0..8),
            iterations_per_epoch in prop_oneof![Just(0), Just(1), Just(10), any::<u64>()],
            epochs in prop_oneof![Just(0), Just(4), any::<u64>()],
        ) {
            let mut table: Table = keys.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
            table.insert("name".to_string(), Value::from(built_in_names()[name]));
            let horizon = Horizon { iterations_per_epoch, epochs };
            match build(&table, horizon) {
                Err(sentence) => prop_assert!(!sentence.is_empty()),
                Ok((scheduler, _)) => for iteration in [0, 1, 5, 10, 40, u64::MAX] {
                    let clock = crate::Clock { iteration, horizon, lr: 0.1 };
                    if let Some(event) = scheduler.due(&clock) {
                        prop_assert!(event.sparsity.is_none_or(|s| (0.0..1.0).contains(&s)));
                        prop_assert!(event.replace.is_none_or(|p| (0.0..1.0).contains(&p)));
                    }
                    scheduler.observe(&clock);
                },
            }
        }
    }
}
