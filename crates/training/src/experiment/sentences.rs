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
    let message = error.message();
    // serde reports a missing key at the start of its table, which helps nobody.
    if let Some(key) = backticked(message).first().filter(|_| message.starts_with("missing field")) {
        return format!("{name}.toml: the key `{key}` is missing; add a line such as `{}`", example_of(key));
    }
    let Some(span) = error.span() else { return format!("{name}.toml: {}", suggest(message, "")) };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or("").trim();
    format!("{name}.toml, line {number}: {}", suggest(message, line))
}

/// Says what is wrong with the section `[scheduler]`, with the line of the key it is about.
pub(super) fn of_scheduler(message: &str, text: &str, name: &str) -> String {
    let sentence = suggest(message, "");
    let key = backticked(message).into_iter().next().unwrap_or_default();
    let mut section = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        let assigned = line.split('=').next().unwrap_or("").trim();
        if section.starts_with("[scheduler]") && assigned == key {
            return format!("{name}.toml, line {}: {sentence}", index + 1);
        }
    }
    format!("{name}.toml: {sentence}")
}

/// Rewrites serde's "unknown … expected one of …" so that it names the nearest; other messages keep their words.
pub(super) fn suggest(message: &str, line: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    let names = backticked(&message);
    let (noun, listed) = if message.contains("unknown field") {
        ("key", "keys")
    } else if message.contains("unknown variant") {
        ("value", "values")
    } else {
        let place = if line.is_empty() { String::new() } else { format!(" in `{line}`") };
        return format!("{message}{place}");
    };
    let Some((unknown, known)) = names.split_first() else { return message };
    let near = nearest(unknown, known.iter().map(String::as_str));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
    format!("unknown {noun} `{unknown}`{hint} (valid {listed}: {known})")
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
        "name" => "name = \"sgd\"".to_string(),
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
        let sentence = suggest("unknown field `evry`, expected one of `every`, `sparsity`", "");
        assert_eq!(sentence, "unknown key `evry`; did you mean `every`? (valid keys: every, sparsity)");
    }
}
