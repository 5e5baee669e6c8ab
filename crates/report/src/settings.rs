//! Configurations side by side.

use std::collections::BTreeSet;

use toml::{Table, Value};

/// A setting with its value in each run; absent where a run has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its path, as in `optimizer.lr`.
    pub path: String,
    /// One value a run.
    pub values: Vec<Option<String>>,
}

impl Setting {
    /// Whether not all runs have the same.
    pub fn differs(&self) -> bool {
        self.values.windows(2).any(|pair| pair[0] != pair[1])
    }
}

/// Lists all settings of these configurations by path.
pub fn side_by_side(configs: &[&Table]) -> Vec<Setting> {
    let flat: Vec<Vec<(String, String)>> = configs.iter().map(|config| flatten(config)).collect();
    let paths: BTreeSet<&String> = flat.iter().flatten().map(|(path, _)| path).collect();
    let value = |run: &Vec<(String, String)>, path: &String| {
        run.iter().find(|(other, _)| other == path).map(|(_, value)| value.clone())
    };
    let mut settings: Vec<Setting> = (paths.into_iter())
        .map(|path| Setting { path: path.clone(), values: flat.iter().map(|run| value(run, path)).collect() })
        .collect();
    // Plain keys first, then the sections.
    settings.sort_by_key(|setting| (setting.path.contains('.'), setting.path.starts_with("environment")));
    settings
}

/// Keys that runs of early versions have not written, with what they stood for.
const LATER: [(&str, &str); 1] = [("precision", "f32")];

/// Says whether two configurations train alike but for scheduler, seed, names, machine, and what is recorded beside.
pub fn same_recipe(a: &Table, b: &Table) -> bool {
    let apart = |path: &str| {
        let section = path.split('.').next().unwrap_or_default();
        ["name", "seed", "scheduler", "environment", "checkpoint", "log_every", "protocol"].contains(&section)
    };
    let usual = |setting: &Setting, value: &Option<String>| {
        value
            .clone()
            .or_else(|| LATER.iter().find(|(path, _)| *path == setting.path).map(|(_, value)| value.to_string()))
    };
    side_by_side(&[a, b])
        .iter()
        .all(|setting| apart(&setting.path) || usual(setting, &setting.values[0]) == usual(setting, &setting.values[1]))
}

fn flatten(config: &Table) -> Vec<(String, String)> {
    fn below(prefix: &str, table: &Table, found: &mut Vec<(String, String)>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => below(&path, inner, found),
                Value::String(text) => found.push((path, text.clone())),
                other => found.push((path, other.to_string())),
            }
        }
    }
    let mut found = Vec::new();
    below("", config, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_found() {
        let a: Table =
            toml::from_str("seed = 0\nepochs = 10\n[lr]\nschedule = 'cosine'\n[scheduler]\nname = 'gmp'").unwrap();
        let b: Table =
            toml::from_str("seed = 1\nepochs = 10\n[lr]\nschedule = 'cosine'\n[scheduler]\nname = 'set'\nevery = 5")
                .unwrap();
        let all = side_by_side(&[&a, &b]);
        let paths: Vec<&str> = all.iter().map(|setting| setting.path.as_str()).collect();
        assert_eq!(paths, ["epochs", "seed", "lr.schedule", "scheduler.every", "scheduler.name"]);
        let differ: Vec<&str> =
            all.iter().filter(|setting| setting.differs()).map(|setting| setting.path.as_str()).collect();
        assert_eq!(differ, ["seed", "scheduler.every", "scheduler.name"]);
        assert_eq!(all[3].values, [None, Some("5".to_string())]);
        assert!(same_recipe(&a, &b));
        let set = |key: &str, value: &str| {
            let mut changed = a.clone();
            changed.insert(key.into(), value.into());
            changed
        };
        // What is recorded beside is no part of it; a key that came later is, with the value that it stood for.
        assert!(same_recipe(&a, &set("protocol", "paper")) && same_recipe(&set("precision", "f32"), &a));
        assert!(!same_recipe(&a, &set("precision", "bf16")) && !same_recipe(&a, &set("model", "vgg19")));
        let c: Table = toml::from_str("epochs = 11").unwrap();
        assert!(!same_recipe(&a, &c));
    }
}
