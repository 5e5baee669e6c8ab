//! Where a training step's time goes: counters that kernels add to while [`record`] runs or a [`Recording`] lasts.
//!
//! Two things are counted. A kernel adds the time of its thread, task by task; nothing else runs within such a task. A
//! [`section`] of the thread that trains adds its own time on all threads, less what was counted meanwhile, since the
//! others can only wait for it. So all parts and what is left over ([`Profile::other`]) add up to the time of the
//! recorded work on all its threads.
//!
//! Where nothing is recorded, a task costs one relaxed load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::bf16::Precision;
use crate::conv::Conv;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Forward pass of a convolution, dense kernels.
    ForwardDense,
    /// Data gradient of a convolution, dense kernels.
    DataDense,
    /// Weight gradient of a convolution, dense kernels.
    WeightDense,
    /// Forward pass of a convolution, sparse kernels.
    ForwardSparse,
    /// Data gradient of a convolution, sparse kernels.
    DataSparse,
    /// Weight gradient of a convolution, sparse kernels.
    WeightSparse,
    /// Depthwise convolution, both ways.
    Depthwise,
    /// Batch normalisation with rectifier and residual, both ways.
    Normalisation,
    /// Pooling and the shortcut without parameters, both ways.
    Pooling,
    /// Maps brought into blocks and back.
    Layout,
    /// Linear layers, both ways.
    Linear,
    /// Attention between its linear layers, both ways.
    Attention,
    /// Layer normalisation, both ways.
    LayerNorm,
    /// The activation of a perceptron, both ways.
    Gelu,
    /// Softmax cross-entropy, both ways.
    Loss,
    /// Accuracy, and the sums of loss and accuracy.
    Accuracy,
    /// The optimizer, without masks.
    Optimizer,
    /// Masks on gradients and weights.
    Masks,
    /// Images and labels brought to the device.
    Data,
    /// What a convolution does around its kernels: packed weights, lists of kept ones, operands rounded to bf16, sums put
    /// together.
    Around,
    /// The rest of the operations of this crate: threads that wait for a kernel's last task, memory.
    Waiting,
}

impl Part {
    /// All parts, in the order of a table.
    pub const ALL: [Part; 21] = [
        Part::ForwardDense,
        Part::DataDense,
        Part::WeightDense,
        Part::ForwardSparse,
        Part::DataSparse,
        Part::WeightSparse,
        Part::Depthwise,
        Part::Normalisation,
        Part::Pooling,
        Part::Layout,
        Part::Linear,
        Part::Attention,
        Part::LayerNorm,
        Part::Gelu,
        Part::Loss,
        Part::Accuracy,
        Part::Optimizer,
        Part::Masks,
        Part::Data,
        Part::Around,
        Part::Waiting,
    ];

    /// Returns what a table calls the part.
    pub fn name(self) -> &'static str {
        match self {
            Part::ForwardDense => "convolution forward",
            Part::DataDense => "convolution data gradient",
            Part::WeightDense => "convolution weight gradient",
            Part::ForwardSparse => "sparse convolution forward",
            Part::DataSparse => "sparse convolution data gradient",
            Part::WeightSparse => "sparse convolution weight gradient",
            Part::Depthwise => "depthwise convolution",
            Part::Normalisation => "batch norm, rectifier, residual",
            Part::Pooling => "pooling, shortcut",
            Part::Layout => "layout",
            Part::Linear => "linear",
            Part::Attention => "attention",
            Part::LayerNorm => "layer norm",
            Part::Gelu => "gelu",
            Part::Loss => "softmax cross-entropy",
            Part::Accuracy => "accuracy, sums of the loss",
            Part::Optimizer => "optimizer",
            Part::Masks => "masks",
            Part::Data => "data to device",
            Part::Around => "packing, lists, sums put together",
            Part::Waiting => "waiting for kernels, memory",
        }
    }

    /// Counts the time until the timer is dropped; for tasks that start no others.
    pub(crate) fn time(self) -> Timer<'static> {
        Timer { began: is_on().then(Instant::now), part: self, tally: None }
    }
}

/// A direction of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Its output.
    Forward,
    /// The gradient of its input.
    Data,
    /// The gradient of its weights.
    Weight,
}

impl Direction {
    /// All directions.
    pub const ALL: [Direction; 3] = [Direction::Forward, Direction::Data, Direction::Weight];

