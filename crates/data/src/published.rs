//! What the authors of each data set published: files, addresses and checksums.
//!
//! A file's md5 is that of its unpacked content, so a copy counts as the published one whether it is gzipped or not.
//! Those of CIFAR-10 and MNIST are quoted by several independent projects; those of Fashion-MNIST are of files whose
//! gzipped form has the published md5; those of CIFAR-100 were found in one project only (rai-project/dldataset).

use crate::DataSet;

/// How a set was published.
#[derive(Debug)]
pub(crate) struct Published {
    /// The set's name, for messages.
    pub name: &'static str,
    /// The folder that holds the files, below a folder of data sets.
    pub folder: &'static str,
    /// The layout of the files.
    pub format: Format,
    /// The files of the training split, in order.
    pub train: &'static [File],
    /// The files of the test split, in order.
    pub test: &'static [File],
    /// The addresses that serve the downloads, tried in order.
    pub addresses: &'static [&'static str],
    /// What is to be downloaded from one of the addresses.
    pub downloads: &'static [Download],
}

/// The layout of a set's files.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    /// Records of some label bytes, of which the last counts, and one byte per pixel.
    Cifar {
        /// The number of classes that each label byte can name.
        labels: &'static [usize],
    },
    /// Pairs of idx files, images first.
    Idx,
}

/// One file of a set, unpacked.
#[derive(Debug)]
pub(crate) struct File {
    pub name: &'static str,
    pub records: usize,
    pub md5: &'static str,
}

/// One file as it is served: gzipped, or a gzipped tar archive.
#[derive(Debug)]
pub(crate) struct Download {
    pub name: &'static str,
    pub md5: &'static str,
}

impl Published {
    /// Returns the files of both splits, train first.
    pub fn files(&self) -> impl Iterator<Item = &'static File> {
        self.train.iter().chain(self.test)
    }
}

impl DataSet {
    /// Returns how the set was published, or nothing for a set that is computed.
    pub(crate) fn published(self) -> Option<&'static Published> {
        match self {
            DataSet::Cifar10 => Some(&CIFAR10),
            DataSet::Cifar100 => Some(&CIFAR100),
            DataSet::Mnist => Some(&MNIST),
            DataSet::FashionMnist => Some(&FASHION_MNIST),
            DataSet::Shapes10 => None,
        }
    }
}

const fn file(name: &'static str, records: usize, md5: &'static str) -> File {
    File { name, records, md5 }
}

const fn download(name: &'static str, md5: &'static str) -> Download {
    Download { name, md5 }
}

static CIFAR10: Published = Published {
    name: "cifar10",
    folder: "cifar-10-batches-bin",
    format: Format::Cifar { labels: &[10] },
    train: &[
        file("data_batch_1.bin", 10_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        file("data_batch_2.bin", 10_000, "5ea93a67294ea407fff1d09f752e9692"),
        file("data_batch_3.bin", 10_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        file("data_batch_4.bin", 10_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        file("data_batch_5.bin", 10_000, "53f37980c15c3d472c316c40844f3f0d"),
    ],
    test: &[file("test_batch.bin", 10_000, "803d5f7f4d78ea53de84dbe85f74fb6d")],
    addresses: &["https://www.cs.toronto.edu/~kriz/"],
    downloads: &[download("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")],
};

static CIFAR100: Published = Published {
    name: "cifar100",
    folder: "cifar-100-binary",
    format: Format::Cifar { labels: &[20, 100] },
    train: &[file("train.bin", 50_000, "6172c7755cfe09b2fe270c85cebc1b15")],
    test: &[file("test.bin", 10_000, "4499cfba6c016c1be1438163640a0898")],
    addresses: &["https://www.cs.toronto.edu/~kriz/"],
    downloads: &[download("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")],
};

static MNIST: Published = Published {
    name: "mnist",
    folder: "mnist",
    format: Format::Idx,
    train: &[
        file("train-images-idx3-ubyte", 60_000, "6bbc9ace898e44ae57da46a324031adb"),
        file("train-labels-idx1-ubyte", 60_000, "a25bea736e30d166cdddb491f175f624"),
    ],
    test: &[
        file("t10k-images-idx3-ubyte", 10_000, "2646ac647ad5339dbf082846283269ea"),
        file("t10k-labels-idx1-ubyte", 10_000, "27ae3e4e09519cfbb04c329615203637"),
    ],
    // yann.lecun.com, the first address, refuses downloads; these two serve its files.
    addresses: &[
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ],
    downloads: &[
        download("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        download("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        download("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        download("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ],
};

static FASHION_MNIST: Published = Published {
    name: "fashion-mnist",
    folder: "fashion-mnist",
    format: Format::Idx,
    train: &[
        file("train-images-idx3-ubyte", 60_000, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        file("train-labels-idx1-ubyte", 60_000, "9018921c3c673c538a1fc5bad174d6f9"),
    ],
    test: &[
        file("t10k-images-idx3-ubyte", 10_000, "8181f5470baa50b63fa0f6fddb340f0a"),
        file("t10k-labels-idx1-ubyte", 10_000, "15d484375f8d13e6eb1aabb0c3f46965"),
    ],
    addresses: &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
    downloads: &[
        download("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        download("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        download("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        download("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_facts_agree() {
        for set in DataSet::ALL {
            let info = set.info();
            let Some(published) = set.published() else {
                assert_eq!(info.folder, None);
                continue;
            };
            assert_eq!((published.name, Some(published.folder)), (info.name, info.folder));
            let per_record = match published.format {
                Format::Cifar { labels } => {
                    assert_eq!(labels.last(), Some(&info.classes));
                    1
                }
                Format::Idx => 2,
            };
            let count = |files: &[File]| files.iter().map(|file| file.records).sum::<usize>() / per_record;
            assert_eq!([count(published.train), count(published.test)], [info.train, info.test]);
        }
    }
}
