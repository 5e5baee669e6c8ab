//! Finds what a user may have meant.

/// Returns `, did you mean ...?` with the candidates nearest to a mistyped name, or a list of all when none is near.
pub(crate) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut ranked: Vec<(usize, &str)> =
        candidates.into_iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate)).collect();
    ranked.sort();
    let quoted = |names: &[(usize, &str)]| names.iter().map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>();
    let near =
        ranked.iter().take_while(|(distance, candidate)| *distance <= candidate.len().min(name.len()) / 2).count();
    if near > 0 {
        format!("; did you mean {}?", quoted(&ranked[..near.min(3)]).join(" or "))
    } else {
        format!("; there are {}", quoted(&ranked[..ranked.len().min(8)]).join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_listed() {
        assert_eq!(suggestion("granett", ["gmp", "granet"]), "; did you mean `granet`?");
        assert_eq!(suggestion("xyz", ["gmp", "set"]), "; there are `gmp`, `set`");
    }
}
