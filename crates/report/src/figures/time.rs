//! Where the time went.

use crate::chart::{Bars, Lines, Ratios, Series, Stack, Timed, Unit};
use crate::entry::Entry;
use crate::theme::class;

use super::{Section, slug, steps};

/// Images per second over the epochs, seconds of each epoch, and the kernels that were measured.
pub fn time(entries: &[Entry]) -> Section {
    let mut section = Section::new(
        "time",
        "Time",
        "Images per second of training time, without validation. Kernel times: the shortest that the run itself measured after its last \
         change of the masks, sparse against dense; beyond 1, sparse kernels win and are used.",
    );
    if entries.iter().any(|entry| entry.leads && !entry.run.steps.is_empty()) {
        section.text += &format!(" {}", steps::TEXT);
    }
    let series = entries.iter().map(|entry| Series {
        label: entry.mark(),
        class: class(entry.group) + if entry.leads { "" } else { " seed" },
        points: entry.run.epochs.iter().map(|row| ((row.epoch + 1) as f64, row.images_per_second)).collect(),
        steps: false,
    });
    let chart = Lines {
        title: "images per second",
        across: "epochs",
        unit: Unit::Short,
        across_unit: Unit::Whole,
        reaches: Some(0.0),
        series: series.collect(),
    };
    section.add("images-per-second", chart.draw());
    for entry in entries.iter().filter(|entry| entry.leads) {
        let name = slug(&entry.name());
        if let Some(images) = entry.images_per_epoch() {
            let training: Vec<f64> = entry.run.epochs.iter().map(|row| images / row.images_per_second).collect();
            let rest = entry.run.epochs.iter().zip(&training).map(|(row, training)| row.seconds - training).collect();
            let parts = vec![
                Stack { label: "training".into(), class: class(entry.group), values: training },
                Stack { label: "validation".into(), class: "rest".into(), values: rest },
            ];
            let title = entry.title("seconds of an epoch");
            section.add(format!("seconds-{name}"), Bars { title: &title, across: "epochs", parts }.draw());
        }
        section.add(format!("steps-{name}"), steps::breakdown(entry));
        if let Some(row) = entry.run.kernels.iter().rev().find(|row| !row.kernels.is_empty()) {
            let layers = row.kernels.iter().map(|layer| Timed {
                name: layer.name.strip_suffix(".weight").unwrap_or(&layer.name).to_string(),
                times: [&layer.forward, &layer.weight_gradient, &layer.data_gradient]
                    .map(|choice| (choice.dense_ms, choice.sparse_ms)),
            });
            let title = entry.title("sparse kernels");
            section.add(format!("kernels-{name}"), Ratios { title: &title, layers: layers.collect() }.draw());
        }
    }
    section
}
