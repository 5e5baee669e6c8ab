//! The report as one page of HTML: nothing is loaded from anywhere, and no script runs.

use std::collections::BTreeMap;
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::baseline::{Dense, dense_of};
use crate::compare::{Compared, Metric, Side, compare, left_out, written};
use crate::entry::{Entry, relative};
use crate::figures::{Section, layers, sections};
use crate::format::{count, duration, percent, short};
use crate::receipt::Receipt;
use crate::run::Run;
use crate::settings::side_by_side;
use crate::theme;

/// Writes the page; `path` is where it will lie, from where links to the runs lead.
pub fn page(entries: &[Entry], path: &Path) -> String {
    let sections = sections(entries);
    let title = title(entries);
    let comparisons = comparisons(entries);
    let configured = entries.iter().any(|entry| !entry.run.config.is_empty());
    let files = files(entries, path);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // The icon that a browser would ask a server for.
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(theme::page())) }
            }
            body {
                main {
                    h1 { (title) }
                    (subtitle(entries))
                    nav {
                        @for section in &sections { a href={ "#" (section.id) } { (section.title) } }
                        @if !comparisons.is_empty() { a href="#seeds" { "Seeds" } }
                        @if entries.iter().any(has_receipt) { a href="#receipt" { "Receipt" } }
                        @if configured { a href="#configuration" { "Configuration" } }
                        @if !files.is_empty() { a href="#files" { "Files" } }
                    }
                    (runs(entries))
                    (notes(entries))
                    @for section in &sections { (figures(section)) }
                    @if !comparisons.is_empty() { (seeds(&comparisons)) }
                    (receipts(entries))
                    @if configured { (configuration(entries)) }
                    (linked(&files))
                    footer { "Made by bonsai report " (env!("CARGO_PKG_VERSION")) ". Epochs count from 1." }
                }
            }
        }
    };
    page.into_string()
}

fn title(entries: &[Entry]) -> String {
    match entries {
        [] => "No runs".to_string(),
        [one] => {
            one.run.seed().map_or_else(|| one.run.experiment(), |seed| format!("{}, seed {seed}", one.run.experiment()))
        }
        many => {
            let mut labels: Vec<&str> =
                many.iter().filter(|entry| entry.leads).map(|entry| entry.label.as_str()).collect();
            let more = labels.len().saturating_sub(4);
            labels.truncate(4);
            format!("{}{}", labels.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() })
        }
    }
}

/// What all runs share: network, data, machine.
fn subtitle(entries: &[Entry]) -> Markup {
    let setting = |run: &Run, key: &str| run.setting(key).and_then(|value| value.as_str().map(String::from));
    let data = |run: &Run| run.summary.as_ref().map(|summary| summary.data.clone()).or_else(|| setting(run, "data"));
    let machine = |run: &Run| {
        let summary = run.summary.as_ref()?;
        Some(format!("{}, {} cores, {}", summary.hardware.cpu, summary.hardware.cores, summary.device))
    };
    let facts = [
        shared(entries, |run| setting(run, "model")),
        shared(entries, data),
        shared(entries, machine),
        shared(entries, |run| {
            run.summary.as_ref()?.git_revision.clone().map(|revision| format!("revision {revision}"))
        }),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    html! { p.muted { (facts.join(" · ")) } }
}

/// What is the same in all runs that say something.
fn shared(entries: &[Entry], fact: impl Fn(&Run) -> Option<String>) -> Option<String> {
    let mut facts = entries.iter().filter_map(|entry| fact(&entry.run));
    let first = facts.next()?;
    facts.all(|other| other == first).then_some(first)
}

/// The dense run that this one is measured against: one of the report, or one that lies beside its runs.
fn baseline(entry: &Entry, entries: &[Entry]) -> Option<Dense> {
    let own = dense_of(&entry.run, entries.iter().map(|entry| &entry.run)).and_then(Dense::of);
    let same_seed = |dense: &Dense| dense.seed == entry.run.seed();
    // A dense run of the same seed beside the report is nearer than one of another seed in it.
    let beside = entry.extras.dense.clone();
    match (own, beside) {
        (Some(own), Some(beside)) if !same_seed(&own) && same_seed(&beside) => Some(beside),
        (own, beside) => own.or(beside),
    }
}

/// One row a run.
fn runs(entries: &[Entry]) -> Markup {
    let pruned = entries.iter().any(|entry| !entry.is_dense());
    html! {
        div.scroll #runs {
            table {
                thead { tr {
                    th { "run" } th { "seed" } th { "test" }
                    @if pruned { th { "under dense" } }
                    th { "validation" } th { "best, test" } th { "removed" } th { "MACs, of dense" }
                    th { "parameters" } th { "images/s" } th { "time" }
                } }
                tbody { @for entry in entries { (run(entry, entries, pruned)) } }
            }
        }
        p.muted {
            "Test: the network as training left it. Best: the epoch that was best on the validation split among those at the target. "
            @if pruned {
                "Under dense: percentage points below the dense run of the same recipe and, where there is one, the same seed; "
                "a dash where no such run lies beside these, or the accuracy does not count."
            }
        }
    }
}

