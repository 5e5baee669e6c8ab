//! Expands the section `[sweep]` of a TOML into runs.
//!
//! A list names its values, a range counts them up; several keys make every combination. The keys are taken by the
//! alphabet, the last varying fastest, and seeds after all others:
//!
//! ```toml
//! experiment = "cifar10-resnet20-granet-short"
//!
//! [sweep]
//! scheduler.sparsity = [0.8, 0.9, 0.95]
//! optimizer.lr = { from = 0.025, to = 0.1, steps = 3, scale = "log" }
//! seed = { from = 0, to = 2 }
//! ```

use toml::{Table, Value};

use crate::sentence;

/// The most runs that one file may ask for.
const MOST: usize = 10_000;
/// How far the last step of a range may be from its end, in steps.
const CLOSE: f64 = 1e-9;

/// A file with a section `[sweep]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// Name of the file without `.toml`.
    pub name: String,
    /// What is varied.
    pub base: Base,
    /// Every combination, in order.
    pub points: Vec<Point>,
}

/// The experiment that a sweep varies.
#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    /// One under `experiments/`, with changes in the form of `--set` that hold for every run.
    Named {
        /// Its name.
        experiment: String,
        /// The changes.
        set: Vec<String>,
    },
    /// The rest of the file itself, as TOML.
    Own(String),
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What is set, by path: by the alphabet, the seed last.
    pub values: Vec<(String, Value)>,
}

impl Point {
    /// The changes in the form of `--set`.
    pub fn set(&self) -> Vec<String> {
        self.values.iter().map(|(path, value)| format!("{path}={value}")).collect()
    }

    /// What distinguishes the run, but for its seed, as part of a folder's name: `sparsity=0.9,lr=0.1`.
    pub fn label(&self) -> String {
        let short = |path: &str| {
            let last = path.rsplit('.').next().unwrap_or(path).to_string();
            let ends = |(other, _): &&(String, Value)| other.rsplit('.').next() == Some(last.as_str());
            // Two keys that end alike keep their sections.
            if self.values.iter().filter(ends).count() > 1 { path.to_string() } else { last }
        };
        let parts = self.values.iter().filter(|(path, _)| path != "seed");
        let text: Vec<String> = parts.map(|(path, value)| format!("{}={}", short(path), text_of(value))).collect();
        let safe = |letter: char| if letter.is_alphanumeric() || "=,.-_+".contains(letter) { letter } else { '_' };
        text.join(",").chars().map(safe).take(120).collect()
    }

    /// The seed, where the sweep sets one.
    pub fn seed(&self) -> Option<i64> {
        self.values.iter().find(|(path, _)| path == "seed").and_then(|(_, value)| value.as_integer())
    }
}

