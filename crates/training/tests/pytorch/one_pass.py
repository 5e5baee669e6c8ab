"""What lenet5.py and vit_cifar.py share: fill a network, run it forward and backward once, record the gradients."""

import torch

from formula import numbers, scaled, sums, tensor, values

BATCH = 4


def fill(network, is_scale):
    """Gives parameter number p the values 0.1 value(i, p); the weights of a LayerNorm are 1."""
    with torch.no_grad():
        for salt, (name, parameter) in enumerate(network.named_parameters()):
            if is_scale(name):
                parameter.fill_(1)
            else:
                parameter.copy_(torch.tensor(scaled(tuple(parameter.shape), salt, 0.1)))


def one_pass(build, shape, is_scale, dtype):
    network = build().to(dtype)
    fill(network, is_scale)
    images = tensor(values((BATCH, *shape), 1000), dtype) * 2
    labels = torch.tensor([i * 7 % 10 for i in range(BATCH)])
    logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    return network, logits, loss.item()


def fixture(about, build, shape, is_scale=lambda name: False):
    network, logits, loss = one_pass(build, shape, is_scale, torch.float64)
    network32, logits32, loss32 = one_pass(build, shape, is_scale, torch.float32)
    gradients = {name: sums(parameter.grad) for name, parameter in network.named_parameters()}
    gradients32 = {name: sums(parameter.grad) for name, parameter in network32.named_parameters()}
    apart = {
        "loss": abs(loss - loss32) / loss,
        "logits": (logits - logits32).abs().max().item(),
        "gradients": max(abs(x - y) / a[1] for name, a in gradients.items() for x, y in zip(a, gradients32[name])),
    }
    print(apart, min((a[1], name) for name, a in gradients.items()))
    return {
        "about": about,
        "batch": BATCH,
        "float32_apart": apart,
        "parameters": {
            name: {"salt": salt, "shape": list(parameter.shape), "fill": "one" if is_scale(name) else "formula"}
            for salt, (name, parameter) in enumerate(network.named_parameters())
        },
        "loss": loss,
        "logits": numbers(logits),
        "gradients": gradients,
    }
