//! Axes: from values to pixels, and where the ticks lie.

use crate::format::short;

use super::canvas::{Anchor, Canvas, LETTER};

/// What the numbers of an axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Plain numbers.
    Number,
    /// Whole numbers, such as epochs.
    Whole,
    /// Large numbers with a prefix, as in `20 M`.
    Short,
}

/// A linear scale from values to pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
    unit: Unit,
}

impl Scale {
    /// Spans finite values, and a little more where they are all the same; `None` where there are none.
    pub fn over(values: impl IntoIterator<Item = f64>, unit: Unit) -> Option<Self> {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (mut low, mut high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return None;
        }
        if high - low <= 1e-9 * low.abs().max(high.abs()).max(1e-9) {
            let around = if unit == Unit::Whole { 1.0 } else { 0.05 * high.abs().max(1e-3) };
            (low, high) = (low - around, high + around);
        }
        Some(Self { low, high, from: 0.0, to: 1.0, step: 1.0, unit }.stepped(5))
    }

    /// Chooses steps of 1, 2 or 5 times a power of ten, so that there are about `wanted` ticks.
    fn stepped(mut self, wanted: usize) -> Self {
        let rough = (self.high - self.low) / wanted as f64;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= 0.999 * rough);
        self.step = factor.unwrap_or(10.0) * power;
        if self.unit == Unit::Whole {
            self.step = self.step.max(1.0);
        }
        self
    }

    /// Widens the span by this share of it on either side, so that nothing lies on its edges.
    pub fn with_room(mut self, share: f64) -> Self {
        let room = share * (self.high - self.low);
        (self.low, self.high) = (self.low - room, self.high + room);
        self
    }

    /// Widens the span to whole steps.
    pub fn rounded(mut self) -> Self {
        self.low = (self.low / self.step + 1e-9).floor() * self.step;
        self.high = (self.high / self.step - 1e-9).ceil() * self.step;
        self
    }

    /// Puts the span on these pixels.
    pub fn between(mut self, from: f64, to: f64) -> Self {
        (self.from, self.to) = (from, to);
        // Labels beside each other need room.
        let room = ((to - from).abs() / if to > from { 42.0 } else { 30.0 }).floor().clamp(2.0, 6.0);
        self.stepped(room as usize)
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The ticks within the span.
    pub fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-6).ceil() as i64;
        let last = (self.high / self.step + 1e-6).floor() as i64;
        (first..=last).map(|tick| tick as f64 * self.step).collect()
    }

    /// What stands at a tick.
    pub fn label(&self, tick: f64) -> String {
        match self.unit {
            Unit::Number | Unit::Whole => {
                let decimals = (-self.step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
                format!("{:.decimals$}", if tick == 0.0 { 0.0 } else { tick }).replace('-', "−")
            }
            Unit::Short => {
                let text = short(tick);
                let (number, prefix) =
                    text.split_once(' ').map_or((text.as_str(), ""), |(number, prefix)| (number, prefix));
                let number =
                    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
                if prefix.is_empty() {
                    number.replace('-', "−")
                } else {
                    format!("{} {prefix}", number.replace('-', "−"))
                }
            }
        }
    }

    /// Pixels that the labels take beside a vertical axis.
    pub fn label_width(&self) -> f64 {
        let letters = self.ticks().into_iter().map(|tick| self.label(tick).chars().count()).max().unwrap_or(0);
        LETTER * letters as f64 + 8.0
    }

    /// Draws the ticks of a horizontal axis at height `y`, and its name below.
    pub fn draw_below(&self, canvas: &mut Canvas, y: f64, name: &str) {
        canvas.line((self.from, y), (self.to, y), "axis");
        for tick in self.ticks() {
            canvas.line((self.at(tick), y), (self.at(tick), y + 3.0), "axis");
            canvas.text((self.at(tick), y + 14.0), Anchor::Middle, "tick", &self.label(tick));
        }
        canvas.text((f64::midpoint(self.from, self.to), y + 28.0), Anchor::Middle, "name", name);
    }

    /// Draws the ticks of a vertical axis at `x` with lines through the plot to `right`.
    pub fn draw_beside(&self, canvas: &mut Canvas, x: f64, right: f64) {
        for tick in self.ticks() {
            canvas.line((x, self.at(tick)), (right, self.at(tick)), "grid");
            canvas.text((x - 5.0, self.at(tick) + 3.5), Anchor::End, "tick", &self.label(tick));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: [f64; 2], unit: Unit) -> Vec<String> {
        let scale = Scale::over(values, unit).unwrap();
        scale.ticks().into_iter().map(|tick| scale.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels([0.0, 1.0], Unit::Number), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels([1.0, 3.0], Unit::Whole), ["1", "2", "3"]);
        assert_eq!(labels([0.0, 4.1e7], Unit::Short), ["0", "10 M", "20 M", "30 M", "40 M"]);
        assert_eq!(labels([-0.3, 0.3], Unit::Number), ["−0.2", "0.0", "0.2"]);
    }

    #[test]
    fn values_that_are_all_the_same_still_span_something() {
        for value in [0.0, 5.0, -1e9, 1e-12] {
            let scale = Scale::over([value, value, f64::NAN], Unit::Number).unwrap().between(0.0, 100.0);
            assert!((0.0..=100.0).contains(&scale.at(value)), "{value}");
        }
        assert_eq!(Scale::over([f64::NAN, f64::INFINITY], Unit::Number), None);
    }

    #[test]
    fn the_ends_of_a_span_are_the_ends_of_the_axis() {
        let scale = Scale::over([2.0, 4.0], Unit::Number).unwrap().between(10.0, 110.0);
        assert_eq!([2.0, 3.0, 4.0].map(|value| scale.at(value)), [10.0, 60.0, 110.0]);
        let scale = Scale::over([0.13, 0.87], Unit::Number).unwrap().rounded();
        assert_eq!((scale.low, scale.high), (0.0, 1.0));
    }
}
