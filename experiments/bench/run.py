"""Compares training steps of this project with PyTorch's on this machine's CPU.

    python3 experiments/bench/run.py resnet20 vgg19 --threads 2 --rounds 5
    python3 experiments/bench/run.py all --resume

Beside ours, dense and sparse, runs the same network on burn's own CPU operations ("burn flex"); ours in bf16 runs as soon
as the binary knows it. Every configuration runs in a process of its own, ours and PyTorch's in turn, round after round, so that a machine that
slows down slows down both. Other programs slow PyTorch down far more than ours (its threads wait for each other after
every operation), so runs that others disturbed are repeated, and the CSV says how much the others computed meanwhile.
Figures are medians over the steps of all rounds. They go to experiments/results/bench-cpu.csv; where the time of our
steps goes is measured apart and goes to bench-cpu-parts.csv, and the speed of each shape of convolution against the
measured peak to bench-cpu-layers.csv. Rows of other configurations stay in all three.
"""

import argparse
import dataclasses
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

import results

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Any network in the same recipe: batch 128, SGD with Nesterov momentum and weight decay.
EXPERIMENT = "cifar10-resnet20-static"
NETWORKS = ("resnet20", "resnet56", "vgg19", "resnet50", "vit-cifar")
# Where a step on burn's own operations takes seconds: measured once, in few steps.
SLOW, FEW_STEPS = ("vgg19", "resnet50", "vit-cifar"), 3
F32, BF16 = ("nchw", "channels_last"), ("channels_last_bf16",)
# Cores that other programs may use before a run counts as disturbed, and seconds until it is repeated.
DISTURBED, PAUSE = 0.15, 10


@dataclasses.dataclass
class Configuration:
    """A process that prints a line of JSON: what the CSV calls it, how it is started, how much of it is timed."""

    setting: str
    sparsity: float
    command: list
    rounds: int
    steps: int
    environment: dict = dataclasses.field(default_factory=dict)


def main():
    args = arguments()
    bonsai = target() / "release" / "bonsai"
    if not bonsai.is_file():
        sys.exit(f"there is no {bonsai}: build it with `cargo build --release --bin bonsai`")
    torch = None if args.no_torch else pytorch(args.venv)
    machine = run([bonsai, "bench", "shapes10-resnet20-dense", "--device", "cpu", "--set", "batch_size=16", "--steps", "1",
                   "--sparsity", "0", "--format", "json"])
    bf16 = not subprocess.run([bonsai, "plan", EXPERIMENT, "--set", "precision=bf16"], capture_output=True).returncode
    if not bf16:
        print("This binary refuses precision=bf16: its rows are left out.", flush=True)
    rows = []
    for network, threads in itertools.product(args.networks, args.threads):
        asked = configurations(args, bonsai, torch, bf16, network, threads)
        if args.resume and results.are_there(network, threads, asked, machine):
            print(f"{network} with {threads} threads is there already.", flush=True)
            continue
        where_time_goes(network, threads, asked, args.retries)
        measured = rounds(asked, args.rounds, args.retries)
        rows += summary(network, threads, measured)
        print("\n" + table(rows) + "\n", flush=True)
        # Written as it grows, and after the parts, so that an interrupted run keeps what is done and can be resumed.
        results.write_steps(rows)
    print("ratio: images per second against PyTorch's fastest f32 setting; others: cores that other programs used.\n"
          f"Written to {results.FOLDER.relative_to(ROOT)}/bench-cpu*.csv.")


