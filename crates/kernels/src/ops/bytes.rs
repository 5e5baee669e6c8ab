//! Buffers as the bytes that burn's tensors are made of.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

use crate::buffer::{ALIGNMENT, Buffer};

impl Buffer {
    /// Turns the floats into bytes, without copying them.
    pub(super) fn into_bytes(self) -> Bytes {
        let bytes = size_of_val(&self[..]);
        // SAFETY: all bytes of a buffer are initialised.
        unsafe { Bytes::from_controller(Box::new(self), bytes) }
    }
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        ALIGNMENT
    }

    fn property(&self) -> AllocationProperty {
        // Not `Native`: only we may free it.
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes = size_of_val(&self[..]);
        // SAFETY: the memory is the buffer's, borrowed alone, and the caller writes only initialised bytes.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), bytes) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes = size_of_val(&self[..]);
        // SAFETY: the memory is the buffer's and borrowed.
        Ok(unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_buffer_hold_its_floats() {
        let mut buffer = Buffer::zeros(3);
        buffer.copy_from_slice(&[1.0, 2.0, 3.0]);
        let bytes = buffer.into_bytes();
        let copy = bytes.clone();
        drop(bytes);
        assert_eq!(copy.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).sum::<f32>(), 6.0);
    }
}
