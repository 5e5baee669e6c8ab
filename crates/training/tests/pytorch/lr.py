"""Makes lr.json: the learning rate of each iteration, by torch's schedulers, checked here against a formula."""

from math import cos, floor, pi

import torch
from torch.optim import lr_scheduler as schedulers

from formula import write

LR = 0.1
ITERATIONS = 40


def sequence(build, lr=LR):
    """Reads the rate before each step, as the optimizer sees it."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=lr)
    scheduler = build(optimizer)
    rates = []
    for iteration in range(ITERATIONS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        if iteration + 1 < ITERATIONS:
            scheduler.step()
    return rates


def between(start, end, share):
    return end + (start - end) * (1 + cos(pi * share)) / 2


MILESTONES = [12, 24, 33]


def multi_step(i):
    return LR * 0.1 ** sum(i >= m for m in MILESTONES)


def cosine(i):
    return LR * (1 + cos(pi * i / ITERATIONS)) / 2


def one_cycle(pct_start):
    def rate(i):
        top = pct_start * ITERATIONS - 1
        if i <= top:
            return between(LR / 25, LR, i / top)
        return between(LR, LR / 25 / 1e4, (i - top) / (ITERATIONS - 1 - top))

    return rate


def warm_cosine(warmup):
    def rate(i):
        if i < warmup:
            return LR * (i + 1) / warmup
        return LR * (1 + cos(pi * (i - warmup) / (ITERATIONS - warmup))) / 2

    return rate


def warm_cosine_torch(warmup):
    def build(optimizer):
        line = schedulers.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1)
        curve = schedulers.CosineAnnealingLR(optimizer, T_max=ITERATIONS - warmup, eta_min=0)
        return schedulers.SequentialLR(optimizer, [line, curve], milestones=[warmup])

    return build


def one_cycle_torch(pct_start):
    return lambda optimizer: schedulers.OneCycleLR(
        optimizer, max_lr=LR, total_steps=ITERATIONS, pct_start=pct_start, cycle_momentum=False
    )


ONE_CYCLE = (
    "top = pct_start * n - 1 (not rounded); i <= top: from lr / 25 to lr over i / top; later: from lr to "
    "lr / 25 / 1e4 over (i - top) / (n - 1 - top); from a to b over t: b + (a - b) (1 + cos(pi t)) / 2"
)
CASES = {
    "multi-step": (
        "lr * 0.1^(number of milestones m with i >= m)",
        dict(milestones=MILESTONES, gamma=0.1),
        multi_step,
        lambda optimizer: schedulers.MultiStepLR(optimizer, MILESTONES, gamma=0.1),
    ),
    "cosine": (
        "lr (1 + cos(pi i / n)) / 2: the last rate, at i = n - 1, is not yet 0",
        dict(final_lr=0.0),
        cosine,
        lambda optimizer: schedulers.CosineAnnealingLR(optimizer, T_max=ITERATIONS, eta_min=0),
    ),
    "one-cycle": (ONE_CYCLE, dict(pct_start=0.3), one_cycle(0.3), one_cycle_torch(0.3)),
    "one-cycle-between-iterations": (
        ONE_CYCLE + "; here top = 10.4 falls between two iterations, so lr itself is never used",
        dict(pct_start=0.285),
        one_cycle(0.285),
        one_cycle_torch(0.285),
    ),
    "warmup-cosine": (
        "i < w: lr (i + 1) / w; later: lr (1 + cos(pi (i - w) / (n - w))) / 2",
        dict(warmup=5),
        warm_cosine(5),
        warm_cosine_torch(5),
    ),
}

fixture = {
    "about": "Learning rate of iteration i = 0, 1, ... n - 1, that is of optimizer step i + 1, in float64.",
    "lr": LR,
    "iterations": ITERATIONS,
}
for name, (formula, options, rate, build) in CASES.items():
    rates = sequence(build)
    difference = max(abs(rate(i) - r) / LR for i, r in enumerate(rates))
    print(name, difference)
    assert difference < 1e-12, name
    fixture[name] = {"formula": formula, "options": options, "rates": rates}
write("lr.json", fixture)
