"""Times PyTorch's training steps of one network and prints one line of JSON: milliseconds, bytes.

    python step_times.py resnet20 --setting channels_last --threads 2 --steps 10
    python step_times.py resnet20 --setting compile --device cuda --batch 1024
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time

import torch
from torch.nn import functional as F

from networks import NETWORKS

# `compile` is the first, compiled.
SETTINGS = ("nchw", "channels_last", "channels_last_bf16", "compile")
# The first steps choose kernels and fill caches; ours takes as many.
WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description="Time PyTorch's training steps of one network.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--setting", choices=SETTINGS, default="nchw")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = NETWORKS[args.network]().train().to(args.device)
    images = (torch.rand(args.batch, 3, 32, 32) * 2 - 1).to(args.device)
    labels = (torch.arange(args.batch) % 10).to(args.device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if args.setting.startswith("channels_last"):
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    # One pass over each parameter is PyTorch's fastest optimizer on a CPU.
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    bf16 = args.setting.endswith("bf16")
    if args.setting == "compile":
        network = torch.compile(network)
    steps = [step(network, optimizer, images, labels, bf16) for _ in range(WARM_UP + args.steps)][WARM_UP:]
    median = statistics.median(steps)
    print(json.dumps({
        "network": args.network,
        "parameters": parameters,
        "batch_size": args.batch,
        "torch": torch.__version__,
        "setting": args.setting,
        "threads": torch.get_num_threads(),
        "milliseconds": median,
        "images_per_second": 1000 * args.batch / median,
        "steps": steps,
        "peak_memory": peak_memory(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "device_memory": torch.cuda.max_memory_reserved() if args.device == "cuda" else None,
    }))


def step(network, optimizer, images, labels, bf16):
    """Takes one training step and returns its milliseconds."""
    wait(images.device)
    began = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast(images.device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
        loss = F.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    wait(images.device)
    return 1000 * (time.perf_counter() - began)


def wait(device):
    """Waits for all that a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory():
    """Returns the most bytes that this process has held; macOS counts bytes, Linux kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