fn run(entry: &Entry, entries: &[Entry], pruned: bool) -> Markup {
    let objection = entry.objection();
    let epochs = entry.run.epochs.len();
    let name = html! {
        span class={ "swatch " (theme::class(entry.group)) } {} (entry.label)
        @if !entry.run.is_finished() {
            div.remark { "not finished: " (epochs) @if epochs == 1 { " epoch" } @else { " epochs" } }
        } @else if let Some(why) = &objection {
            div.remark { "does not count: " (why) }
        }
    };
    let seed = entry.run.seed().map_or_else(String::new, |seed| seed.to_string());
    let Some(summary) = &entry.run.summary else {
        let last = entry.run.epochs.last();
        return html! { tr {
            td { (name) } td { (seed) } td { "–" }
            @if pruned { td { "–" } }
            td { (last.map_or("–".to_string(), |row| percent(row.valid_accuracy))) }
            td { "–" }
            td { (last.map_or("–".to_string(), |row| percent(row.sparsity))) }
            td { (last.map_or("–".to_string(), |row| short(row.macs as f64))) }
            td { (last.filter(|row| row.parameters > 0).map_or("–".to_string(), |row| count(row.parameters))) }
            td { (last.map_or("–".to_string(), |row| short(row.images_per_second))) }
            td { (duration(entry.run.epochs.iter().map(|row| row.seconds).sum())) }
        } };
    };
    let under = baseline(entry, entries).filter(|_| !entry.is_dense()).and_then(|dense| {
        let points = dense.above(&entry.run)?;
        let other = if dense.seed == entry.run.seed() { "" } else { " (other seed)" };
        Some(format!("{points:.2}{other}").replace('-', "−"))
    });
    let parameters = if summary.kept_parameters > 0 {
        summary.kept_parameters
    } else {
        summary.parameters.saturating_sub(summary.prunable - summary.kept)
    };
    html! { tr {
        td { (name) }
        td { (seed) }
        td { (percent(summary.final_test_accuracy)) }
        @if pruned { td { (under.unwrap_or_else(|| if entry.is_dense() { String::new() } else { "–".to_string() })) } }
        td { (percent(summary.final_valid_accuracy)) }
        td { (summary.best_test_accuracy.map_or("–".to_string(), percent)) }
        td { (percent(summary.sparsity)) }
        td { (short(summary.macs as f64)) ", " (percent(summary.macs as f64 / summary.dense_macs as f64)) }
        td { (count(parameters)) }
        td { (short(summary.images_per_second)) }
        td { (duration(summary.wall_seconds)) }
    } }
}

/// What a reader should not miss.
fn notes(entries: &[Entry]) -> Markup {
    let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut say = |sentence: String, entry: &Entry| notes.entry(sentence).or_default().push(entry.name());
    for entry in entries {
        let summary = entry.run.summary.as_ref();
        for dead in layers::dead(entry) {
            say(format!("Dead channels in {dead}."), entry);
        }
        for warning in summary.map_or(&[][..], |summary| &summary.data_warnings) {
            say(format!("Data: {warning}."), entry);
        }
        for note in &entry.extras.notes {
            say(note.clone(), entry);
        }
        if let Some(resumes) = summary.map(|summary| summary.resumes).filter(|resumes| *resumes > 0) {
            let times = if resumes == 1 { "once".to_string() } else { format!("{resumes} times") };
            say(format!("Interrupted and resumed {times}."), entry);
        }
        if entry.run.epochs.is_empty() {
            say("No epoch is recorded.".to_string(), entry);
        }
    }
    html! {
        @if !notes.is_empty() {
            div.notes #notes { ul {
                @for (sentence, runs) in notes {
                    li { @if entries.len() > 1 { b { (concerned(&runs, entries.len())) ": " } } (sentence) }
                }
            } }
        }
    }
}

/// Names runs, or counts them where they are many.
fn concerned(runs: &[String], all: usize) -> String {
    if runs.len() > 3 { format!("{} of {all} runs", runs.len()) } else { runs.join("; ") }
}

fn figures(section: &Section) -> Markup {
    html! {
        section id=(section.id) {
            h2 { (section.title) }
            p.muted { (section.text) }
            div.figures {
                @for figure in &section.figures {
                    figure id=(figure.id) { (PreEscaped(figure.picture.inline())) }
                }
            }
        }
    }
}

