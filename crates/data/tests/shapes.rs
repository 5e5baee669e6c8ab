//! shapes10 is what it claims to be: the same everywhere, quick, beyond a linear model, and silent about the class in
//! its colours.

use bonsai_data::{DataSet, Images, Source, locate};

fn shapes() -> Source {
    locate(DataSet::Shapes10, None).unwrap()
}

#[test]
fn every_machine_draws_the_same_set() {
    let expected = "251605cfd11bde99394e59d3fe49a705171b52d6437e21119c3851c222bb0fa9";
    assert_eq!(shapes().fingerprint().unwrap(), expected);
}

#[test]
fn counts_and_classes_are_as_announced() {
    let (source, info) = (shapes(), DataSet::Shapes10.info());
    let (train, test) = (source.train().unwrap(), source.test().unwrap());
    assert_eq!([train.len(), test.len()], [info.train, info.test]);
    for class in 0..10 {
        assert_eq!(train.labels.iter().filter(|&&label| label == class).count(), info.train / 10);
        assert_eq!(test.labels.iter().filter(|&&label| label == class).count(), info.test / 10);
    }
    assert_ne!(train.record(0), test.record(0));
}

#[test]
fn mean_and_deviation_are_those_of_the_training_split() {
    let info = DataSet::Shapes10.info();
    let train = shapes().train().unwrap();
    for channel in 0..3 {
        let (mut sum, mut squares) = (0.0, 0.0);
        for record in 0..train.len() {
            for &pixel in &train.record(record)[channel * 1024..(channel + 1) * 1024] {
                let pixel = f64::from(pixel) / 255.0;
                sum += pixel;
                squares += pixel * pixel;
            }
        }
        let count = (train.len() * 1024) as f64;
        let mean = sum / count;
        let std = (squares / count - mean * mean).sqrt();
        println!("channel {channel}: {mean:.4} {std:.4}");
        assert!((mean - f64::from(info.mean[channel])).abs() < 1e-3, "mean {mean}");
        assert!((std - f64::from(info.std[channel])).abs() < 1e-3, "std {std}");
    }
}

/// Mean and deviation of each channel, and of the brightness.
fn statistics(images: &Images) -> Vec<Vec<f32>> {
    let of = |pixels: &[f32]| {
        let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
        let variance = pixels.iter().map(|pixel| (pixel - mean).powi(2)).sum::<f32>() / pixels.len() as f32;
        [mean, variance.sqrt()]
    };
    let record = |record: usize| {
        let pixels: Vec<f32> = images.record(record).iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let grey: Vec<f32> = (0..1024).map(|i| (pixels[i] + pixels[1024 + i] + pixels[2048 + i]) / 3.0).collect();
        pixels.chunks(1024).chain([&grey[..]]).flat_map(of).collect()
    };
    (0..images.len()).map(record).collect()
}

fn normalised(images: &Images) -> Vec<Vec<f32>> {
    let record = |record: usize| images.record(record).iter().map(|&byte| f32::from(byte) / 128.0 - 1.0).collect();
    (0..images.len()).map(record).collect()
}

/// Trains a softmax regression by gradient descent in small batches and returns its accuracy on the second set.
fn linear_accuracy(train: (&[Vec<f32>], &[u8]), test: (&[Vec<f32>], &[u8]), epochs: usize, lr: f32) -> f64 {
    let inputs = train.0[0].len();
    let mut weights = vec![vec![0.0f32; inputs + 1]; 10];
    let logits = |weights: &[Vec<f32>], x: &[f32]| -> Vec<f32> {
        let row = |w: &Vec<f32>| w[inputs] + x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        weights.iter().map(row).collect()
    };
    for _ in 0..epochs {
        for (x, &label) in train.0.iter().zip(train.1) {
            let scores = logits(&weights, x);
            let top = scores.iter().copied().fold(f32::MIN, f32::max);
            let powers: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
            let sum: f32 = powers.iter().sum();
            for (class, row) in weights.iter_mut().enumerate() {
                let step = lr * (f32::from(u8::from(class == usize::from(label))) - powers[class] / sum);
                row.iter_mut().zip(x).for_each(|(w, x)| *w += step * x);
                row[inputs] += step;
            }
        }
    }
    let right = test.0.iter().zip(test.1).filter(|(x, label)| {
        let scores = logits(&weights, x);
        let best = (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        best == usize::from(**label)
    });
    right.count() as f64 / test.0.len() as f64
}

#[test]
fn a_linear_model_on_the_pixels_stays_under_60_percent() {
    let (train, test) = (shapes().train().unwrap(), shapes().test().unwrap());
    let (x, y) = (normalised(&train), normalised(&test));
    let fitted = linear_accuracy((&x, &train.labels), (&x, &train.labels), 6, 3e-4);
    let accuracy = linear_accuracy((&x, &train.labels), (&y, &test.labels), 6, 3e-4);
    println!("softmax regression: {:.1} % of test, {:.1} % of train", 100.0 * accuracy, 100.0 * fitted);
    // It did learn something: its own training records above chance.
    assert!(fitted > 0.15, "{fitted}");
    assert!(accuracy < 0.6, "{accuracy}");
}

#[test]
fn colour_statistics_tell_nothing_about_the_class() {
    let (train, test) = (shapes().train().unwrap(), shapes().test().unwrap());
    let accuracy = linear_accuracy((&statistics(&train), &train.labels), (&statistics(&test), &test.labels), 20, 3e-2);
    println!("softmax regression on means and deviations: {:.1} %", 100.0 * accuracy);
    assert!(accuracy < 0.2, "{accuracy}");
}
