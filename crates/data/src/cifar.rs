//! The binary layout of CIFAR: each record is its label bytes and then its pixels, channel by channel.
//!
//! CIFAR-10 has one label byte; CIFAR-100 has two, of which the last names the fine class.

use crate::Images;

/// Appends the records of a file to `images`.
///
/// `labels` holds, for each label byte, the number of classes that it can name.
pub(crate) fn parse(bytes: &[u8], records: usize, labels: &[usize], images: &mut Images) -> Result<(), String> {
    let record_len = labels.len() + images.record_len();
    let expected = records * record_len;
    if bytes.len() < expected {
        let record = bytes.len() / record_len;
        return Err(format!(
            "holds {} bytes and ends in record {record}, expected {records} records of {record_len} bytes",
            bytes.len()
        ));
    }
    if bytes.len() > expected {
        return Err(format!("holds more than the expected {records} records of {record_len} bytes"));
    }
    for (index, record) in bytes.chunks_exact(record_len).enumerate() {
        let (names, pixels) = record.split_at(labels.len());
        for (&label, &classes) in names.iter().zip(labels) {
            if usize::from(label) >= classes {
                return Err(format!("has the class {label} in record {index}, expected 0 to {}", classes - 1));
            }
        }
        images.labels.extend(names.last());
        images.pixels.extend_from_slice(pixels);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FINE: &[usize] = &[20, 100];

    fn read(bytes: &[u8]) -> Result<Images, String> {
        let mut images = Images::empty([1, 1, 2], 100);
        parse(bytes, 2, FINE, &mut images).map(|()| images)
    }

    #[test]
    fn the_last_label_byte_is_the_class() {
        let images = read(&[19, 99, 1, 2, 0, 7, 3, 4]).unwrap();
        assert_eq!((images.labels, images.pixels), (vec![99, 7], vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_short_file_names_the_record_in_which_it_ends() {
        let error = read(&[19, 99, 1, 2, 0]).unwrap_err();
        assert_eq!(error, "holds 5 bytes and ends in record 1, expected 2 records of 4 bytes");
    }

    #[test]
    fn a_long_file_is_refused() {
        assert_eq!(read(&[0; 9]).unwrap_err(), "holds more than the expected 2 records of 4 bytes");
    }

    #[test]
    fn an_impossible_class_names_the_record() {
        assert_eq!(read(&[0, 0, 1, 2, 0, 100, 3, 4]).unwrap_err(), "has the class 100 in record 1, expected 0 to 99");
        assert_eq!(read(&[20, 0, 1, 2, 0, 0, 3, 4]).unwrap_err(), "has the class 20 in record 0, expected 0 to 19");
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let valid = bytes.len() == 8 && bytes.chunks(4).all(|record| record[0] < 20 && record[1] < 100);
            prop_assert_eq!(read(&bytes).is_ok(), valid);
        }
    }
}
