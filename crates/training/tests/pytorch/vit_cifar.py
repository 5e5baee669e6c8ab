"""Makes vit_cifar.json: one pass through our ViT for CIFAR, written out plainly, under the parameter names of our own model."""

import torch
from torch import nn
from torch.nn import functional as F

from formula import write
from one_pass import fixture

PATCH, WIDTH, BLOCKS, HEADS, HIDDEN = 4, 192, 9, 12, 384


class LayerNorm(nn.Module):
    """PyTorch's layer with burn's parameter names."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))
        self.beta = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,), self.gamma, self.beta, eps=1e-6)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        heads = [part.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)]
        return self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = LayerNorm()
        self.attn = Attention()
        self.norm2 = LayerNorm()
        self.mlp = Perceptron()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VitCifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, (32 // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = LayerNorm()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


ABOUT = "Loss, logits and [sum, sum of absolute values, sum of g_i value(i, 999)] of each gradient; the README gives the formulas."
write("vit_cifar.json", fixture(ABOUT, VitCifar, (3, 32, 32), is_scale=lambda name: name.endswith("gamma")))