impl Sweep {
    /// Reads a file; `name` is its name without `.toml`.
    ///
    /// # Errors
    ///
    /// One sentence with the file and the key.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, String> {
        let mut table: Table = toml::from_str(text).map_err(|error| sentence::of_toml(&error, text, name))?;
        Self::read(&mut table, name).map_err(|message| format!("{name}.toml: {message}"))
    }

    /// Tells whether a TOML text is one of a sweep.
    pub fn is_one(text: &str) -> bool {
        toml::from_str::<Table>(text).is_ok_and(|table| table.contains_key("sweep"))
    }

    fn read(table: &mut Table, name: &str) -> Result<Self, String> {
        let sweep =
            table.remove("sweep").ok_or("it has no section [sweep]: add one, or start it with `bonsai train`")?;
        let Value::Table(sweep) = sweep else {
            return Err("sweep must be a section, as in [sweep] and seed = [0, 1, 2] below it".to_string());
        };
        let mut axes = Vec::new();
        flatten("", &sweep, &mut axes)?;
        axes.sort_by_key(|(path, _)| (path == "seed", path.clone()));
        if axes.is_empty() {
            return Err(
                "[sweep] is empty: name a key and its values, as in scheduler.sparsity = [0.8, 0.9]".to_string()
            );
        }
        let count = axes.iter().try_fold(1usize, |count, (_, values)| count.checked_mul(values.len()));
        let count = count.filter(|count| *count <= MOST);
        let count = count.ok_or_else(|| format!("[sweep] makes more than {MOST} runs: shorten a list"))?;
        let base = Self::base(table)?;
        let mut points = Vec::with_capacity(count);
        for index in 0..count {
            let mut rest = index;
            let mut values: Vec<(String, Value)> = axes
                .iter()
                .rev()
                .map(|(path, choices)| {
                    let value = choices[rest % choices.len()].clone();
                    rest /= choices.len();
                    (path.clone(), value)
                })
                .collect();
            values.reverse();
            points.push(Point { values });
        }
        Ok(Self { name: name.to_string(), base, points })
    }

    fn base(table: &mut Table) -> Result<Base, String> {
        if !table.contains_key("experiment") {
            return Ok(Base::Own(table.to_string()));
        }
        let Some(Value::String(experiment)) = table.remove("experiment") else {
            return Err("experiment takes a name in quotes".to_string());
        };
        let set = match table.remove("set") {
            None => Vec::new(),
            Some(Value::Array(changes)) => {
                let changes = changes.into_iter().map(|change| match change {
                    Value::String(change) => Ok(change),
                    other => Err(format!("set takes changes in quotes such as \"epochs=5\", not {other}")),
                });
                changes.collect::<Result<_, _>>()?
            }
            Some(other) => return Err(format!("set takes a list of changes, not {other}")),
        };
        match table.keys().next() {
            None => Ok(Base::Named { experiment, set }),
            Some(key) => Err(format!(
                "unknown key `{key}`: beside experiment there are only set and [sweep]; other values are changed by set"
            )),
        }
    }
}

/// Lists the keys of `[sweep]` with their values; sections may be written as tables or with dots.
fn flatten(prefix: &str, table: &Table, axes: &mut Vec<(String, Vec<Value>)>) -> Result<(), String> {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let values = match value {
            Value::Array(values) if values.is_empty() => return Err(format!("[sweep] {path} is an empty list")),
            Value::Array(values) => values.clone(),
            Value::Table(inner) if inner.contains_key("from") || inner.contains_key("to") => range(&path, inner)?,
            Value::Table(inner) => {
                flatten(&path, inner, axes)?;
                continue;
            }
            other => {
                return Err(format!("[sweep] {path} takes a list or a range, not {other}: write [{other}]"));
            }
        };
        if let Some(twice) = values.iter().enumerate().find(|(index, value)| values[..*index].contains(value)) {
            return Err(format!("[sweep] {path} names {} twice", twice.1));
        }
        if path == "seed" && values.iter().any(|seed| seed.as_integer().is_none_or(|seed| seed < 0)) {
            return Err("[sweep] seed takes whole numbers of 0 or more".to_string());
        }
        if path == "name" {
            return Err("[sweep] name cannot be varied: runs are named after what they vary".to_string());
        }
        axes.push((path, values));
    }
    Ok(())
}

