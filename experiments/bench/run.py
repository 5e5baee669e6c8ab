"""Compares training steps of this project with PyTorch's on this machine's CPU.

    python3 experiments/bench/run.py resnet20 vgg19 --threads 1,2 --rounds 5

Every configuration runs in a process of its own, ours and PyTorch's in turn, round after round, so that a machine that
slows down slows down both. Other programs slow PyTorch down far more than ours (its threads wait for each other after
every operation), so runs that others disturbed are repeated, and the CSV says how much the others computed meanwhile.
Figures are medians over the steps of all rounds. They go to experiments/results/bench-cpu.csv, where rows of other
configurations stay.
"""

import argparse
import csv
import datetime
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "experiments" / "results" / "bench-cpu.csv"
# Any network in the same recipe: batch 128, SGD with Nesterov momentum and weight decay.
EXPERIMENT = "cifar10-resnet20-static"
NETWORKS = ("resnet20", "resnet56", "vgg19", "resnet50", "vit-cifar")
F32, BF16 = ("nchw", "channels_last"), ("channels_last_bf16",)
# Cores that other programs may use before a run counts as disturbed, and seconds until it is repeated.
DISTURBED, PAUSE = 0.15, 10
KEY = ("network", "setting", "threads", "sparsity")
COLUMNS = KEY + (
    "milliseconds", "images_per_second", "peak_memory_bytes", "ratio_to_pytorch_best_f32", "rounds", "steps",
    "fastest_round", "slowest_round", "other_cores", "date", "cpu", "revision", "torch",
)


def main():
    args = arguments()
    bonsai = target() / "release" / "bonsai"
    if not bonsai.is_file():
        sys.exit(f"there is no {bonsai}: build it with `cargo build --release --bin bonsai`")
    torch = None if args.no_torch else pytorch(args.venv)
    rows = []
    for network, threads in itertools.product(args.networks, args.threads):
        measured = rounds(configurations(args, bonsai, torch, network, threads), args.rounds, args.retries)
        rows += summary(args, network, threads, measured)
        print("\n" + table(rows) + "\n", flush=True)
        # Written as it grows, so that an interrupted run keeps what is done.
        write(rows)
    print("ratio: images per second against PyTorch's fastest f32 setting; others: cores that other programs used.\n"
          f"Written to {RESULTS.relative_to(ROOT)}.")


