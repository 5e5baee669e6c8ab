//! The figures of a report, section by section.

mod cost;
pub mod layers;
mod learning;
mod steps;
mod time;

use crate::chart::Picture;
use crate::entry::Entry;

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Name of its file, and of its place in the page.
    pub id: String,
    /// The drawing.
    pub picture: Picture,
}

/// Figures that belong together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    /// Its place in the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is to be known for reading it.
    pub text: String,
    /// The figures; none where the records do not hold them.
    pub figures: Vec<Figure>,
}

impl Section {
    fn new(id: &'static str, title: &'static str, text: impl Into<String>) -> Self {
        Self { id, title, text: text.into(), figures: Vec::new() }
    }

    fn add(&mut self, id: impl Into<String>, picture: Option<Picture>) {
        self.figures.extend(picture.map(|picture| Figure { id: id.into(), picture }));
    }
}

/// All sections that have a figure.
pub fn sections(entries: &[Entry]) -> Vec<Section> {
    let all = [
        learning::learning(entries),
        cost::pareto(entries),
        learning::sparsity(entries),
        layers::layers(entries),
        layers::weights(entries),
        time::time(entries),
    ];
    all.into_iter().filter(|section| !section.figures.is_empty()).collect()
}

/// A name as a part of a file's name.
fn slug(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let text: String = name.chars().map(plain).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
