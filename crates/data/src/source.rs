//! Finds a data set on disk and reads it.

use crate::files::{self, Sums, hex};
use crate::published::{File, Published};
use crate::{DataSet, Error, Images, shapes};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A data set that was found.
#[derive(Clone, Debug)]
pub struct Source {
    set: DataSet,
    files: Option<Files>,
}

#[derive(Clone, Debug)]
struct Files {
    folder: PathBuf,
    published: &'static Published,
    sums: OnceLock<Result<Vec<Sums>, Error>>,
}

/// Returns the folders in which data sets are looked for, in order: `data_dir`, `$BONSAI_DATASETS`, `datasets`.
///
/// The first of them is where a download belongs.
pub fn search_path(data_dir: Option<&Path>) -> Vec<PathBuf> {
    let variable = std::env::var_os("BONSAI_DATASETS").filter(|value| !value.is_empty());
    data_dir.map(PathBuf::from).into_iter().chain(variable.map(PathBuf::from)).chain(["datasets".into()]).collect()
}

/// Finds a data set in the first folder of the [`search_path`] that holds it.
///
/// Each folder may hold the set's own folder or be that folder itself. Shapes10 is always there.
///
/// # Errors
///
/// Returns [`Error::Missing`] if no folder holds a file of the set, and [`Error::Damaged`] if the first one that does
/// lacks another file.
pub fn locate(set: DataSet, data_dir: Option<&Path>) -> Result<Source, Error> {
    let Some(published) = set.published() else {
        return Ok(Source { set, files: None });
    };
    let searched = search_path(data_dir);
    match searched.iter().find_map(|root| find(root, published)) {
        Some(folder) => {
            files::check_complete(&folder, published)?;
            Ok(Source { set, files: Some(Files { folder, published, sums: OnceLock::new() }) })
        }
        None => Err(Error::Missing { set, searched }),
    }
}

fn find(root: &Path, published: &Published) -> Option<PathBuf> {
    let own = root.join(published.folder);
    if files::any_in(&own, published) {
        return Some(own);
    }
    // MNIST and Fashion-MNIST name their files alike: a folder that bears another set's name is not this set.
    let name = root.file_name();
    let anothers = DataSet::ALL.iter().filter_map(|set| set.info().folder).filter(|&folder| folder != published.folder);
    let is_anothers = anothers.into_iter().any(|folder| name == Some(folder.as_ref()));
    (!is_anothers && files::any_in(root, published)).then(|| root.to_path_buf())
}

impl Source {
    /// Returns the set that was found.
    pub fn set(&self) -> DataSet {
        self.set
    }

    /// Returns the folder of the set's files, or nothing for a set that is computed.
    pub fn folder(&self) -> Option<&Path> {
        self.files.as_ref().map(|files| files.folder.as_path())
    }

    /// Reads the training split, with the validation records at its end.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] with the file, the record, what was expected and what to do.
    pub fn train(&self) -> Result<Images, Error> {
        match &self.files {
            Some(files) => self.read(files, files.published.train),
            None => Ok(shapes::draw("train", self.set.info().train)),
        }
    }

    /// Reads the test split.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] with the file, the record, what was expected and what to do.
    pub fn test(&self) -> Result<Images, Error> {
        match &self.files {
            Some(files) => self.read(files, files.published.test),
            None => Ok(shapes::draw("test", self.set.info().test)),
        }
    }

    /// Returns a sha256 over the content of all files, gzipped or not, that tells any two versions of a set apart.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let mut all = Sha256::new();
        match &self.files {
            Some(files) => files.sums()?.iter().for_each(|sums| all.update(&sums.sha256)),
            None => {
                for images in [self.train()?, self.test()?] {
                    all.update(&images.pixels);
                    all.update(&images.labels);
                }
            }
        }
        Ok(hex(&all.finalize()))
    }

    /// Returns a line if the files are usable but not the published ones.
    ///
    /// Files that cannot be read give no warning here; reading them gives the error.
    pub fn warnings(&self) -> Vec<String> {
        self.files.iter().filter_map(|files| files.warning()).collect()
    }

    fn read(&self, files: &Files, split: &[File]) -> Result<Images, Error> {
        let info = self.set.info();
        files::read(&files.folder, files.published, split, info.shape, info.classes)
    }
}

impl Files {
    /// Computes the checksums on the first call only.
    fn sums(&self) -> Result<&[Sums], Error> {
        let sums = self.sums.get_or_init(|| files::sums(&self.folder, self.published));
        sums.as_deref().map_err(Clone::clone)
    }

    fn warning(&self) -> Option<String> {
        let sums = self.sums().ok()?;
        let differing = self.published.files().zip(sums).filter(|(file, sums)| file.md5 != sums.md5);
        let names: Vec<&str> = differing.map(|(file, _)| file.name).collect();
        if names.is_empty() {
            return None;
        }
        // Without the folder: the line goes into summaries that are shared.
        let mut line = format!(
            "{} is used although it differs from the published set in {}",
            self.published.name,
            names.join(", ")
        );
        if self.folder.join("INEXACT.txt").is_file() {
            line += "; its INEXACT.txt lists the records";
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::{SMALL, write_small};
    use std::fs;

    fn small(folder: &Path) -> Files {
        Files { folder: folder.into(), published: &SMALL, sums: OnceLock::new() }
    }

    #[test]
    fn the_folder_given_is_searched_first() {
        assert_eq!(search_path(Some(Path::new("mine")))[0], Path::new("mine"));
        assert_eq!(search_path(None).last().unwrap(), Path::new("datasets"));
    }

    #[test]
    fn a_set_is_found_in_its_own_folder_and_as_the_folder_itself() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("small");
        fs::create_dir(&own).unwrap();
        assert_eq!(find(root.path(), &SMALL), None);
        write_small(&own);
        assert_eq!(find(root.path(), &SMALL).as_deref(), Some(&*own));
        assert_eq!(find(&own, &SMALL).as_deref(), Some(&*own));
    }

    #[test]
    fn the_folder_of_mnist_is_never_taken_for_fashion_mnist() {
        let root = tempfile::tempdir().unwrap();
        let mnist = root.path().join("mnist");
        fs::create_dir(&mnist).unwrap();
        fs::write(mnist.join("train-images-idx3-ubyte.gz"), "").unwrap();
        assert!(find(&mnist, DataSet::Mnist.published().unwrap()).is_some());
        assert!(find(&mnist, DataSet::FashionMnist.published().unwrap()).is_none());
    }

    #[test]
    fn the_published_files_give_no_warning() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        assert_eq!(small(folder.path()).warning(), None);
    }

    #[test]
    fn other_files_give_one_line_that_mentions_the_list_of_inexact_records() {
        let folder = tempfile::tempdir().unwrap();
        write_small(folder.path());
        fs::write(folder.path().join("two.bin"), [4, 5, 6, 7, 9]).unwrap();
        let line = small(folder.path()).warning().unwrap();
        assert_eq!(line, "small is used although it differs from the published set in two.bin");
        fs::write(folder.path().join("INEXACT.txt"), "").unwrap();
        let line = small(folder.path()).warning().unwrap();
        assert!(line.ends_with("INEXACT.txt lists the records"), "{line}");
    }

    #[test]
    fn shapes10_is_always_there() {
        let source = locate(DataSet::Shapes10, Some(Path::new("/nowhere"))).unwrap();
        assert_eq!((source.folder(), source.warnings()), (None, vec![]));
    }
}
