//! Applies `--set path.to.key=value` to an experiment, keeping the type of every value.

use toml::{Table, Value};

use super::sentences::nearest;

/// Keys that may be absent from a resolved experiment, with a value of their type.
static OPTIONAL: [(&str, Value); 11] = [
    ("name", Value::String(String::new())),
    ("shortcut", Value::String(String::new())),
    ("stem", Value::String(String::new())),
    ("bypass", Value::Boolean(false)),
    ("train_records", Value::Integer(0)),
    ("protocol", Value::String(String::new())),
    ("evaluate.recalibrate", Value::Integer(0)),
    ("lr.milestones", Value::Array(Vec::new())),
    ("optimizer.clip_norm", Value::Float(0.0)),
    ("scheduler.exclude", Value::Array(Vec::new())),
    ("scheduler.floor", Value::Float(0.0)),
];

/// Keys of which a scheduler takes one: setting it takes the other's place.
const ALTERNATIVES: [(&str, &str); 2] = [("scheduler.macs", "channels"), ("scheduler.channels", "macs")];

/// Replaces one value of `table` by an assignment such as `optimizer.lr=0.05`.
///
/// The section `[scheduler]` takes any key, because only the scheduler itself knows its own.
pub(super) fn apply_set(table: &mut Table, assignment: &str) -> Result<(), String> {
    let (path, text) = assignment
        .split_once('=')
        .map(|(path, text)| (path.trim(), text.trim()))
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| {
            format!("--set takes path.to.key=value, for example --set optimizer.lr=0.05, not `{assignment}`")
        })?;
    let known = paths(table);
    let old = known
        .iter()
        .find(|(name, _)| name == path)
        .map(|(_, value)| value.clone())
        .or_else(|| OPTIONAL.iter().find(|(name, _)| *name == path).map(|(_, value)| value.clone()));
    let own_key = path.strip_prefix("scheduler.").is_some_and(|key| !key.is_empty() && !key.contains('.'));
    let value = match old {
        Some(old) => retyped(path, text, &old)?,
        None if own_key => literal(text).unwrap_or_else(|| Value::String(text.to_string())),
        None => return Err(unknown(path, &known)),
    };
    let (section, key) = path.split_once('.').map_or((None, path), |(section, key)| (Some(section), key));
    let target = match section {
        Some(section) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            section.as_table_mut().expect("the path was found above")
        }
        None => table,
    };
    target.insert(key.to_string(), value);
    for (_, other) in ALTERNATIVES.iter().filter(|(set, _)| *set == path) {
        target.remove(*other);
    }
    Ok(())
}

/// Reads `text` as a value of the same type as `old`.
fn retyped(path: &str, text: &str, old: &Value) -> Result<Value, String> {
    let wrong = |kind: &str| Err(format!("--set {path} takes {kind}, not `{text}`"));
    match (old, literal(text)) {
        (Value::String(_), Some(Value::String(new))) => Ok(Value::String(new)),
        (Value::String(_), _) => Ok(Value::String(text.to_string())),
        // A count of epochs such as `end_epoch = 80` may become fractional.
        (Value::Integer(_), Some(new @ Value::Float(_))) if path.ends_with("_epoch") => Ok(new),
        (Value::Integer(_), Some(new @ Value::Integer(_))) => Ok(new),
        (Value::Integer(_), _) => wrong("a whole number"),
        (Value::Float(_), Some(new @ Value::Float(_))) => Ok(new),
        (Value::Float(_), Some(Value::Integer(new))) => Ok(Value::Float(new as f64)),
        (Value::Float(_), _) => wrong("a number"),
        (Value::Boolean(_), Some(new @ Value::Boolean(_))) => Ok(new),
        (Value::Boolean(_), _) => wrong("true or false"),
        (Value::Array(_), Some(new @ Value::Array(_))) => Ok(new),
        (Value::Array(_), _) => wrong("a list such as [80, 120]"),
        (Value::Table(_) | Value::Datetime(_), _) => wrong("one of its keys, as in section.key=value"),
    }
}

