"""The benchmark's CSV files: what was measured anew replaces the rows of its configuration and processor, all others stay."""

import csv
import datetime
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "results"
STEPS, PARTS, LAYERS = FOLDER / "bench-cpu.csv", FOLDER / "bench-cpu-parts.csv", FOLDER / "bench-cpu-layers.csv"
KEY = ("network", "setting", "threads", "sparsity")
ON_CPU = KEY + ("cpu",)
STEP_COLUMNS = KEY + (
    "milliseconds", "images_per_second", "peak_memory_bytes", "ratio_to_pytorch_best_f32", "rounds", "steps",
    "fastest_round", "slowest_round", "other_cores", "date", "cpu", "revision", "torch",
)
SOURCE = ("other_cores", "date", "cpu", "revision")
PART_COLUMNS = KEY + ("part", "milliseconds", "share") + SOURCE
LAYER_COLUMNS = KEY + (
    "channels", "height", "width", "outputs", "kernel", "stride", "kernels", "count", "direction", "milliseconds",
    "gflops_of_a_thread", "share_of_peak", "peak_gflops_of_a_thread",
) + SOURCE


def are_there(network, threads, configurations, machine):
    """Tells whether each configuration has a row of this processor and of as many steps, and ours of this revision."""
    rows = {key(row, ON_CPU): row for row in read(STEPS)}

    def is_there(one):
        row = rows.get((network, one.setting, str(threads), f"{one.sparsity:g}", machine["cpu"]))
        if row is None:
            return False
        if int(row["rounds"]) * int(row["steps"]) < one.rounds * one.steps:
            return False
        return one.setting.startswith("pytorch") or row["revision"] == (machine["revision"] or "")

    return all(is_there(one) for one in configurations)


def write_steps(rows):
    replace(STEPS, STEP_COLUMNS, rows)


def write_parts(network, configuration, line):
    """Writes what `bonsai bench --breakdown --layers` printed."""
    common = {
        "network": network, "setting": configuration.setting, "threads": line["threads"],
        "sparsity": f"{configuration.sparsity:g}", "other_cores": f"{line['others']:.2f}",
        "date": datetime.date.today().isoformat(), "cpu": line["cpu"], "revision": line["revision"] or "",
    }
    whole = line["breakdown"]["milliseconds"]
    parts = [*line["breakdown"]["parts"], {"name": "step", "milliseconds": whole}]
    rows = [common | {"part": part["name"], "milliseconds": f"{part['milliseconds']:.3f}",
                      "share": f"{part['milliseconds'] / whole:.4f}"}
            for part in parts if part["milliseconds"]]
    beside = {"part": "loader: a batch, beside the step", "milliseconds": f"{line['breakdown']['batch_preparation']:.3f}"}
    replace(PARTS, PART_COLUMNS, rows + [common | beside])
    in_use = next(peak for peak in line["peaks"] if peak["in_use"])
    peaks = {precision: in_use[name] / in_use["threads"]
             for precision, name in (("f32", "all_threads"), ("bf16", "all_threads_bf16"))}
    replace(LAYERS, LAYER_COLUMNS, [
        common | {
            "channels": layer["input"][0], "height": layer["input"][1], "width": layer["input"][2],
            "outputs": layer["outputs"], "kernel": "x".join(map(str, layer["kernel"])), "stride": layer["stride"],
            "kernels": kernels(layer), "count": f"{layer['count']:g}", "direction": direction,
            "milliseconds": f"{layer[direction]['milliseconds']:.3f}",
            "gflops_of_a_thread": f"{layer[direction]['gflops']:.1f}",
            "share_of_peak": f"{layer[direction]['peak']:.3f}", "peak_gflops_of_a_thread": f"{peaks[layer['precision']]:.1f}",
        }
        for layer in line["layers"] for direction in ("forward", "data_gradient", "weight_gradient")
        if layer[direction]["milliseconds"]
    ])


def kernels(layer):
    return "sparse" if layer["sparse"] else "dense" if layer["precision"] == "f32" else "dense bf16"


def replace(path, columns, rows, names=ON_CPU, same=()):
    """Writes rows in place of those of the same configurations, which `same` names too, in the order of the configurations."""
    new = {key(row, names) for row in [*rows, *same]}
    kept = [row for row in read(path) if key(row, names) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved, so that an interruption loses nothing.
    fresh = path.with_suffix(".new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + rows, key=lambda row: key(row, names)))
    fresh.replace(path)


def read(path):
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key(row, names):
    return tuple(str(row[column]) for column in names)
