//! Plays a made-up training through the dashboard, to look at it without training anything.
//!
//! ```sh
//! cargo run --release -p bonsai-training --example dashboard             # the terminal view, on a terminal
//! cargo run --release -p bonsai-training --example dashboard -- --plain  # plain lines
//! ```
//!
//! It takes about 15 seconds, or as many as another argument says. Ctrl-C, and `q` twice, stop it
//! after a step; a second Ctrl-C ends it at once.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bonsai_training::dashboard::{Dashboard, Plan, Progress, View, announce, restore_terminal};
use bonsai_training::records::{EpochRow, EventLayer, EventRow, LayerRow};

const EPOCHS: u64 = 5;
const ITERATIONS: u64 = 120;
const EVENT_EVERY: u64 = 20;
const BATCH: usize = 128;

fn main() {
    let mut view = View::Auto;
    let mut seconds = 15.0;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--plain" => view = View::Plain,
            "--tui" => view = View::Tui,
            number => match number.parse() {
                Ok(number) => seconds = number,
                Err(_) => {
                    eprintln!("usage: dashboard [--plain|--tui] [SECONDS]");
                    exit(2);
                }
            },
        }
    }

    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    if let Err(error) = ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            restore_terminal();
            exit(130);
        }
        announce("stopping after this step; Ctrl-C again stops at once");
    }) {
        eprintln!("Ctrl-C will not stop this: {error}");
    }
    println!("{}", if play(view, seconds, &stop) { "Played to the end." } else { "Stopped: the flag was raised." });
}

/// Plays the training in about `seconds`; returns whether nobody stopped it.
fn play(view: View, seconds: f64, stop: &Arc<AtomicBool>) -> bool {
    let layers = resnet20();
    let weights: u64 = layers.iter().map(|layer| layer.weights).sum();
    let plan = Plan {
        title: "shapes10-resnet20-granet, seed 0",
        detail: "resnet20 on shapes10, granet to 90 %, made up",
        epochs: EPOCHS,
        iterations_per_epoch: ITERATIONS,
        first_iteration: 0,
        batch_size: BATCH,
        records: BATCH * ITERATIONS as usize - 48,
        layers: &layers,
    };
    let pause = Duration::from_secs_f64(seconds / (EPOCHS * ITERATIONS) as f64);
    let mut dashboard = Dashboard::new(view, &plan, stop.clone());
    dashboard.note("CIFAR-10 was not found and may not be fetched: this trains on shapes10 instead.");
    let mut epoch_started = Instant::now();
    let mut sparsity = 0.0;
    for iteration in 1..=EPOCHS * ITERATIONS {
        if stop.load(Ordering::Relaxed) {
            dashboard.finish();
            return false;
        }
        sleep(pause);
        let epoch = (iteration - 1) / ITERATIONS;
        let done = iteration as f64 / (EPOCHS * ITERATIONS) as f64;
        let noise = (iteration as f64 * 12.9898).sin() * 0.1;
        if iteration % EVENT_EVERY == 0 {
            let before = sparsity;
            sparsity = 0.9 * (1.0 - (1.0 - (done / 0.6).min(1.0)).powi(3));
            dashboard.event(&event(&layers, iteration, epoch, before, sparsity));
        }
        let progress = Progress {
            epoch,
            iteration,
            loss: 0.4 + 1.9 * (-4.0 * done).exp() + noise,
            accuracy: 0.9 - 0.8 * (-4.0 * done).exp() + noise / 4.0,
            lr: 0.05 * (1.0 + (done * std::f64::consts::PI).cos()),
            sparsity,
            images_per_second: BATCH as f64 / pause.as_secs_f64().max(1e-3) * (1.0 + noise),
        };
        dashboard.progress(&progress);
        if iteration % ITERATIONS == 0 {
            let row = EpochRow {
                epoch,
                iteration,
                lr: progress.lr,
                train_loss: progress.loss,
                train_accuracy: progress.accuracy,
                valid_loss: progress.loss + 0.1,
                valid_accuracy: progress.accuracy - 0.02,
                sparsity,
                nonzero: (weights as f64 * (1.0 - sparsity)) as u64,
                macs: (40_551_040.0 * (1.0 - sparsity)) as u64,
                parameters: 0,
                training_macs: 0,
                seconds: epoch_started.elapsed().as_secs_f64(),
                images_per_second: progress.images_per_second,
                test_accuracy: None,
                loss_scale: None,
                skipped_steps: None,
            };
            dashboard.epoch(&row, &rows(&layers, epoch, sparsity));
            epoch_started = Instant::now();
        }
    }
    dashboard.finish();
    true
}

/// Weights that a layer keeps at the sparsity of the whole: small layers are pruned less.
fn kept(layer: &LayerRow, sparsity: f64) -> u64 {
    let share = sparsity * (1.0 - 0.5 * (-(layer.weights as f64) / 5000.0).exp());
    (layer.weights as f64 * (1.0 - share)) as u64
}

fn event(layers: &[LayerRow], iteration: u64, epoch: u64, before: f64, sparsity: f64) -> EventRow {
    let layers: Vec<EventLayer> = layers
        .iter()
        .map(|layer| {
            let grown = kept(layer, sparsity) / 10;
            let pruned = kept(layer, before) + grown - kept(layer, sparsity);
            EventLayer { name: layer.name.clone(), kept: kept(layer, sparsity), pruned, grown }
        })
        .collect();
    EventRow {
        iteration,
        epoch,
        sparsity,
        kept: layers.iter().map(|layer| layer.kept).sum(),
        pruned: layers.iter().map(|layer| layer.pruned).sum(),
        grown: layers.iter().map(|layer| layer.grown).sum(),
        replace: Some(0.1),
        layers,
        ..EventRow::default()
    }
}

fn rows(layers: &[LayerRow], epoch: u64, sparsity: f64) -> Vec<LayerRow> {
    layers
        .iter()
        .map(|layer| {
            let kept = kept(layer, sparsity);
            LayerRow { epoch, kept, sparsity: 1.0 - kept as f64 / layer.weights as f64, ..layer.clone() }
        })
        .collect()
}

fn resnet20() -> Vec<LayerRow> {
    let dense = |name: String, weights: u64| LayerRow { name, weights, kept: weights, ..LayerRow::default() };
    let mut layers = vec![dense("conv.weight".to_owned(), 16 * 3 * 9)];
    for block in 0..9 {
        let channels = 16 << (block / 3);
        let input = if block == 3 || block == 6 { channels / 2 } else { channels };
        layers.push(dense(format!("blocks.{block}.conv1.weight"), channels * input * 9));
        layers.push(dense(format!("blocks.{block}.conv2.weight"), channels * channels * 9));
    }
    layers.push(dense("fc.weight".to_owned(), 10 * 64));
    layers
}
