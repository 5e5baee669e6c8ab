//! The sparse kernel of the forward pass and of the data gradient: each output sums its own list of inputs.
#![allow(unsafe_code)]

use super::next::Next;
use super::pattern::{Entry, Lists};
use super::{PIXELS, Start};
use crate::maps::LANES;
use crate::panels::even;
use crate::simd::{Kernel, Lanes};

/// Some outputs of one panel.
pub(super) struct Work<'a> {
    /// Features that are read.
    pub inputs: usize,
    /// Vectors of a feature.
    pub pixels: usize,
    /// The panel that is read.
    pub x: &'a [f32],
    /// Planes that are written.
    pub y: &'a mut [f32],
    /// The lists of all outputs.
    pub lists: &'a Lists,
    /// Their entries.
    pub entries: &'a [Entry],
    /// The output of the first plane.
    pub first: usize,
    /// What the sums start from, from the first output of `y` on.
    pub start: Start<'a>,
}

impl Kernel for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let plane = self.pixels * LANES;
        let outputs = self.y.len() / plane;
        assert_eq!(self.x.len(), self.inputs * plane);
        assert_eq!(self.y.len(), outputs * plane);
        assert!(self.first + outputs <= self.lists.targets);
        assert!(self.lists.reads_below(self.inputs));
        assert!(self.start.bias.is_none_or(|bias| bias.len() >= outputs));
        assert!(self.start.onto.is_none_or(|onto| onto.len() >= self.y.len()));
        for (pixel, count) in even(self.pixels, PIXELS) {
            match count {
                6 => self.outputs::<L, 6>(pixel),
                5 => self.outputs::<L, 5>(pixel),
                4 => self.outputs::<L, 4>(pixel),
                3 => self.outputs::<L, 3>(pixel),
                2 => self.outputs::<L, 2>(pixel),
                _ => self.outputs::<L, 1>(pixel),
            }
        }
    }
}

impl Work<'_> {
    /// Writes `P` pixels of all outputs, a group of inputs at a time.
    #[inline(always)]
    fn outputs<L: Lanes, const P: usize>(&mut self, pixel: usize) {
        let plane = self.pixels * LANES;
        let outputs = self.y.len() / plane;
        // Without any input, sums are what they start from.
        let groups = self.lists.groups.max(1);
        for group in 0..groups {
            let next = if group + 1 < groups { (group + 1, pixel) } else { (0, pixel + P) };
            let next = Next::<P>::new(self.x, [self.inputs, self.pixels], next, outputs);
            for output in 0..outputs {
                next.ask::<L>(output);
                let target = self.first + output;
                let list = match self.lists.groups {
                    0 => &[],
                    _ => &self.entries[self.lists.range(group, target..target + 1)],
                };
                if group > 0 && list.is_empty() {
                    continue;
                }
                for lane in (0..LANES).step_by(L::WIDTH) {
                    // SAFETY: the asserts of `run` hold, so that entries, which `Lists::entries` made for planes of this
                    // size, read features that are there; pixels `pixel..pixel + P` exist by the loop of `run`. `y` is
                    // borrowed alone.
                    unsafe {
                        let x = self.x.as_ptr().add(pixel * LANES + lane);
                        let at = output * plane + pixel * LANES + lane;
                        let y = self.y.as_mut_ptr().add(at);
                        let mut sums = [L::splat(0.0); P];
                        if group > 0 {
                            for p in 0..P {
                                sums[p] = L::load(y.add(p * LANES));
                            }
                        } else {
                            sums = [L::splat(self.start.bias.map_or(0.0, |bias| bias[output])); P];
                            if let Some(onto) = self.start.onto {
                                for p in 0..P {
                                    let onto = L::load(onto.as_ptr().add(at + p * LANES));
                                    sums[p] = onto.mul_add(L::splat(1.0), sums[p]);
                                }
                            }
                        }
                        for entry in list {
                            let weight = L::splat(entry.weight);
                            let x = x.add(entry.offset as usize);
                            for p in 0..P {
                                sums[p] = L::load(x.add(p * LANES)).mul_add(weight, sums[p]);
                            }
                        }
                        for p in 0..P {
                            sums[p].store(y.add(p * LANES));
                        }
                    }
                }
            }
        }
    }
}
