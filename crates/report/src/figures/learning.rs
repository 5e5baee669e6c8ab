//! How the network learned, and how it got sparse.

use crate::chart::{Lines, Series, Unit};
use crate::entry::Entry;
use crate::theme::class;

use super::{Section, layers};

/// A horizontal axis: its name, its unit, and where each epoch of a run ends on it.
struct Axis {
    id: &'static str,
    name: String,
    unit: Unit,
    ends: fn(&Entry) -> Option<Vec<f64>>,
    scale: f64,
}

/// Accuracy and loss against epochs, wall time and multiply-accumulates of training.
pub fn learning(entries: &[Entry]) -> Section {
    let mut text = "Strong lines: validation split; weaker ones are further seeds. Thin lines: training images as they were trained \
                    on, augmented and before the step. Training MACs: forward pass and both gradients of every image, counted at \
                    each step with the weights that it kept."
        .to_string();
    let reckoned = entries.iter().filter(|entry| counted(entry).is_none() && macs(entry).is_some()).count();
    if reckoned > 0 {
        let whose = if reckoned == entries.len() { "These runs" } else { "Some of these runs" };
        text += &format!(
            " {whose} did not count them yet: there they are reckoned, three times the MACs of the network at the epoch's end for \
             every image."
        );
    }
    let mut section = Section::new("learning", "Accuracy and loss", text);
    let seconds = entries.iter().filter_map(|entry| seconds(entry)?.last().copied()).fold(0.0, f64::max);
    let (name, scale) = match seconds {
        0.0..180.0 => ("seconds", 1.0),
        180.0..10_800.0 => ("minutes", 60.0),
        _ => ("hours", 3600.0),
    };
    let axes = [
        Axis { id: "epochs", name: "epochs".into(), unit: Unit::Whole, ends: epochs, scale: 1.0 },
        Axis { id: "time", name: format!("wall time, {name}"), unit: Unit::Number, ends: self::seconds, scale },
        Axis { id: "macs", name: "training MACs".into(), unit: Unit::Short, ends: macs, scale: 1.0 },
    ];
    for axis in &axes {
        let percent = |share: f64| 100.0 * share;
        let accuracy = both(
            entries,
            axis,
            |entry| entry.run.epochs.iter().map(|row| percent(row.train_accuracy)).collect(),
            |entry| entry.run.epochs.iter().map(|row| percent(row.valid_accuracy)).collect(),
        );
        section.add(format!("accuracy-{}", axis.id), draw("accuracy, %", axis, accuracy));
    }
    for axis in &axes {
        let loss = both(
            entries,
            axis,
            |entry| entry.run.epochs.iter().map(|row| row.train_loss).collect(),
            |entry| entry.run.epochs.iter().map(|row| row.valid_loss).collect(),
        );
        section.add(format!("loss-{}", axis.id), draw("loss", axis, loss));
    }
    section
}

fn draw(title: &str, axis: &Axis, series: Vec<Series>) -> Option<crate::chart::Picture> {
    Lines { title, across: &axis.name, unit: Unit::Number, across_unit: axis.unit, reaches: None, series }.draw()
}

/// A thin line for training and a strong one for validation, for each run.
fn both(
    entries: &[Entry],
    axis: &Axis,
    train: impl Fn(&Entry) -> Vec<f64>,
    valid: impl Fn(&Entry) -> Vec<f64>,
) -> Vec<Series> {
    let line = |entry: &Entry, values: Vec<f64>, label: String, extra: &str| {
        let ends = (axis.ends)(entry)?;
        let points = ends.into_iter().map(|end| end / axis.scale).zip(values).collect();
        Some(Series { label, class: format!("{}{extra}", class(entry.group)), points, steps: false })
    };
    let thin = entries
        .iter()
        .filter(|entry| entry.leads)
        .filter_map(|entry| line(entry, train(entry), String::new(), " faint"));
    let strong = entries.iter().filter_map(|entry| {
        let label = entry.mark();
        line(entry, valid(entry), label, if entry.leads { "" } else { " seed" })
    });
    thin.chain(strong).collect()
}

fn epochs(entry: &Entry) -> Option<Vec<f64>> {
    Some(entry.run.epochs.iter().map(|row| (row.epoch + 1) as f64).collect())
}

fn seconds(entry: &Entry) -> Option<Vec<f64>> {
    Some(running(entry.run.epochs.iter().map(|row| row.seconds)))
}

fn macs(entry: &Entry) -> Option<Vec<f64>> {
    counted(entry).or_else(|| reckoned(entry))
}

/// The MACs of the training as the run counted them; runs of early versions did not.
fn counted(entry: &Entry) -> Option<Vec<f64>> {
    let counted = entry.run.epochs.iter().map(|row| (row.training_macs > 0).then_some(row.training_macs as f64));
    counted.collect::<Option<Vec<f64>>>().filter(|macs| !macs.is_empty())
}

/// The same from the networks at the ends of the epochs.
fn reckoned(entry: &Entry) -> Option<Vec<f64>> {
    let images = entry.images_per_epoch()?;
    Some(running(entry.run.epochs.iter().map(|row| 3.0 * images * row.macs as f64)))
}

