//! `bonsai model`: shows the layers of a network and its exact counts.

use std::fmt::Write;

use anyhow::Result;
use bonsai_models::{Architecture, Shortcut, Stem};
use bonsai_pruning::graph::Kind;
use clap::ValueEnum;

use crate::error::user;
use crate::experiments::whole;
use crate::table::{Table, count};

/// Examples and the names of all networks.
fn after_help() -> String {
    format!("{EXAMPLES}\n\nNetworks: {}.", bonsai_models::names().join(", "))
}

const EXAMPLES: &str = "\
Examples:
  bonsai model resnet20
  bonsai model resnet50 --classes 100 --input 3x32x32
  bonsai model resnet56 --shortcut B

MACs are the multiply-accumulates of convolutions, linear layers and attention products for one image.";

/// Show the layers of a network, its exact parameters and MACs.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub struct Args {
    /// Name of the network, one of those below
    name: String,
    /// Classes that it tells apart
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, 1_000_000))]
    classes: Option<u64>,
    /// Channels, height and width of an image
    #[arg(long, value_name = "CxHxW", value_parser = input)]
    input: Option<[usize; 3]>,
    /// Shortcut of a residual network: A adds no weights, B projects
    #[arg(long, value_enum, ignore_case = true)]
    shortcut: Option<ShortcutName>,
    /// First layers of a residual network; by default what fits the image
    #[arg(long, value_enum)]
    stem: Option<StemName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShortcutName {
    /// Subsampled and padded with zeros
    #[value(name = "A")]
    A,
    /// A 1×1 convolution
    #[value(name = "B")]
    B,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StemName {
    /// A 3×3 convolution
    Cifar,
    /// A 7×7 convolution of stride 2 and a pooling
    Imagenet,
}

/// Runs the command.
///
/// # Errors
///
/// A user's mistake: an unknown network, or an image that it cannot take.
pub fn run(args: Args) -> Result<String> {
    let architecture = architecture(&args)?;
    let graph = architecture.graph().map_err(user)?;
    let mut table = Table::new(&["<layer", "<kind", "<shape", "weights", "MACs"]);
    for layer in &graph.layers {
        let kind = match layer.kind {
            Kind::Conv => "conv",
            Kind::Linear => "linear",
        };
        let shape: Vec<String> = layer.shape.iter().map(usize::to_string).collect();
        table.row(vec![
            layer.name.clone(),
            kind.to_string(),
            shape.join("x"),
            count(layer.weights() as u64),
            count(layer.macs),
        ]);
    }
    let [channels, height, width] = architecture.input;
    let mut text =
        format!("{} on {channels}x{height}x{width}, {} classes\n\n", architecture.name, architecture.classes);
    text += &table.render();
    let weights = graph.weights() as u64;
    let _ = write!(
        text,
        "\n{} layers with {} prunable weights\n{} parameters in all, {} of them not prunable\n{} MACs",
        graph.layers.len(),
        count(weights),
        count(graph.parameters),
        count(graph.parameters - weights),
        count(graph.macs()),
    );
    if graph.fixed_macs > 0 {
        let _ = write!(text, ", {} of them between activations, where nothing can be pruned", count(graph.fixed_macs));
    }
    text.push('\n');
    Ok(text)
}

fn architecture(args: &Args) -> Result<Architecture> {
    // What the network's own paper trains on.
    let (usual_classes, usual_input) = match args.name.as_str() {
        "lenet5" | "mlp" => (10, [1, 28, 28]),
        "resnet18" | "resnet34" | "resnet50" | "vit-ti16" | "vit-s16" | "vit-b16" => (1000, [3, 224, 224]),
        _ => (10, [3, 32, 32]),
    };
    let input = args.input.unwrap_or(usual_input);
    let classes = args.classes.map_or(usual_classes, |classes| classes as usize);
    let mut architecture = Architecture::new(&args.name, classes, input);
    match args.shortcut {
        Some(ShortcutName::A) => architecture.shortcut = Shortcut::A,
        Some(ShortcutName::B) => architecture.shortcut = Shortcut::B,
        None => (),
    }
    match args.stem {
        Some(StemName::Cifar) => architecture.stem = Stem::Cifar,
        Some(StemName::Imagenet) => architecture.stem = Stem::ImageNet,
        None => (),
    }
    architecture.check().map_err(user)?;
    Ok(architecture)
}

/// Reads `3x32x32`.
fn input(text: &str) -> Result<[usize; 3], String> {
    let sizes: Option<Vec<usize>> = text.split(['x', '×']).map(|size| size.parse().ok()).collect();
    match sizes.as_deref() {
        Some(&[channels, height, width]) if [channels, height, width].iter().all(|size| (1..=4096).contains(size)) => {
            Ok([channels, height, width])
        }
        _ => Err("give channels, height and width from 1 to 4096, as in 3x32x32".to_string()),
    }
}
