//! How a scheduler of another crate joins the registry.

use std::any::TypeId;
use std::sync::{PoisonError, RwLock};

use serde::de::DeserializeOwned;
use toml::Table;

use crate::clock::Horizon;
use crate::registry::{self, Build};
use crate::scheduler::Scheduler;

/// The configuration of a scheduler: the keys that its `[scheduler]` table may have besides the common ones.
///
/// Give the type `#[serde(deny_unknown_fields)]`, so that a misspelt key is an error that names the right ones.
///
/// # Example
///
/// ```
/// use bonsai_pruning::{About, Clock, Event, Horizon, Method, Scheduler, build, check, register};
///
/// /// Removes the smallest weights once.
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct OneShot {
///     sparsity: f64,
///     epoch: f64,
/// }
///
/// impl Method for OneShot {
///     const NAME: &'static str = "one-shot";
///     type Scheduler = OneShotScheduler;
///
///     fn init(self, horizon: Horizon) -> Result<OneShotScheduler, String> {
///         check::share("sparsity", self.sparsity)?;
///         Ok(OneShotScheduler { at: check::iteration(self.epoch, horizon).max(1), sparsity: self.sparsity })
///     }
/// }
///
/// struct OneShotScheduler {
///     at: u64,
///     sparsity: f64,
/// }
///
/// impl Scheduler for OneShotScheduler {
///     fn about(&self) -> About {
///         About { name: OneShot::NAME, citation: "an example" }
///     }
///
///     fn due(&self, clock: &Clock) -> Option<Event> {
///         (clock.iteration == self.at).then(|| Event::prune(self.sparsity))
///     }
///
///     fn target(&self) -> f64 {
///         self.sparsity
///     }
/// }
///
/// register::<OneShot>()?;
/// let run = Horizon { iterations_per_epoch: 100, epochs: 2 };
/// let (scheduler, _) = build(&"name = 'one-shot'\nsparsity = 0.5\nepoch = 1".parse().unwrap(), run)?;
/// assert_eq!(scheduler.due(&Clock { iteration: 100, horizon: run, lr: 0.1 }), Some(Event::prune(0.5)));
/// # Ok::<(), String>(())
/// ```
pub trait Method: DeserializeOwned + 'static {
    /// The name that an experiment selects the scheduler by; it is also what [`about`](Scheduler::about) returns.
    const NAME: &'static str;

    /// The scheduler.
    type Scheduler: Scheduler + 'static;

    /// Checks the configuration and returns the scheduler of a run of this length.
    ///
    /// # Errors
    ///
    /// A sentence that names the field, its value and its range; [`check`](crate::check) has the usual ones.
    fn init(self, horizon: Horizon) -> Result<Self::Scheduler, String>;
}

struct Added {
    name: &'static str,
    method: TypeId,
    build: Build,
}

/// What was registered in this process.
static ADDED: RwLock<Vec<Added>> = RwLock::new(Vec::new());

/// Makes a scheduler known to the whole process, for every experiment that names it.
///
/// # Errors
///
/// A sentence when another scheduler has the name.
pub fn register<M: Method>() -> Result<(), String> {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let method = TypeId::of::<M>();
    if added.iter().any(|entry| entry.method == method) {
        return Ok(());
    }
    if registry::built_in(M::NAME).is_some() || added.iter().any(|entry| entry.name == M::NAME) {
        return Err(format!("there is a scheduler `{}` already: give the new one another name", M::NAME));
    }
    added.push(Added {
        name: M::NAME,
        method,
        build: |table, run| Ok(Box::new(registry::read::<M>(table)?.init(run)?)),
    });
    Ok(())
}

/// Returns how the registered scheduler of a name is built.
pub(crate) fn added(name: &str) -> Option<Build> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    added.iter().find(|entry| entry.name == name).map(|entry| entry.build)
}

/// Returns the names of the registered schedulers.
pub(crate) fn added_names() -> Vec<&'static str> {
    ADDED.read().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.name).collect()
}

/// Builds a scheduler from the text of its own keys, without the registry, as [`build`](registry::build) does from a
/// whole table.
///
/// # Errors
///
/// A sentence that names the key and what it may be.
pub fn from_keys<M: Method>(keys: &str, horizon: Horizon) -> Result<M::Scheduler, String> {
    let table: Table = keys.parse().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', " "))?;
    registry::read::<M>(table)?.init(horizon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::scheduler::{About, Event};

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    #[derive(serde::Deserialize)]
    struct Granet {}

    struct Idle;

    impl Scheduler for Idle {
        fn about(&self) -> About {
            About { name: "nothing", citation: "a test" }
        }

        fn due(&self, _: &Clock) -> Option<Event> {
            None
        }
    }

    impl Method for Nothing {
        const NAME: &'static str = "nothing";
        type Scheduler = Idle;

        fn init(self, _: Horizon) -> Result<Idle, String> {
            Ok(Idle)
        }
    }

    impl Method for Granet {
        const NAME: &'static str = "granet";
        type Scheduler = Idle;

        fn init(self, _: Horizon) -> Result<Idle, String> {
            Ok(Idle)
        }
    }

    const RUN: Horizon = Horizon { iterations_per_epoch: 1, epochs: 1 };

    #[test]
    fn a_registered_scheduler_is_built_by_name_and_a_name_belongs_to_one() {
        register::<Nothing>().unwrap();
        register::<Nothing>().unwrap();
        let (scheduler, _) = registry::build(&"name = 'nothing'".parse().unwrap(), RUN).unwrap();
        assert_eq!(scheduler.about().name, "nothing");
        let refused = registry::build(&"name = 'nothing'\nsparsity = 0.5".parse().unwrap(), RUN).err().unwrap();
        assert!(refused.starts_with("scheduler `nothing`: unknown field `sparsity`"), "{refused}");
        assert_eq!(
            register::<Granet>().unwrap_err(),
            "there is a scheduler `granet` already: give the new one another name"
        );
        assert!(from_keys::<Nothing>("a = ", RUN).is_err());
    }
}