    fn part(self, sparse: bool) -> Part {
        match (self, sparse) {
            (Direction::Forward, false) => Part::ForwardDense,
            (Direction::Data, false) => Part::DataDense,
            (Direction::Weight, false) => Part::WeightDense,
            (Direction::Forward, true) => Part::ForwardSparse,
            (Direction::Data, true) => Part::DataSparse,
            (Direction::Weight, true) => Part::WeightSparse,
        }
    }
}

/// Convolutions of one shape on one kind of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels, height and width of an input.
    pub input: [usize; 3],
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step of the kernel.
    pub stride: usize,
    /// Whether the sparse kernels ran.
    pub sparse: bool,
    /// What was multiplied.
    pub precision: Precision,
}

/// What the convolutions of a shape took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convolutions {
    /// Their shape.
    pub shape: Shape,
    /// Forward passes.
    pub calls: u64,
    /// Each direction, in the order of [`Direction::ALL`].
    pub directions: [Work; 3],
}

impl Convolutions {
    fn add(&mut self, more: Convolutions) {
        self.calls += more.calls;
        for (work, more) in self.directions.iter_mut().zip(more.directions) {
            work.time += more.time;
            work.macs += more.macs;
        }
    }
}

/// What kernels did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// The time of all threads together.
    pub time: Duration,
    /// Multiply-accumulates that were computed: kept taps only, and those of the images that a last block lacks too.
    pub macs: u64,
}

impl Work {
    /// Returns the floating-point operations of a thread in a second, 0 if there was no work.
    pub fn flops(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { 2.0 * self.macs as f64 / self.time.as_secs_f64() }
    }
}

/// Where the time of recorded work went.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// How long it took.
    pub wall: Duration,
    /// Its threads.
    pub threads: usize,
    /// The time that each part took of all threads together, in the order of [`Part::ALL`].
    pub parts: [Duration; Part::ALL.len()],
    /// The convolutions, in the order of their first call.
    pub convolutions: Vec<Convolutions>,
}

impl Profile {
    /// Adds the profiles of the same work done again, and returns them as one.
    pub fn sum(profiles: impl IntoIterator<Item = Profile>) -> Option<Profile> {
        profiles.into_iter().reduce(|mut all, more| {
            all.wall += more.wall;
            all.parts.iter_mut().zip(more.parts).for_each(|(part, more)| *part += more);
            for more in more.convolutions {
                match all.convolutions.iter_mut().find(|one| one.shape == more.shape) {
                    Some(one) => one.add(more),
                    None => all.convolutions.push(more),
                }
            }
            all
        })
    }

    /// Returns the time of all threads that belongs to no part.
    pub fn other(&self) -> Duration {
        (self.wall * self.threads as u32).saturating_sub(self.parts.iter().sum())
    }
}

static ON: AtomicBool = AtomicBool::new(false);
static PARTS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];
/// The sum of all parts so far.
static COUNTED: AtomicU64 = AtomicU64::new(0);
static TALLIES: Mutex<Vec<(Shape, Arc<Tally>)>> = Mutex::new(Vec::new());

/// Counters of the convolutions of a shape, by direction.
#[derive(Debug, Default)]
struct Tally {
    calls: AtomicU64,
    nanoseconds: [AtomicU64; 3],
    macs: [AtomicU64; 3],
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `work` and tells where the time of its threads, those of rayon's current pool, went.
///
/// What other threads of the process do meanwhile is counted too.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Profile) {
    let recording = Recording::begin(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    let result = work();
    (result, recording.finish())
}

/// A recording under way, for work that begins and ends in different functions; dropped, it tells nothing.
#[must_use = "a recording that is dropped tells nothing"]
#[derive(Debug)]
pub struct Recording {
    began: Instant,
    off: Off,
    _alone: MutexGuard<'static, ()>,
}

impl Recording {
    /// Begins to record; `None` while another recording goes on.
    pub fn try_start() -> Option<Recording> {
        let alone = match ONE_AT_A_TIME.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Recording::begin(alone))
    }

    fn begin(alone: MutexGuard<'static, ()>) -> Recording {
        PARTS.iter().for_each(|part| part.store(0, Relaxed));
        tallies().clear();
        ON.store(true, Relaxed);
        Recording { began: Instant::now(), off: Off, _alone: alone }
    }

