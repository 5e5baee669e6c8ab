//! Sets what our runs found beside each cell of a table, with a verdict.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::claims::{Cell, Claims, Recipe, Row, Selection, Target};
use crate::identity::Identity;
use crate::runs::{Finished, Runs, UNKNOWN};
use crate::verdict::{Claim, SEEDS, Verdict, judge};
use bonsai_report::statistics::Sample;

/// The data set that is built in; its accuracies say nothing about any other.
const EMBEDDED: &str = "shapes10";

/// An experiment with everything filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The resolved configuration, as a run would write it.
    pub config: Table,
    /// Records in the test split of its data set.
    pub test_records: u64,
}

/// Fills in an experiment with changes, or says what is wrong with it.
pub type Resolve<'a> = dyn Fn(&Recipe) -> Result<Resolved, String> + 'a;

/// A cell and what we found.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The row of the cell.
    pub row: &'a Row,
    /// The cell.
    pub cell: &'a Cell,
    /// Whether the runs below are those of the cell's short stand-in.
    pub short: bool,
    /// Our figures, where there are runs at the target.
    pub ours: Option<Ours>,
    /// The verdict.
    pub verdict: Verdict,
    /// What should be known beside it and does not change it.
    pub caveats: Vec<String>,
}

/// What the runs of one configuration found; accuracies in per cent.
#[derive(Clone, Debug, PartialEq)]
pub struct Ours {
    /// The seeds, in order.
    pub seeds: Vec<u64>,
    /// Under the paper's selection rule; absent where not every run recorded what that takes.
    pub paper: Option<Sample>,
    /// The epoch that validation chose.
    pub selected: Option<Sample>,
    /// The last epoch.
    pub last: Option<Sample>,
    /// Points above the dense baseline of the same seeds, under the paper's rule.
    pub gain: Option<Sample>,
    /// The exact shares of the prunable weights that are removed, smallest and largest.
    pub sparsity: (f64, f64),
    /// MACs for one image, smallest and largest.
    pub macs: (u64, u64),
    /// MACs of the dense network.
    pub dense_macs: u64,
    /// Learnable parameters that are kept, smallest and largest.
    pub parameters: (u64, u64),
    /// Processors and devices.
    pub hardware: Vec<String>,
    /// Revisions of the code.
    pub revisions: Vec<String>,
}

/// Answers every cell of a table from the finished runs.
///
/// # Errors
///
/// One sentence if an experiment that the table names does not exist or is wrong.
pub fn answers<'a>(claims: &'a Claims, runs: &Runs, resolve: &Resolve) -> Result<Vec<Answer<'a>>, String> {
    claims.cells().map(|(row, cell)| answer(claims, row, cell, runs, resolve)).collect()
}

