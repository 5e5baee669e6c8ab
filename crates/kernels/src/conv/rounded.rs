//! The operands of convolutions in bf16: rounded, and for the kernel of taps with two channels in a lane.

use rayon::prelude::*;

use crate::batch_norm::planes_per_task;
use crate::bf16::{Bf16, Stored};
use crate::buffer::{Buffer, Halves};
use crate::maps::Maps;
use crate::profile::{Part, Timer};
use crate::simd::{Kernel, Lanes, Level};

/// Rounds maps as they are.
pub(crate) fn round(level: Level, maps: Maps, x: &[f32]) -> Halves {
    let mut y = Halves::any(x.len());
    let planes = y.par_chunks_mut(maps.plane()).zip(x.par_chunks(maps.plane()));
    planes.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (y, x)| level.run(Round { x, y }));
    y
}

/// Puts channels 2i and 2i + 1 of rounded maps into one lane, beside a channel that is missing zeros.
pub(crate) fn in_pairs(level: Level, maps: Maps, rounded: &[Bf16]) -> Buffer {
    let pairs = maps.in_pairs();
    let mut y = Buffer::any(rounded.len() / maps.block() * pairs.block());
    let planes = y.par_chunks_mut(pairs.plane()).enumerate();
    planes.with_min_len(planes_per_task(maps)).for_each_init(timer, |_, (i, y)| {
        let (block, channel) = (i / pairs.channels, i % pairs.channels * 2);
        let rest = &rounded[block * maps.block() + channel * maps.plane()..];
        let high = (channel + 1 < maps.channels).then(|| &rest[maps.plane()..2 * maps.plane()]);
        level.run(Pair { low: &rest[..maps.plane()], high, y });
    });
    y
}

/// Counts a task as part of what is done around a kernel.
fn timer() -> Timer<'static> {
    Part::Around.time()
}

struct Round<'a> {
    x: &'a [f32],
    y: &'a mut [Bf16],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        self.y.iter_mut().zip(self.x).for_each(|(y, x)| *y = Bf16::of(*x));
    }
}

struct Pair<'a> {
    low: &'a [Bf16],
    high: Option<&'a [Bf16]>,
    y: &'a mut [f32],
}

impl Kernel for Pair<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let pixels = self.y.iter_mut().zip(self.low);
        match self.high {
            Some(high) => pixels.zip(high).for_each(|((y, low), high)| *y = Bf16::pair(*low, *high)),
            None => pixels.for_each(|(y, low)| *y = Bf16::pair(*low, Bf16::default())),
        }
    }
}
