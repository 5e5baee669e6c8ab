"""Loads event files with TensorBoard's own reader and compares every figure with the run's.

    bonsai report RUN --tensorboard EVENTS
    python3 experiments/report/event_files.py RUN EVENTS/<experiment>/seed-<n>

It needs Python's tensorboard. Figures must be equal to the last bit of a 32-bit float.
"""

import csv
import json
import struct
import sys
import tomllib
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = {
    "loss/train": "train_loss",
    "loss/validation": "valid_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "valid_accuracy",
    "sparsity/epoch": "sparsity",
    "cost/macs": "macs",
    "cost/parameters": "parameters",
    "learning rate": "lr",
    "speed/images per second": "images_per_second",
    "speed/seconds of the epoch": "seconds",
}
EVENTS = {"sparsity/event": "sparsity", "masks/grown": "grown", "masks/pruned": "pruned"}


def expected(run):
    """Returns the steps and values of every tag, from the files of the run folder."""
    epochs = list(csv.DictReader(open(run / "metrics.csv")))
    # Early records have no column for parameters.
    tags = {tag: [(row["iteration"], row.get(column) or 0) for row in epochs] for tag, column in COLUMNS.items()}
    ends = {row["epoch"]: row["iteration"] for row in epochs}
    for row in csv.DictReader(open(run / "layers.csv")):
        tags.setdefault(f"layer sparsity/{row['name']}", []).append((ends[row["epoch"]], row["sparsity"]))
    for event in map(json.loads, open(run / "events.jsonl")):
        if "kernels" in event:
            continue
        values = {tag: event[key] for tag, key in EVENTS.items()}
        values |= {f"scheduler/{name}": value for name, value in event["figures"].items()}
        for tag, value in values.items():
            tags.setdefault(tag, []).append((event["iteration"], value))
    if (run / "summary.toml").exists():
        summary = tomllib.load(open(run / "summary.toml", "rb"))
        tags["test/accuracy"] = [(summary["iterations"], summary["final_test_accuracy"])]
        tags["test/loss"] = [(summary["iterations"], summary["final_test_loss"])]
    single = lambda value: struct.unpack("f", struct.pack("f", float(value)))[0]
    return {tag: [(int(step), single(value)) for step, value in values] for tag, values in tags.items()}


def main():
    run, folder = map(Path, sys.argv[1:])
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    read = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    wanted = expected(run)
    wrong = [tag for tag in sorted(read.keys() | wanted.keys()) if read.get(tag) != wanted.get(tag)]
    for tag in wrong:
        print(f"{tag}: TensorBoard reads {read.get(tag)}, the run holds {wanted.get(tag)}")
    print(f"{folder}: {sum(map(len, read.values()))} figures under {len(read)} tags, {len(wrong)} tags differ")
    sys.exit(bool(wrong))


main()
