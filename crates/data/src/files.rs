//! Reads the published files of a set, gzipped or not.

use crate::published::{File, Format, Published};
use crate::{Error, Images, cifar, idx};
use flate2::read::GzDecoder;
use md5::Md5;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// Checksums of a file's unpacked content.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    pub md5: String,
    pub sha256: String,
}

/// Returns whether the folder holds at least one file of the set.
pub(crate) fn any_in(folder: &Path, published: &Published) -> bool {
    published.files().any(|file| find(folder, file).is_some())
}

/// Names the first file of the set that the folder lacks.
pub(crate) fn check_complete(folder: &Path, published: &Published) -> Result<(), Error> {
    published.files().try_for_each(|file| path(folder, file, published).map(drop))
}

/// Reads the files of one split into images.
pub(crate) fn read(
    folder: &Path,
    published: &Published,
    files: &[File],
    shape: [usize; 3],
    classes: usize,
) -> Result<Images, Error> {
    let mut images = Images::empty(shape, classes);
    let side = [shape[1], shape[2]];
    match published.format {
        Format::Cifar { labels } => {
            for file in files {
                let path = path(folder, file, published)?;
                let expected = file.records * (labels.len() + images.record_len());
                let bytes = content(&path, expected, published)?;
                cifar::parse(&bytes, file.records, labels, &mut images)
                    .map_err(|what| damaged(&path, what, published))?;
            }
        }
        Format::Idx => {
            for pair in files.chunks_exact(2) {
                let [pixels, labels] = [path(folder, &pair[0], published)?, path(folder, &pair[1], published)?];
                let bytes = content(&pixels, idx::images_len(pair[0].records, side), published)?;
                let body = idx::parse_images(&bytes, pair[0].records, side);
                images.pixels.extend_from_slice(body.map_err(|what| damaged(&pixels, what, published))?);
                let bytes = content(&labels, idx::labels_len(pair[1].records), published)?;
                let body = idx::parse_labels(&bytes, pair[1].records, classes);
                images.labels.extend_from_slice(body.map_err(|what| damaged(&labels, what, published))?);
            }
        }
    }
    Ok(images)
}

/// Returns the checksums of all files of the set, in order.
pub(crate) fn sums(folder: &Path, published: &Published) -> Result<Vec<Sums>, Error> {
    let files: Vec<&File> = published.files().collect();
    files.into_par_iter().map(|file| sums_of(&path(folder, file, published)?, published)).collect()
}

/// Returns the checksums of one file's unpacked content.
pub(crate) fn sums_of(path: &Path, published: &Published) -> Result<Sums, Error> {
    sums_in(open(path, published)?).map_err(|error| damaged(path, unreadable(&error), published))
}

/// Returns the checksums of what is left to read.
pub(crate) fn sums_in(mut reader: impl Read) -> io::Result<Sums> {
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Sums { md5: hex(&md5.finalize()), sha256: hex(&sha256.finalize()) }),
            n => {
                md5.update(&buffer[..n]);
                sha256.update(&buffer[..n]);
            }
        }
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the path of a file in the folder, under its own name or with `.gz` after it.
pub(crate) fn find(folder: &Path, file: &File) -> Option<PathBuf> {
    [folder.join(file.name), folder.join(format!("{}.gz", file.name))].into_iter().find(|path| path.is_file())
}

fn path(folder: &Path, file: &File, published: &Published) -> Result<PathBuf, Error> {
    find(folder, file).ok_or_else(|| {
        let path = folder.join(file.name);
        Error::Damaged(format!("{} is missing: run `bonsai data fetch {}`", path.display(), published.name))
    })
}

/// Reads a file's unpacked content, but at most one byte more than expected: enough to tell that it is too long.
fn content(path: &Path, expected: usize, published: &Published) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut reader = open(path, published)?.take(expected as u64 + 1);
    reader.read_to_end(&mut bytes).map_err(|error| damaged(path, unreadable(&error), published))?;
    Ok(bytes)
}

/// Opens a file, through gzip if its first two bytes say so: neither layout can begin with them.
fn open(path: &Path, published: &Published) -> Result<Box<dyn Read>, Error> {
    let open = || {
        let mut file = std::fs::File::open(path)?;
        let mut start = [0; 2];
        let zipped = file.by_ref().take(2).read(&mut start)? == 2 && start == [0x1f, 0x8b];
        file.rewind()?;
        Ok(if zipped { Box::new(GzDecoder::new(file)) as Box<dyn Read> } else { Box::new(file) })
    };
    open().map_err(|error: io::Error| damaged(path, unreadable(&error), published))
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read ({error})")
}

