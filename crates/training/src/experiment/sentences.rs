//! Turns the errors of serde and TOML into sentences that name the line and the nearest valid name.

use bonsai_pruning::registry;
use toml::{Table, Value};

/// Letters of a line or a word that a sentence repeats at most.
const LONGEST_LINE: usize = 200;
const LONGEST_WORD: usize = 80;

/// The keys that every scheduler knows beside its own.
const COMMON: [&str; 2] = ["exclude", "floor"];

/// Returns the candidate that is spelled most like `word`, if any is close.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_lowercase();
    let likeness = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
        // `lr` for `optimizer.lr` and `train_record` for `train_records` are near although much is missing.
        let end = strsim::normalized_damerau_levenshtein(&last(word), &last(candidate)) * 0.95;
        let start = strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()) - 0.3;
        whole.max(end).max(start)
    };
    candidates
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        // `max_by` returns the last of equals; the first is the one a reader would see first.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| candidate)
}

/// Says what is wrong with a TOML text: the file, the line, the key and the nearest valid name.
pub(super) fn of_toml(error: &toml::de::Error, text: &str, name: &str) -> String {
    let mut sentence = suggest(error.message());
    if let Some((key, section)) = missing_in(error.message(), text) {
        sentence =
            format!("the key `{key}` is missing in [{section}]; add a line such as `{}`", example_of(key, section));
    }
    // serde reports a missing key at the start of its table, which helps nobody.
    let missing = error.message().starts_with("missing field");
    let Some(span) = error.span().filter(|_| !missing) else { return format!("{name}.toml: {sentence}") };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line: String = text.lines().nth(number - 1).unwrap_or("").trim().chars().filter(|c| !c.is_control()).collect();
    let repeats = !sentence.contains("did you mean") && line.chars().count() <= LONGEST_LINE;
    let place = if repeats { format!(" in `{line}`") } else { String::new() };
    format!("{name}.toml, line {number}: {sentence}{place}")
}

/// Says what is wrong with the section `[scheduler]`, with the line of the key it is about.
pub(super) fn of_scheduler(message: &str, text: &str, name: &str) -> String {
    let sentence = suggest(message);
    let about = message.split_once(": ").map_or(message, |(_, about)| about);
    let key = backticked(about).into_iter().next().unwrap_or_default();
    let mut section = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        let (assigned, value) = line.split_once('=').unwrap_or((line, ""));
        if section.starts_with("[scheduler]") && (assigned.trim() == key || value.contains(&format!("\"{key}\""))) {
            return format!("{name}.toml, line {}: {sentence}", index + 1);
        }
    }
    format!("{name}.toml: {sentence}")
}

/// Says what is wrong after `--set`; `own` is the section `[scheduler]` of the file.
pub(super) fn of_override(message: &str, own: &Table, name: &str) -> String {
    let words = backticked(message);
    let before = own.get("name").and_then(Value::as_str).unwrap_or_default();
    match &words[..] {
        [scheduler, key, ..]
            if message.starts_with("scheduler `")
                && message.contains("unknown field")
                && scheduler != before
                && own.contains_key(key) =>
        {
            format!(
                "--set scheduler.name={scheduler}: the keys of {before} remain, and {scheduler} does not know `{key}`; edit \
                 the table [scheduler] in {name}.toml instead"
            )
        }
        _ => suggest(message),
    }
}

/// Finds the section in which a key is missing that serde names without it.
fn missing_in<'a>(message: &'a str, text: &str) -> Option<(&'a str, &'static str)> {
    let key = message.strip_prefix("missing field `")?.split('`').next()?;
    match key {
        "name" => Some((key, "optimizer")),
        "schedule" => Some((key, "lr")),
        // Without the section [lr] it is that which is missing.
        "lr" => toml::from_str::<Table>(text).ok()?.contains_key("lr").then_some((key, "optimizer")),
        _ => None,
    }
}

/// Rewrites serde's "unknown … expected one of …", "missing field …" and "invalid type …".
pub(super) fn suggest(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let start = ["unknown field", "unknown variant", "missing field"].iter().find_map(|words| message.find(words));
    let Some(start) = start else { return in_plain_words(&message) };
    let (prefix, about) = message.split_at(start);
    // toml ends its message with the place, as in "… in `allocation`".
    let (about, place) = about.rsplit_once(" in `").map_or((about, None), |(about, place)| (about, Some(place)));
    let mut names = backticked(about);
    if prefix.starts_with("scheduler `") && about.starts_with("unknown field") {
        names.extend(COMMON.map(String::from));
    }
    let Some((word, known)) = names.split_first() else { return message };
    if about.starts_with("missing") {
        return format!("{prefix}the key `{word}` is missing; add a line such as `{}`", example_of(word, ""));
    }
    if about.starts_with("unknown field")
        && let Some(method) = prefix.strip_prefix("scheduler `").and_then(|rest| rest.split('`').next())
        && let others = registry::with_key(word)
        && !others.is_empty()
    {
        return format!(
            "scheduler `{method}` has no key `{word}`, which belongs to {} (keys of {method}: {})",
            others.join(", "),
            known.join(", ")
        );
    }
    let hint = nearest(word, known.iter().map(String::as_str)).map(|near| format!("; did you mean `{near}`?"));
    let word = shortened(word);
    let what = match place {
        _ if about.starts_with("unknown field") => format!("unknown key `{word}`"),
        Some(key) => format!("unknown value `{word}` of `{key}"),
        None => format!("unknown value `{word}`"),
    };
    let valid = if known.is_empty() { "none".to_string() } else { known.join(", ") };
    format!("{prefix}{what}{} (valid: {valid})", hint.unwrap_or_default())
}