fn answer<'a>(
    claims: &'a Claims,
    row: &'a Row,
    cell: &'a Cell,
    runs: &Runs,
    resolve: &Resolve,
) -> Result<Answer<'a>, String> {
    let without = |verdict| Answer { row, cell, short: false, ours: None, verdict, caveats: Vec::new() };
    let Some(recipe) = row.recipe(cell) else {
        return Ok(without(Verdict::NotRun(row.not_run.clone().unwrap_or_default())));
    };
    let named = |recipe: &Recipe| {
        resolve(recipe).map_err(|message| format!("{}.toml, row `{}`: {message}", claims.name, row.method))
    };
    let full = named(&recipe)?;
    let baseline = row.baseline.clone().or_else(|| dense(claims, row, cell)).as_ref().map(named).transpose()?;
    let stand_in = cell.stand_in().map(|recipe| named(&recipe)).transpose()?;

    let mut reasons: Vec<String> = row.differs.iter().cloned().collect();
    let mut caveats: Vec<String> = row.note.iter().cloned().collect();
    let (short, resolved) = match stand_in {
        // The stand-in speaks only where the experiment itself has not.
        Some(stand_in) if runs.of(&Identity::of(&full.config)).next().is_none() => {
            reasons.extend(departures(&stand_in.config, &full.config));
            (true, stand_in)
        }
        _ => (false, full),
    };
    let identity = Identity::of(&resolved.config);
    let all: Vec<&Finished> = runs.of(&identity).collect();
    if all.is_empty() {
        return Ok(without(Verdict::NotRun(String::new())));
    }
    let (at_target, missed): (Vec<&Finished>, Vec<&Finished>) =
        all.into_iter().partition(|run| meets(cell.target(), run));
    if !missed.is_empty() {
        let count = missed.len();
        let sentence = format!("{count} {} missed the target", if count == 1 { "run" } else { "runs" });
        if at_target.is_empty() {
            reasons.push(sentence);
            return Ok(Answer { row, cell, short, ours: None, verdict: Verdict::NotComparable(reasons), caveats });
        }
        caveats.push(sentence);
    }

    let chosen = choose(&at_target);
    let base: Vec<&Finished> = match &baseline {
        Some(baseline) if !short => {
            let identity = Identity::of(&baseline.config);
            let of = runs.finished.iter().filter(|run| run.identity == identity).collect::<Vec<_>>();
            choose(&of)
        }
        _ => Vec::new(),
    };
    let ours = summarise(claims.selection, &chosen, &base);
    if let [_, _, ..] = ours.revisions[..] {
        reasons.push(format!("runs of several revisions ({})", ours.revisions.join(", ")));
    }
    if ours.revisions.iter().any(|revision| revision.contains("-dirty")) {
        reasons.push("sources that were not committed".to_string());
    }
    if ours.revisions.iter().any(|revision| revision == UNKNOWN) {
        reasons.push("an unknown revision".to_string());
    }
    if let Some(fewest) = chosen.iter().map(|run| run.summary.test_records).min().filter(|n| *n < resolved.test_records)
    {
        reasons.push(format!("tested on {fewest} of {} records", resolved.test_records));
    }
    let (claim, figure) = match cell.gain {
        Some(gain) => {
            if ours.gain.is_none() && !short {
                reasons.push("no dense baseline of the same seeds".to_string());
            }
            (Some(Claim { mean: gain, std: cell.std }), ours.gain)
        }
        None => {
            if ours.paper.is_none() {
                reasons.push(format!("other protocol: the paper's figure is the {}", claims.selection.words()));
            }
            (cell.mean.map(|mean| Claim { mean, std: cell.std }), ours.paper)
        }
    };
    if claims.selection == Selection::Unknown {
        caveats.push("the paper's selection rule is not known".to_string());
    }
    if chosen.iter().any(|run| !run.summary.data_warnings.is_empty()) {
        caveats.push("the data set differs from the published files".to_string());
    }
    let verdict = judge(claim, figure, reasons);
    Ok(Answer { row, cell, short, ours: Some(ours), verdict, caveats })
}

/// The experiment of the dense cell beside a sparse one: the same network and data in the same table.
fn dense(claims: &Claims, row: &Row, cell: &Cell) -> Option<Recipe> {
    if cell.target() == Target::Dense {
        return None;
    }
    let beside = |(other, dense): &(&Row, &Cell)| {
        dense.target() == Target::Dense && (&other.network, &other.data) == (&row.network, &row.data)
    };
    claims.cells().filter(beside).find_map(|(other, dense)| other.recipe(dense))
}

/// In what a stand-in departs from the experiment of its cell.
fn departures(short: &Table, full: &Table) -> Vec<String> {
    let text = |table: &Table, key: &str| match table.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "all".to_string(),
    };
    let mut found = Vec::new();
    let (ours, theirs) = (text(short, "data"), text(full, "data"));
    if ours != theirs {
        found.push(if ours == EMBEDDED { "embedded data".to_string() } else { format!("other data ({ours})") });
    }
    if text(short, "model") != text(full, "model") {
        found.push(format!("{} instead of {}", text(short, "model"), text(full, "model")));
    }
    if text(short, "epochs") != text(full, "epochs") {
        found.push(format!("short recipe ({} of {} epochs)", text(short, "epochs"), text(full, "epochs")));
    }
    if found.is_empty() {
        found.push("a stand-in with another recipe".to_string());
    }
    found
}

