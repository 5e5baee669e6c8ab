//! An activation and its layout.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, FloatDType, Tensor, activation};

use super::flex::{Floats, is_ours, run, tensor};
use super::pending::Pending;
use super::planes::View;
use super::precision::in_f32;
use crate::Precision;
use crate::batch_norm::Statistics;
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};

/// Maps of a batch, `[images, channels, height, width]`: in blocks on flex, as they are on other backends.
///
/// In half precision on GPUs what convolutions return is in halves, and stays so through normalisations, rectifiers and
/// residuals, so that half as many bytes travel; any other operation gets the maps in f32.
///
/// A normalisation that follows a convolution waits for what comes next, so that another convolution can do both at
/// once; a clone, and any other operation, lets it be computed.
#[derive(Debug)]
pub struct Activation {
    state: State,
    precision: Precision,
}

#[derive(Debug)]
enum State {
    /// Maps as they are, in f32 or, on GPUs, in halves.
    Nchw(Tensor<4>),
    /// Maps in blocks.
    Blocks(Blocks),
    /// Channels of other maps in blocks.
    View(View),
    /// Operations that are not in the graph yet.
    Pending(Box<Pending>, OnceLock<Blocks>),
}

/// Maps in blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// The blocks.
    pub tensor: Tensor<4>,
    /// Their shape.
    pub maps: Maps,
    /// What they are the parameter-free shortcut of, if they are.
    pub narrow: Option<Box<Blocks>>,
    /// What is known about them besides.
    pub known: Arc<Known>,
}

/// What the operations that read the same blocks tell each other.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Their statistics, once somebody has taken them.
    pub statistics: OnceLock<Statistics>,
    /// Whether their gradient has been begun, in the backward pass, by an operation that adds to what is there.
    pub has_gradient: AtomicBool,
}

impl Blocks {
    /// Makes blocks of a tensor.
    pub fn new(tensor: Tensor<4>, maps: Maps) -> Blocks {
        Blocks { tensor, maps, narrow: None, known: Arc::default() }
    }

    /// Says what the statistics are.
    pub fn with_statistics(self, statistics: Option<Statistics>) -> Blocks {
        if let Some(statistics) = statistics {
            // Whoever took them first took the same.
            self.known.statistics.get_or_init(|| statistics);
        }
        self
    }
}

impl Activation {
    /// Brings images `[images, channels, height, width]` into the layout of their device.
    pub fn new(images: Tensor<4>) -> Activation {
        let maps = Maps::new(images.dims());
        if maps.is_empty() || !is_ours(&images.device()) || images.dtype() != DType::F32 {
            return Activation::of_nchw(images);
        }
        let blocks = run([images.into()], |[images]| {
            let backward = move |gradient, _| [Some(tensor(maps.to_nchw(&Floats::new(&gradient)), maps.dims()))];
            (in_blocks(maps, maps.from_nchw(&images)), Box::new(backward))
        });
        Activation::of_blocks(blocks, maps)
    }

    /// Returns the maps as `[images, channels, height, width]`, in f32.
    pub fn into_nchw(self) -> Tensor<4> {
        let Blocks { tensor: blocks, maps, .. } = match self.into_blocks() {
            Ok(blocks) => blocks,
            Err(images) => return images,
        };
        run([blocks.into()], |[blocks]| {
            let backward = move |gradient, _| [Some(in_blocks(maps, maps.from_nchw(&Floats::new(&gradient))))];
            (tensor(maps.to_nchw(&blocks), maps.dims()), Box::new(backward))
        })
    }

    /// Sets how exactly the convolution that comes next multiplies, if it is dense and runs on our kernels.
    pub fn with_precision(self, precision: Precision) -> Activation {
        Activation { precision, ..self }
    }

    /// Returns `[images, channels, height, width]`.
    pub fn dims(&self) -> [usize; 4] {
        match &self.state {
            State::Nchw(images) => images.dims(),
            State::Blocks(blocks) => blocks.maps.dims(),
            State::View(view) => view.maps().dims(),
            State::Pending(pending, _) => pending.maps().dims(),
        }
    }

    /// Returns the device that the maps are on.
    pub fn device(&self) -> Device {
        match &self.state {
            State::Nchw(tensor) | State::Blocks(Blocks { tensor, .. }) => tensor.device(),
            State::View(view) => view.parts[0].tensor.device(),
            State::Pending(pending, _) => pending.device(),
        }
    }

    /// Sets negative values to zero.
    pub fn relu(self) -> Activation {
        match self.into_plain() {
            Ok(images) => Activation::of_nchw(activation::relu(images)),
            Err(blocks) => {
                // The zeros around the maps stay zeros.
                let Blocks { tensor, maps, .. } = blocks.settled();
                Activation::of_blocks(activation::relu(tensor), maps)
            }
        }
    }