fn damaged(path: &Path, what: String, published: &Published) -> Error {
    Error::Damaged(format!("{} {what}: delete it and run `bonsai data fetch {}`", path.display(), published.name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::{fs, io::Write};

    /// A set of two training and one test record, whose checksums are those of [`write_small`].
    pub static SMALL: Published = Published {
        name: "small",
        folder: "small",
        format: Format::Cifar { labels: &[10] },
        train: &[
            File { name: "one.bin", records: 1, md5: "2cb1e48792342afd3a7f4192625387e2" },
            File { name: "two.bin", records: 1, md5: "a2e9e9c405fcb42808cfa0eaf2527c37" },
        ],
        test: &[File { name: "test.bin", records: 1, md5: "8716c9602b2e0e285871cb17312c846d" }],
        addresses: &[],
        downloads: &[],
    };
    static SMALL_IDX: Published = Published {
        name: "small-idx",
        folder: "small-idx",
        format: Format::Idx,
        train: &[File { name: "images", records: 2, md5: "" }, File { name: "labels", records: 2, md5: "" }],
        test: &[],
        addresses: &[],
        downloads: &[],
    };
    const SHAPE: [usize; 3] = [1, 2, 2];
    const IMAGES: [u8; 24] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];
    const LABELS: [u8; 10] = [0, 0, 8, 1, 0, 0, 0, 2, 9, 0];

    pub fn write_small(folder: &Path) {
        fs::write(folder.join("one.bin"), [3, 1, 2, 3, 4]).unwrap();
        fs::write(folder.join("two.bin"), [4, 5, 6, 7, 8]).unwrap();
        fs::write(folder.join("test.bin"), [9, 0, 0, 0, 0]).unwrap();
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn train(folder: &Path, published: &Published) -> Result<Images, Error> {
        read(folder, published, published.train, SHAPE, 10)
    }

    #[test]
    fn files_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        let images = train(folder.path(), &SMALL).unwrap();
        assert_eq!((images.labels, images.pixels), (vec![3, 4], vec![1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn gzipped_or_not_the_content_and_its_checksums_are_the_same() {
        let [plain, zipped] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (name, bytes) in [("images", &IMAGES[..]), ("labels", &LABELS[..])] {
            fs::write(plain.path().join(name), bytes).unwrap();
            fs::write(zipped.path().join(format!("{name}.gz")), gzip(bytes)).unwrap();
        }
        assert_eq!(train(plain.path(), &SMALL_IDX), train(zipped.path(), &SMALL_IDX));
        let md5 =
            |folder: &Path| sums(folder, &SMALL_IDX).unwrap().into_iter().map(|sums| sums.md5).collect::<Vec<_>>();
        assert_eq!(md5(plain.path()), md5(zipped.path()));
    }

    #[test]
    fn a_damaged_file_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        let file = folder.path().join("two.bin");
        fs::write(&file, [77, 5, 6, 7, 8]).unwrap();
        let error = train(folder.path(), &SMALL).unwrap_err().to_string();
        let what = "has the class 77 in record 0, expected 0 to 9: delete it and run `bonsai data fetch small`";
        assert_eq!(error, format!("{} {what}", file.display()));
    }

    #[test]
    fn a_missing_file_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        fs::remove_file(folder.path().join("test.bin")).unwrap();
        let error = check_complete(folder.path(), &SMALL).unwrap_err().to_string();
        assert!(error.ends_with("test.bin is missing: run `bonsai data fetch small`"), "{error}");
    }

    #[test]
    fn a_gzip_bomb_is_read_no_further_than_expected() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        fs::write(folder.path().join("one.bin"), gzip(&vec![0; 1 << 24])).unwrap();
        assert_eq!(content(&folder.path().join("one.bin"), 5, &SMALL).unwrap().len(), 6);
        let error = train(folder.path(), &SMALL).unwrap_err().to_string();
        assert!(error.contains("holds more than the expected 1 records of 5 bytes"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn truncated_and_flipped_gzip_files_are_errors_or_harmless(
            cut in 0usize..60, bit in 0usize..480, truncated: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut bytes = gzip(&IMAGES);
            if truncated {
                bytes.truncate(cut.min(bytes.len() - 1));
            } else {
                let bit = bit % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            fs::write(folder.path().join("images.gz"), bytes).unwrap();
            fs::write(folder.path().join("labels"), LABELS).unwrap();
            match train(folder.path(), &SMALL_IDX) {
                // A bit of the gzip header that says nothing about the content, such as its time stamp.
                Ok(images) => prop_assert_eq!(&images.pixels[..], &IMAGES[16..]),
                Err(error) => prop_assert!(error.to_string().contains("images.gz")),
            }
        }
    }
}