/// Tells whether a run ended at the target: accuracy counts nowhere else.
fn meets(target: Target, run: &Finished) -> bool {
    let summary = &run.summary;
    match target {
        Target::Dense => summary.kept == summary.prunable && summary.macs == summary.dense_macs,
        // To less than one weight.
        Target::Sparsity(share) => (summary.sparsity - share).abs() * (summary.prunable as f64) < 1.0,
        Target::Macs(share) => summary.macs as f64 <= share * summary.dense_macs as f64 + 1e-6,
        // Which share of the channels goes is the scheduler's exact count; here it is seen only that some went.
        Target::Channels(_) => !summary.shape.is_empty(),
        Target::Open => true,
    }
}

/// The runs that are shown, one a seed: those of the revision with the most seeds; all of them, if that is still too few for
/// a verdict and others have further seeds.
fn choose<'a>(runs: &[&'a Finished]) -> Vec<&'a Finished> {
    let mut groups: BTreeMap<&str, BTreeMap<u64, &'a Finished>> = BTreeMap::new();
    let mut pooled: BTreeMap<u64, &'a Finished> = BTreeMap::new();
    for &run in runs {
        groups.entry(&run.revision).or_default().entry(run.summary.seed).or_insert(run);
        pooled.entry(run.summary.seed).or_insert(run);
    }
    // The last of equals, which depends on nothing but the runs.
    let best = groups.into_values().max_by_key(BTreeMap::len).unwrap_or_default();
    let shown = if best.len() < SEEDS && pooled.len() > best.len() { pooled } else { best };
    shown.into_values().collect()
}

/// The accuracy of a run under a selection rule.
fn figure(selection: Selection, run: &Finished) -> Option<f64> {
    match selection {
        Selection::BestTest => run.best_test(),
        Selection::BestValid => run.selected(),
        Selection::Last | Selection::Unknown => run.last(),
    }
}

fn summarise(selection: Selection, runs: &[&Finished], base: &[&Finished]) -> Ours {
    // A figure that one seed lacks is none: a mean over the others would be of other runs than its neighbours.
    let sample = |figure: &dyn Fn(&Finished) -> Option<f64>| {
        let figures: Option<Vec<f64>> = runs.iter().map(|run| figure(run)).collect();
        figures.and_then(|figures| Sample::of(&figures))
    };
    let gains: Vec<f64> = runs
        .iter()
        .filter_map(|run| {
            let dense = base.iter().find(|dense| dense.summary.seed == run.summary.seed)?;
            Some(figure(selection, run)? - figure(selection, dense)?)
        })
        .collect();
    let all: BTreeSet<String> = runs.iter().map(|run| run.revision.clone()).collect();
    let hardware: BTreeSet<String> =
        runs.iter().map(|run| format!("{}, {}", run.summary.hardware.cpu, run.summary.device)).collect();
    let range = |value: &dyn Fn(&Finished) -> u64| {
        let values = || runs.iter().map(|run| value(run));
        (values().min().unwrap_or(0), values().max().unwrap_or(0))
    };
    let sparsities = || runs.iter().map(|run| run.summary.sparsity);
    Ours {
        seeds: runs.iter().map(|run| run.summary.seed).collect(),
        paper: sample(&|run| figure(selection, run)),
        selected: sample(&Finished::selected),
        last: sample(&Finished::last),
        gain: Sample::of(&gains),
        sparsity: (sparsities().fold(f64::INFINITY, f64::min), sparsities().fold(0.0, f64::max)),
        macs: range(&|run| run.summary.macs),
        dense_macs: runs.first().map_or(0, |run| run.summary.dense_macs),
        parameters: range(&|run| run.summary.kept_parameters),
        hardware: hardware.into_iter().collect(),
        revisions: all.into_iter().collect(),
    }
}
