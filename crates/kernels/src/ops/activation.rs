//! An activation and its layout.

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor, activation};

use super::flex::{Floats, is_ours, run, tensor};
use crate::buffer::Buffer;
use crate::maps::{LANES, Maps};

/// Maps of a batch, `[images, channels, height, width]`: in blocks on flex, as they are on other backends.
#[derive(Clone, Debug)]
pub struct Activation {
    pub(super) tensor: Tensor<4>,
    /// The shape, if `tensor` is in blocks.
    pub(super) maps: Option<Maps>,
}

impl Activation {
    /// Brings images `[images, channels, height, width]` into the layout of their device.
    pub fn new(images: Tensor<4>) -> Activation {
        let maps = Maps::new(images.dims());
        if maps.is_empty() || !is_ours(&images.device()) || images.dtype() != DType::F32 {
            return Activation { tensor: images, maps: None };
        }
        let blocks = run([images.into()], |[images]| {
            let backward = move |gradient, _| [Some(tensor(maps.to_nchw(&Floats::new(&gradient)), maps.dims()))];
            (in_blocks(maps, maps.from_nchw(&images)), Box::new(backward))
        });
        Activation { tensor: blocks, maps: Some(maps) }
    }

    /// Returns the maps as `[images, channels, height, width]`.
    pub fn into_nchw(self) -> Tensor<4> {
        let Some(maps) = self.maps else { return self.tensor };
        run([self.tensor.into()], |[blocks]| {
            let backward = move |gradient, _| [Some(in_blocks(maps, maps.from_nchw(&Floats::new(&gradient))))];
            (tensor(maps.to_nchw(&blocks), maps.dims()), Box::new(backward))
        })
    }

    /// Returns `[images, channels, height, width]`.
    pub fn dims(&self) -> [usize; 4] {
        self.maps.map_or_else(|| self.tensor.dims(), |maps| maps.dims())
    }

    /// Returns the device that the maps are on.
    pub fn device(&self) -> Device {
        self.tensor.device()
    }

    /// Sets negative values to zero.
    pub fn relu(self) -> Activation {
        // The zeros around the maps stay zeros.
        Activation { tensor: activation::relu(self.tensor), maps: self.maps }
    }

    /// Adds `other`, an activation of the same shape.
    pub fn add(self, other: Activation) -> Activation {
        let other = other.in_layout_of(&self);
        Activation { tensor: self.tensor + other.tensor, maps: self.maps }
    }

    /// Applies an operation of burn on `[images, channels, height, width]`.
    pub fn through_nchw(self, operation: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Activation {
        Activation::new(operation(self.into_nchw()))
    }

    pub(super) fn in_layout_of(self, other: &Activation) -> Activation {
        match (self.maps, other.maps) {
            (Some(_), None) => Activation { tensor: self.into_nchw(), maps: None },
            (None, Some(_)) => Activation::new(self.tensor),
            (Some(_), Some(_)) | (None, None) => self,
        }
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