/// Reads a TOML value, or nothing if the text is none.
fn literal(text: &str) -> Option<Value> {
    // A line break would let one assignment smuggle in a second key.
    if text.contains('\n') {
        return None;
    }
    toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value")
}

/// Says which known path is spelled most like an unknown one.
fn unknown(path: &str, known: &[(String, Value)]) -> String {
    let mut names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    let absent: Vec<&str> = OPTIONAL.iter().map(|(name, _)| *name).filter(|name| !names.contains(name)).collect();
    names.extend(absent);
    let hint = nearest(path, names.iter().copied())
        .map_or_else(|| format!("its keys are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("--set: the experiment has no key `{path}`; {hint}")
}

/// Lists the paths of all values, `section.key`, and of the sections themselves.
fn paths(table: &Table) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    for (key, value) in table {
        if let Value::Table(section) = value {
            paths.extend(section.iter().map(|(inner, value)| (format!("{key}.{inner}"), value.clone())));
        } else {
            paths.push((key.clone(), value.clone()));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        toml::from_str("epochs = 10\nmodel = \"resnet20\"\n[optimizer]\nlr = 0.1\nnesterov = true\n[scheduler]\nname = \"gmp\"\nevery = 100\nend_epoch = 5")
            .unwrap()
    }

    #[test]
    fn values_keep_their_type() {
        let mut table = table();
        for assignment in ["optimizer.lr=1", "model = vgg19", "optimizer.nesterov=false", "scheduler.end_epoch=2.5"] {
            apply_set(&mut table, assignment).unwrap();
        }
        assert_eq!(table["optimizer"]["lr"], Value::Float(1.0));
        assert_eq!(table["model"], Value::String("vgg19".to_string()));
        assert_eq!(table["optimizer"]["nesterov"], Value::Boolean(false));
        assert_eq!(table["scheduler"]["end_epoch"], Value::Float(2.5));
    }

    #[test]
    fn keys_of_another_scheduler_may_be_set() {
        let mut table = table();
        apply_set(&mut table, "scheduler.drop=0.3").unwrap();
        assert_eq!(table["scheduler"]["drop"], Value::Float(0.3));
    }

    #[test]
    fn a_cost_takes_the_place_of_a_share_of_channels() {
        let mut table = table();
        for (assignment, left) in [
            ("scheduler.channels=0.4", "channels"),
            ("scheduler.macs=0.5", "macs"),
            ("scheduler.channels=0.3", "channels"),
        ] {
            apply_set(&mut table, assignment).unwrap();
            let scheduler = table["scheduler"].as_table().unwrap();
            let keys: Vec<&str> =
                scheduler.keys().map(String::as_str).filter(|key| ["channels", "macs"].contains(key)).collect();
            assert_eq!(keys, [left]);
        }
    }

    #[test]
    fn unknown_paths_suggest_the_nearest() {
        for (assignment, near) in
            [("epoch=3", "`epochs`"), ("optimizer.lrr=3", "`optimizer.lr`"), ("lr=1", "`optimizer.lr`")]
        {
            let message = apply_set(&mut table(), assignment).unwrap_err();
            assert!(message.contains(near), "{message}");
        }
    }

    #[test]
    fn every_key_is_listed_once() {
        let mut table = table();
        table.insert("name".to_string(), Value::String("run".to_string()));
        let message = apply_set(&mut table, "zzz=1").unwrap_err();
        let listed: Vec<&str> = message.split("its keys are ").nth(1).unwrap().split(", ").collect();
        assert_eq!(listed.iter().filter(|key| **key == "name").count(), 1, "{message}");
        assert!(listed.contains(&"scheduler.floor"), "{message}");
    }

    #[test]
    fn another_type_is_refused() {
        for assignment in
            ["epochs=2.5", "epochs=many", "optimizer.lr=fast", "optimizer.nesterov=1", "nonsense", "=3", "optimizer=3"]
        {
            assert!(apply_set(&mut table(), assignment).is_err(), "{assignment}");
        }
    }
}