/// Rewrites serde's "invalid type: …, expected u64" in words that need no Rust; other messages stay.
pub fn in_plain_words(message: &str) -> String {
    let start =
        ["invalid type: ", "invalid value: "].iter().find_map(|words| Some((message.find(words)?, words.len())));
    let Some((start, length)) = start else { return message.to_string() };
    let (prefix, about) = (&message[..start], &message[start + length..]);
    let Some((found, expected)) = about.rsplit_once(", expected ") else { return message.to_string() };
    let (expected, place) = expected.rsplit_once(" in `").map_or((expected, None), |(it, place)| (it, Some(place)));
    let (found, expected) = match found.strip_suffix(" as i128").or_else(|| found.strip_suffix(" as u128")) {
        Some(found) => (found, format!("a whole number of at most {}", i64::MAX)),
        None => (found, kind(expected)),
    };
    let found = shortened(&value(found));
    match place {
        Some(key) => format!("{prefix}`{key} takes {expected}, not {found}"),
        None => format!("{prefix}expected {expected}, not {found}"),
    }
}

/// Names what serde expects.
fn kind(expected: &str) -> String {
    let kind = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string or table" | "wanted string or table" => "a text",
        "a sequence" => "a list",
        other if other.starts_with("struct ") || other == "a map" => "a section with keys",
        other => match other.strip_prefix("an array of length ") {
            Some(length) => return format!("a list of {length} values"),
            None => other,
        },
    };
    kind.to_string()
}

/// Writes what serde found as it stands in the file.
fn value(found: &str) -> String {
    match found {
        "sequence" => return "a list".to_string(),
        "map" => return "a section with keys".to_string(),
        _ => (),
    }
    let kinds = ["integer ", "floating point ", "boolean ", "string "];
    kinds.iter().find_map(|kind| found.strip_prefix(kind)).unwrap_or(found).trim_matches('`').to_string()
}

/// Cuts a word that is too long to be repeated.
fn shortened(word: &str) -> String {
    if word.chars().count() <= LONGEST_WORD {
        return word.to_string();
    }
    word.chars().take(LONGEST_WORD).chain("…".chars()).collect()
}

/// Returns the words between backticks.
fn backticked(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// Returns a line that gives a required key a usual value.
fn example_of(key: &str, section: &str) -> String {
    match key {
        "name" => "name = \"sgd\"".to_string(),
        "lr" if section == "optimizer" => "lr = 0.1".to_string(),
        "model" => "model = \"resnet20\"".to_string(),
        "data" => "data = \"cifar10\"".to_string(),
        "epochs" => "epochs = 160".to_string(),
        "batch_size" => "batch_size = 128".to_string(),
        "optimizer" | "lr" | "scheduler" => format!("[{key}]"),
        "schedule" => "schedule = \"cosine\"".to_string(),
        "every" => "every = 1000".to_string(),
        "end_epoch" => "end_epoch = 80".to_string(),
        "sparsity" => "sparsity = 0.9".to_string(),
        other => format!("{other} = …"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_key() {
        let keys = ["epochs", "batch_size", "optimizer.lr", "lr.schedule", "scheduler.every", "train_records"];
        for (slip, key) in [
            ("epoch", "epochs"),
            ("batchsize", "batch_size"),
            ("lr", "optimizer.lr"),
            ("scheduler.evry", "scheduler.every"),
            ("train_record", "train_records"),
        ] {
            assert_eq!(nearest(slip, keys), Some(key), "{slip}");
        }
        assert_eq!(nearest("zzz", keys), None);
    }

    #[test]
    fn serdes_words_become_a_sentence() {
        for (message, sentence) in [
            (
                "unknown field `evry`, expected one of `every`, `sparsity`",
                "unknown key `evry`; did you mean `every`? (valid: every, sparsity)",
            ),
            (
                "scheduler `rigl`: unknown variant `erc`, expected `erk` or `uniform` in `allocation`",
                "scheduler `rigl`: unknown value `erc` of `allocation`; did you mean `erk`? (valid: erk, uniform)",
            ),
            (
                "scheduler `dense`: unknown field `evry`, there are no fields",
                "scheduler `dense`: unknown key `evry` (valid: exclude, floor)",
            ),
            (
                "scheduler `gmp`: unknown field `flor`, expected `every` or `scope`",
                "scheduler `gmp`: unknown key `flor`; did you mean `floor`? (valid: every, scope, exclude, floor)",
            ),
            (
                "scheduler `gmp`: invalid value: integer `-1`, expected u64 in `every`",
                "scheduler `gmp`: `every` takes a whole number of 0 or more, not -1",
            ),
            (
                "scheduler `gmp`: unknown field `drop`, expected `every` or `scope`",
                "scheduler `gmp` has no key `drop`, which belongs to rigl, set (keys of gmp: every, scope, exclude, floor)",
            ),
            ("invalid type: string \"many\", expected f64", "expected a number, not \"many\""),
            (
                "invalid type: integer `99999999999999999999` as i128, expected u64",
                "expected a whole number of at most 9223372036854775807, not 99999999999999999999",
            ),
            ("invalid type: sequence, expected a boolean", "expected true or false, not a list"),
            ("missing field `epochs`", "the key `epochs` is missing; add a line such as `epochs = 160`"),
            ("`sparsity` is 1.5, but must be below 1", "`sparsity` is 1.5, but must be below 1"),
        ] {
            assert_eq!(suggest(message), sentence);
        }
    }
}
