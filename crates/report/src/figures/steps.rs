//! Where the time of a step goes, epoch by epoch.

use bonsai_records::StepRow;

use crate::chart::{Bars, Picture, Stack};
use crate::entry::Entry;

/// A part of the bars: its name, the classes of its colour, and what it adds up.
type Part = (&'static str, &'static str, fn(&StepRow) -> f64);

/// Lowest first. The three directions of convolutions share a colour, in three shades.
const PARTS: [Part; 12] = [
    ("forward", "c0", |row| row.forward_dense + row.forward_sparse),
    ("data grad.", "c0 pale", |row| row.data_gradient_dense + row.data_gradient_sparse),
    ("weight grad.", "c0 faint", |row| row.weight_gradient_dense + row.weight_gradient_sparse),
    ("packing", "c5", |row| row.around),
    ("linear", "c3", |row| row.linear + row.attention),
    ("norm", "c1", |row| row.batch_norm + row.layer_norm),
    ("elementwise", "c4", |row| row.depthwise + row.gelu + row.pooling + row.layout + row.loss),
    ("passes", "c0", |row| row.passes),
    ("optimizer", "c2", |row| row.optimizer + row.update),
    ("masks", "c2 faint", |row| row.masks),
    ("data", "c6", |row| row.loader + row.data),
    ("other", "rest", |row| row.waiting + row.other),
];

/// What a reader needs to know of [`breakdown`].
pub const TEXT: &str = "Milliseconds of a step: the mean of the faster half of four steps of each epoch. Forward, data gradient and \
    weight gradient are those of convolutions, dense and sparse kernels together; packing is what convolutions do around them; norm \
    is batch or layer normalisation with what is fused to it; elementwise is pooling, layout, activations, depthwise \
    convolutions and the loss; data is waiting for the loader and copying the batch; other is what belongs to none, such as threads \
    that wait for the last task of a kernel. On devices other than the CPU kernels only passes (forward and backward) and \
    optimizer (with masks) can be told apart.";

/// Draws a bar an epoch; `None` where no step was looked at.
pub fn breakdown(entry: &Entry) -> Option<Picture> {
    let steps = &entry.run.steps;
    let epochs = steps.last()?.epoch as usize + 1;
    let means: Vec<Option<[f64; PARTS.len()]>> = (0..epochs).map(|epoch| mean(steps, epoch as u64)).collect();
    let values = |part: usize| means.iter().map(|mean| mean.map_or(f64::NAN, |mean| mean[part])).collect::<Vec<_>>();
    let parts = PARTS.iter().enumerate().map(|(part, (label, class, _))| Stack {
        label: (*label).to_string(),
        class: (*class).to_string(),
        values: values(part),
    });
    // A part that is nowhere worth a line has no label either.
    let seen = |part: &Stack| part.values.iter().any(|value| *value > 0.0);
    let title = entry.title("milliseconds of a step");
    Bars { title: &title, across: "epochs", parts: parts.filter(seen).collect() }.draw()
}

/// The mean parts of the faster half of an epoch's steps; `None` where none was looked at.
fn mean(steps: &[StepRow], epoch: u64) -> Option<[f64; PARTS.len()]> {
    let mut own: Vec<&StepRow> = steps.iter().filter(|row| row.epoch == epoch).collect();
    own.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
    own.truncate(own.len().div_ceil(2));
    (!own.is_empty()).then(|| PARTS.map(|(_, _, of)| own.iter().map(|row| of(row)).sum::<f64>() / own.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(epoch: u64, iteration: u64, convolution: f64) -> StepRow {
        let (forward_dense, masks) = (convolution, 1.0);
        StepRow { epoch, iteration, milliseconds: convolution + 1.0, forward_dense, masks, ..StepRow::default() }
    }

    #[test]
    fn the_parts_of_a_bar_are_means_of_the_faster_half_and_add_up_to_it() {
        let steps = [step(0, 1, 8.0), step(0, 2, 4.0), step(0, 3, 6.0), step(2, 9, 2.0)];
        let first = mean(&steps, 0).unwrap();
        assert_eq!((first[0], first[9], first.iter().sum::<f64>()), (5.0, 1.0, 6.0));
        assert_eq!(mean(&steps, 1), None);
        assert_eq!(mean(&steps, 2).unwrap()[0], 2.0);
    }

    #[test]
    fn every_part_of_a_step_is_in_one_part_of_the_bars() {
        let columns = "forward_dense data_gradient_dense weight_gradient_dense forward_sparse data_gradient_sparse \
                       weight_gradient_sparse depthwise around linear attention batch_norm layer_norm gelu pooling layout \
                       loss optimizer masks data waiting other loader passes update";
        let columns: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(columns.len(), StepRow::default().parts().len() + 1, "passes and update count as one there");
        for column in columns {
            let mut row = toml::Table::try_from(StepRow::default()).unwrap();
            row.insert(column.to_string(), 1.0.into());
            let row: StepRow = row.try_into().unwrap();
            assert_eq!(PARTS.map(|(_, _, of)| of(&row)).iter().sum::<f64>(), 1.0, "{column}");
        }
    }

    #[test]
    fn only_parts_that_took_time_are_named() {
        let mut entry = Entry { alone: true, ..Entry::default() };
        assert_eq!(breakdown(&entry), None);
        entry.run.steps = vec![step(0, 1, 8.0), step(1, 2, 4.0)];
        let drawn = breakdown(&entry).unwrap().inline();
        assert!(
            drawn.contains("\nforward\n") && drawn.contains("\nmasks\n") && !drawn.contains("\nlinear\n"),
            "{drawn}"
        );
        assert!(drawn.contains("epochs 2, forward: 4.00"));
        assert!(drawn.contains("class=\"label c2\""), "a label has its colour without the shade");
    }
}
