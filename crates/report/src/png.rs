//! Figures as PNG: pixels for slides and for programs that draw no SVG.
//!
//! `usvg` resolves styles and turns text into paths of the bundled font, `tiny-skia` fills and strokes them. Between the two stands
//! what `resvg` does for all of SVG, here for what a [`Picture`] consists of: groups, paths in one colour, and text. `resvg`
//! itself brings the crate `png`, whose features would have burn built anew; the file around the pixels is a few lines instead.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use tiny_skia::{BlendMode, Pixmap, PixmapPaint, Transform};
use usvg::fontdb::{Database, Source};
use usvg::{Group, Node, Options, PaintOrder, Tree};

use crate::chart::Picture;

/// Pixels of a unit: a chart of 360 units becomes 1440 pixels wide, 400 to the inch where it fills a column of 3.6 inches.
pub const SCALE: f32 = 4.0;

/// DejaVu Sans Condensed, cut down to the letters of European languages and the signs that figures use; see `fonts/LICENSE`.
const FONTS: [&[u8]; 2] =
    [include_bytes!("../fonts/DejaVuSansCondensed.ttf"), include_bytes!("../fonts/DejaVuSansCondensed-Bold.ttf")];

static DATABASE: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut database = Database::new();
    for font in FONTS {
        database.load_font_source(Source::Binary(Arc::new(font)));
    }
    let family = database.faces().next().and_then(|face| face.families.first()).map(|(name, _)| name.clone());
    database.set_sans_serif_family(family.expect("the bundled font is one"));
    Arc::new(database)
});

/// Draws a picture on white paper, [`SCALE`] pixels to the unit.
///
/// # Errors
/// A picture without any area.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let options = Options { fontdb: DATABASE.clone(), ..Options::default() };
    let tree = Tree::from_str(&picture.file(), &options).context("a figure cannot be drawn as PNG")?;
    let pixels = |units: f32| (units * SCALE).round() as u32;
    let (width, height) = (pixels(tree.size().width()), pixels(tree.size().height()));
    let mut map = Pixmap::new(width, height).context("a figure has no area")?;
    draw(tree.root(), Transform::from_scale(SCALE, SCALE), &mut map);
    // The paper covers everything, so that no pixel is transparent.
    let colours: Vec<u8> = map.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
    file(width, height, &colours)
}

/// Draws the children of a group; `transform` leads from the group's parent to pixels.
fn draw(group: &Group, transform: Transform, map: &mut Pixmap) {
    let transform = transform.pre_concat(group.transform());
    for node in group.children() {
        match node {
            Node::Group(group) if group.opacity().get() < 1.0 => {
                // Together, so that what overlaps within the group does not show through.
                let Some(mut layer) = Pixmap::new(map.width(), map.height()) else { continue };
                draw(group, transform, &mut layer);
                let paint = PixmapPaint { opacity: group.opacity().get(), ..PixmapPaint::default() };
                map.draw_pixmap(0, 0, layer.as_ref(), &paint, Transform::identity(), None);
            }
            Node::Group(group) => draw(group, transform, map),
            Node::Path(path) => draw_path(path, transform, map),
            Node::Text(text) => draw(text.flattened(), transform, map),
            // Figures hold none.
            Node::Image(_) => (),
        }
    }
}

fn draw_path(path: &usvg::Path, transform: Transform, map: &mut Pixmap) {
    match path.paint_order() {
        PaintOrder::FillAndStroke => {
            fill(path, transform, map);
            stroke(path, transform, map);
        }
        PaintOrder::StrokeAndFill => {
            stroke(path, transform, map);
            fill(path, transform, map);
        }
    }
}

fn fill(path: &usvg::Path, transform: Transform, map: &mut Pixmap) {
    let bounds = path.data().bounds();
    // A straight line has nothing to fill.
    let Some(fill) = path.fill().filter(|_| bounds.width() > 0.0 && bounds.height() > 0.0) else { return };
    let rule = match fill.rule() {
        usvg::FillRule::NonZero => tiny_skia::FillRule::Winding,
        usvg::FillRule::EvenOdd => tiny_skia::FillRule::EvenOdd,
    };
    map.fill_path(path.data(), &paint(fill.paint(), fill.opacity().get()), rule, transform, None);
}

fn stroke(path: &usvg::Path, transform: Transform, map: &mut Pixmap) {
    let Some(stroke) = path.stroke() else { return };
    let paint = paint(stroke.paint(), stroke.opacity().get());
    map.stroke_path(path.data(), &paint, &stroke.to_tiny_skia(), transform, None);
}

/// One colour; figures have no gradients and no patterns.
fn paint(paint: &usvg::Paint, opacity: f32) -> tiny_skia::Paint<'static> {
    let mut drawn = tiny_skia::Paint { anti_alias: true, blend_mode: BlendMode::SourceOver, ..Default::default() };
    if let usvg::Paint::Color(colour) = paint {
        drawn.set_color_rgba8(colour.red, colour.green, colour.blue, (255.0 * opacity).round() as u8);
    }
    drawn
}

