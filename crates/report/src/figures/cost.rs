//! Accuracy against what the network costs.

use crate::chart::{Point, Scatter};
use crate::entry::Entry;
use crate::format::percent;
use crate::theme::class;

use super::Section;

/// Test accuracy against MACs, parameters and measured time; nothing for a single run.
pub fn pareto(entries: &[Entry]) -> Section {
    let mut section = Section::new(
        "pareto",
        "Accuracy against cost",
        "Test accuracy of the network as training left it. Open circles missed their target, so that their accuracy does not count. \
         The dashed line joins the runs that no other beats. Times are those of training steps in the last epoch, on whatever machine \
         each run had.",
    );
    if entries.len() < 2 {
        return section;
    }
    let costs: [(&str, &str, fn(&Entry) -> Option<f64>); 3] = [
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
    ];
    for (id, across, cost) in costs {
        let points = entries.iter().filter_map(|entry| {
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
        });
        section.add(
            format!("pareto-{id}"),
            Scatter { title: "test accuracy, %", across, points: points.collect() }.draw(),
        );
    }
    section
}
