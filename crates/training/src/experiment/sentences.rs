//! Turns the errors of serde and TOML into sentences that name the line and the nearest valid name.

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
    let sentence = suggest(error.message());
    // serde reports a missing key at the start of its table, which helps nobody.
    let missing = error.message().starts_with("missing field");
    let Some(span) = error.span().filter(|_| !missing) else { return format!("{name}.toml: {sentence}") };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or("").trim();
    let place = if sentence.contains("did you mean") { String::new() } else { format!(" in `{line}`") };
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

/// Rewrites serde's "unknown … expected one of …" and "missing field …"; other messages keep their words.
pub(super) fn suggest(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let start = ["unknown field", "unknown variant", "missing field"].iter().find_map(|words| message.find(words));
    let Some(start) = start else { return message };
    let (prefix, about) = message.split_at(start);
    // toml ends its message with the place, as in "… in `allocation`".
    let (about, place) = about.rsplit_once(" in `").map_or((about, None), |(about, place)| (about, Some(place)));
    let names = backticked(about);
    let Some((word, known)) = names.split_first() else { return message };
    if about.starts_with("missing") {
        return format!("{prefix}the key `{word}` is missing; add a line such as `{}`", example_of(word));
    }
    let what = match place {
        _ if about.starts_with("unknown field") => format!("unknown key `{word}`"),
        Some(key) => format!("unknown value `{word}` of `{key}"),
        None => format!("unknown value `{word}`"),
    };
    let hint = nearest(word, known.iter().map(String::as_str)).map(|near| format!("; did you mean `{near}`?"));
    let valid = if known.is_empty() { "none".to_string() } else { known.join(", ") };
    format!("{prefix}{what}{} (valid: {valid})", hint.unwrap_or_default())
}

/// Returns the words between backticks.
fn backticked(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// Returns a line that gives a required key a usual value.
fn example_of(key: &str) -> String {
    match key {
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
                "scheduler `dense`: unknown field `every`, there are no fields",
                "scheduler `dense`: unknown key `every` (valid: none)",
            ),
            ("missing field `epochs`", "the key `epochs` is missing; add a line such as `epochs = 160`"),
            ("`sparsity` is 1.5, but must be below 1", "`sparsity` is 1.5, but must be below 1"),
        ] {
            assert_eq!(suggest(message), sentence);
        }
    }
}
