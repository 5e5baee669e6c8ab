"""The numbers both sides fill their tensors with: integers first, so Rust and Python agree to the last bit."""

import json
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

HERE = Path(__file__).parent


def hash32(x):
    """The 32-bit finalizer of MurmurHash3 (Austin Appleby, public domain)."""
    x = np.array(x, dtype=np.uint32)
    x ^= x >> 16
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> 16
    return x


def values(shape, salt):
    """Fills a float32 array with values in [-0.5, 0.5), by flat index in row-major order."""
    count = int(np.prod(shape))
    index = np.arange(count, dtype=np.uint32)
    mixed = hash32(index + np.uint32(salt * 0x9E3779B9 % 2**32))
    flat = (mixed >> 8).astype(np.float32) / np.float32(2**24) - np.float32(0.5)
    return flat.reshape(shape)


def scaled(shape, salt, scale):
    """Multiplies in float64 and rounds once to float32."""
    return (values(shape, salt).astype(np.float64) * scale).astype(np.float32)


def tensor(array, dtype=torch.float64):
    return torch.tensor(array).to(dtype)


def numbers(tensor):
    """Lists the values as Python floats, which JSON prints with `repr`: nothing is lost."""
    return tensor.detach().double().flatten().tolist()


def sums(tensor):
    """Returns three sums, added up in float64: of the entries, of their absolute values, and of entry i times value(i, 999).

    The third notices entries in the wrong place.
    """
    tensor = tensor.detach().double()
    places = torch.tensor(values(tuple(tensor.shape), 999)).double()
    return [tensor.sum().item(), tensor.abs().sum().item(), (tensor * places).sum().item()]


def write(name, fixture):
    """Writes one key a line and, below it, one entry a line."""
    def entries(value, depth):
        if not isinstance(value, dict) or depth == 2:
            return json.dumps(value, separators=(",", ":"))
        pad = " " * (depth + 1)
        lines = [f"{pad}{json.dumps(key)}: {entries(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"

    text = entries({"torch": torch.__version__, **fixture}, 0) + "\n"
    (HERE / name).write_text(text)
    print(f"{name}: {len(text)} bytes")
