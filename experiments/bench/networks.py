"""The networks of crates/models in PyTorch, for images of 32×32 and ten classes."""

from torch import cat, nn, zeros
from torch.nn import functional as F


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; shortcut A, which has no weights."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x, inplace=True)


class ResNetCifar(nn.Module):
    """ResNet-20, 56 and so on: three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks):
        super().__init__()
        self.conv, self.bn = conv(3, 16, 3), nn.BatchNorm2d(16)
        self.blocks, inputs = nn.Sequential(), 16
        for outputs in (16, 32, 64):
            for _ in range(blocks):
                self.blocks.append(BasicBlock(inputs, outputs, 1 if inputs == outputs else 2))
                inputs = outputs
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x)), inplace=True))
        return self.fc(x.mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution; the stride sits in the second; shortcut B."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x), inplace=True)


class ResNet50(nn.Module):
    """ResNet-50 with the stem for CIFAR: one 3×3 convolution and no pool."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 3), nn.BatchNorm2d(64)
        self.layers, inputs = nn.Sequential(), 64
        for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
            for block in range(blocks):
                self.layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
        self.fc = nn.Linear(2048, 10)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(x.mean(dim=(2, 3)))


class Vgg19(nn.Module):
    """VGG-19 with batch normalisation, an average instead of the last pool, and one linear layer."""

    def __init__(self):
        super().__init__()
        self.feature, inputs = nn.Sequential(), 3
        for stage, (outputs, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
            if stage:
                self.feature.append(nn.MaxPool2d(2))
            for _ in range(count):
                self.feature.extend([conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)])
                inputs = outputs
        self.classifier = nn.Linear(512, 10)

    def forward(self, x):
        return self.classifier(self.feature(x).mean(dim=(2, 3)))


class Attention(nn.Module):
    """Attention of every token to every token, in twelve heads."""

    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x):
        heads = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)]
        return self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class VitBlock(nn.Module):
    """Attention and a perceptron, each added to its input."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VitCifar(nn.Module):
    """Our vision transformer for CIFAR: patch 4, width 192, 9 blocks, 12 heads, hidden width 384."""

    def __init__(self, patch=4, width=192, blocks=9, heads=12, hidden=384):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(zeros(1, 1, width))
        self.pos_embed = nn.Parameter(zeros(1, (32 // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(VitBlock(width, heads, hidden) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 10)

    def forward(self, x):
        patches = self.proj(x).flatten(2).transpose(1, 2)
        x = cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x)[:, 0]))


NETWORKS = {
    "resnet20": lambda: ResNetCifar(3),
    "resnet56": lambda: ResNetCifar(9),
    "vgg19": Vgg19,
    "resnet50": ResNet50,
    "vit-cifar": VitCifar,
}
