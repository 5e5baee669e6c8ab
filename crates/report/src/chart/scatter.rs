//! Accuracy against cost, with the runs that no other beats.

use super::canvas::{Anchor, Canvas, LETTER, Picture};
use super::lines::{HEIGHT, WIDTH, commands};
use super::scale::{Scale, Unit};

/// A run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// What stands beside it; nothing where it is empty.
    pub label: String,
    /// What shows under the pointer.
    pub title: String,
    /// Class of its colour.
    pub class: String,
    /// Its cost.
    pub cost: f64,
    /// Its accuracy.
    pub gain: f64,
    /// Whether its accuracy counts.
    pub counts: bool,
}

/// Points of accuracy against cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter<'a> {
    /// What the vertical axis shows.
    pub title: &'a str,
    /// What the horizontal axis shows.
    pub across: &'a str,
    /// The runs.
    pub points: Vec<Point>,
}

impl Scatter<'_> {
    /// Draws it; `None` where no point has both numbers.
    pub fn draw(&self) -> Option<Picture> {
        let points: Vec<&Point> =
            self.points.iter().filter(|point| point.cost.is_finite() && point.gain.is_finite()).collect();
        let up = Scale::over(points.iter().map(|point| point.gain), Unit::Number)?.with_room(0.05).rounded();
        let across = Scale::over(points.iter().map(|point| point.cost).chain([0.0]), Unit::Short)?.rounded();
        let (top, bottom, left, right) = (26.0, HEIGHT - 36.0, up.label_width().max(26.0), WIDTH - 22.0);
        let (up, across) = (up.between(bottom, top), across.between(left, right));
        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        canvas.text((2.0, 12.0), Anchor::Start, "title", self.title);
        up.draw_beside(&mut canvas, left, right);
        across.draw_below(&mut canvas, bottom, self.across);

        let front = front(&points);
        let corners: Vec<(f64, f64)> = front.iter().map(|point| (across.at(point.cost), up.at(point.gain))).collect();
        if corners.len() > 1 {
            canvas.path(&commands(&corners, true), "line thin dashed", "");
        }
        // A label takes the first place at which it covers neither another one nor a point.
        let spots: Vec<(f64, f64)> = points.iter().map(|point| (across.at(point.cost), up.at(point.gain))).collect();
        let mut taken: Vec<[f64; 4]> = spots.iter().map(|(x, y)| [x - 4.0, y - 4.0, x + 4.0, y + 4.0]).collect();
        // Nor the dashed line.
        for pair in corners.windows(2) {
            let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
            taken.push([x0, y0 - 1.0, x1, y0 + 1.0]);
            taken.push([x1 - 1.0, y1.min(y0), x1 + 1.0, y1.max(y0)]);
        }
        for (point, &(x, y)) in points.iter().zip(&spots) {
            let mark = if point.counts { "fill" } else { "open" };
            canvas.circle((x, y), 4.0, &format!("{mark} {}", point.class), &point.title);
            if point.label.is_empty() {
                continue;
            }
            let width = LETTER * point.label.chars().count() as f64;
            let boxed = |(dx, dy): (f64, f64)| [x + dx, y + dy - 5.0, x + dx + width, y + dy + 5.0];
            let tries = [
                (7.0, -9.0),
                (7.0, 9.0),
                (-7.0 - width, -9.0),
                (-7.0 - width, 9.0),
                (7.0, 0.0),
                (-7.0 - width, 0.0),
                (-width / 2.0, -13.0),
                (-width / 2.0, 13.0),
                (7.0, 22.0),
                (-7.0 - width, 22.0),
                (7.0, -22.0),
            ];
            let inside =
                |area: &[f64; 4]| area[0] >= left && area[2] <= WIDTH && area[1] >= top - 8.0 && area[3] <= bottom;
            let free = |area: &[f64; 4]| {
                taken
                    .iter()
                    .all(|other| area[2] < other[0] || other[2] < area[0] || area[3] < other[1] || other[3] < area[1])
            };
            // Where no place is free, the label of the colour has to do.
            let Some(place) = tries.into_iter().map(boxed).find(|area| inside(area) && free(area)) else { continue };
            canvas.text((place[0], place[1] + 8.5), Anchor::Start, &format!("label {}", point.class), &point.label);
            taken.push(place);
        }
        Some(canvas.finish(&format!("{} against {}", self.title, self.across)))
    }
}

/// The points that no other beats, by rising cost; points that do not count are left out.
fn front<'a>(points: &[&'a Point]) -> Vec<&'a Point> {
    let mut sorted: Vec<&Point> = points.iter().copied().filter(|point| point.counts).collect();
    sorted.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.gain.total_cmp(&a.gain)));
    let mut front: Vec<&Point> = Vec::new();
    for point in sorted {
        if front.last().is_none_or(|best| point.gain > best.gain) {
            front.push(point);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let point = |cost, gain, counts| Point { cost, gain, counts, ..Point::default() };
        let all = [
            point(3.0, 0.9, true),
            point(1.0, 0.7, true),
            point(2.0, 0.6, true),
            point(1.0, 0.65, true),
            point(0.5, 0.95, false),
        ];
        let front: Vec<f64> = front(&all.iter().collect::<Vec<_>>()).iter().map(|point| point.gain).collect();
        assert_eq!(front, [0.7, 0.9]);
        // The same against every pair.
        let beaten = |a: &Point| {
            all.iter().any(|b| b.counts && b.cost <= a.cost && b.gain >= a.gain && (b.cost, b.gain) != (a.cost, a.gain))
        };
        let mut slow: Vec<f64> =
            all.iter().filter(|point| point.counts && !beaten(point)).map(|point| point.gain).collect();
        slow.sort_by(f64::total_cmp);
        assert_eq!(front, slow);
    }
}
