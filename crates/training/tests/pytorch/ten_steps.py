"""Makes ten_steps.json: ten training steps of ResNet-20, dense and with fixed masks, in float32 and float64."""

import re
from math import sqrt

import numpy as np
import torch

from formula import hash32, numbers, scaled, sums, tensor, values, write
from resnet20 import ResNet20

STEPS = 10
BATCH = 8
# A larger rate makes the steps chaotic: a ReLU whose input is almost 0 switches with rounding, and at 0.01 a
# difference of 1e-7 grows to 1e-3 of the loss in ten steps.
OPTIONS = dict(lr=0.0002, momentum=0.9, weight_decay=5e-4, nesterov=True)
NUDGED_RUNS = 32


def prunable(network):
    """Lists the conv and linear weights in forward order; the position is the layer's salt."""
    return [(name, weight) for name, weight in network.named_parameters() if weight.dim() > 1]


def scale(weight):
    if weight.dim() == 4:
        return 2 * sqrt(3) * sqrt(2 / (9 * weight.shape[1]))
    return 2 * sqrt(3) / 8


def mask(weight, layer):
    index = np.arange(weight.numel(), dtype=np.uint32) + np.uint32(777 * layer)
    return torch.tensor(hash32(index) % 10 < 3).reshape(weight.shape)


def network(dtype, nudge=None):
    """Fills the network; a nudge moves each weight by up to one unit of float32 rounding, to see what rounding does."""
    built = ResNet20().to(dtype)
    with torch.no_grad():
        for layer, (_, weight) in enumerate(prunable(built)):
            weight.copy_(torch.tensor(scaled(weight.shape, layer, scale(weight))))
            if nudge is not None:
                weight *= 1 + tensor(values(weight.shape, 10000 + 100 * nudge + layer)).to(dtype) * 2**-22
        built.fc.bias.zero_()
    return built


def run(dtype, masked, nudge=None):
    net = network(dtype, nudge).train()
    optimizer = torch.optim.SGD(net.parameters(), **OPTIONS)
    masks = [(weight, mask(weight, layer)) for layer, (_, weight) in enumerate(prunable(net))] if masked else []
    for weight, kept in masks:
        weight.data *= kept
    losses = []
    for step in range(STEPS):
        images = tensor(values((BATCH, 3, 32, 32), 1000 + step), dtype) * 2
        labels = torch.tensor([(i * 7 + step * 3) % 10 for i in range(BATCH)])
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        for weight, kept in masks:
            weight.grad *= kept
        optimizer.step()
        for weight, kept in masks:
            weight.data *= kept
        losses.append(loss.item())
    return net, losses, [int(kept.sum()) for _, kept in masks]


def apart(exact, other):
    """The largest relative difference of losses, and of sums in proportion to the sum of absolute values."""
    net, losses, _ = exact
    other_net, other_losses, _ = other

    def of_sums(pairs):
        return max(abs(x - y) / sums(a)[1] for (_, a), (_, b) in pairs for x, y in zip(sums(a), sums(b)))

    return {
        "losses": max(abs(a - b) / a for a, b in zip(losses, other_losses)),
        "weights": of_sums(zip(prunable(net), prunable(other_net))),
        "parameters": of_sums(zip(net.named_parameters(), other_net.named_parameters())),
        "statistics": of_sums(zip(statistics(net).items(), statistics(other_net).items())),
    }


def statistics(network):
    return {name: buffer for name, buffer in network.named_buffers() if "running" in name}


def our_name(name):
    """BN's weight and bias are gamma and beta in burn."""
    return re.sub(r"(bn\d?)\.(weight|bias)$", lambda m: f"{m[1]}.{dict(weight='gamma', bias='beta')[m[2]]}", name)


def section(masked):
    exact = run(torch.float64, masked)
    single = run(torch.float32, masked)
    nudged = [apart(exact, run(torch.float32, masked, nudge)) for nudge in range(NUDGED_RUNS)]
    out = {
        "losses": exact[1],
        "losses_float32": single[1],
        "float32_apart": apart(exact, single),
        "nudged_float32_apart": {key: max(run[key] for run in nudged) for key in nudged[0]},
    }
    for key in ("float32_apart", "nudged_float32_apart"):
        print("masked" if masked else "dense", key, out[key])
    if masked:
        out["kept"] = exact[2]
    for suffix, net in (("", exact[0]), ("_float32", single[0])):
        out["parameters" + suffix] = {our_name(name): sums(parameter) for name, parameter in net.named_parameters()}
        out["statistics" + suffix] = {name: sums(buffer) for name, buffer in statistics(net).items()}
        if not suffix:
            out["bn.running_mean"] = numbers(statistics(net)["bn.running_mean"])
            out["bn.running_var"] = numbers(statistics(net)["bn.running_var"])
    return out


if __name__ == "__main__":
    write("ten_steps.json", {
        "about": "Losses of ten steps; [sum, sum of absolute values, sum of x_i value(i, 999)] of each parameter and running statistic after them. "
        "Float64 unless it says float32. apart: largest relative difference from float64 of the losses, and of the sums "
        "in proportion to the sum of absolute values. kept: mask entries by layer. The README gives the formulas.",
        "steps": STEPS,
        "batch": BATCH,
        "options": OPTIONS,
        "dense": section(masked=False),
        "masked": section(masked=True),
    })
