"""Makes optimizer.json and optimizer_clipped.json: weights after each of 20 steps with given gradients."""

import torch

from formula import numbers, tensor, values, write

STEPS = 20
SHAPES = {"vector": (16,), "matrix": (3, 5)}

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, dict(lr=0.1)),
    "sgd-momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=5e-4)),
    "sgd-nesterov": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)),
    "adamw": (torch.optim.AdamW, dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)),
}


def run(name, dtype, clipped=False):
    kind, options = OPTIMIZERS[name]
    weights = [
        torch.nn.Parameter(tensor(values(shape, 1000 * p), dtype))
        for p, shape in enumerate(SHAPES.values())
    ]
    optimizer = kind(weights, **options)
    record = {tensor_name: [] for tensor_name in SHAPES}
    norms = []
    for step in range(1, STEPS + 1):
        for p, (weight, shape) in enumerate(zip(weights, SHAPES.values())):
            weight.grad = tensor(values(shape, 1000 * p + step), dtype)
            if clipped:
                weight.grad *= step / 8
        if clipped:
            norms.append(torch.nn.utils.clip_grad_norm_(weights, max_norm=1.0).item())
        optimizer.step()
        for tensor_name, weight in zip(SHAPES, weights):
            record[tensor_name].append(numbers(weight))
    if clipped:
        record["norm_before_clipping"] = norms
    return record


def difference(a, b):
    return max(
        abs(x - y)
        for name in SHAPES
        for row_a, row_b in zip(a[name], b[name])
        for x, y in zip(row_a, row_b)
    )


def fixture(names, about, clipped=False):
    out = {"about": about, "shapes": {name: list(shape) for name, shape in SHAPES.items()}}
    for name in names:
        exact = run(name, torch.float64, clipped)
        out[name] = {
            "options": OPTIMIZERS[name][1],
            "largest_difference_of_float32": difference(exact, run(name, torch.float32, clipped)),
            **exact,
        }
        print(name, out[name]["largest_difference_of_float32"])
    return out


ABOUT = (
    "Weights after steps 1 to 20, one row a step, in float64. Tensor p is 0 for vector, 1 for matrix. "
    "Initial weights: value(i, 1000 p). Gradient of step s: value(i, 1000 p + s)"
)
write("optimizer.json", fixture(OPTIMIZERS, ABOUT + "."))
write(
    "optimizer_clipped.json",
    fixture(
        ["sgd-nesterov"],
        ABOUT + " * s / 8, then clip_grad_norm_ over both tensors: g *= min(1, 1 / (norm + 1e-6)).",
        clipped=True,
    ),
)
