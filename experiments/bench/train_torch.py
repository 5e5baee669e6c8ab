"""Trains ResNet-20 on CIFAR-10 in PyTorch as one of our experiments says, for comparison with `bonsai train`.

    ~/.cache/bonsai/torch/bin/python experiments/bench/train_torch.py cifar10-resnet20-dense-short --threads 2

What is the same: the split (the last 5,000 training records validate), augmentation, normalisation, initial
distribution, optimizer, the learning rate of every iteration, and how the test split is read: once, at the end, by the
last network and the one that validated best. What is not: the random numbers, and channels_last in place of our blocks.
"""

import argparse
import copy
import json
import math
import os
import pathlib
import platform
import sys
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional as F

from networks import NETWORKS

EXPERIMENTS = pathlib.Path(__file__).resolve().parent.parent
CLASSES, VALIDATION, EVALUATION_BATCH = 10, 5_000, 250
# As in crates/data/src/set.rs.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# The one value of each setting that this script knows; all others are read from the experiment.
FIXED = {
    "model": "resnet20", "shortcut": "A", "data": "cifar10", "augment.padding": "reflect", "augment.flip": True,
    "optimizer.name": "sgd", "optimizer.decay": "all", "lr.schedule": "cosine", "scheduler.name": "dense",
}
FREE = {
    "train_records", "epochs", "batch_size", "seed", "augment.crop", "optimizer.lr", "optimizer.momentum",
    "optimizer.nesterov", "optimizer.weight_decay", "lr.warmup_epochs", "lr.final_lr",
}


