//! The idx layout of MNIST: a big-endian header and then one byte per value.

/// Returns the number of bytes of an images file.
pub(crate) fn images_len(records: usize, side: [usize; 2]) -> usize {
    16 + records * side[0] * side[1]
}

/// Returns the number of bytes of a labels file.
pub(crate) fn labels_len(records: usize) -> usize {
    8 + records
}

/// Returns the pixels of an images file.
pub(crate) fn parse_images(bytes: &[u8], records: usize, side: [usize; 2]) -> Result<&[u8], String> {
    body(bytes, [records, side[0], side[1]])
}

/// Returns the labels of a labels file.
pub(crate) fn parse_labels(bytes: &[u8], records: usize, classes: usize) -> Result<&[u8], String> {
    let labels = body(bytes, [records])?;
    match labels.iter().position(|&label| usize::from(label) >= classes) {
        Some(record) => {
            Err(format!("has the class {} in record {record}, expected 0 to {}", labels[record], classes - 1))
        }
        None => Ok(labels),
    }
}

/// Returns what follows a header that announces exactly `sizes`.
///
/// The sizes come from the data set's description and never from the file, so that no header makes us allocate.
fn body<const N: usize>(bytes: &[u8], sizes: [usize; N]) -> Result<&[u8], String> {
    let words = |bytes: &[u8]| -> Vec<usize> {
        bytes.as_chunks().0.iter().map(|&word| u32::from_be_bytes(word) as usize).collect()
    };
    let Some((header, body)) = bytes.split_at_checked(4 + 4 * N) else {
        return Err(format!("holds {} bytes, expected an idx header of {}", bytes.len(), 4 + 4 * N));
    };
    // The third byte of the magic number says unsigned bytes, the fourth the number of dimensions.
    let magic = 0x0800 + N;
    let found = words(header);
    if found[0] != magic {
        return Err(format!(
            "begins with {:#010x}, expected {magic:#010x}: not an idx file of {N} dimensions",
            found[0]
        ));
    }
    if found[1..] != sizes {
        return Err(format!("announces the sizes {:?} in its header, expected {sizes:?}", &found[1..]));
    }
    let record_len: usize = sizes[1..].iter().product();
    let expected = sizes[0] * record_len;
    if body.len() < expected {
        let record = body.len() / record_len;
        return Err(format!("ends in record {record}, expected {} records of {record_len} bytes", sizes[0]));
    }
    if body.len() > expected {
        return Err(format!("holds more than the expected {} records of {record_len} bytes", sizes[0]));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IMAGES: [u8; 20] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 5, 6, 7, 8];
    const LABELS: [u8; 11] = [0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 4];

    fn images(bytes: &[u8]) -> Result<&[u8], String> {
        parse_images(bytes, 2, [1, 2])
    }

    fn labels(bytes: &[u8]) -> Result<&[u8], String> {
        parse_labels(bytes, 3, 10)
    }

    #[test]
    fn four_pixels_and_three_labels_are_read() {
        assert_eq!(images(&IMAGES), Ok(&[5, 6, 7, 8][..]));
        assert_eq!(labels(&LABELS), Ok(&[9, 0, 4][..]));
        assert_eq!((IMAGES.len(), LABELS.len()), (images_len(2, [1, 2]), labels_len(3)));
    }

    #[test]
    fn a_header_of_four_thousand_million_records_is_an_error_and_no_allocation() {
        let mut absurd = IMAGES;
        absurd[4..8].fill(0xff);
        let error = images(&absurd).unwrap_err();
        assert_eq!(error, "announces the sizes [4294967295, 1, 2] in its header, expected [2, 1, 2]");
    }

    #[test]
    fn swapped_files_are_told_by_their_magic_number() {
        let error = images(&LABELS).unwrap_err();
        assert_eq!(error, "holds 11 bytes, expected an idx header of 16");
        let error = labels(&IMAGES).unwrap_err();
        assert_eq!(error, "begins with 0x00000803, expected 0x00000801: not an idx file of 1 dimensions");
    }

    #[test]
    fn count_and_class_errors_name_the_record() {
        assert_eq!(images(&IMAGES[..18]).unwrap_err(), "ends in record 1, expected 2 records of 2 bytes");
        assert_eq!(
            images(&[&IMAGES[..], &[1]].concat()).unwrap_err(),
            "holds more than the expected 2 records of 2 bytes"
        );
        let mut wrong = LABELS;
        wrong[9] = 10;
        assert_eq!(labels(&wrong).unwrap_err(), "has the class 10 in record 1, expected 0 to 9");
    }

    proptest! {
        #[test]
        fn every_truncation_is_an_error(len in 0usize..20) {
            prop_assert!(images(&IMAGES[..len]).is_err());
            prop_assert!(labels(&LABELS[..len.min(10)]).is_err());
        }

        #[test]
        fn every_flipped_bit_of_a_header_is_an_error(bit in 0usize..64) {
            let (mut pixels, mut classes) = (IMAGES, LABELS);
            pixels[bit / 8] ^= 1 << (bit % 8);
            classes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(images(&pixels).is_err());
            prop_assert!(labels(&classes).is_err());
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = images(&bytes);
            let _ = labels(&bytes);
        }
    }
}
