"""Times training steps on this machine's GPU, beside PyTorch's where it is installed.

    python3 experiments/bench/gpu.py
    python3 experiments/bench/gpu.py --networks resnet20 --batches 128 --steps 20

Ours runs on wgpu, and on CUDA where there is an NVIDIA driver (which builds a second binary); both also with burn's own
operations in place of our overrides (BONSAI_KERNELS=burn), and in f16 where the binary and the adapter have it. PyTorch runs
eagerly in f32, with channels_last and autocast to bf16, and compiled. Each configuration is a process of its own that takes
whole training steps between two synchronisations of the device; medians after a warm-up, in which kernels are compiled and
tuned. Rows go to experiments/results/bench-gpu.csv, under the name of the adapter, and the kernels of our steps, their number
and time, to bench-gpu-kernels.csv. What cannot be measured is left out with a sentence that says why.

Without a GPU this says so, and compares our overrides with burn's own operations on Mesa's software adapter with a small
batch, for as long as --minutes allows: these figures say nothing about any GPU.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import results

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXPERIMENT = "cifar10-resnet20-dense"
NETWORKS = {"resnet20": (128, 1024), "resnet56": (128,), "vgg19": (128,), "resnet50": (128,), "vit-cifar": (128,)}
TORCH = ("nchw", "channels_last_bf16", "compile")
STEPS, KERNELS = results.FOLDER / "bench-gpu.csv", results.FOLDER / "bench-gpu-kernels.csv"
KEY = ("adapter", "network", "batch_size", "setting")
STEP_COLUMNS = KEY + ("milliseconds", "images_per_second", "launches", "reads", "memory_bytes", "steps", "date", "revision",
                      "torch")
KERNEL_COLUMNS = KEY + ("kernel", "launches", "milliseconds", "date", "revision")
# What a software adapter takes a few minutes for.
SMALL, FEW_STEPS = {"resnet20": (8,)}, 3
# Minutes after which a process on a GPU hangs: the first one tunes every shape of a large network.
PATIENCE = 20


def main():
    parser = argparse.ArgumentParser(description="Time training steps on this machine's GPU.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK",
                        help=f"of {', '.join(NETWORKS)}; by default all")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="by default 128, and 1024 for resnet20")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="timed in each process; by default 30")
    parser.add_argument("--torch", type=pathlib.Path, default=pathlib.Path(sys.executable), metavar="PYTHON",
                        help="a Python that may have PyTorch for this GPU; by default this one")
    parser.add_argument("--minutes", type=float, default=6, metavar="N",
                        help="for all that is measured on a software adapter, where there is no GPU; by default 6")
    args = parser.parse_args()
    began = time.monotonic()

    binary = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "bonsai"
    if not binary.is_file():
        sys.exit(f"there is no {binary}: build it with `cargo build --release --bin bonsai`")
    found = probe(binary, "auto")
    if found is None or found.startswith("cpu"):
        software = probe(binary, "wgpu")
        print("There is no GPU here, so nothing of bonsai on GPUs is measured.")
        if software is None:
            sys.exit("Nor is there a software adapter (Debian: apt-get install mesa-vulkan-drivers libvulkan1).")
        print(f"Our overrides beside burn's own operations, on {software}, whose figures say nothing about any GPU:", flush=True)
        measure(ours(binary, "wgpu", min(args.steps, FEW_STEPS)), SMALL, until=began + 60 * args.minutes)
        print(f"Written to {results.FOLDER.relative_to(ROOT)}/bench-gpu*.csv.")
        return
    batches = {network: args.batches or NETWORKS[network] for network in args.networks}
    print(f"On {found}:", flush=True)
    measure(ours(binary, "wgpu", args.steps), batches)
    if shutil.which("nvidia-smi"):
        # Beside the ordinary build, which it would replace.
        folder = binary.parent.parent / "cuda"
        build = ["cargo", "build", "--release", "--bin", "bonsai", "--features", "cuda", "--target-dir", str(folder)]
        if subprocess.run(build, cwd=ROOT).returncode:
            print("The build for CUDA fails, so it is left out.")
        else:
            measure(ours(folder / "release" / "bonsai", "cuda", args.steps), batches)
    if subprocess.run([args.torch, "-c", "import torch; assert torch.cuda.is_available()"], capture_output=True).returncode:
        print(f"{args.torch} has no PyTorch for this GPU, so it is left out.")
    else:
        measure(theirs(args.torch, args.steps), batches)
    print(f"Written to {results.FOLDER.relative_to(ROOT)}/bench-gpu*.csv.")


def probe(binary, device):
    """Returns the name of the device that a choice stands for, or None where there is none."""
    command = [binary, "bench", "shapes10-resnet20-dense", "--device", device, "--set", "model=mlp", "--set", "batch_size=2",
               "--steps", "1", "--sparsity", "0", "--format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return None if ended.returncode else json.loads(ended.stdout)["device"]


def ours(binary, device, steps):
    """Returns our settings by name: a command for a network and a batch, and the environment that it runs in."""
    def command(*more):
        return lambda network, batch: [
            binary, "bench", EXPERIMENT, "--device", device, "--format", "json", "--set", f"model={network}", "--set",
            "stem=cifar", "--set", f"batch_size={batch}", "--sparsity", "0", "--steps", str(steps), "--trace", *more]

    settings = {f"bonsai {device}": (command(), {}), f"burn {device}": (command(), {"BONSAI_KERNELS": "burn"})}
    f16 = ("--set", "precision=f16")
    refused = subprocess.run([binary, "plan", EXPERIMENT, *f16], capture_output=True, text=True, cwd=ROOT)
    if refused.returncode:
        print(f"This binary has no f16, which is left out: {last_line(refused.stderr)}", flush=True)
    else:
        settings[f"bonsai {device} f16"] = (command(*f16), {})
    return settings


def theirs(python, steps):
    """The same for PyTorch's."""
    def command(setting):
        return lambda network, batch: [python, "-B", ROOT / "experiments/bench/step_times.py", network, "--setting", setting,
                                       "--batch", str(batch), "--steps", str(steps), "--device", "cuda"]

    return {f"pytorch {setting}": (command(setting), {}) for setting in TORCH}