/// Every experiment with several seeds against the dense one, or the first.
fn comparisons(entries: &[Entry]) -> Vec<(Side, Side, Vec<Compared>)> {
    let mut groups: BTreeMap<usize, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        groups.entry(entry.group).or_default().push(entry);
    }
    if groups.values().all(|runs| runs.len() < 2) {
        return Vec::new();
    }
    let data = |runs: &[&Entry]| runs.iter().find_map(|entry| Some(entry.run.summary.as_ref()?.data.clone()));
    let side = |runs: &[&Entry]| Side::new(&runs[0].label, runs.iter().map(|entry| entry.run.clone())).ok();
    let mut comparisons = Vec::new();
    for (number, runs) in &groups {
        // Accuracies on different data are not to be compared.
        let alike: Vec<(&usize, &Vec<&Entry>)> = groups.iter().filter(|(_, other)| data(other) == data(runs)).collect();
        let base = alike.iter().find(|(_, other)| other[0].is_dense()).or(alike.first());
        let Some((_, other)) = base.filter(|(base, other)| *base != number && runs.len().max(other.len()) > 1) else {
            continue;
        };
        if let (Some(own), Some(base)) = (side(runs), side(other)) {
            let compared = compare(&own, &base);
            comparisons.push((own, base, compared));
        }
    }
    comparisons
}

/// Writes comparisons as tables.
pub(crate) fn seeds(comparisons: &[(Side, Side, Vec<Compared>)]) -> Markup {
    html! {
        section #seeds {
            h2 { "Seeds" }
            p.muted {
                "Mean ± standard deviation [95 % interval of the mean, Student's t], n seeds. Differences are taken seed by seed. An \
                 interval covers chance between seeds alone."
            }
            @for (a, b, compared) in comparisons {
                div.scroll { table {
                    thead { tr { th { "" } th { (a.name) } th { (b.name) } th { (a.name) " − " (b.name) } } }
                    tbody { @for row in compared { @if row.sides.iter().any(Option::is_some) { tr {
                        td { (row.metric.name()) }
                        @for sample in [row.sides[0], row.sides[1], row.difference] {
                            td { (written(row.metric, sample.as_ref()).replace('-', "−")) }
                        }
                    } } } }
                } }
                @for sentence in left_out(a).into_iter().chain(left_out(b)) { p.muted { (sentence) } }
            }
        }
    }
}

fn has_receipt(entry: &Entry) -> bool {
    !entry.extras.receipt.rows.is_empty()
}

/// What each form of a network costs, where it was measured.
fn receipts(entries: &[Entry]) -> Markup {
    let all: Vec<(String, &Receipt)> = (entries.iter())
        .filter(|entry| has_receipt(entry))
        .map(|entry| (entry.name(), &entry.extras.receipt))
        .collect();
    html! {
        @if !all.is_empty() {
            section #receipt {
                h2 { "Receipt" }
                p.muted { "What the network costs on one machine: dense, with its weights masked, and as it was trained." }
                @for (name, receipt) in all {
                    h3 { (name) }
                    div.scroll { table {
                        @let rows = |place: usize| receipt.rows.iter().filter_map(move |row| row.get(place)).filter(|text| !text.is_empty());
                        // A column that says nothing of this network is left out.
                        @let columns: Vec<usize> = (0..receipt.columns.len()).filter(|place| rows(*place).next().is_some()).collect();
                        thead { tr { @for &place in &columns {
                            th.left[rows(place).any(|text| text.parse::<f64>().is_err())] { (receipt.columns[place].replace('_', " ")) }
                        } } }
                        tbody { @for row in &receipt.rows { tr { @for text in columns.iter().filter_map(|place| row.get(*place)) {
                            @match text.parse::<f64>() {
                                Ok(number) => { td { (short(number)) } }
                                Err(_) => { td.left { (text) } }
                            }
                        } } } }
                    } }
                }
            }
        }
    }
}

