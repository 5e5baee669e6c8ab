//! Which layers keep what, and what comes and goes in them.

use crate::chart::{Histogram, Lines, Row, Rows, Series, Turnover, Unit, histograms};
use crate::entry::Entry;
use crate::format::{percent, short};
use crate::run::Run;
use crate::theme::class;

use super::{Section, slug};

/// The name of a layer without what all layers share.
fn plain(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Kept weights of each layer over the epochs, and kept channels over the events.
pub fn layers(entries: &[Entry]) -> Section {
    let mut section = Section::new(
        "layers",
        "Layers over time",
        "One row a layer, one bar an epoch, its height the share of the layer's weights that is kept; rows of channel groups have \
         a bar for each event that removed channels. Where an experiment has several seeds, its first run is shown.",
    );
    for entry in entries.iter().filter(|entry| entry.leads && !entry.is_dense()) {
        let title = entry.title("kept weights by layer");
        let shown = &entry.run.layers;
        let mut names: Vec<&str> = Vec::new();
        for row in shown {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        let rows = names.iter().map(|name| {
            let mine: Vec<_> = shown.iter().filter(|row| row.name == *name).collect();
            let share = |row: &&bonsai_records::LayerRow| {
                if row.weights == 0 { 0.0 } else { row.kept as f64 / row.weights as f64 }
            };
            let last = mine.last().map_or((0, 0.0), |row| (row.kept, share(row)));
            let dead = entry.extras.model.get(*name).map_or(0, |weight| weight.dead_units().0);
            Row {
                name: plain(name).to_string(),
                shares: mine.iter().map(share).collect(),
                end: format!("{} · {:.1} %", short(last.0 as f64), 100.0 * last.1),
                alarm: last.0 == 0 || dead > 0,
            }
        });
        let span = [shown.first(), shown.last()]
            .map(|row| row.map_or_else(String::new, |row| format!("epoch {}", row.epoch + 1)));
        let chart =
            Rows { title: &title, ends: "kept in the end", span, class: class(entry.group), rows: rows.collect() };
        section.add(format!("layers-{}", slug(&entry.name())), chart.draw());

        let title = entry.title("kept channels by group");
        let rows = groups(&entry.run);
        let bars = rows.first().map_or(0, |row| row.shares.len());
        let span = ["start".to_string(), format!("after {} events", bars.saturating_sub(1))];
        let chart = Rows { title: &title, ends: "kept of all", span, class: class(entry.group), rows };
        section.add(format!("channels-{}", slug(&entry.name())), chart.draw());
    }
    let dead = entries.iter().filter_map(|entry| {
        let per_epoch = entry.iterations_per_epoch()?;
        let of = |event: &bonsai_records::EventRow| event.figures.get("dead units").copied();
        entry.run.events.iter().find_map(of)?;
        let events = entry.run.events.iter();
        let points = events.map(|event| (event.iteration as f64 / per_epoch, of(event).unwrap_or(0.0))).collect();
        Some(Series { label: entry.mark(), class: class(entry.group), points, steps: true })
    });
    let chart = Lines {
        title: "output channels without a weight",
        across: "epochs",
        unit: Unit::Short,
        across_unit: Unit::Whole,
        reaches: Some(0.0),
        series: dead.collect(),
    };
    section.add("dead-epochs", chart.draw());
    section
}

/// One row a channel group: the share that is kept at the start and after each event that removed channels anywhere.
fn groups(run: &Run) -> Vec<Row> {
    let events: Vec<_> = run.events.iter().filter(|event| !event.groups.is_empty()).collect();
    let mut names: Vec<&str> = Vec::new();
    for group in events.iter().flat_map(|event| &event.groups) {
        if !names.contains(&group.name.as_str()) {
            names.push(&group.name);
        }
    }
    names.sort_by_key(|name| natural(name));
    let row = |name: &&str| {
        let of = |event: &&bonsai_records::EventRow| event.groups.iter().find(|group| group.name == **name).cloned();
        let all = events.iter().find_map(of).map_or(0, |group| group.kept + group.pruned);
        let mut kept = all;
        let shares = std::iter::once(1.0).chain(events.iter().map(|event| {
            kept = of(event).map_or(kept, |group| group.kept);
            kept as f64 / all.max(1) as f64
        }));
        let shares = shares.collect();
        Row { name: (*name).to_string(), shares, end: format!("{kept} / {all}"), alarm: kept == 0 }
    };
    names.iter().map(row).collect()
}

/// A key by which `blocks.2` comes before `blocks.10`.
fn natural(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(0), part.to_string())).collect()
}

/// What each event grew and removed, added to the section on sparsity.
pub fn turnover(section: &mut Section, entries: &[Entry]) {
    for entry in entries.iter().filter(|entry| entry.leads) {
        let Some(per_epoch) = entry.iterations_per_epoch() else { continue };
        let events = entry.run.events.iter().filter(|event| event.iteration > 0);
        let events = events.map(|event| (event.iteration as f64 / per_epoch, event.grown, event.pruned)).collect();
        let title = entry.title("births and deaths");
        let end = entry.run.epochs.last().map_or(0.0, |row| (row.epoch + 1) as f64);
        let chart = Turnover { title: &title, events, end, class: class(entry.group) };
        section.add(format!("turnover-{}", slug(&entry.name())), chart.draw());
    }
}

/// Weights before and after.
pub fn weights(entries: &[Entry]) -> Section {
    let known = entries.iter().any(|entry| entry.leads && !entry.extras.initial.is_empty());
    let mut text = "Areas: the kept weights of the trained network. ".to_string();
    if known {
        text += "Grey lines: the initial weights, drawn again from the seed. ";
    }
    text += "Each is scaled to its own peak; a percentage is what is kept of the layer. The outermost bins hold what lies beyond.";
    let mut section = Section::new("weights", "Weights before and after", text);
    for entry in entries.iter().filter(|entry| entry.leads) {
        let title = entry.title("weights by layer");
        let model = &entry.extras.model;
        let mut names: Vec<&String> = model.keys().collect();
        names.sort_by_key(|name| natural(name));
        // In the order of the network where it is recorded.
        let place = |name: &String| entry.run.layers.iter().position(|row| row.name == *name).unwrap_or(usize::MAX);
        names.sort_by_key(|name| place(name));
        let layers = names.into_iter().map(|name| {
            let before = entry.extras.initial.get(name).map_or(&[][..], Vec::as_slice);
            let values = model[name].kept_values();
            let all = entry
                .run
                .layers
                .iter()
                .rev()
                .find(|row| row.name == *name)
                .map_or(model[name].values.len(), |row| row.weights as usize);
            Histogram::new(plain(name), before, &values, values.len() as f64 / all.max(1) as f64)
        });
        section.add(
            format!("weights-{}", slug(&entry.name())),
            histograms(&title, &class(entry.group), &layers.collect::<Vec<_>>()),
        );
    }
    section
}

/// Layers with units none of whose weights is kept, in a sentence each.
pub fn dead(entry: &Entry) -> Vec<String> {
    let layers = entry.extras.model.iter().map(|(name, weight)| (name, weight.dead_units()));
    let dead = layers.filter(|(_, (dead, _))| *dead > 0);
    dead.map(|(name, (dead, all))| {
        let share = percent(dead as f64 / all as f64);
        format!("{}: {dead} of {all} output channels ({share}) have no weight left", plain(name))
    })
    .collect()
}