def arguments():
    def numbers(kind):
        return lambda text: [kind(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="Compare training steps with PyTorch's on this CPU.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}, or all; by default resnet20")
    parser.add_argument("--threads", type=numbers(int), default=[1, 2], metavar="N,...", help="by default 1,2")
    parser.add_argument("--sparsity", type=numbers(float), default=[0, 0.4, 0.8, 0.9, 0.95, 0.98], metavar="SHARE,...",
                        help="of our masks, spread by ERK; by default 0,0.4,0.8,0.9,0.95,0.98")
    parser.add_argument("--bf16", type=numbers(float), default=[0, 0.9], metavar="SHARE,...",
                        help="of our masks in bf16; by default 0,0.9")
    parser.add_argument("--settings", type=lambda text: text.split(","), default=F32 + BF16, metavar="NAME,...",
                        help=f"of PyTorch; by default {','.join(F32 + BF16)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="by default 3")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed in each round; by default 5")
    parser.add_argument("--retries", type=int, default=3, metavar="N",
                        help="of a run that other programs disturbed; the calmest counts; by default 3")
    parser.add_argument("--venv", type=pathlib.Path, default=cache() / "torch", metavar="PATH",
                        help="virtual environment with PyTorch, made if absent (5 GB); by default %(default)s")
    parser.add_argument("--no-torch", action="store_true", help="measure ours alone")
    parser.add_argument("--no-flex", dest="flex", action="store_false",
                        help="leave burn's own operations out, which take seconds a step on large networks")
    parser.add_argument("--resume", action="store_true",
                        help="leave out networks and threads whose rows of this processor and revision are there")
    args = parser.parse_args()
    args.networks = list(NETWORKS) if "all" in args.networks else args.networks or ["resnet20"]
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


def configurations(args, bonsai, torch, bf16, network, threads):
    """Lists what is compared, ours and others' in turn."""
    def ours(setting, sparsity, *more, rounds=args.rounds, steps=args.steps, environment={}):
        command = [bonsai, "bench", EXPERIMENT, "--device", "cpu", "--format", "json", "--set", f"model={network}",
                   "--set", "stem=cifar", "--sparsity", f"{sparsity:g}", "--threads", str(threads), "--steps", str(steps)]
        return Configuration(setting, sparsity, [*command, *more], rounds, steps, environment)

    def theirs(setting):
        command = [torch, "-B", HERE / "step_times.py", network, "--setting", setting, "--threads", str(threads),
                   "--steps", str(args.steps)]
        return Configuration(f"pytorch {setting}", 0, command, args.rounds, args.steps)

    few = {"rounds": 1, "steps": min(args.steps, FEW_STEPS)} if network in SLOW else {}
    mine = [ours("bonsai", share) for share in args.sparsity]
    if bf16:
        mine[1:1] = [ours("bonsai bf16", share, "--set", "precision=bf16") for share in args.bf16]
    others = [theirs(setting) for setting in args.settings if torch]
    if args.flex:
        others.append(ours("burn flex", 0, environment={"BONSAI_KERNELS": "burn"}, **few))
    pairs = itertools.zip_longest(mine, others)
    return [configuration for pair in pairs for configuration in pair if configuration]


def rounds(asked, count, retries):
    """Runs all configurations, `count` times in turn, and returns what each printed by (setting, sparsity)."""
    measured = {}
    for number in range(count):
        for one in asked:
            if number >= one.rounds:
                continue
            line = calmest(one.command, retries, one.environment)
            measured.setdefault((one.setting, one.sparsity), []).append(line)
            print(f"round {number + 1}/{count}  {line['network']}, {line['threads']} threads, {one.setting}, "
                  f"sparsity {one.sparsity:g}: {line['milliseconds']:.1f} ms, others {line['others']:.2f} cores",
                  flush=True)
    parameters = {line["parameters"] for lines in measured.values() for line in lines}
    assert len(parameters) == 1, f"these are different networks: {parameters} parameters"
    return measured


def where_time_goes(network, threads, asked, retries):
    """Runs ours once more with recorded steps, prints the largest parts and writes all of them."""
    for one in asked:
        if not one.setting.startswith("bonsai"):
            continue
        line = calmest([*one.command, "--breakdown", "--layers"], retries, one.environment)
        results.write_parts(network, one, line)
        whole = line["breakdown"]["milliseconds"]
        largest = sorted(line["breakdown"]["parts"], key=lambda part: -part["milliseconds"])[:4]
        shares = ", ".join(f"{part['name']} {part['milliseconds'] / whole:.0%}" for part in largest)
        print(f"{network}, {threads} threads, {one.setting}, sparsity {one.sparsity:g}: {shares}", flush=True)


def calmest(command, retries, environment):
    """Runs a command that prints a line of JSON until nothing disturbs it, and returns the line of the calmest run."""
    lines = []
    while not lines or (lines[-1]["others"] > DISTURBED and len(lines) <= retries):
        if lines:
            time.sleep(PAUSE)
        before = busy(), own(), time.monotonic()
        line = run(command, environment)
        others = ((busy() - before[0]) - (own() - before[1])) / (time.monotonic() - before[2])
        lines.append(line | {"others": max(others, 0.0)})
    return min(lines, key=lambda line: line["others"])


def run(command, environment=None):
    """Runs a command that prints a line of JSON and returns the line."""
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | (environment or {}))
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{ended.stderr.strip()}")
    return json.loads(ended.stdout)


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


def summary(network, threads, measured):
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
            "rounds": len(lines),
            "steps": len(lines[0]["steps"]),
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


if __name__ == "__main__":
    main()
