//! The data sets by name, and the facts about each that do not depend on where its files lie.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A data set that bonsai can train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSet {
    /// CIFAR-10, binary layout.
    Cifar10,
    /// CIFAR-100 with its 100 fine classes, binary layout.
    Cifar100,
    /// MNIST, idx files.
    Mnist,
    /// Fashion-MNIST, idx files.
    FashionMnist,
    /// Ten drawn shapes, computed on the spot.
    Shapes10,
}

/// The facts about a data set.
#[derive(Debug, PartialEq)]
pub struct Info {
    /// The name in experiments and on the command line.
    pub name: &'static str,
    /// The title for a person, with what is to be cited.
    pub citation: &'static str,
    /// The folder that holds the files, below a folder of data sets; none for a set that is computed.
    pub folder: Option<&'static str>,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// The number of classes.
    pub classes: usize,
    /// The number of training records, validation included.
    pub train: usize,
    /// The number of test records.
    pub test: usize,
    /// The number of records at the end of train that make the validation split.
    pub validation: usize,
    /// The mean of each channel over train, on a scale of 0 to 1.
    pub mean: &'static [f32],
    /// The deviation of each channel over train, on a scale of 0 to 1.
    pub std: &'static [f32],
}

const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const FASHION: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

impl DataSet {
    /// Every data set, in the order in which they are listed.
    pub const ALL: [DataSet; 5] =
        [DataSet::Cifar10, DataSet::Cifar100, DataSet::Mnist, DataSet::FashionMnist, DataSet::Shapes10];

    /// Returns the names of the classes, where they are kept here.
    pub fn class_names(self) -> Option<&'static [&'static str]> {
        match self {
            DataSet::Cifar10 => Some(&CIFAR10),
            DataSet::Mnist => Some(&DIGITS),
            DataSet::FashionMnist => Some(&FASHION),
            DataSet::Cifar100 | DataSet::Shapes10 => None,
        }
    }

    /// Returns the facts about the set.
    pub fn info(self) -> &'static Info {
        match self {
            DataSet::Cifar10 => &Info {
                name: "cifar10",
                citation: "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)",
                folder: Some("cifar-10-batches-bin"),
                shape: [3, 32, 32],
                classes: 10,
                train: 50_000,
                test: 10_000,
                validation: 5_000,
                mean: &[0.4914, 0.4822, 0.4465],
                // Not the deviation over all pixels (0.2470, 0.2435, 0.2616) but the mean of each image's own: the
                // figures that the GraNet code and most CIFAR repositories use.
                std: &[0.2023, 0.1994, 0.2010],
            },
            DataSet::Cifar100 => &Info {
                name: "cifar100",
                citation: "CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)",
                folder: Some("cifar-100-binary"),
                shape: [3, 32, 32],
                classes: 100,
                train: 50_000,
                test: 10_000,
                validation: 5_000,
                mean: &[0.5071, 0.4866, 0.4409],
                std: &[0.2673, 0.2564, 0.2762],
            },
            DataSet::Mnist => &Info {
                name: "mnist",
                citation: "MNIST (LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, 1998)",
                folder: Some("mnist"),
                shape: [1, 28, 28],
                classes: 10,
                train: 60_000,
                test: 10_000,
                validation: 5_000,
                mean: &[0.1307],
                std: &[0.3081],
            },
            DataSet::FashionMnist => &Info {
                name: "fashion-mnist",
                citation: "Fashion-MNIST (Xiao, Rasul, Vollgraf, Fashion-MNIST: a Novel Image Dataset, 2017; MIT licence, Zalando SE)",
                folder: Some("fashion-mnist"),
                shape: [1, 28, 28],
                classes: 10,
                train: 60_000,
                test: 10_000,
                validation: 5_000,
                mean: &[0.2860],
                std: &[0.3530],
            },
            DataSet::Shapes10 => &Info {
                name: "shapes10",
                citation: "shapes10 (drawn by bonsai from a fixed seed)",
                folder: None,
                shape: [3, 32, 32],
                classes: 10,
                train: 10_000,
                test: 2_000,
                validation: 1_000,
                mean: &[0.4950, 0.5005, 0.4986],
                std: &[0.2870, 0.2843, 0.2856],
            },
        }
    }
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.info().name)
    }
}

impl FromStr for DataSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = DataSet::ALL.into_iter().find(|set| set.info().name == name);
        found.ok_or_else(|| {
            let names = DataSet::ALL.map(|set| set.info().name).join(", ");
            format!("there is no data set {name:?}: choose one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::{Error, StrDeserializer};

    #[test]
    fn a_name_has_one_spelling_everywhere() {
        for set in DataSet::ALL {
            let name = set.info().name;
            assert_eq!(name.parse(), Ok(set));
            let from_toml: Result<DataSet, Error> = DataSet::deserialize(StrDeserializer::new(name));
            assert_eq!(from_toml, Ok(set));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "cifar".parse::<DataSet>().unwrap_err();
        assert_eq!(
            error,
            "there is no data set \"cifar\": choose one of cifar10, cifar100, mnist, fashion-mnist, shapes10"
        );
    }

    #[test]
    fn every_channel_has_a_mean_and_a_deviation() {
        for set in DataSet::ALL {
            let info = set.info();
            assert_eq!([info.mean.len(), info.std.len()], [info.shape[0]; 2], "{set}");
        }
    }
}