/// Puts rows of red, green and blue bytes into a file, as "Portable Network Graphics (PNG) Specification", 3rd edition,
/// <https://www.w3.org/TR/png-3/>, says.
fn file(width: u32, height: u32, colours: &[u8]) -> Result<Vec<u8>> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    // Eight bits a sample, three samples a pixel; the usual compression and filters, no interlacing.
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes()[..], &[8, 2, 0, 0, 0]].concat();
    chunk(&mut file, b"IHDR", &header);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in colours.chunks_exact(3 * width as usize) {
        // Flat areas of one colour shrink as they are: no filter.
        encoder.write_all(&[0]).and_then(|()| encoder.write_all(row)).context("compressing a figure")?;
    }
    chunk(&mut file, b"IDAT", &encoder.finish().context("compressing a figure")?);
    chunk(&mut file, b"IEND", &[]);
    Ok(file)
}

/// Adds a chunk: its length, its name, what it holds, and a checksum over the last two.
fn chunk(file: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    let mut sum = Crc::new();
    sum.update(name);
    sum.update(content);
    file.extend((content.len() as u32).to_be_bytes());
    file.extend(name);
    file.extend(content);
    file.extend(sum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Bars, Lines, Series, Stack, Unit};

    /// Width, height, and red, green and blue of each pixel, by a decoder that is not ours.
    fn decoded(bytes: &[u8]) -> (u32, u32, Vec<[u8; 3]>) {
        let header = minipng::decode_png_header(bytes).unwrap();
        let mut buffer = vec![0; header.required_bytes()];
        let image = minipng::decode_png(bytes, &mut buffer).unwrap();
        assert_eq!((image.color_type(), image.bit_depth()), (minipng::ColorType::Rgb, minipng::BitDepth::Eight));
        (image.width(), image.height(), image.pixels().as_chunks::<3>().0.to_vec())
    }

    fn lines(title: &str) -> Picture {
        let series = Series { points: vec![(0.0, 1.0), (4.0, 3.0)], class: "c1".into(), ..Series::default() };
        let (unit, across_unit) = (Unit::Number, Unit::Whole);
        Lines { title, across: "epochs", unit, across_unit, reaches: None, series: vec![series] }.draw().unwrap()
    }

    /// Dark pixels in the strip that the title stands in.
    fn ink(pixels: &[[u8; 3]], width: u32) -> usize {
        let strip = &pixels[..(14.0 * SCALE) as usize * width as usize];
        strip.iter().filter(|pixel| pixel.iter().all(|part| *part < 128)).count()
    }

    #[test]
    fn a_figure_has_its_size_its_colours_and_its_text() {
        let (width, height, pixels) = decoded(&png(&lines("accuracy, %")).unwrap());
        assert_eq!((width, height), (1440, 920));
        assert_eq!(pixels.len(), 1440 * 920);
        let white = pixels.iter().filter(|pixel| **pixel == [255; 3]).count();
        assert!(white > pixels.len() / 2 && white < pixels.len(), "{white}");
        // The line, in the second colour of the theme: #c24e00.
        let drawn = pixels.iter().filter(|pixel| **pixel == [0xc2, 0x4e, 0x00]).count();
        assert!(drawn > 1000, "{drawn}");
        // Twice the letters are twice the ink, and none where there is no title.
        let of = |title: &str| {
            let (width, _, pixels) = decoded(&png(&lines(title)).unwrap());
            ink(&pixels, width)
        };
        assert_eq!(of(""), 0);
        assert!(of("mmmm") > 200);
        let ratio = of("mmmmmmmm") as f64 / of("mmmm") as f64;
        assert!((ratio - 2.0).abs() < 0.05, "{ratio}");
        // Signs that figures use are in the font: none is drawn as an empty box, or as another.
        let signs = ["·", "×", "–", "−", "…", "±", "°", "é", "µ"].map(of);
        assert!(signs.iter().all(|ink| *ink > 0 && *ink != of("\u{e000}")), "{signs:?}");
    }

    #[test]
    fn a_label_has_the_colour_of_its_line() {
        let parts = vec![Stack { label: "forward".into(), class: "c2".into(), values: vec![1.0, 0.0] }];
        let bars = Bars { title: "", across: "epochs", parts }.draw().unwrap();
        let (width, _, pixels) = decoded(&png(&bars).unwrap());
        // Right of the plot there are labels alone.
        let right = pixels.chunks(width as usize).flat_map(|row| &row[1200..]);
        assert!(right.filter(|pixel| **pixel == [0x00, 0x80, 0x5c]).count() > 100);
    }
}