def main():
    args = arguments()
    settings = read(args)
    torch.set_num_threads(args.threads)
    torch.manual_seed(settings["seed"])
    train, valid, test = data(args, settings)
    network = NETWORKS[settings["model"]]()
    initialise(network)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings["optimizer.lr"], momentum=settings["optimizer.momentum"],
        nesterov=settings["optimizer.nesterov"], weight_decay=settings["optimizer.weight_decay"], fused=True,
    )
    began, epochs = time.perf_counter(), []
    best = (-1.0, 0, None)
    for epoch in range(1, settings["epochs"] + 1):
        epochs.append(train_epoch(network, optimizer, train, settings, epoch))
        evaluation = time.perf_counter()
        epochs[-1]["valid_loss"], epochs[-1]["valid_accuracy"] = evaluate(network, *valid)
        epochs[-1]["valid_seconds"] = time.perf_counter() - evaluation
        print(f"epoch {epoch}/{settings['epochs']}: " + ", ".join(f"{k} {v:.4f}" for k, v in epochs[-1].items()),
              file=sys.stderr, flush=True)
        if epochs[-1]["valid_accuracy"] > best[0]:
            best = (epochs[-1]["valid_accuracy"], epoch, copy.deepcopy(network.state_dict()))
    final_loss, final = evaluate(network, *test)
    network.load_state_dict(best[2])
    _, best_test = evaluate(network, *test)
    summary = {
        "experiment": args.experiment,
        "seed": settings["seed"],
        "settings": settings,
        "train_records": len(train[1]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "final_valid_accuracy": epochs[-1]["valid_accuracy"],
        "final_test_accuracy": final,
        "final_test_loss": final_loss,
        "best_epoch": best[1],
        "best_valid_accuracy": best[0],
        "best_test_accuracy": best_test,
        "wall_seconds": time.perf_counter() - began,
        "seconds_per_epoch": sum(epoch["train_seconds"] for epoch in epochs) / len(epochs),
        "epochs": epochs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": cpu(),
    }
    text = json.dumps(summary, indent=2)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    print(text)


def arguments():
    root = os.environ.get("BONSAI_DATASETS") or pathlib.Path.home() / ".cache" / "bonsai" / "datasets"
    parser = argparse.ArgumentParser(description="Train ResNet-20 on CIFAR-10 in PyTorch as an experiment of ours says.")
    parser.add_argument("experiment", nargs="?", default="cifar10-resnet20-dense-short")
    parser.add_argument("--seed", type=int, help="instead of the experiment's")
    parser.add_argument("--epochs", type=int, help="instead of the experiment's; the warm-up shrinks with them")
    parser.add_argument("--limit-train", type=int, metavar="N", help="train on the first records only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--datasets", type=pathlib.Path, default=pathlib.Path(root), metavar="PATH",
                        help="folder of cifar-10-batches-bin; by default %(default)s")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write the summary to a file, too")
    parser.add_argument("--tag", help="means nothing here; names the process for whoever lists it")
    return parser.parse_args()


def read(args):
    """Returns the experiment's settings as {"section.key": value}, and refuses those that would not be kept to."""
    file = EXPERIMENTS / f"{args.experiment}.toml"
    if not file.is_file():
        sys.exit(f"there is no experiment {args.experiment}: {file} is absent")
    settings = {}
    for key, value in tomllib.loads(file.read_text()).items():
        settings |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    for key, value in settings.items():
        if key not in FREE and FIXED.get(key) != value:
            sys.exit(f"{args.experiment} says {key} = {value}, which this script does not do")
    missing = (FREE | FIXED.keys()) - settings.keys()
    if missing:
        sys.exit(f"{args.experiment} leaves {', '.join(sorted(missing))} open, which this script does not know")
    if args.epochs:
        # As `bonsai train --epochs` does.
        settings["lr.warmup_epochs"] *= args.epochs / settings["epochs"]
        settings["epochs"] = args.epochs
    if args.seed is not None:
        settings["seed"] = args.seed
    if args.limit_train:
        settings["train_records"] = min(args.limit_train, settings["train_records"])
    return settings


def data(args, settings):
    """Returns (images, labels) to train on, to validate and to test by."""
    folder = args.datasets / "cifar-10-batches-bin"
    if not folder.is_dir():
        sys.exit(f"there is no {folder}: fetch it with `bonsai data fetch cifar10`")
    images, labels = records([folder / f"data_batch_{number}.bin" for number in range(1, 6)])
    last = len(labels) - VALIDATION
    count = min(settings["train_records"], last)
    # One reflection of the whole set serves all its crops; bytes, channels last.
    crop = settings["augment.crop"]
    at = torch.arange(-crop, images.shape[2] + crop).abs()
    at = torch.minimum(at, 2 * (images.shape[2] - 1) - at)
    padded = images[:count, :, at[:, None], at].permute(0, 2, 3, 1).contiguous()
    test = records([folder / "test_batch.bin"])
    return (padded, labels[:count]), (normalised(images[last:]), labels[last:]), (normalised(test[0]), test[1])


def records(files):
    """Reads images [N, 3, 32, 32] as bytes, and labels [N]."""
    rows = torch.cat([torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files])
    rows = rows.view(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].view(-1, 3, 32, 32), rows[:, 0].long()


def normalised(images):
    """Turns bytes [N, 3, H, W] into floats, channels last in memory."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return images.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def augmented(padded, chosen, crop):
    """Cuts a window out of each padded image [H, W, 3] and mirrors every other one, at random."""
    count, side = len(chosen), padded.shape[1] - 2 * crop
    offsets = torch.randint(0, 2 * crop + 1, (2, count, 1))
    rows, columns = offsets + torch.arange(side)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    return normalised(images.permute(0, 3, 1, 2))


def initialise(network):
    """Draws convolutions and the classifier as He et al. 2015, fan-in; biases start at zero."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def learning_rate(settings, iteration, total, epoch_iterations):
    """Returns the rate of an iteration, counted from 0, as crates/training/src/lr.rs does."""
    base, last = settings["optimizer.lr"], settings["lr.final_lr"]
    warmup = round(settings["lr.warmup_epochs"] * epoch_iterations)
    if iteration < warmup:
        return base * (iteration + 1) / warmup
    progress = (iteration - warmup) / (max(total, warmup + 1) - warmup)
    return last + (base - last) * (1 + math.cos(math.pi * progress)) / 2


def train_epoch(network, optimizer, train, settings, epoch):
    """Trains one epoch; the last batch may be smaller than the others."""
    padded, labels = train
    network.train()
    began = time.perf_counter()
    loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    batches = torch.randperm(len(labels)).split(settings["batch_size"])
    for number, chosen in enumerate(batches):
        iteration = (epoch - 1) * len(batches) + number
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, iteration, settings["epochs"] * len(batches), len(batches))
        target = labels[chosen]
        optimizer.zero_grad()
        logits = network(augmented(padded, chosen, settings["augment.crop"]))
        loss = F.cross_entropy(logits, target)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(chosen)
        correct += (logits.detach().argmax(1) == target).sum()
    seconds = time.perf_counter() - began
    return {
        "train_loss": loss_sum.item() / len(labels),
        "train_accuracy": correct.item() / len(labels),
        "train_seconds": seconds,
    }


@torch.inference_mode()
def evaluate(network, images, labels):
    """Returns mean loss and accuracy."""
    network.eval()
    loss, correct = 0.0, 0
    for batch, target in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH)):
        logits = network(batch)
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        correct += (logits.argmax(1) == target).sum().item()
    return loss / len(labels), correct / len(labels)


def cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
