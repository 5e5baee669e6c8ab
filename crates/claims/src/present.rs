//! Puts answers into a sheet: the claim beside ours, under the paper's rule and under the honest ones.

use std::collections::BTreeMap;

use crate::answer::{Answer, Ours};
use crate::claims::{Cell, Claims, trimmed};
use crate::sheet::Sheet;
use crate::verdict::{MARGIN, SEEDS, Verdict, WIDEST};
use bonsai_report::statistics::Sample;

/// Every cell of a table of claims beside what we found.
pub fn sheet(claims: &Claims, answers: &[Answer]) -> Sheet {
    let columns = [
        "method",
        "network",
        "data",
        "target",
        "claim, %",
        "ours by the paper's rule, %",
        "ours, validation chose, %",
        "ours, last epoch, %",
        "ours over dense, same seeds",
        "seeds",
        "sparsity, exact %",
        "MACs",
        "parameters",
        "hardware",
        "revision",
        "verdict",
    ];
    let mut above = vec![
        format!("{} ({}): {}. {}", claims.authors, claims.year, claims.table, claims.link),
        format!("The paper's protocol: {} The paper's rule: {}.", closed(&claims.protocol), claims.selection.words()),
    ];
    above.extend(claims.note.iter().map(|note| closed(note)));
    let mut below = vec![
        format!(
            "Mean ± standard deviation over seeds, of runs at the target only. Reproduced: our 95 % interval under the \
             paper's rule meets the claimed mean ± standard deviation (ours where none is given) with a margin of \
             {MARGIN} points; a verdict takes {SEEDS} seeds and an interval of at most ± {WIDEST} point."
        ),
        "A claim's figure: [source] read in a public text, [code] in the official code or its README, [unchecked] recalled \
         and checked against nothing, [reading] the most faithful reading of a text that does not state it."
            .to_string(),
    ];
    if answers.iter().any(|answer| answer.short && answer.ours.is_some()) {
        below.push("Figures in (brackets) are of a short stand-in and say nothing about the claim.".to_string());
    }
    Sheet {
        title: claims.title.clone(),
        above,
        columns: columns.map(String::from).to_vec(),
        rows: answers.iter().map(line).collect(),
        below,
    }
}

/// How many cells have which verdict, by its word; verdicts that no cell has are left away.
pub fn tally(answers: &[Answer]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.verdict.word()).or_insert(0) += 1;
    }
    counts
}

fn line(answer: &Answer) -> Vec<String> {
    let Answer { row, cell, short, ours, verdict, caveats } = answer;
    let ours = ours.as_ref();
    // A stand-in's figures must not be taken for those of the cell.
    let bracketed = |text: String| if *short && !text.is_empty() { format!("({text})") } else { text };
    let figure = |pick: &dyn Fn(&Ours) -> Option<Sample>| {
        bracketed(ours.and_then(pick).map_or_else(String::new, |sample| spread(sample.mean, sample.std)))
    };
    let mut verdict_text = verdict.to_string();
    // A figure that nobody checked can be met, and that says little.
    if matches!(verdict, Verdict::Reproduced | Verdict::NotReproduced(_)) {
        verdict_text += &format!(" [{}]", cell.trust);
    }
    if !caveats.is_empty() && ours.is_some() {
        verdict_text += &format!(" ({})", caveats.join("; "));
    }
    vec![
        row.method.clone(),
        row.network.clone(),
        row.data.clone(),
        target(cell),
        claim(cell),
        figure(&|ours| if cell.gain.is_some() { ours.gain } else { ours.paper }),
        figure(&|ours| ours.selected),
        figure(&|ours| ours.last),
        ours.and_then(|ours| ours.gain).map_or_else(String::new, |sample| {
            let text = spread(sample.mean, sample.std);
            format!("{}{text} ({})", if sample.mean < 0.0 { "" } else { "+" }, sample.n)
        }),
        ours.map_or_else(String::new, |ours| ours.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
        ours.map_or_else(String::new, |ours| {
            let (low, high) = ours.sparsity;
            between(format!("{:.4}", 100.0 * low), format!("{:.4}", 100.0 * high))
        }),
        ours.map_or_else(String::new, |ours| {
            let (low, high) = ours.macs;
            let share = 100.0 * high as f64 / ours.dense_macs.max(1) as f64;
            format!("{} ({share:.1} %)", between(grouped(low), grouped(high)))
        }),
        // Runs of early revisions did not count them.
        ours.filter(|ours| ours.parameters.0 > 0)
            .map_or_else(String::new, |ours| between(grouped(ours.parameters.0), grouped(ours.parameters.1))),
        ours.map_or_else(String::new, |ours| ours.hardware.join("; ")),
        ours.map_or_else(String::new, |ours| ours.revisions.join(", ")),
        verdict_text,
    ]
}

/// What a cell asks of the network, with the parameters that the paper states.
fn target(cell: &Cell) -> String {
    let target = cell.target();
    match cell.parameters {
        Some(parameters) => format!("{target}, {} parameters", short_count(parameters)),
        None => target.to_string(),
    }
}

/// The claim as the paper prints it, with the mark of how far it is confirmed.
fn claim(cell: &Cell) -> String {
    let text = match (cell.mean, cell.gain) {
        (Some(mean), _) => spread(mean, cell.std),
        (None, Some(gain)) => format!("{gain:+.2} over dense"),
        (None, None) => return String::new(),
    };
    let runs = cell.n.map_or_else(String::new, |n| format!(", n = {n}"));
    format!("{text}{runs} [{}]", cell.trust)
}

fn spread(mean: f64, std: Option<f64>) -> String {
    std.map_or_else(|| format!("{mean:.2}"), |std| format!("{mean:.2} ± {std:.2}"))
}

pub(crate) fn between(low: String, high: String) -> String {
    if low == high { low } else { format!("{low} to {high}") }
}

fn closed(sentence: &str) -> String {
    let sentence = sentence.trim();
    if sentence.ends_with('.') { sentence.to_string() } else { format!("{sentence}.") }
}

/// A count in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// A count as papers print it: `2.25 M`.
fn short_count(count: f64) -> String {
    if count >= 1e5 { format!("{} M", trimmed(count / 1e8)) } else { grouped(count as u64) }
}