/// The values of `{ from, to, step }` or `{ from, to, steps, scale }`.
fn range(path: &str, table: &Table) -> Result<Vec<Value>, String> {
    let wrong = |message: String| Err(format!("[sweep] {path}: {message}"));
    const KEYS: [&str; 5] = ["from", "to", "step", "steps", "scale"];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let near = sentence::nearest(key, KEYS).map_or_else(
            || format!("the keys of a range are {}", KEYS.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        return wrong(format!("unknown key `{key}`; {near}"));
    }
    let number = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::Integer(whole)) => Ok(Some(*whole as f64)),
        Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
        Some(other) => Err(format!("[sweep] {path}: {key} takes a number, not {other}")),
    };
    let (Some(from), Some(to)) = (number("from")?, number("to")?) else {
        return wrong("a range needs from and to".to_string());
    };
    if to < from {
        return wrong(format!("to is {to}, less than from, which is {from}"));
    }
    let log = match table.get("scale") {
        None => false,
        Some(Value::String(scale)) if scale == "linear" => false,
        Some(Value::String(scale)) if scale == "log" => true,
        Some(other) => return wrong(format!("scale is \"linear\" or \"log\", not {other}")),
    };
    let steps = match (number("step")?, table.get("steps")) {
        (Some(_), Some(_)) => return wrong("step and steps are two ways to say the same: leave one away".to_string()),
        (_, Some(Value::Integer(steps))) if (2..=MOST as i64).contains(steps) => *steps as usize,
        (_, Some(other)) => return wrong(format!("steps is {other}, and must be a whole number from 2 to {MOST}")),
        (Some(_), None) if log => return wrong("a range with scale = \"log\" takes steps, not step".to_string()),
        (step, None) => {
            let step = step.unwrap_or(1.0);
            if step <= 0.0 {
                return wrong(format!("step is {step}, and must be above 0"));
            }
            let steps = (to - from) / step;
            if (steps - steps.round()).abs() > CLOSE * steps.max(1.0) {
                return wrong(format!("steps of {step} from {from} do not end at {to}"));
            }
            if steps > MOST as f64 {
                return wrong(format!("it has more than {MOST} values"));
            }
            steps.round() as usize + 1
        }
    };
    if log && from <= 0.0 {
        return wrong(format!("from is {from}, and must be above 0 with scale = \"log\""));
    }
    let whole = ["from", "to", "step"].iter().all(|key| table.get(*key).is_none_or(Value::is_integer));
    let values: Vec<f64> = (0..steps)
        .map(|step| {
            let share = if steps > 1 { step as f64 / (steps - 1) as f64 } else { 0.0 };
            let value = if log { from * (to / from).powf(share) } else { from + (to - from) * share };
            // Twelve digits, because 0.8 + 0.05 should read 0.85.
            if step + 1 == steps { to } else { rounded(value) }
        })
        .collect();
    let counts = whole && values.iter().all(|value| value.fract() == 0.0);
    Ok(values
        .into_iter()
        .map(|value| if counts { Value::Integer(value as i64) } else { Value::Float(value) })
        .collect())
}

