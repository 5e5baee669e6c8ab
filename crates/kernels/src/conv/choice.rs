//! Which kernels are faster for a pattern of a convolution or of a linear layer, the dense or the sparse ones, found out in
//! the steps after a mask has changed.
//!
//! Both return the same numbers, so a step that tries one is a step like any other: nothing is computed for the sake of
//! the measurement, and runs stay reproducible. What is timed is the whole call, in the place and with the caches it has.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Times that each way is tried; the shortest counts, so that other programs disturb little.
const ROUNDS: usize = 3;
/// A new mask keeps the choices of the one before unless its kept weights are more or fewer by this share.
const SIMILAR: f64 = 0.1;

/// Kinds of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// All weights, zeros included.
    Dense,
    /// Kept weights only.
    Sparse,
}

/// The kernels of one direction, and how long each kind took at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The faster ones.
    pub kernels: Kernels,
    /// A call in which this direction was dense.
    pub dense: Duration,
    /// The same call with sparse kernels.
    pub sparse: Duration,
}

/// The choices of a pattern, by direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choices {
    /// The forward pass, with the normalisation before it and the statistics after it.
    pub forward: Choice,
    /// The weight gradient, within the whole backward pass.
    pub weight: Choice,
    /// The data gradient, within the whole backward pass.
    pub data: Choice,
}

/// Kernels of a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sides {
    pub weight: Kernels,
    pub data: Kernels,
}

impl Sides {
    /// Returns the pattern if the weight gradient is sparse.
    pub fn weight<P>(self, pattern: &P) -> Option<&P> {
        (self.weight == Kernels::Sparse).then_some(pattern)
    }

    /// Returns the pattern if the data gradient is sparse.
    pub fn data<P>(self, pattern: &P) -> Option<&P> {
        (self.data == Kernels::Sparse).then_some(pattern)
    }
}

const FORWARD: [Kernels; 2] = [Kernels::Sparse, Kernels::Dense];
const BACKWARD: [Sides; 3] = [
    Sides { weight: Kernels::Sparse, data: Kernels::Sparse },
    Sides { weight: Kernels::Dense, data: Kernels::Sparse },
    Sides { weight: Kernels::Sparse, data: Kernels::Dense },
];

/// The races between kernels for one pattern.
#[derive(Debug, Default)]
pub(crate) struct Races {
    forward: Mutex<Race<2>>,
    backward: Mutex<Race<3>>,
}

impl Races {
    /// Returns the races for a mask that keeps `after` weights, where one of `before` weights had `self`.
    pub fn inherited(&self, before: usize, after: usize) -> Races {
        let similar = before.abs_diff(after) as f64 <= SIMILAR * before as f64;
        if !similar {
            return Races::default();
        }
        Races { forward: Mutex::new(lock(&self.forward).clone()), backward: Mutex::new(lock(&self.backward).clone()) }
    }

    /// Runs a forward pass of a batch of `images` with the kernels that are to be tried or have won.
    pub fn forward<T>(&self, images: usize, likely: Kernels, work: impl FnOnce(Kernels) -> T) -> T {
        run(&self.forward, images, usize::from(likely == Kernels::Dense), |way| work(FORWARD[way]))
    }

    /// Runs a backward pass of a batch of `images` with the kernels that are to be tried or have won; where `all` weights
    /// want a gradient, theirs are dense, and nothing is timed.
    pub fn backward<T>(&self, images: usize, all: bool, likely: Kernels, work: impl FnOnce(Sides) -> T) -> T {
        match self.sides() {
            _ if all => {
                let data = self.sides().map_or(likely, |[_, data]| data.kernels);
                work(Sides { weight: Kernels::Dense, data })
            }
            Some([weight, data]) => work(Sides { weight: weight.kernels, data: data.kernels }),
            None => run(&self.backward, images, usize::from(likely == Kernels::Dense), |way| work(BACKWARD[way])),
        }
    }

