//! The generated parts of a page: a table of results, and putting a part between its marks.

use std::collections::BTreeMap;

use toml::Value;

use crate::identity::Identity;
use crate::runs::{Finished, Runs};
use crate::sheet::Sheet;
use bonsai_report::statistics::Sample;

/// Replaces what stands between `<!-- generated: NAME -->` and the next `<!-- end -->`.
///
/// # Errors
///
/// A sentence if the marks are not there.
pub fn replace(page: &str, name: &str, text: &str) -> Result<String, String> {
    let (open, close) = (format!("<!-- generated: {name} -->"), "<!-- end -->");
    let missing = || format!("the part {name} has no marks: add a line {open} and a line {close}");
    let start = page.find(&open).ok_or_else(missing)? + open.len();
    let end = page[start..].find(close).ok_or_else(missing)? + start;
    Ok(format!("{}\n{}\n{}", &page[..start], text.trim_end(), &page[end..]))
}

/// The sentence in the comment at the start of a TOML file, on one line.
pub fn first_comment(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    let words: Vec<&str> = lines.map(|line| line.trim_start_matches('#').trim()).collect();
    words.join(" ")
}

/// One line an experiment: the test accuracy of the last epoch over its seeds, and the distance from the dense network of the
/// same recipe, which is the same configuration but for `[scheduler]`.
pub fn results(runs: &Runs) -> Sheet {
    let mut groups: BTreeMap<(String, Identity), Vec<&Finished>> = BTreeMap::new();
    for run in &runs.finished {
        groups.entry((run.summary.run.clone(), run.identity.clone())).or_default().push(run);
    }
    let columns = [
        "experiment",
        "seeds",
        "test accuracy of the last epoch, %",
        "mean ± std",
        "95 % interval of the mean",
        "under dense, same seeds",
        "sparsity, %",
        "MACs",
        "revisions",
    ];
    let rows = groups.into_values().map(|mut group| {
        group.sort_by_key(|run| run.summary.seed);
        let figures: Vec<f64> = group.iter().filter_map(|run| run.last()).collect();
        let sample = Sample::of(&figures);
        let joined = |texts: Vec<String>| texts.join(", ");
        let mut revisions: Vec<String> = group.iter().map(|run| run.revision.clone()).collect();
        revisions.sort();
        revisions.dedup();
        let summary = &group[0].summary;
        vec![
            format!("`{}`", summary.run),
            joined(group.iter().map(|run| run.summary.seed.to_string()).collect()),
            joined(figures.iter().map(|figure| format!("{figure:.2}")).collect()),
            sample.map_or_else(String::new, |sample| match sample.std {
                Some(std) => format!("{:.2} ± {std:.2}", sample.mean),
                None => format!("{:.2}", sample.mean),
            }),
            sample
                .and_then(|sample| Some((sample.mean, sample.half?)))
                .map_or_else(String::new, |(mean, half)| format!("{:.2} to {:.2}", mean - half, mean + half)),
            below(&group, runs),
            format!("{:.4}", 100.0 * summary.sparsity),
            {
                let macs = || group.iter().map(|run| run.summary.macs);
                let (low, high) = (macs().min().unwrap_or(0), macs().max().unwrap_or(0));
                crate::present::between(crate::present::grouped(low), crate::present::grouped(high))
            },
            joined(revisions),
        ]
    });
    let rows = rows.collect();
    Sheet { columns: columns.map(String::from).to_vec(), rows, ..Sheet::default() }
}

/// The mean distance from the dense runs of the same recipe and seeds, in points; empty where there are none.
fn below(group: &[&Finished], runs: &Runs) -> String {
    let recipe = |run: &Finished| {
        let mut config = run.config.clone();
        config.remove("scheduler");
        Identity::of(&config)
    };
    let is_dense = |run: &Finished| {
        run.config.get("scheduler").and_then(|section| section.get("name")) == Some(&Value::from("dense"))
    };
    let pairs = group.iter().filter(|run| !is_dense(run)).filter_map(|run| {
        let twin = runs
            .finished
            .iter()
            .find(|dense| is_dense(dense) && dense.summary.seed == run.summary.seed && recipe(dense) == recipe(run))?;
        Some(twin.last()? - run.last()?)
    });
    let distances: Vec<f64> = pairs.collect();
    match Sample::of(&distances) {
        None => String::new(),
        Some(Sample { n, mean, std: Some(std), .. }) => format!("{mean:.2} ± {std:.2} ({n})"),
        Some(Sample { mean, .. }) => format!("{mean:.2} (1)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_the_rest_stays() {
        let page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->\n";
        let once = replace(page, "x", "new\nlines\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- generated: x -->\nnew\nlines\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->\n"
        );
        assert_eq!(replace(&once, "x", "new\nlines").unwrap(), once);
        let message = replace("a", "x", "new").unwrap_err();
        assert!(message.contains("<!-- generated: x -->"), "{message}");
    }

    #[test]
    fn the_first_comment_is_one_sentence() {
        assert_eq!(first_comment("# One\n# sentence.\n\n# not this\na = 1"), "One sentence.");
        assert_eq!(first_comment("a = 1"), "");
    }
}
