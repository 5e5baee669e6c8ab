"""Holds ONNX files to ONNX Runtime: for every NAME.onnx in a folder, its logits on the images of NAME.probe.safetensors.

    cargo run --release --example zoo -- target/onnx && python3 experiments/onnx/check.py target/onnx

Needs `pip install numpy onnx onnxruntime`. Also writes what a file weighs, and checks it with onnx.checker.
"""

import json
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime

TOLERANCE = 1e-4


def safetensors(path):
    """Reads the float tensors of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = numpy.frombuffer(data[start:end], dtype="<f4").reshape(entry["shape"])
    return tensors


def difference(path):
    """Returns the largest difference of logits, divided by the largest logit (at least 1)."""
    probe = safetensors(path.with_suffix("").with_suffix(".probe.safetensors"))
    model = onnx.load(str(path))
    # The checker's shape inference knows no sparse initializers, though the format and ONNX Runtime do.
    onnx.checker.check_model(model, full_check=not model.graph.sparse_initializer)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images, expected = probe["images"], probe["logits"]
    whole = session.run(["logits"], {"images": images})[0]
    # The batch is free: one image alone must give the same.
    alone = session.run(["logits"], {"images": images[:1]})[0]
    scale = max(1.0, float(numpy.abs(expected).max()))
    return max(float(numpy.abs(whole - expected).max()), float(numpy.abs(alone - expected[:1]).max())) / scale


def main():
    files = sorted(Path(sys.argv[1]).glob("*.onnx"))
    if not files:
        sys.exit(f"there is no .onnx file in {sys.argv[1]}")
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
    worst = 0.0
    for path in files:
        found = difference(path)
        worst = max(worst, found)
        print(f"{path.stem:28} {path.stat().st_size:>12,} bytes  {found:.1e}{'' if found <= TOLERANCE else '  TOO MUCH'}")
    print(f"{len(files)} files, largest difference {worst:.1e} of {TOLERANCE:.0e}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
