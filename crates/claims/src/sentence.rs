//! Turns the errors of TOML into sentences with the file, the line and the nearest valid key.

/// Says what is wrong with the text of `name`.toml.
pub(crate) fn of_toml(error: &toml::de::Error, text: &str, name: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let sentence = match unknown(&message) {
        Some((key, candidates)) => match nearest(key, candidates.iter().copied()) {
            Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
            None => format!("unknown key `{key}`; its keys are {}", candidates.join(", ")),
        },
        None => message.replace("missing field", "missing key").replace("unknown variant", "unknown value"),
    };
    match error.span() {
        Some(span) => {
            let line = text.get(..span.start).unwrap_or(text).matches('\n').count() + 1;
            format!("{name}.toml, line {line}: {sentence}")
        }
        None => format!("{name}.toml: {sentence}"),
    }
}

/// The key and the valid ones of serde's "unknown field `a`, expected one of `b`, `c`".
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`');
    let key = quoted.next()?;
    // Between two names stands a comma or an "or".
    Some((key, quoted.skip(1).step_by(2).collect()))
}

/// The candidate that is spelled most like `word`, if any is close.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
