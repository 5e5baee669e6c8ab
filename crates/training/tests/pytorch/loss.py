"""Makes loss.json: cross entropy with and without label smoothing, and its gradient."""

import torch

from formula import numbers, tensor, values, write

LABELS = [3, 0, 9, 3, 5, 1]
SHAPE = (6, 10)


def run(smoothing, dtype):
    logits = tensor(values(SHAPE, 0) * 8, dtype).requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), label_smoothing=smoothing)
    loss.backward()
    return loss.item(), logits.grad


fixture = {
    "about": "Mean cross entropy of logits 8 value(i, 0), [6, 10], and the gradient of the logits, in float64. "
    "The target of smoothing s is s / 10 in every class plus 1 - s in the labelled one.",
    "labels": LABELS,
}
for smoothing in (0.0, 0.1):
    loss, gradient = run(smoothing, torch.float64)
    loss32, gradient32 = run(smoothing, torch.float32)
    print(smoothing, abs(loss - loss32) / loss, (gradient - gradient32).abs().max().item())
    fixture[f"smoothing-{smoothing}"] = {"smoothing": smoothing, "loss": loss, "gradient": numbers(gradient)}
write("loss.json", fixture)