    /// Ends the recording and tells where the time since its beginning went.
    pub fn finish(self) -> Profile {
        let wall = self.began.elapsed();
        drop(self.off);
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        let tallies = tallies();
        let convolutions = tallies.iter().map(|(shape, tally)| Convolutions {
            shape: *shape,
            calls: tally.calls.load(Relaxed),
            directions: [0, 1, 2]
                .map(|d| Work { time: time(&tally.nanoseconds[d]), macs: tally.macs[d].load(Relaxed) }),
        });
        let parts = PARTS.each_ref().map(time);
        let threads = rayon::current_num_threads();
        Profile { wall, threads, parts, convolutions: convolutions.collect() }
    }
}

/// Ends the recording, also where the work panics.
#[derive(Debug)]
struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        ON.store(false, Relaxed);
    }
}

/// Counts what the calling thread does until the section is dropped; sections may lie within each other.
pub fn section(part: Part) -> Section {
    Section(is_on().then(|| Open::new(part)))
}

/// See [`section`].
#[must_use = "a section ends when it is dropped"]
#[derive(Debug)]
pub struct Section(Option<Open>);

impl Drop for Section {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.close();
        }
    }
}

/// The beginning of a section.
#[derive(Debug)]
pub(crate) struct Open {
    part: Part,
    began: Instant,
    counted: u64,
}

impl Open {
    pub(crate) fn new(part: Part) -> Open {
        Open { part, began: Instant::now(), counted: COUNTED.load(Relaxed) }
    }

    pub(crate) fn close(self) {
        let all = nanoseconds(self.began) * rayon::current_num_threads() as u64;
        // Clocks of several threads need not agree to the nanosecond.
        add(self.part, all.saturating_sub(COUNTED.load(Relaxed) - self.counted));
    }
}

/// Where the kernels of one direction of a convolution count their time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot(Option<(Direction, bool, Arc<Tally>)>);

impl Slot {
    /// Returns the slot of a convolution whose f32 kernels are about to compute `macs` multiply-accumulates.
    pub fn new(conv: &Conv, direction: Direction, sparse: bool, macs: impl FnOnce() -> usize) -> Slot {
        Slot::of(conv, direction, sparse, Precision::F32, macs)
    }

    /// Returns the slot of a convolution whose kernels of `precision` are about to compute `macs` multiply-accumulates.
    pub fn of(
        conv: &Conv,
        direction: Direction,
        sparse: bool,
        precision: Precision,
        macs: impl FnOnce() -> usize,
    ) -> Slot {
        if !is_on() {
            return Slot(None);
        }
        let input = [conv.input.channels, conv.input.height, conv.input.width];
        let shape = Shape { input, outputs: conv.outputs, kernel: conv.kernel, stride: conv.stride, sparse, precision };
        let mut tallies = tallies();
        let tally = match tallies.iter().find(|(other, _)| *other == shape) {
            Some((_, tally)) => tally.clone(),
            None => {
                let tally = Arc::new(Tally::default());
                tallies.push((shape, tally.clone()));
                tally
            }
        };
        drop(tallies);
        tally.macs[direction as usize].fetch_add(macs() as u64, Relaxed);
        if direction == Direction::Forward {
            tally.calls.fetch_add(1, Relaxed);
        }
        Slot(Some((direction, sparse, tally)))
    }

    /// Counts the time until the timer is dropped; for tasks that start no others.
    pub fn time(&self) -> Timer<'_> {
        match &self.0 {
            None => Timer { began: None, part: Part::Waiting, tally: None },
            Some((direction, sparse, tally)) => Timer {
                began: Some(Instant::now()),
                part: direction.part(*sparse),
                tally: Some(&tally.nanoseconds[*direction as usize]),
            },
        }
    }
}

/// Counts time until it is dropped.
#[must_use = "a timer counts until it is dropped"]
pub(crate) struct Timer<'a> {
    began: Option<Instant>,
    part: Part,
    tally: Option<&'a AtomicU64>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Some(began) = self.began else { return };
        let nanoseconds = nanoseconds(began);
        add(self.part, nanoseconds);
        if let Some(tally) = self.tally {
            tally.fetch_add(nanoseconds, Relaxed);
        }
    }
}

pub(crate) fn is_on() -> bool {
    ON.load(Relaxed)
}

fn add(part: Part, nanoseconds: u64) {
    PARTS[part as usize].fetch_add(nanoseconds, Relaxed);
    COUNTED.fetch_add(nanoseconds, Relaxed);
}

fn nanoseconds(began: Instant) -> u64 {
    began.elapsed().as_nanos() as u64
}

fn tallies() -> MutexGuard<'static, Vec<(Shape, Arc<Tally>)>> {
    TALLIES.lock().unwrap_or_else(PoisonError::into_inner)
}