/// A number to twelve significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.11e}").parse().expect("a number that was just written")
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(text: &str) -> Vec<String> {
        Sweep::from_toml(text, "s").unwrap().points.iter().map(|point| point.set().join(" ")).collect()
    }

    #[test]
    fn every_combination_comes_once_and_the_last_key_varies_fastest() {
        let text = "experiment = 'x'\n[sweep]\n'a.b' = [1, 2]\nc.d = ['p', 'q']\nseed = { from = 0, to = 2 }";
        let all = sets(text);
        assert_eq!(all.len(), 12);
        assert_eq!(all[0], "a.b=1 c.d=\"p\" seed=0");
        assert_eq!(all[1], "a.b=1 c.d=\"p\" seed=1");
        assert_eq!(all[3], "a.b=1 c.d=\"q\" seed=0");
        assert_eq!(all[11], "a.b=2 c.d=\"q\" seed=2");
    }

    #[test]
    fn ranges_count_up_in_decimal_figures() {
        let one = |range: &str| sets(&format!("experiment = 'x'\n[sweep]\na = {range}"));
        assert_eq!(one("{ from = 0.8, to = 0.95, step = 0.05 }"), ["a=0.8", "a=0.85", "a=0.9", "a=0.95"]);
        assert_eq!(one("{ from = 0.1, to = 0.4, steps = 4 }"), ["a=0.1", "a=0.2", "a=0.3", "a=0.4"]);
        assert_eq!(one("{ from = 0.001, to = 0.1, steps = 3, scale = 'log' }"), ["a=0.001", "a=0.01", "a=0.1"]);
        assert_eq!(one("{ from = 2, to = 8, step = 3 }"), ["a=2", "a=5", "a=8"]);
        assert_eq!(one("{ from = 1, to = 2, steps = 3 }"), ["a=1.0", "a=1.5", "a=2.0"]);
        assert_eq!(one("{ from = 3, to = 3 }"), ["a=3"]);
    }

    #[test]
    fn labels_name_what_varies() {
        let text = "experiment = 'x'\nset = ['epochs=2']\n[sweep]\nseed = [4]\n[sweep.optimizer]\nlr = [0.1]\n[sweep.scheduler]\nname = ['g/p']\n[sweep.model]\nname = [1]";
        let sweep = Sweep::from_toml(text, "s").unwrap();
        assert_eq!(sweep.points[0].label(), "model.name=1,lr=0.1,scheduler.name=g_p");
        assert_eq!(sweep.points[0].seed(), Some(4));
        assert_eq!(sweep.base, Base::Named { experiment: "x".to_string(), set: vec!["epochs=2".to_string()] });
    }

    #[test]
    fn an_experiment_of_its_own_stays_in_the_file() {
        let sweep =
            Sweep::from_toml("model = 'mlp'\n[lr]\nschedule = 'cosine'\n[sweep]\nepochs = [1, 2]", "s").unwrap();
        let Base::Own(text) = sweep.base else { panic!("it names no other") };
        assert!(text.contains("model = \"mlp\"") && text.contains("[lr]") && !text.contains("sweep"), "{text}");
    }

    #[test]
    fn mistakes_are_one_sentence_with_file_and_key() {
        for (body, fragment) in [
            ("", "[sweep] is empty"),
            ("a = []", "a is an empty list"),
            ("a = 3", "takes a list or a range, not 3: write [3]"),
            ("a = [1, 1]", "a names 1 twice"),
            ("seed = [-1]", "seed takes whole numbers"),
            ("seed = [0.5]", "seed takes whole numbers"),
            ("name = ['a']", "name cannot be varied"),
            ("a = { from = 1 }", "needs from and to"),
            ("a = { from = 2, to = 1 }", "to is 1, less than from"),
            ("a = { from = 0, to = 1, step = 0.3 }", "do not end at 1"),
            ("a = { from = 0, to = 1, step = 0 }", "step is 0"),
            ("a = { from = 0, to = 1, steps = 1 }", "steps is 1"),
            ("a = { from = 0, to = 1, steps = 3, scale = 'log' }", "from is 0"),
            ("a = { from = 1, to = 2, step = 1, scale = 'log' }", "takes steps"),
            ("a = { from = 1, to = 2, step = 1, steps = 2 }", "leave one away"),
            ("a = { from = 1, to = 2, scale = 'cubic' }", "\"linear\" or \"log\""),
            ("a = { from = 1, to = 2, stepp = 1 }", "did you mean `step"),
            ("a = { from = nan, to = 2 }", "from takes a number"),
            ("a = { from = 0, to = 9e9 }", "more than 10000 values"),
            ("a = { from = 0, to = 999 }\nb = { from = 0, to = 999 }", "more than 10000 runs"),
        ] {
            let message = Sweep::from_toml(&format!("experiment = 'x'\n[sweep]\n{body}"), "s").unwrap_err();
            assert!(message.starts_with("s.toml: ") && message.contains(fragment), "`{fragment}` not in: {message}");
        }
        for (text, fragment) in [
            ("epochs = 1", "no section [sweep]"),
            ("sweep = 3", "must be a section"),
            ("experiment = 3\n[sweep]\na = [1]", "experiment takes a name"),
            ("experiment = 'x'\nset = 'a=1'\n[sweep]\na = [1]", "set takes a list"),
            ("experiment = 'x'\nset = [1]\n[sweep]\na = [1]", "set takes changes in quotes"),
            ("experiment = 'x'\nepochs = 3\n[sweep]\na = [1]", "unknown key `epochs`"),
            ("experiment = \n", "line 1"),
        ] {
            let message = Sweep::from_toml(text, "s").unwrap_err();
            assert!(message.starts_with("s.toml") && message.contains(fragment), "`{fragment}` not in: {message}");
        }
    }
}