    /// Adds `other`, an activation of the same shape.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: Activation) -> Activation {
        let dtype = self.dtype();
        let this = match self.into_pending() {
            Ok(chain) if chain.takes_residual() => {
                let residual = other.blocks_of(chain.maps());
                return Activation::of_settled(chain.settle_with(residual));
            }
            Ok(chain) => Activation::of_pending(chain),
            Err(this) => this,
        };
        match this.into_blocks() {
            Ok(Blocks { tensor, maps, .. }) => Activation::of_blocks(tensor + other.blocks_of(maps).tensor, maps),
            Err(images) => Activation::of_nchw((images + other.into_nchw()).cast(dtype)),
        }
    }

    /// Applies an operation of burn on `[images, channels, height, width]`.
    pub fn through_nchw(self, operation: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Activation {
        Activation::new(operation(self.into_nchw()))
    }

    fn of(state: State) -> Activation {
        Activation { state, precision: Precision::default() }
    }

    /// Returns how exactly the next convolution multiplies.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn of_nchw(images: Tensor<4>) -> Activation {
        Activation::of(State::Nchw(images))
    }

    pub(super) fn of_blocks(tensor: Tensor<4>, maps: Maps) -> Activation {
        Activation::of(State::Blocks(Blocks::new(tensor, maps)))
    }

    pub(super) fn of_settled(blocks: Blocks) -> Activation {
        Activation::of(State::Blocks(blocks))
    }

    pub(super) fn of_view(view: View) -> Activation {
        Activation::of(State::View(view))
    }

    /// Marks blocks as the parameter-free shortcut of `narrow`.
    pub(super) fn of_shortcut(tensor: Tensor<4>, maps: Maps, narrow: Blocks) -> Activation {
        Activation::of_settled(Blocks { narrow: Some(Box::new(narrow)), ..Blocks::new(tensor, maps) })
    }

    pub(super) fn of_pending(pending: Pending) -> Activation {
        Activation::of(State::Pending(Box::new(pending), OnceLock::new()))
    }

    /// Returns the type of the maps' numbers.
    pub(super) fn dtype(&self) -> FloatDType {
        match &self.state {
            State::Nchw(images) => images.dtype().into(),
            State::Blocks(_) | State::View(_) | State::Pending(..) => FloatDType::F32,
        }
    }

    /// Returns the maps as they are, halves included, unless they are in a layout of ours.
    pub(super) fn into_plain(self) -> Result<Tensor<4>, Activation> {
        match self.state {
            State::Nchw(images) => Ok(images),
            State::Blocks(_) | State::View(_) | State::Pending(..) => Err(self),
        }
    }

    /// Returns the blocks of maps that are in a layout of ours.
    pub(super) fn settled(self) -> Blocks {
        self.into_blocks().expect("the maps are in blocks")
    }

    /// Returns the operations that wait, or the activation if none do.
    pub(super) fn into_pending(self) -> Result<Pending, Activation> {
        match self.state {
            State::Pending(pending, settled) if settled.get().is_none() => Ok(*pending),
            _ => Err(self),
        }
    }

    /// Returns the blocks, or the maps as they are, in f32.
    pub(super) fn into_blocks(self) -> Result<Blocks, Tensor<4>> {
        match self.state {
            State::Nchw(images) => Err(in_f32(images)),
            State::Blocks(blocks) => Ok(blocks),
            State::View(view) => Ok(view.settle()),
            State::Pending(pending, settled) => Ok(settled.into_inner().unwrap_or_else(|| pending.settle())),
        }
    }

    /// Returns the channels, wherever they are, or the maps as they are, in f32.
    pub(super) fn into_view(self) -> Result<View, Tensor<4>> {
        match self.state {
            State::View(view) => Ok(view),
            State::Nchw(_) | State::Blocks(_) | State::Pending(..) => self.into_blocks().map(View::whole),
        }
    }

    /// Returns the blocks of an activation that is added to one of shape `maps`.
    ///
    /// # Panics
    ///
    /// Panics if this one has another shape.
    pub(super) fn blocks_of(self, maps: Maps) -> Blocks {
        let blocks = self.into_blocks().or_else(|images| Activation::new(images).into_blocks());
        let blocks = blocks.expect("both activations are f32 and on flex");
        assert_eq!(blocks.maps, maps, "both activations have the same shape");
        blocks
    }
}

impl Clone for Activation {
    fn clone(&self) -> Self {
        let clone = match &self.state {
            State::Nchw(images) => Activation::of_nchw(images.clone()),
            State::Blocks(blocks) => Activation::of(State::Blocks(blocks.clone())),
            State::View(view) => Activation::of_view(view.clone()),
            State::Pending(pending, settled) => {
                Activation::of_settled(settled.get_or_init(|| pending.clone().settle()).clone())
            }
        };
        clone.with_precision(self.precision)
    }
}

/// Makes a tensor of blocks.
pub(super) fn in_blocks(maps: Maps, blocks: Buffer) -> FlexTensor {
    tensor(blocks, shape(maps))
}

/// Returns the shape of the tensor that holds the blocks of `maps`.
pub(super) fn shape(maps: Maps) -> [usize; 4] {
    [maps.blocks(), maps.channels, maps.pixels(), LANES]
}
