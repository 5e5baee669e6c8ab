"""Loads event files with TensorBoard's own reader and compares every figure with the run folder's."""
import csv, json, struct, sys, tomllib, pathlib
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
run, folder = map(pathlib.Path, sys.argv[1:3])
events = EventAccumulator(str(folder), size_guidance={"scalars": 0}); events.Reload()
tags = set(events.Tags()["scalars"]); compared = 0
f32 = lambda v: struct.unpack("f", struct.pack("f", float(v)))[0]
def same(tag, want):
    global compared
    got = [(e.step, e.value) for e in events.Scalars(tag)]
    want = [(int(s), f32(v)) for s, v in want]
    assert got == want, (tag, got[:3], want[:3]); compared += len(got); tags.discard(tag)
rows = list(csv.DictReader(open(run / "metrics.csv")))
names = {"loss/train": "train_loss", "loss/validation": "valid_loss", "accuracy/train": "train_accuracy", "accuracy/validation": "valid_accuracy",
  "sparsity/epoch": "sparsity", "cost/macs": "macs", "cost/parameters": "parameters", "learning rate": "lr", "speed/images per second": "images_per_second", "speed/seconds of the epoch": "seconds"}
for tag, column in names.items(): same(tag, [(r["iteration"], r.get(column) or 0) for r in rows])
ends = {r["epoch"]: r["iteration"] for r in rows}
layers = list(csv.DictReader(open(run / "layers.csv")))
for name in dict.fromkeys(r["name"] for r in layers): same(f"layer sparsity/{name}", [(ends[r["epoch"]], r["sparsity"]) for r in layers if r["name"] == name])
lines = [json.loads(l) for l in open(run / "events.jsonl")]; lines = [l for l in lines if "kernels" not in l]
if lines:
    for tag, key in {"sparsity/event": "sparsity", "masks/grown": "grown", "masks/pruned": "pruned"}.items(): same(tag, [(l["iteration"], l[key]) for l in lines])
for key in {k for l in lines for k in l["figures"]}: same(f"scheduler/{key}", [(l["iteration"], l["figures"][key]) for l in lines if key in l["figures"]])
s = tomllib.load(open(run / "summary.toml", "rb"))
same("test/accuracy", [(s["iterations"], s["final_test_accuracy"])]); same("test/loss", [(s["iterations"], s["final_test_loss"])])
assert not tags, tags
print(f"{folder}: {compared} figures are those of the run")
