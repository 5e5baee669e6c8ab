//! Vision transformer: Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale",
//! 2020, <https://arxiv.org/abs/2010.11929>; the sizes Ti and S are from Touvron et al., "Training data-efficient image
//! transformers", 2020, <https://arxiv.org/abs/2012.12877>.
//!
//! The image is cut into patches, each embedded by one convolution; a class token is put in front, positions are added,
//! and blocks of attention and a two-layer perceptron follow, with layer normalisation before each. The class token
//! gives the logits. Parameter paths are timm's. All weights and embeddings are drawn normal with deviation 0.02, cut at
//! two deviations; biases start at zero.
//!
//! Differs from the paper: no dropout and no hidden layer before the classifier. `vit-cifar` is ours to choose: patch 4,
//! width 192, 9 blocks, 12 heads, hidden width 384. The scale of attention stays that of the full head when heads are
//! made narrower.

use bonsai_pruning::Graph;
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Tensor};

use crate::architecture::Architecture;
use crate::init::{Fans, Init, Scheme};
use crate::layers::{Activation, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Tokens};
use crate::ledger::Ledger;

const SCHEME: Scheme = Scheme::TruncatedNormal(0.02);
const EPSILON: f64 = 1e-6;

/// What tells one vision transformer from another.
pub(crate) struct Size {
    pub(crate) patch: usize,
    width: usize,
    blocks: usize,
    heads: usize,
    hidden: usize,
}

pub(crate) const TI16: Size = Size { patch: 16, width: 192, blocks: 12, heads: 3, hidden: 768 };
pub(crate) const S16: Size = Size { patch: 16, width: 384, blocks: 12, heads: 6, hidden: 1536 };
pub(crate) const B16: Size = Size { patch: 16, width: 768, blocks: 12, heads: 12, hidden: 3072 };
pub(crate) const CIFAR: Size = Size { patch: 4, width: 192, blocks: 9, heads: 12, hidden: 384 };

/// A vision transformer.
#[derive(Module, Debug)]
pub struct Vit {
    patch_embed: PatchEmbed,
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Vit {
    pub(crate) fn new(architecture: &Architecture, size: &Size, init: &Init) -> Self {
        let fans = Fans { fan_in: 1, fan_out: 1 };
        let embedding = |name, tokens| init.weight(name, [1, tokens, size.width], SCHEME, fans);
        let at = init.at("blocks");
        Self {
            patch_embed: PatchEmbed {
                proj: size.patches(architecture).init(&init.at("patch_embed").at("proj"), SCHEME),
            },
            cls_token: embedding("cls_token", 1),
            pos_embed: embedding("pos_embed", size.tokens(architecture)),
            blocks: (0..size.blocks).map(|i| Block::new(size, &at.at(i))).collect(),
            norm: layer_norm(size, init.device()),
            head: size.head(architecture).init(&init.at("head"), SCHEME),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let patches = self.patch_embed.proj.forward(Activation::new(images), sparsity);
        let x = Tokens::embed(patches, self.cls_token.val(), self.pos_embed.val());
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        // Layer normalisation treats each token alone, so that of the class token is enough.
        self.head.forward(self.norm.forward(x.first()), sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, size: &Size) -> Graph {
    let tokens = size.tokens(architecture);
    let mut ledger = Ledger::new();
    ledger.parameters(size.width + tokens * size.width);
    ledger.conv("patch_embed.proj", size.patches(architecture), architecture.map());
    for i in 0..size.blocks {
        ledger.norm(size.width);
        ledger.linear(&format!("blocks.{i}.attn.qkv"), size.qkv(), tokens);
        // Queries times keys, and weights times values.
        ledger.fixed_macs(2 * tokens * tokens * size.width);
        ledger.linear(&format!("blocks.{i}.attn.proj"), size.proj(), tokens);
        ledger.norm(size.width);
        ledger.linear(&format!("blocks.{i}.mlp.fc1"), size.fc1(), tokens);
        ledger.linear(&format!("blocks.{i}.mlp.fc2"), size.fc2(), tokens);
    }
    ledger.norm(size.width);
    ledger.linear("head", size.head(architecture), 1);
    ledger.finish()
}

impl Size {
    /// Returns the number of patches and the class token.
    fn tokens(&self, architecture: &Architecture) -> usize {
        architecture.map().map(|side| side / self.patch).iter().product::<usize>() + 1
    }

    fn patches(&self, architecture: &Architecture) -> Conv2dConfig {
        Conv2dConfig::new(architecture.input[0], self.width, self.patch)
            .with_stride(self.patch)
            .without_padding()
            .with_bias()
    }

    fn qkv(&self) -> LinearConfig {
        LinearConfig::new(self.width, 3 * self.width)
    }

    fn proj(&self) -> LinearConfig {
        LinearConfig::new(self.width, self.width)
    }

    fn fc1(&self) -> LinearConfig {
        LinearConfig::new(self.width, self.hidden)
    }

    fn fc2(&self) -> LinearConfig {
        LinearConfig::new(self.hidden, self.width)
    }

    fn head(&self, architecture: &Architecture) -> LinearConfig {
        LinearConfig::new(self.width, architecture.classes)
    }
}

fn layer_norm(size: &Size, device: &Device) -> LayerNorm {
    LayerNormConfig::new(size.width).with_epsilon(EPSILON).init(device)
}

fn normalise(norm: &LayerNorm, x: Tokens) -> Tokens {
    let beta = norm.beta.as_ref().expect("layer normalisation with a shift");
    x.layer_norm(norm.gamma.val(), beta.val(), EPSILON)
}

/// The embedding of patches.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    proj: Conv2d,
}

/// Attention and a perceptron, each added to its input.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Perceptron,
}

impl Block {
    fn new(size: &Size, init: &Init) -> Self {
        let (attn, mlp) = (init.at("attn"), init.at("mlp"));
        Self {
            norm1: layer_norm(size, init.device()),
            attn: Attention {
                qkv: size.qkv().init(&attn.at("qkv"), SCHEME),
                proj: size.proj().init(&attn.at("proj"), SCHEME),
                heads: size.heads,
                scale: ((size.width / size.heads) as f64).powf(-0.5),
            },
            norm2: layer_norm(size, init.device()),
            mlp: Perceptron {
                fc1: size.fc1().init(&mlp.at("fc1"), SCHEME),
                fc2: size.fc2().init(&mlp.at("fc2"), SCHEME),
            },
        }
    }

    fn forward(&self, x: Tokens, sparsity: &Sparsity) -> Tokens {
        let x = self.attn.forward(normalise(&self.norm1, x.clone()), x, sparsity);
        self.mlp.forward(normalise(&self.norm2, x.clone()), x, sparsity)
    }
}

/// Attention of every token to every token.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    scale: f64,
}

impl Attention {
    /// Attends, and adds `onto`.
    fn forward(&self, x: Tokens, onto: Tokens, sparsity: &Sparsity) -> Tokens {
        let qkv = self.qkv.forward_tokens(x, None, sparsity);
        self.proj.forward_tokens(qkv.attention(self.heads, self.scale), Some(onto), sparsity)
    }
}

/// Two linear layers with a GELU between them.
#[derive(Module, Debug)]
pub struct Perceptron {
    fc1: Linear,
    fc2: Linear,
}

impl Perceptron {
    /// Applies both layers, and adds `onto`.
    fn forward(&self, x: Tokens, onto: Tokens, sparsity: &Sparsity) -> Tokens {
        let hidden = self.fc1.forward_tokens(x, None, sparsity).gelu();
        self.fc2.forward_tokens(hidden, Some(onto), sparsity)
    }
}