    /// Returns the kernels of a forward pass that is not to be timed.
    pub fn untimed(&self, likely: Kernels) -> Kernels {
        self.choices().map_or(likely, |choices| choices.forward.kernels)
    }

    /// Tells whether a training step has run.
    pub fn has_begun(&self) -> bool {
        lock(&self.backward).images.is_some()
    }

    /// Returns the choices once they are made.
    pub fn choices(&self) -> Option<Choices> {
        let [weight, data] = self.sides()?;
        let [sparse, dense] = lock(&self.forward).finished()?;
        Some(Choices { forward: choice(dense, sparse), weight, data })
    }

    /// Returns the choices for weight and data gradient once they are made.
    fn sides(&self) -> Option<[Choice; 2]> {
        let [sparse, dense_weight, dense_data] = lock(&self.backward).finished()?;
        Some([choice(dense_weight, sparse), choice(dense_data, sparse)])
    }
}

fn choice(dense: Duration, sparse: Duration) -> Choice {
    Choice { kernels: if dense < sparse { Kernels::Dense } else { Kernels::Sparse }, dense, sparse }
}

/// Ways of computing the same, and the shortest time of each so far.
#[derive(Clone, Debug)]
struct Race<const N: usize> {
    /// Images or rows of the batches that are timed; the last of an epoch may be smaller.
    images: Option<usize>,
    /// Timed calls.
    calls: usize,
    best: [Duration; N],
}

impl<const N: usize> Default for Race<N> {
    fn default() -> Self {
        Race { images: None, calls: 0, best: [Duration::MAX; N] }
    }
}

impl<const N: usize> Race<N> {
    fn finished(&self) -> Option<[Duration; N]> {
        (self.calls >= N * ROUNDS).then_some(self.best)
    }

    fn winner(&self) -> usize {
        (0..N).min_by_key(|way| self.best[*way]).unwrap_or(0)
    }
}

/// Runs the next way, or the one that has won, or for a batch of another size the `likely` one.
fn run<const N: usize, T>(race: &Mutex<Race<N>>, images: usize, likely: usize, work: impl FnOnce(usize) -> T) -> T {
    let way = {
        let mut race = lock(race);
        match race.finished() {
            Some(_) => Err(race.winner()),
            None if *race.images.get_or_insert(images) != images => Err(likely),
            None => Ok(race.calls % N),
        }
    };
    let way = match way {
        Ok(way) => way,
        Err(way) => return work(way),
    };
    let began = Instant::now();
    let result = work(way);
    let time = began.elapsed();
    let mut race = lock(race);
    race.best[way] = race.best[way].min(time);
    race.calls += 1;
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_kernels_win_each_direction_by_itself() {
        let races = Races::default();
        let slow = |slow: bool| std::thread::sleep(Duration::from_millis(if slow { 4 } else { 0 }));
        assert_eq!((races.choices(), races.untimed(Kernels::Dense)), (None, Kernels::Dense));
        for _ in 0..9 {
            // Of 16 images: dense kernels are slow forward and for weights, sparse ones for data.
            races.forward(16, Kernels::Sparse, |kernels| slow(kernels == Kernels::Dense));
            races.backward(16, false, Kernels::Sparse, |sides| {
                slow(sides.weight == Kernels::Dense);
                slow(sides.data == Kernels::Sparse);
            });
            // A smaller batch is not timed.
            races.backward(3, false, Kernels::Sparse, |sides| assert_eq!(sides.weight, Kernels::Sparse));
        }
        let Choices { forward, weight, data } = races.choices().unwrap();
        assert_eq!(
            [forward, weight, data].map(|choice| choice.kernels),
            [Kernels::Sparse, Kernels::Sparse, Kernels::Dense]
        );
        races.backward(3, false, Kernels::Sparse, |sides| assert_eq!(sides.data, Kernels::Dense));
        assert_eq!(races.inherited(100, 95).choices(), races.choices());
        assert_eq!(races.inherited(100, 80).choices(), None);
    }
}
