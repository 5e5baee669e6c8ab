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
//!
//! Features of the embedding can go from all blocks at once; layer normalisation is then taken over those that are left, also
//! where they are masked ([`Sparsity::insert_norm`]).

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::architecture::Architecture;
use crate::init::{Fans, Init, Scheme};
use crate::layers::{Activation, Conv2d, Conv2dConfig, Linear, LinearConfig, Sparsity, Tokens};
use crate::ledger::{Ledger, Told};

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
        let width = size.embedding(architecture);
        let embedding = |name, tokens| init.weight(name, [1, tokens, width], SCHEME, fans);
        let at = init.at("blocks");
        Self {
            patch_embed: PatchEmbed {
                proj: size.patches(architecture).init(&init.at("patch_embed").at("proj"), SCHEME),
            },
            cls_token: embedding("cls_token", 1),
            pos_embed: embedding("pos_embed", size.tokens(architecture)),
            blocks: (0..size.blocks).map(|i| size.block(architecture, i).init(&at.at(i))).collect(),
            norm: layer_norm(width, init.device()),
            head: size.head(architecture).init(&init.at("head"), SCHEME),
        }
    }

    /// Returns the logits of `images`.
    pub fn forward(&self, images: Tensor<4>, sparsity: &Sparsity) -> Tensor<2> {
        let patches = self.patch_embed.proj.forward(Activation::new(images), sparsity);
        let x = Tokens::embed(patches, self.cls_token.val(), self.pos_embed.val());
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, sparsity));
        // Layer normalisation treats each token alone, so that of the class token is enough.
        let x = match sparsity.features(&self.norm.gamma) {
            None => self.norm.forward(x.first()),
            Some(kept) => normalise_some(x.first(), &self.norm, kept),
        };
        self.head.forward(x, sparsity)
    }
}

pub(crate) fn graph(architecture: &Architecture, size: &Size) -> Told {
    let tokens = size.tokens(architecture);
    let (mut ledger, image) = Ledger::new(architecture.input);
    let x = ledger.conv("patch_embed.proj", size.patches(architecture), image);
    let mut x = ledger.embed("cls_token", "pos_embed", tokens, x);
    for i in 0..size.blocks {
        let block = size.block(architecture, i);
        let y = ledger.layer_norm(&format!("blocks.{i}.norm1"), EPSILON, x);
        let y = ledger.linear(&format!("blocks.{i}.attn.qkv"), block.qkv(), tokens, y);
        let values = block.heads * block.value;
        let y = ledger.attention(&format!("blocks.{i}.attn"), block.heads, values, tokens, block.scale, y);
        let y = ledger.linear(&format!("blocks.{i}.attn.proj"), block.proj(), tokens, y);
        x = ledger.add(x, y);
        let y = ledger.layer_norm(&format!("blocks.{i}.norm2"), EPSILON, x);
        let y = ledger.linear(&format!("blocks.{i}.mlp.fc1"), block.fc1(), tokens, y);
        let y = ledger.gelu(y);
        let y = ledger.linear(&format!("blocks.{i}.mlp.fc2"), block.fc2(), tokens, y);
        x = ledger.add(x, y);
    }
    let x = ledger.first_token(x);
    let x = ledger.layer_norm("norm", EPSILON, x);
    let x = ledger.linear("head", size.head(architecture), 1, x);
    ledger.finish(x)
}

impl Size {
    /// Returns the number of patches and the class token.
    fn tokens(&self, architecture: &Architecture) -> usize {
        architecture.map().map(|side| side / self.patch).iter().product::<usize>() + 1
    }

    /// Returns the number of features of a token.
    fn embedding(&self, architecture: &Architecture) -> usize {
        architecture.width("patch_embed.proj", self.width)
    }

    fn patches(&self, architecture: &Architecture) -> Conv2dConfig {
        Conv2dConfig::new(architecture.input[0], self.embedding(architecture), self.patch)
            .with_stride(self.patch)
            .without_padding()
            .with_bias()
    }

    fn head(&self, architecture: &Architecture) -> LinearConfig {
        LinearConfig::new(self.embedding(architecture), architecture.classes)
    }

    /// Returns the shape of block `i`.
    fn block(&self, architecture: &Architecture, i: usize) -> BlockConfig {
        let width = |group, full| architecture.width(&format!("blocks.{i}.{group}"), full);
        let full = self.width / self.heads;
        BlockConfig {
            width: self.embedding(architecture),
            heads: width("attn.heads", self.heads),
            key: width("attn.qk", full),
            value: width("attn.v", full),
            scale: (full as f64).powf(-0.5),
            hidden: width("mlp.fc1", self.hidden),
        }
    }
}

