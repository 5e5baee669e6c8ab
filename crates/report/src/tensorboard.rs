//! Event files for TensorBoard: records of protocol buffers, each framed with its length and masked checksums.
//!
//! Framing: tensorflow/core/lib/io/record_writer.h; messages: tensorflow/core/util/event.proto and
//! tensorflow/core/framework/summary.proto. Only the fields that a scalar and a histogram take are written, so that the encoding
//! fits into this file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::entry::Entry;

/// Values of one moment: optimizer step, seconds since 1970, and scalars by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// Optimizer step.
    pub step: i64,
    /// Names, with `/` between the levels, and their values.
    pub scalars: Vec<(String, f32)>,
}

/// Writes the records of a run into `folder/<name>/events.out.tfevents.<seconds>.bonsai` and returns the path.
///
/// An older file of this name is replaced, so that writing twice shows every figure once.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(entry: &Entry, folder: &Path) -> Result<PathBuf> {
    let folder = folder.join(name(entry));
    fs::create_dir_all(&folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    // The moment at which the records ended, as far as the file system tells; the same each time.
    let ended = fs::metadata(entry.run.folder.join("metrics.csv")).and_then(|data| data.modified()).ok();
    let ended =
        ended.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0.0, |time| time.as_secs_f64());
    let path = folder.join(format!("events.out.tfevents.{:010}.bonsai", ended as u64));
    fs::write(&path, encode(&events(entry, ended))).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// The run's folder in TensorBoard's list.
fn name(entry: &Entry) -> String {
    let plain = |letter: char| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let label: String = entry.label.chars().map(plain).collect();
    // A name of dots alone would lead out of the folder.
    let label = label.trim_start_matches('.').to_string();
    entry.run.seed().map_or_else(|| label.clone(), |seed| format!("{label}/seed-{seed}"))
}

/// The records of a run as events in the order of their steps.
pub fn events(entry: &Entry, ended: f64) -> Vec<Event> {
    let run = &entry.run;
    let all: f64 = run.epochs.iter().map(|row| row.seconds).sum();
    // Moments of epochs are known by their lengths, those of mask events lie between.
    let mut ends: Vec<(u64, f64)> = vec![(0, ended - all)];
    for row in &run.epochs {
        ends.push((row.iteration, ends.last().map_or(0.0, |end| end.1) + row.seconds));
    }
    let moment = |iteration: u64| {
        let after = ends.iter().position(|(end, _)| *end >= iteration).unwrap_or(ends.len() - 1);
        let ((from, began), (to, done)) = (ends[after.saturating_sub(1)], ends[after]);
        let share = if to > from { (iteration.saturating_sub(from)) as f64 / (to - from) as f64 } else { 1.0 };
        began + share.min(1.0) * (done - began)
    };
    let mut events = Vec::new();
    for row in &run.epochs {
        let scalars = [
            ("loss/train", row.train_loss),
            ("loss/validation", row.valid_loss),
            ("accuracy/train", row.train_accuracy),
            ("accuracy/validation", row.valid_accuracy),
            ("sparsity/epoch", row.sparsity),
            ("cost/macs", row.macs as f64),
            ("cost/parameters", row.parameters as f64),
            ("learning rate", row.lr),
            ("speed/images per second", row.images_per_second),
            ("speed/seconds of the epoch", row.seconds),
        ];
        let mut scalars: Vec<(String, f32)> = scalars.map(|(name, value)| (name.to_string(), value as f32)).into();
        let layers = run.layers.iter().filter(|layer| layer.epoch == row.epoch);
        scalars.extend(layers.map(|layer| (format!("layer sparsity/{}", layer.name), layer.sparsity as f32)));
        events.push(Event { wall_time: moment(row.iteration), step: row.iteration as i64, scalars });
    }
    for row in &run.events {
        let mut scalars = vec![
            ("sparsity/event".to_string(), row.sparsity as f32),
            ("masks/grown".to_string(), row.grown as f32),
            ("masks/pruned".to_string(), row.pruned as f32),
        ];
        scalars.extend(row.figures.iter().map(|(name, value)| (format!("scheduler/{name}"), *value as f32)));
        events.push(Event { wall_time: moment(row.iteration), step: row.iteration as i64, scalars });
    }
    if let Some(summary) = &run.summary {
        let scalars = vec![
            ("test/accuracy".to_string(), summary.final_test_accuracy as f32),
            ("test/loss".to_string(), summary.final_test_loss as f32),
        ];
        events.push(Event { wall_time: ended, step: summary.iterations as i64, scalars });
    }
    events.sort_by_key(|event| event.step);
    events
}

/// Encodes a whole file: the version, then the events.
pub fn encode(events: &[Event]) -> Vec<u8> {
    let began = events.first().map_or(0.0, |event| event.wall_time);
    let mut version = Message::default();
    version.double(1, began);
    version.bytes(3, b"brain.Event:2");
    let mut file = framed(&version.0);
    for event in events {
        let mut summary = Message::default();
        for (name, value) in &event.scalars {
            let mut scalar = Message::default();
            scalar.bytes(1, name.as_bytes());
            scalar.float(2, *value);
            summary.bytes(1, &scalar.0);
        }
        let mut message = Message::default();
        message.double(1, event.wall_time);
        message.varint(2, event.step as u64);
        message.bytes(5, &summary.0);
        file.extend(framed(&message.0));
    }
    file
}

/// A record: length, checksum of the length, content, checksum of the content; all little-endian.
fn framed(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), content, &masked(content)].concat()
}

/// CRC-32C, turned and shifted so that checksums of data that contain checksums stay good ones.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protocol buffer under way.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.raw(field << 3 | wire);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_records::{EpochRow, EventRow};

    #[test]
    fn checksums_are_masked_as_the_format_says() {
        // RFC 3720, B.4: the CRC-32C of 32 bytes of zeros is 0x8a9136aa.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // ((crc >> 15 | crc << 17) + 0xa282ead8) mod 2^32, reckoned in Python.
        let expected: u32 = 0x0fd7_fffa;
        assert_eq!(masked(&[0; 32]), expected.to_le_bytes());
    }

    #[test]
    fn a_file_is_what_tensorflow_would_write() {
        let event = Event { wall_time: 2.0, step: 300, scalars: vec![("a".into(), 0.5)] };
        // Written by tensorboard 2's RecordWriter from the protocol buffers of its package.
        let written = concat!(
            "1800000000000000a37f4b220900000000000000401a0d627261696e2e4576656e743a32ff2ee0e7",
            "1800000000000000a37f4b2209000000000000004010ac022a0a0a080a0161150000003fd150deb2"
        );
        let file: String = encode(&[event]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file, written);
    }

    #[test]
    fn the_moments_of_a_run_rise_with_its_steps() {
        let mut entry = Entry::default();
        entry.run.epochs = vec![
            EpochRow { epoch: 0, iteration: 10, seconds: 5.0, ..EpochRow::default() },
            EpochRow { epoch: 1, iteration: 20, seconds: 7.0, ..EpochRow::default() },
        ];
        entry.run.events = [0, 5, 15].map(|iteration| EventRow { iteration, ..EventRow::default() }).into();
        let moments: Vec<(i64, f64)> =
            events(&entry, 100.0).iter().map(|event| (event.step, event.wall_time)).collect();
        assert_eq!(moments, [(0, 88.0), (5, 90.5), (10, 93.0), (15, 96.5), (20, 100.0)]);
        assert!(events(&Entry::default(), 0.0).is_empty());
    }
}
