//! Writes a network as an ONNX file, from what its model tells (`bonsai_models::operations`) and its parameters.
//!
//! The file takes `images`, `[batch, channels, height, width]` with pixels from 0 to 1, and gives `logits`,
//! `[batch, classes]`. Mean and deviation of the training data are part of the network, as its first two nodes, so that
//! nobody has to know them; they stand in the metadata too. The operator set is 17, the first with layer normalisation, which ONNX
//! Runtime reads since version 1.12. Removed weights are zeros, or left out where [`Meta::sparse`] asks for sparse
//! initializers; a network whose channels were cut out is as small here as it is there.
//!
//! Nothing is read or written here. An operation that a model has told only as far as channels are concerned is an error
//! that names it.

mod build;
mod emit;
pub mod proto;

use std::collections::BTreeMap;

use bonsai_models::Architecture;
use bonsai_models::operations::Operation;

pub use build::OPSET;

/// What a file says besides the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// The name of the graph.
    pub name: String,
    /// The mean of each channel over images on a scale of 0 to 1.
    pub mean: Vec<f32>,
    /// The deviation of each channel.
    pub std: Vec<f32>,
    /// Further entries of the file's metadata, by key.
    pub entries: BTreeMap<String, String>,
    /// Whether weights of which most are zero are written as sparse initializers.
    pub sparse: bool,
}

/// A parameter: its shape and its values, as a model file stores them.
pub type Parameter<'a> = (&'a [usize], &'a [f32]);

/// Returns a network as the bytes of an ONNX file; equal networks give equal bytes.
///
/// # Errors
///
/// A sentence that names the operation that cannot be written, or the parameter that is missing or of another shape.
pub fn export<'a>(
    architecture: &Architecture,
    parameter: &dyn Fn(&str) -> Option<Parameter<'a>>,
    meta: &Meta,
) -> Result<Vec<u8>, String> {
    export_operations(architecture.input, &architecture.operations()?, parameter, meta)
        .map_err(|message| format!("{}: {message}", architecture.name))
}

/// Returns any operations as a file; the first is the image of this shape, the last gives the logits.
///
/// # Errors
///
/// As [`export`].
pub fn export_operations<'a>(
    input: [usize; 3],
    operations: &[Operation],
    parameter: &dyn Fn(&str) -> Option<Parameter<'a>>,
    meta: &Meta,
) -> Result<Vec<u8>, String> {
    let mut build = build::Build::new(meta.sparse);
    let image = build.normalised(input[0], &meta.mean, &meta.std)?;
    emit::emit(operations, image, parameter, &mut build)?;
    let classes = operations.last().map_or(0, |logits| logits.width);
    Ok(build.finish(input, classes, meta))
}