/// Sums up to each value.
fn running(values: impl Iterator<Item = f64>) -> Vec<f64> {
    values
        .scan(0.0, |sum, value| {
            *sum += value;
            Some(*sum)
        })
        .collect()
}

/// Sparsity as it was planned and as it came, and the share of weights that were ever tried.
pub fn sparsity(entries: &[Entry]) -> Section {
    let planned = entries.iter().any(|entry| !entry.extras.plan.is_empty());
    let text = if planned {
        "Solid: after each change of the masks. Dashed grey: the plan, computed from the configuration before training; it covers \
         the solid line where both agree. Bars: the weights that each event grew and removed, but for the masks that a run starts with."
    } else {
        "After each change of the masks, or epoch by epoch where those are not recorded."
    };
    let mut section = Section::new("sparsity", "Sparsity", text);
    let mut series = Vec::new();
    let mut explored = Vec::new();
    for entry in entries {
        let per_epoch = entry.iterations_per_epoch().unwrap_or(f64::NAN);
        let end = entry.run.epochs.last().map(|row| (row.epoch + 1) as f64);
        let label = entry.mark();
        series.push(Series {
            label: label.clone(),
            class: class(entry.group),
            points: actual(entry, per_epoch),
            steps: true,
        });
        if entry.leads && !entry.extras.plan.is_empty() {
            let mut points: Vec<(f64, f64)> = entry
                .extras
                .plan
                .iter()
                .map(|(iteration, share)| (*iteration as f64 / per_epoch, 100.0 * share))
                .collect();
            if points.first().is_some_and(|(at, _)| *at > 0.0) {
                points.insert(0, (0.0, 0.0));
            }
            if let (Some(end), Some(&(at, last))) = (end, points.last())
                && end > at
            {
                points.push((end, last));
            }
            series.push(Series { label: String::new(), class: "thin dashed".into(), points, steps: true });
        }
        let tried: Vec<(f64, f64)> = (entry.run.events.iter())
            .filter_map(|event| Some((event.iteration as f64 / per_epoch, 100.0 * event.figures.get("explored")?)))
            .collect();
        if !tried.is_empty() {
            explored.push(Series { label, class: class(entry.group), points: tried, steps: true });
        }
    }
    let chart = |title, series| Lines {
        title,
        across: "epochs",
        unit: Unit::Number,
        across_unit: Unit::Whole,
        reaches: Some(0.0),
        series,
    };
    section.add("sparsity-epochs", chart("weights removed, %", series).draw());
    let explored = Lines { reaches: Some(100.0), ..chart("weights ever kept, %", explored) };
    section.add("explored-epochs", explored.draw());
    layers::turnover(&mut section, entries);
    section
}

/// Sparsity after each event up to the last epoch; epoch by epoch without events.
fn actual(entry: &Entry, per_epoch: f64) -> Vec<(f64, f64)> {
    let run = &entry.run;
    let last = run.epochs.last().map(|row| ((row.epoch + 1) as f64, 100.0 * row.sparsity));
    let mut points: Vec<(f64, f64)> = if run.events.is_empty() {
        run.epochs.iter().map(|row| ((row.epoch + 1) as f64, 100.0 * row.sparsity)).collect()
    } else {
        run.events.iter().map(|event| (event.iteration as f64 / per_epoch, 100.0 * event.sparsity)).collect()
    };
    let known_start = run.events.first().is_some_and(|event| event.iteration > 0);
    let dense = run.events.is_empty() && run.epochs.first().is_some_and(|row| row.sparsity == 0.0);
    if known_start || dense {
        points.insert(0, (0.0, 0.0));
    }
    points.extend(last.filter(|(end, _)| points.last().is_some_and(|(at, _)| at < end)));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_records::EpochRow;

    #[test]
    fn training_macs_are_the_runs_own_count_and_reckoned_only_where_it_has_none() {
        let row =
            |epoch: u64, macs: u64, training_macs: u64| EpochRow { epoch, macs, training_macs, ..EpochRow::default() };
        let entry = |rows: Vec<EpochRow>| {
            let mut entry = Entry::default();
            entry.run.config = "train_records = 10".parse().unwrap();
            entry.run.epochs = rows;
            entry
        };
        // Dense at first and pruned in the middle of the second epoch: the count lies between three passes of either network.
        let own = entry(vec![row(0, 100, 3000), row(1, 50, 5400)]);
        assert_eq!(macs(&own), Some(vec![3000.0, 5400.0]));
        let early = entry(vec![row(0, 100, 0), row(1, 50, 0)]);
        assert_eq!(macs(&early), Some(vec![3000.0, 4500.0]));
        assert!(!learning(std::slice::from_ref(&own)).text.contains("reckoned"));
        assert!(learning(&[own, early.clone()]).text.contains("Some of these runs did not count them yet"));
        assert!(learning(&[early]).text.contains("These runs did not count them yet"));
    }
}
