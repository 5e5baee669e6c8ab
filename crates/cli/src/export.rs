//! `bonsai export`: writes a trained network in other forms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bonsai_data::DataSet;
use bonsai_models::Network;
use bonsai_onnx::Meta;
use bonsai_training::run_folder::write_atomic;
use bonsai_training::snapshot::{self, Snapshot};
use bonsai_training::tensors::{HostTensor, Tensors, encode};
use bonsai_training::trainee::load_network;
use burn::tensor::{Tensor, TensorData};

use crate::error::user;
use crate::table::count;
use crate::{device, network};

const EXAMPLES: &str = "\
Examples:
  bonsai export shapes10-resnet20-granet/seed-0 --onnx resnet20.onnx
  bonsai export model.safetensors --onnx sparse.onnx --sparse
  bonsai export model.safetensors --packed small.safetensors

An ONNX file takes `images`, [batch, channels, height, width] with pixels from 0 to 1, and gives `logits`,
[batch, classes]; mean and deviation of the training data are its first nodes. The operator set is 17. Removed weights are zeros,
removed channels are gone. A packed file holds the kept weights only; every command reads it as it reads the other.";

/// Write a trained network as ONNX, or packed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A run as `bonsai runs list` names it, a run folder or a model.safetensors
    #[arg(value_name = "RUN_OR_SAFETENSORS")]
    run: PathBuf,
    /// Write an ONNX file
    #[arg(long, value_name = "FILE", required_unless_present = "packed")]
    onnx: Option<PathBuf>,
    /// Write sparse initializers into the ONNX file: a smaller file, no faster network
    #[arg(long, requires = "onnx")]
    sparse: bool,
    /// Also write random images and the logits that bonsai computes for them, to compare with
    #[arg(long, value_name = "FILE", requires = "onnx")]
    probe: Option<PathBuf>,
    /// Write a safetensors file without the removed weights
    #[arg(long, value_name = "FILE")]
    packed: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// A path without a network, or to write to what is read, is a user's mistake; a damaged file is a failure.
pub fn run(args: Args) -> Result<String> {
    let path = network::file(&args.run)?;
    for out in [&args.onnx, &args.probe, &args.packed].into_iter().flatten() {
        if same(out, &path) {
            return Err(user(format!("{} is the network itself: give another file to write to", out.display())));
        }
    }
    let snapshot = snapshot::read(&path)?;
    let mut text = String::new();
    if let Some(out) = &args.onnx {
        // Weights that are not the network's would be found by whoever runs the file.
        let network = built(&snapshot).with_context(|| format!("{} is damaged", path.display()))?;
        let bytes = onnx(&snapshot, args.sparse)?;
        write_atomic(out, &bytes)?;
        text += &format!("{}: {} bytes, {}\n", out.display(), count(bytes.len() as u64), described(&snapshot));
        if let Some(out) = &args.probe {
            write_atomic(out, &probe(&snapshot, &network)?)?;
        }
    }
    if let Some(out) = &args.packed {
        snapshot::write_packed(out, &snapshot)?;
        let size = |path: &Path| std::fs::metadata(path).map(|data| data.len()).context("reading what was written");
        let (packed, plain) = (size(out)?, size(&path)?);
        text += &format!("{}: {} bytes instead of {}\n", out.display(), count(packed), count(plain));
    }
    Ok(text)
}

fn same(out: &Path, input: &Path) -> bool {
    matches!((out.canonicalize(), input.canonicalize()), (Ok(out), Ok(input)) if out == input)
}

fn described(snapshot: &Snapshot) -> String {
    let header = &snapshot.header;
    let cut = if header.architecture.kept.is_empty() { "" } else { ", compact" };
    format!("{} of {}{cut}", header.architecture.name, header.data)
}

fn built(snapshot: &Snapshot) -> Result<Network> {
    let device = device::flex().device;
    let network = Network::new(&snapshot.header.architecture, 0, &device).map_err(anyhow::Error::msg)?;
    load_network(network, snapshot.weights.clone(), &device)
}

fn onnx(snapshot: &Snapshot, sparse: bool) -> Result<Vec<u8>> {
    let Snapshot { header, weights, .. } = snapshot;
    let mut entries = BTreeMap::from([
        ("bonsai.architecture".to_string(), serde_json::to_string(&header.architecture)?),
        ("bonsai.data".to_string(), header.data.clone()),
        ("bonsai.scheduler".to_string(), header.scheduler.clone()),
        ("bonsai.sparsity".to_string(), header.sparsity.to_string()),
    ]);
    if let Some(names) = header.data.parse::<DataSet>().ok().and_then(DataSet::class_names) {
        entries.insert("bonsai.classes".to_string(), names.join(","));
    }
    let name = format!("{}-{}", header.data, header.architecture.name);
    let meta = Meta { name, mean: header.mean.clone(), std: header.std.clone(), entries, sparse };
    let parameter = |name: &str| {
        let tensor = weights.get(name)?;
        Some((&tensor.shape[..], tensor.as_f32().ok()?))
    };
    bonsai_onnx::export(&header.architecture, &parameter, &meta).map_err(anyhow::Error::msg)
}

/// Draws images by a fixed rule and computes their logits.
fn probe(snapshot: &Snapshot, network: &Network) -> Result<Vec<u8>> {
    const RECORDS: usize = 5;
    let header = &snapshot.header;
    let [channels, height, width] = header.architecture.input;
    let (shape, area) = ([RECORDS, channels, height, width], height * width);
    let pixel = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0;
    let pixels: Vec<f32> = (0..RECORDS * channels * area).map(pixel).collect();
    let normal = |(i, pixel): (usize, &f32)| {
        let channel = i / area % channels;
        (pixel - header.mean[channel]) / header.std[channel]
    };
    let images = TensorData::new(pixels.iter().enumerate().map(normal).collect::<Vec<f32>>(), shape);
    let logits = network.forward(Tensor::from_data(images, &device::flex().device)).into_data();
    let logits = logits.try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("reading logits: {error:?}"))?;
    ensure!(logits.iter().all(|logit| logit.is_finite()), "the network's logits are not finite: it cannot be used");
    let tensors = Tensors::from([
        ("images".to_string(), HostTensor::f32(shape.to_vec(), pixels)),
        ("logits".to_string(), HostTensor::f32(vec![RECORDS, header.architecture.classes], logits)),
    ]);
    encode(&tensors, &serde_json::Value::Null)
}
