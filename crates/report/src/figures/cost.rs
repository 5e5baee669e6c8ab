//! Accuracy against what the network costs.

use std::collections::BTreeSet;

use crate::chart::{Point, Scatter};
use crate::entry::Entry;
use crate::format::percent;
use crate::theme::class;

use super::{Section, slug};

/// What a run's network costs, where that is known.
type Cost = fn(&Entry) -> Option<f64>;

/// Test accuracy against MACs, parameters and measured time; nothing for a single run.
pub fn pareto(entries: &[Entry]) -> Section {
    let mut section = Section::new(
        "pareto",
        "Accuracy against cost",
        "Test accuracy of the network as training left it. Open circles missed their target, so that their accuracy does not count. \
         The dashed line joins the runs that no other beats. Training times are those of the last epoch, on whatever machine \
         each run had; forward passes are those of the receipt.",
    );
    let costs: [(&str, &str, Cost); 4] = [
        ("macs", "MACs of an image", |entry| Some(entry.run.summary.as_ref()?.macs as f64)),
        ("parameters", "parameters kept", |entry| {
            let summary = entry.run.summary.as_ref()?;
            // Early records count them only in the epochs, or not at all.
            let kept = [summary.kept_parameters, entry.run.epochs.last().map_or(0, |row| row.parameters)];
            let counted = kept.into_iter().find(|kept| *kept > 0);
            let derived = summary.parameters.checked_sub(summary.prunable - summary.kept);
            counted.or(derived).map(|kept| kept as f64)
        }),
        ("milliseconds", "training time of 1000 images, ms", |entry| {
            let rate = entry.run.epochs.last()?.images_per_second;
            (rate > 0.0).then(|| 1e6 / rate)
        }),
        ("forward", "forward pass of an image, ms", |entry| entry.extras.receipt.forward_ms()),
    ];
    // Accuracies on different data are not to be compared.
    let data = |entry: &&Entry| entry.run.summary.as_ref().map(|summary| summary.data.clone());
    let sets: BTreeSet<String> = entries.iter().filter_map(|entry| data(&entry)).collect();
    for set in &sets {
        let own: Vec<&Entry> = entries.iter().filter(|entry| data(entry).as_ref() == Some(set)).collect();
        if own.len() < 2 {
            continue;
        }
        let (title, suffix) = if sets.len() > 1 {
            (format!("test accuracy on {set}, %"), format!("-{}", slug(set)))
        } else {
            ("test accuracy, %".to_string(), String::new())
        };
        for (id, across, cost) in costs {
            let points = own.iter().filter_map(|entry| point(entry, cost)).collect();
            section.add(format!("pareto-{id}{suffix}"), Scatter { title: &title, across, points }.draw());
        }
    }
    section
}

fn point(entry: &Entry, cost: Cost) -> Option<Point> {
    let summary = entry.run.summary.as_ref()?;
    let objection = entry.objection();
    let remark = objection.as_deref().map_or_else(String::new, |why| format!("; does not count: {why}"));
    Some(Point {
        label: entry.mark(),
        title: format!("{}: {}{remark}", entry.name(), percent(summary.final_test_accuracy)),
        class: class(entry.group),
        cost: cost(entry)?,
        gain: 100.0 * summary.final_test_accuracy,
        counts: objection.is_none(),
    })
}
