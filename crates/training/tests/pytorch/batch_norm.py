"""Makes batch_norm.json: three training passes of BatchNorm2d, then one in evaluation."""

import numpy as np
import torch

from formula import numbers, tensor, values, write

SHAPE = (4, 5, 3, 3)
WEIGHT = [0.5, 0.75, 1.0, 1.25, 1.5]
BIAS = [-0.5, -0.25, 0.0, 0.25, 0.5]


def images(step):
    """Gives each channel a mean of its own; exact in float32."""
    channel = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
    return values(SHAPE, step) * np.float32(4) + channel * np.float32(0.25)


def run(dtype):
    layer = torch.nn.BatchNorm2d(5).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(WEIGHT))
        layer.bias.copy_(torch.tensor(BIAS))
    steps = []
    for step in (1, 2, 3):
        x = tensor(images(step), dtype).requires_grad_()
        layer.zero_grad()
        output = layer(x)
        output.backward(tensor(values(SHAPE, 20 + step), dtype))
        steps.append({
            "output": output,
            "running_mean": layer.running_mean.clone(),
            "running_var": layer.running_var.clone(),
            "gradient_x": x.grad,
            "gradient_weight": layer.weight.grad.clone(),
            "gradient_bias": layer.bias.grad.clone(),
        })
    layer.eval()
    return steps, layer(tensor(images(4), dtype))


steps, evaluated = run(torch.float64)
steps32, evaluated32 = run(torch.float32)
for step, step32 in zip(steps, steps32):
    print({key: (step[key] - step32[key]).abs().max().item() for key in step})
print("evaluated", (evaluated - evaluated32).abs().max().item())

fixture = {
    "about": "Training pass s = 1, 2, 3 on x = 4 value(i, s) + channel / 4, upstream gradient value(i, 20 + s); "
    "the layer's weight and bias stay as given. Statistics are those after the pass. Then evaluation of s = 4. In float64.",
    "shape": list(SHAPE),
    "weight": WEIGHT,
    "bias": BIAS,
    "momentum": 0.1,
    "epsilon": 1e-5,
}
for s, step in enumerate(steps, 1):
    fixture[f"step-{s}"] = {key: numbers(entry) for key, entry in step.items()}
fixture["evaluated"] = numbers(evaluated)
write("batch_norm.json", fixture)