def measure(settings, batches, until=None):
    """Measures every setting with every batch, but begins none and ends each at a time, if one is given."""
    for network, sizes in batches.items():
        for batch in sizes:
            for setting, (command, environment) in settings.items():
                name = f"{network}, batch {batch}, {setting}"
                patience = 60 * PATIENCE if until is None else until - time.monotonic()
                if patience < 1:
                    print(f"{name}: left out, since the time is over: give more --minutes", flush=True)
                    continue
                try:
                    ended = subprocess.run(command(network, batch), capture_output=True, text=True, cwd=ROOT,
                                           env=os.environ | environment, timeout=patience)
                except subprocess.TimeoutExpired:
                    print(f"{name}: left out, since it was not done after {patience:.0f} s", flush=True)
                    continue
                if ended.returncode:
                    print(f"{name}: left out: {last_line(ended.stderr)}", flush=True)
                    continue
                write(network, batch, setting, json.loads(ended.stdout))


def last_line(text):
    """Returns the sentence with which a process ended."""
    return next((line.removeprefix("error: ") for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def write(network, batch, setting, line):
    trace = line.get("trace") or {}
    common = {"adapter": line["device"], "network": network, "batch_size": batch, "setting": setting,
              "date": datetime.date.today().isoformat(), "revision": line.get("revision") or ""}
    row = common | {
        "milliseconds": f"{line['milliseconds']:.2f}", "images_per_second": f"{line['images_per_second']:.1f}",
        "launches": trace.get("launches", ""), "reads": trace.get("reads", ""),
        "memory_bytes": trace.get("device_memory") or line.get("device_memory") or "", "steps": len(line["steps"]),
        "torch": line.get("torch", ""),
    }
    results.replace(STEPS, STEP_COLUMNS, [row], KEY)
    kernels = [common | {"kernel": name, "launches": launches, "milliseconds": f"{milliseconds:.3f}"}
               for name, launches, milliseconds in trace.get("kernels", [])]
    results.replace(KERNELS, KERNEL_COLUMNS, kernels, KEY, same=[row])
    print(f"{network}, batch {batch}, {setting}: {row['milliseconds']} ms, {row['images_per_second']} images/s, "
          f"{row['launches'] or '-'} launches, {row['memory_bytes'] or '-'} bytes", flush=True)


if __name__ == "__main__":
    main()