/// The resolved settings: first those in which the runs differ; seeds that differ in nothing else share a column.
fn configuration(entries: &[Entry]) -> Markup {
    let configured: Vec<&Entry> = entries.iter().filter(|entry| !entry.run.config.is_empty()).collect();
    let configs: Vec<_> = configured.iter().map(|entry| &entry.run.config).collect();
    let (differ, same): (Vec<_>, Vec<_>) = side_by_side(&configs).into_iter().partition(|setting| setting.differs());
    let mut columns: Vec<(Vec<&Option<String>>, Vec<usize>)> = Vec::new();
    for run in 0..configured.len() {
        let others = differ.iter().filter(|setting| setting.path != "seed");
        let values: Vec<&Option<String>> = others.map(|setting| &setting.values[run]).collect();
        let apart = |(other, runs): &&mut (Vec<_>, Vec<usize>)| {
            *other == values && configured[runs[0]].group == configured[run].group
        };
        match columns.iter_mut().find(apart) {
            Some((_, runs)) => runs.push(run),
            None => columns.push((values, vec![run])),
        }
    }
    let heading = |runs: &[usize]| {
        let seeds: Vec<String> =
            runs.iter().filter_map(|run| configured[*run].run.seed()).map(|seed| seed.to_string()).collect();
        let label = &configured[runs[0]].label;
        if seeds.is_empty() { label.clone() } else { format!("{label}, seed {}", seeds.join(", ")) }
    };
    html! {
        section #configuration {
            h2 { "Configuration" }
            @if differ.iter().any(|setting| setting.path != "seed") {
                p.muted { "Settings in which the runs differ." }
                div.scroll #differences { table {
                    thead { tr { th { "setting" } @for (_, runs) in &columns { th.left { (heading(runs)) } } } }
                    tbody { @for setting in differ.iter().filter(|setting| setting.path != "seed") { tr {
                        td { (setting.path) }
                        @for (_, runs) in &columns { td.left { (value(&setting.values[runs[0]])) } }
                    } } }
                } }
            }
            @if !same.is_empty() {
                details open[configured.len() == 1] {
                    summary { (same.len()) @if configured.len() > 1 { " settings that all runs share" } @else { " settings" } }
                    div.scroll { table { tbody { @for setting in &same { tr {
                        td { (setting.path) }
                        td.left { (value(&setting.values[0])) }
                    } } } } }
                }
            }
        }
    }
}

/// A setting's value; of a fingerprint the beginning.
fn value(value: &Option<String>) -> String {
    let Some(value) = value else { return "–".to_string() };
    let fingerprint = value.len() >= 32 && value.chars().all(|letter| letter.is_ascii_hexdigit());
    if fingerprint { format!("{}…", &value[..12]) } else { value.clone() }
}

/// Names of runs with links to their files, and the names of these.
type Files = Vec<(String, Vec<(String, String)>)>;

/// Finds what the runs left; the links hold as long as the page stays beside them.
fn files(entries: &[Entry], page: &Path) -> Files {
    (entries.iter())
        .filter_map(|entry| {
            let names = std::fs::read_dir(&entry.run.folder)
                .ok()?
                .flatten()
                .map(|file| file.file_name().to_string_lossy().into_owned());
            let known = |name: &String| {
                name.ends_with(".onnx")
                    || [
                        "model.safetensors",
                        "receipt.csv",
                        "config.toml",
                        "metrics.csv",
                        "layers.csv",
                        "events.jsonl",
                        "steps.csv",
                    ]
                    .contains(&name.as_str())
            };
            let mut names: Vec<String> = names.filter(known).collect();
            names.sort();
            let links =
                names.into_iter().filter_map(|name| Some((relative(page, &entry.run.folder.join(&name))?, name)));
            Some((entry.name(), links.collect::<Vec<_>>())).filter(|(_, links)| !links.is_empty())
        })
        .collect()
}

fn linked(found: &Files) -> Markup {
    html! {
        @if !found.is_empty() {
            section #files {
                h2 { "Files" }
                @for (name, links) in found {
                    p { (name) ": " @for (place, (link, file)) in links.iter().enumerate() {
                        @if place > 0 { ", " } a href=(link) { (file) }
                    } }
                }
            }
        }
    }
}

/// Writes a comparison for a terminal.
pub fn compared_text(a: &Side, b: &Side) -> String {
    let rows: Vec<[String; 4]> =
        std::iter::once([String::new(), a.name.clone(), b.name.clone(), "difference".to_string()])
            .chain(compare(a, b).iter().filter(|row| row.sides.iter().any(Option::is_some)).map(|row| {
                let cell = |sample: Option<&_>| written(row.metric, sample);
                [
                    row.metric.name().to_string(),
                    cell(row.sides[0].as_ref()),
                    cell(row.sides[1].as_ref()),
                    cell(row.difference.as_ref()),
                ]
            }))
            .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text += "\nMean ± standard deviation [95 % interval of the mean, Student's t], n seeds; the difference is taken seed by seed\n";
    let common =
        a.values(Metric::FinalTest).keys().filter(|seed| b.values(Metric::FinalTest).contains_key(seed)).count();
    if common < 2 {
        text += "A paired interval takes two seeds at least that both have, finished and at their target\n";
    }
    for sentence in left_out(a).into_iter().chain(left_out(b)) {
        text += &format!("{sentence}\n");
    }
    text
}
