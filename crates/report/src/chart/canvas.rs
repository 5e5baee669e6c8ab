//! What every chart is drawn on.

use svg::node::element::{Circle, Group, Line, Path, Rectangle, SVG, Style, Text, Title};

use crate::theme;

/// Average width of a letter of a small label, in pixels; charts leave a little more room than this says.
pub const LETTER: f64 = 6.6;

/// A finished drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    width: f64,
    height: f64,
    name: String,
    body: String,
}

impl Picture {
    /// Writes it for a page that brings the colours.
    pub fn inline(&self) -> String {
        self.document().add(svg::node::Blob::new(self.body.clone())).to_string()
    }

    /// Writes it as a file of its own, in the light colours.
    pub fn file(&self) -> String {
        let size = (self.width, self.height);
        let paper = Rectangle::new().set("width", size.0).set("height", size.1).set("class", "paper");
        let document = self.document().set("width", size.0).set("height", size.1);
        document.add(Style::new(theme::figure())).add(paper).add(svg::node::Blob::new(self.body.clone())).to_string()
    }

    fn document(&self) -> SVG {
        SVG::new()
            .set("viewBox", (0.0, 0.0, self.width, self.height))
            .set("role", "img")
            .set("aria-label", self.name.clone())
    }
}

/// Where on a line of text its position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// At its start.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// A drawing under way, in pixels from the upper left corner.
#[derive(Debug)]
pub struct Canvas {
    width: f64,
    height: f64,
    group: Group,
}

impl Canvas {
    /// Starts a drawing of this size.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, group: Group::new() }
    }

    /// Ends it; `name` is what a screen reader says.
    pub fn finish(self, name: &str) -> Picture {
        Picture { width: self.width, height: self.height, name: name.to_string(), body: self.group.to_string() }
    }

    /// Writes a text whose baseline lies at `y`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let mut node = Text::new(text).set("x", round(x)).set("y", round(y)).set("class", class);
        match anchor {
            Anchor::Start => {}
            Anchor::Middle => node = node.set("text-anchor", "middle"),
            Anchor::End => node = node.set("text-anchor", "end"),
        }
        self.add(node);
    }

    /// Draws a straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let line = Line::new().set("x1", round(x1)).set("y1", round(y1)).set("x2", round(x2)).set("y2", round(y2));
        self.add(line.set("class", class));
    }

    /// Draws a path from its commands.
    pub fn path(&mut self, commands: &str, class: &str, title: &str) {
        let path = Path::new().set("d", commands).set("class", class);
        self.add(if title.is_empty() { path } else { path.add(Title::new(title)) });
    }

    /// Draws a rectangle with a title that shows under the pointer.
    pub fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, title: &str) {
        let sides = (round(width.max(0.0)), round(height.max(0.0)));
        let place = Rectangle::new().set("x", round(x)).set("y", round(y));
        let rectangle = place.set("width", sides.0).set("height", sides.1).set("class", class);
        self.add(if title.is_empty() { rectangle } else { rectangle.add(Title::new(title)) });
    }

    /// Draws a dot with a title that shows under the pointer.
    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        let circle = Circle::new().set("cx", round(x)).set("cy", round(y)).set("r", radius).set("class", class);
        self.add(if title.is_empty() { circle } else { circle.add(Title::new(title)) });
    }

    fn add(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        self.group = std::mem::take(&mut self.group).add(node);
    }
}

/// A coordinate to a tenth of a pixel, which keeps pages small.
pub fn round(pixels: f64) -> f64 {
    (10.0 * pixels).round() / 10.0
}