def arguments():
    def numbers(kind):
        return lambda text: [kind(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="Compare training steps with PyTorch's on this CPU.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; by default resnet20")
    parser.add_argument("--threads", type=numbers(int), default=[2], metavar="N,...", help="by default 2")
    parser.add_argument("--sparsity", type=numbers(float), default=[0, 0.8, 0.9, 0.95, 0.98], metavar="SHARE,...",
                        help="of our masks, spread by ERK; by default 0,0.8,0.9,0.95,0.98")
    parser.add_argument("--settings", type=lambda text: text.split(","), default=F32 + BF16, metavar="NAME,...",
                        help=f"of PyTorch; by default {','.join(F32 + BF16)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="by default 3")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed in each round; by default 10")
    parser.add_argument("--retries", type=int, default=3, metavar="N",
                        help="of a run that other programs disturbed; the calmest counts; by default 3")
    parser.add_argument("--venv", type=pathlib.Path, default=cache() / "torch", metavar="PATH",
                        help="virtual environment with PyTorch, made if absent (5 GB); by default %(default)s")
    parser.add_argument("--no-torch", action="store_true", help="measure ours alone")
    args = parser.parse_args()
    args.networks = args.networks or ["resnet20"]
    for asked, known in ((args.networks, NETWORKS), (args.settings, F32 + BF16)):
        for name in asked:
            if name not in known:
                parser.error(f"there is no {name}: choose from {', '.join(known)}")
    if min(args.rounds, args.steps, *args.threads) < 1:
        parser.error("rounds, steps and threads are at least 1")
    return args


def cache():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bonsai"


def target():
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def pytorch(venv):
    """Returns the Python of a virtual environment that has PyTorch, or None where there is no way to one."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    has_torch = [python, "-c", "import torch"]
    if python.is_file() and succeeds(has_torch):
        return python
    print(f"Installing PyTorch from PyPI into {venv}, 5 GB …", flush=True)
    made = succeeds([sys.executable, "-m", "venv", venv]) and succeeds(
        [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "30", "torch"]
    )
    if made and succeeds(has_torch):
        return python
    print("PyTorch cannot be installed, so ours is measured alone.", flush=True)
    return None


def succeeds(command):
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode and ended.stderr.strip():
        print("  " + ended.stderr.strip().splitlines()[-1], flush=True)
    return ended.returncode == 0


def configurations(args, bonsai, torch, network, threads):
    """Lists (setting, sparsity, command), ours and PyTorch's in turn."""
    counts = ["--threads", str(threads), "--steps", str(args.steps)]
    change = ["--set", f"model={network}", "--set", "stem=cifar"]
    ours = [
        ("bonsai", share, [bonsai, "bench", EXPERIMENT, "--device", "cpu", "--format", "json",
                           "--sparsity", f"{share:g}", *change, *counts])
        for share in args.sparsity
    ]
    theirs = [
        (f"pytorch {setting}", 0, [torch, "-B", HERE / "step_times.py", network, "--setting", setting, *counts])
        for setting in args.settings if torch
    ]
    pairs = itertools.zip_longest(ours, theirs)
    return [configuration for pair in pairs for configuration in pair if configuration]


def rounds(configurations, count, retries):
    """Runs all configurations, `count` times in turn, and returns what each printed by (setting, sparsity)."""
    measured = {}
    for number in range(count):
        for setting, share, command in configurations:
            line = calmest(command, retries)
            measured.setdefault((setting, share), []).append(line)
            print(f"round {number + 1}/{count}  {line['network']}, {line['threads']} threads, {setting}, "
                  f"sparsity {share:g}: {line['milliseconds']:.1f} ms, others {line['others']:.2f} cores", flush=True)
    parameters = {line["parameters"] for lines in measured.values() for line in lines}
    assert len(parameters) == 1, f"these are different networks: {parameters} parameters"
    return measured


def calmest(command, retries):
    """Runs a command that prints a line of JSON until nothing disturbs it, and returns the line of the calmest run."""
    lines = []
    while not lines or (lines[-1]["others"] > DISTURBED and len(lines) <= retries):
        if lines:
            time.sleep(PAUSE)
        before = busy(), own(), time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if ended.returncode:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{ended.stderr.strip()}")
        others = ((busy() - before[0]) - (own() - before[1])) / (time.monotonic() - before[2])
        lines.append(json.loads(ended.stdout) | {"others": max(others, 0.0)})
    return min(lines, key=lambda line: line["others"])


def busy():
    """Returns the seconds that all cores together have computed since the machine started; NaN but on Linux."""
    try:
        times = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return math.nan
    # The fourth and fifth are idle time.
    return sum(int(ticks) for i, ticks in enumerate(times) if i not in (3, 4)) / os.sysconf("SC_CLK_TCK")


def own():
    """Returns the seconds that this process and its ended children have computed."""
    return sum(os.times()[:4])


def summary(args, network, threads, measured):
    rows = []
    for (setting, share), lines in measured.items():
        milliseconds = statistics.median(step for line in lines for step in line["steps"])
        each = [line["milliseconds"] for line in lines]
        rows.append({
            "network": network,
            "setting": setting,
            "threads": threads,
            "sparsity": f"{share:g}",
            "milliseconds": f"{milliseconds:.2f}",
            "images_per_second": f"{1000 * lines[0]['batch_size'] / milliseconds:.1f}",
            "peak_memory_bytes": max(line["peak_memory"] for line in lines),
            "ratio_to_pytorch_best_f32": "",
            "rounds": args.rounds,
            "steps": args.steps,
            "fastest_round": f"{min(each):.2f}",
            "slowest_round": f"{max(each):.2f}",
            "other_cores": f"{statistics.mean(line['others'] for line in lines):.2f}",
            "date": datetime.date.today().isoformat(),
            "cpu": lines[0].get("cpu", ""),
            "revision": lines[0].get("revision") or "",
            "torch": lines[0].get("torch", ""),
        })
    # The process that knows the processor's name is ours.
    cpu = next((row["cpu"] for row in rows if row["cpu"]), "")
    f32 = [float(row["milliseconds"]) for row in rows if row["setting"] in [f"pytorch {name}" for name in F32]]
    for row in rows:
        row["cpu"] = cpu
        if f32:
            row["ratio_to_pytorch_best_f32"] = f"{min(f32) / float(row['milliseconds']):.2f}"
    return rows


def table(rows):
    header = (
        "network", "setting", "threads", "sparsity", "ms", "rounds' range", "images/s", "memory MB", "ratio", "others",
    )
    cells = [header] + [
        (
            row["network"], row["setting"], str(row["threads"]), row["sparsity"], row["milliseconds"],
            f"{row['fastest_round']} … {row['slowest_round']}", row["images_per_second"],
            f"{row['peak_memory_bytes'] / 1e6:.0f}", row["ratio_to_pytorch_best_f32"], row["other_cores"],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths))).rstrip()
        for line in cells
    )


def write(rows):
    """Writes the rows into the CSV, in place of those of the same configurations."""
    kept = {}
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            kept = {key(row): row for row in csv.DictReader(file)}
    kept.update((key(row), row) for row in rows)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[name] for name in sorted(kept))


def key(row):
    return tuple(str(row[column]) for column in KEY)


if __name__ == "__main__":
    main()
