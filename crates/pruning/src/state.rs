//! Saves and restores an engine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::graph::LayerSpec;
use crate::mask::Mask;

/// Everything of an engine that a checkpoint must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineState {
    /// The name of the scheduler.
    pub scheduler: String,
    /// The packed mask of every prunable layer.
    pub masks: BTreeMap<String, Vec<u8>>,
    /// The packed flags of the weights of every prunable layer that were ever kept, where they are followed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub explored: BTreeMap<String, Vec<u8>>,
    /// The packed mask of every channel group, where the method removes channels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, Vec<u8>>,
    /// The scheduler's own state.
    pub state: Value,
    /// The moment of the last event.
    pub last: Option<Clock>,
}

impl Engine {
    /// Returns what [`load`](Engine::load) needs to go on.
    pub fn save(&self) -> EngineState {
        EngineState {
            scheduler: self.scheduler.about().name.to_string(),
            masks: self.layers.iter().zip(&self.masks).map(|(layer, mask)| (layer.name.clone(), mask.pack())).collect(),
            explored: self
                .layers
                .iter()
                .zip(&self.explored)
                .map(|(layer, ever)| (layer.name.clone(), ever.pack()))
                .collect(),
            units: self.groups().map(|(group, kept)| (group.name.clone(), kept.pack())).collect(),
            state: self.scheduler.save(),
            last: self.last,
        }
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    ///
    /// A sentence when the state belongs to another scheduler or network, or is damaged; the masks are then unchanged.
    pub fn load(&mut self, state: EngineState) -> Result<(), String> {
        let name = self.scheduler.about().name;
        if state.scheduler != name {
            return Err(format!("the saved state belongs to the scheduler `{}`, not to `{name}`", state.scheduler));
        }
        if state.masks.len() != self.layers.len() {
            return Err(format!(
                "the saved state has {} masks, but {} layers are prunable",
                state.masks.len(),
                self.layers.len()
            ));
        }
        let unpack = |layer: &LayerSpec| {
            let bytes = state
                .masks
                .get(&layer.name)
                .ok_or_else(|| format!("the saved state has no mask of `{}`", layer.name))?;
            Mask::unpack(bytes, layer.weights())
                .map_err(|error| format!("the mask of `{}` is damaged: {error}", layer.name))
        };
        let masks = self.layers.iter().map(unpack).collect::<Result<_, _>>()?;
        let ever = |layer: &LayerSpec| {
            let bytes = state.explored.get(&layer.name);
            let bytes = bytes.ok_or_else(|| {
                format!("the saved state does not say which weights of `{}` were ever kept", layer.name)
            })?;
            Mask::unpack(bytes, layer.weights()).map_err(|error| {
                format!("the flags of weights of `{}` that were ever kept are damaged: {error}", layer.name)
            })
        };
        let followed: &[LayerSpec] = if state.explored.is_empty() { &[] } else { &self.layers };
        let explored = followed.iter().map(ever).collect::<Result<_, _>>()?;
        let unit_masks = self.groups().map(|(group, _)| {
            let bytes = state.units.get(&group.name);
            let bytes = bytes.ok_or_else(|| format!("the saved state has no units of `{}`", group.name))?;
            Mask::unpack(bytes, group.units)
                .map_err(|error| format!("the units of `{}` are damaged: {error}", group.name))
        });
        let unit_masks = unit_masks.collect::<Result<Vec<_>, _>>()?;
        self.scheduler.load(&state.state)?;
        if let Some(units) = &mut self.units {
            units.kept = unit_masks;
        }
        self.masks = masks;
        self.explored = explored;
        self.last = state.last;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Horizon, Kind, Options, build};
    use proptest::prelude::*;

    fn engine(table: &str) -> Engine {
        let horizon = Horizon { iterations_per_epoch: 10, epochs: 4 };
        let layer = |name: &str| LayerSpec { name: name.into(), kind: Kind::Linear, shape: vec![4, 5], macs: 20 };
        let graph = Graph { layers: vec![layer("a"), layer("b")], parameters: 40, fixed_macs: 0, ..Graph::default() };
        let mut engine =
            Engine::new(&graph, build(&table.parse().unwrap(), horizon).unwrap().0, Options::default()).unwrap();
        engine.begin(&[vec![1.0; 20], vec![1.0; 20]]);
        engine
    }

    const STATIC: &str = "name = 'static'\nsparsity = 0.5";

    fn refused(damage: impl Fn(&mut EngineState)) -> String {
        let mut engine = engine(STATIC);
        let masks = engine.masks().to_vec();
        let mut state = engine.save();
        damage(&mut state);
        let error = engine.load(state).unwrap_err();
        assert_eq!(engine.masks(), masks);
        error
    }

    #[test]
    fn a_foreign_or_damaged_state_is_refused_and_changes_nothing() {
        let gmp = "name = 'gmp'\nsparsity = 0.5\nend_epoch = 2\nevery = 5";
        assert_eq!(
            engine(gmp).load(engine(STATIC).save()).unwrap_err(),
            "the saved state belongs to the scheduler `static`, not to `gmp`"
        );
        let missing = refused(|state| drop(state.masks.remove("a")));
        assert_eq!(missing, "the saved state has 1 masks, but 2 layers are prunable");
        let short = refused(|state| state.masks.get_mut("b").unwrap().truncate(2));
        assert_eq!(short, "the mask of `b` is damaged: a mask of 20 weights takes 3 bytes, but there are 2");
        let unasked = refused(|state| state.state = Value::Bool(true));
        assert_eq!(unasked, "the scheduler `static` keeps no state, but the checkpoint holds some");
    }

    proptest! {
        #[test]
        fn any_text_is_a_state_or_an_error(text in "[\\[\\]{}a-z0-9:,\" ]{0,60}") {
            let _ = serde_json::from_str::<EngineState>(&text).map(|state| engine(STATIC).load(state));
        }
    }
}