/// The shape of a block; queries and keys of a head have one width, its values another.
struct BlockConfig {
    width: usize,
    heads: usize,
    key: usize,
    value: usize,
    scale: f64,
    hidden: usize,
}

impl BlockConfig {
    fn qkv(&self) -> LinearConfig {
        LinearConfig::new(self.width, self.heads * (2 * self.key + self.value))
    }

    fn proj(&self) -> LinearConfig {
        LinearConfig::new(self.heads * self.value, self.width)
    }

    fn fc1(&self) -> LinearConfig {
        LinearConfig::new(self.width, self.hidden)
    }

    fn fc2(&self) -> LinearConfig {
        LinearConfig::new(self.hidden, self.width)
    }

    fn init(&self, init: &Init) -> Block {
        let (attn, mlp) = (init.at("attn"), init.at("mlp"));
        Block {
            norm1: layer_norm(self.width, init.device()),
            attn: Attention {
                qkv: self.qkv().init(&attn.at("qkv"), SCHEME),
                proj: self.proj().init(&attn.at("proj"), SCHEME),
                heads: self.heads,
                scale: self.scale,
            },
            norm2: layer_norm(self.width, init.device()),
            mlp: Perceptron {
                fc1: self.fc1().init(&mlp.at("fc1"), SCHEME),
                fc2: self.fc2().init(&mlp.at("fc2"), SCHEME),
            },
        }
    }
}

fn layer_norm(width: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(width).with_epsilon(EPSILON).init(device)
}

fn normalise(norm: &LayerNorm, x: Tokens, sparsity: &Sparsity) -> Tokens {
    match sparsity.features(&norm.gamma) {
        None => x.layer_norm(norm.gamma.val(), shift(norm), EPSILON),
        Some(kept) => Tokens::new(normalise_some(x.into_tensor(), norm, kept)),
    }
}

/// Normalises the features that are kept by their own mean and variance; the others become zeros, as their scale and shift
/// are.
fn normalise_some<const D: usize>(x: Tensor<D>, norm: &LayerNorm, kept: &[bool]) -> Tensor<D> {
    let mut shape = [1; D];
    shape[D - 1] = kept.len();
    let flags = kept.iter().map(|kept| if *kept { 1.0f32 } else { 0.0 }).collect();
    let mask = Tensor::<D>::from_data(TensorData::new(flags, shape), &x.device());
    let count = kept.iter().filter(|kept| **kept).count() as f64;
    let mean = (x.clone() * mask.clone()).sum_dim(D - 1) / count;
    let centred = (x - mean) * mask;
    let variance = (centred.clone() * centred.clone()).sum_dim(D - 1) / count;
    centred / (variance + EPSILON).sqrt() * norm.gamma.val().reshape(shape) + shift(norm).reshape(shape)
}

fn shift(norm: &LayerNorm) -> Tensor<1> {
    norm.beta.as_ref().expect("layer normalisation with a shift").val()
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
    fn forward(&self, x: Tokens, sparsity: &Sparsity) -> Tokens {
        let x = self.attn.forward(normalise(&self.norm1, x.clone(), sparsity), x, sparsity);
        self.mlp.forward(normalise(&self.norm2, x.clone(), sparsity), x, sparsity)
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
        let [values, _] = self.proj.weight.val().dims();
        let attended = match qkv.dims()[2] == 3 * values {
            true => qkv.attention(self.heads, self.scale),
            false => Tokens::new(self.attend(qkv.into_tensor(), values)),
        };
        self.proj.forward_tokens(attended, Some(onto), sparsity)
    }

    /// Attends where heads have more or fewer values than keys.
    fn attend(&self, qkv: Tensor<3>, values: usize) -> Tensor<3> {
        let [images, tokens, all] = qkv.dims();
        let keys = (all - values) / 2;
        let [q, k, v] = [(0, keys), (keys, keys), (2 * keys, values)].map(|(start, width)| {
            let part = qkv.clone().narrow(2, start, width);
            part.reshape([images, tokens, self.heads, width / self.heads]).swap_dims(1, 2)
        });
        let weights = softmax(q.matmul(k.swap_dims(2, 3)).mul_scalar(self.scale), 3);
        weights.matmul(v).swap_dims(1, 2).reshape([images, tokens, values])
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
