"""Sizes of the deltas of the runs of `recipe.yaml`, as a table.

    python experiments/ship/measure.py runs/ship

Each run's model is taken as it was trained, in float32, and rounded to bfloat16 (the base too), as most models are
shipped. Every exact delta is applied and undone, and the files are compared.
"""

import argparse
import filecmp
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mofo.deltas import apply_deltas, make_delta, undo_deltas
from mofo.models.embedded import embedded_model
from mofo.results import load_results

RESULTS = Path(__file__).with_name("results") / "sizes.json"


def in_bfloat16(source, target):
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            weights = {name: weight.bfloat16() for name, weight in load_file(file).items()}
            save_file(weights, target / file.name, metadata={"format": "pt"})
        elif file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return target


def same_files(one, other):
    names = sorted(path.name for path in one.iterdir())
    return filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


def measured(run, base, tuned, precision, scratch):
    delta = scratch / "delta.safetensors"
    exact = make_delta(str(base), str(tuned), delta)
    apply_deltas(str(base), [delta], scratch / "forward", overwrite=True)
    if exact.kind == "weights":
        undo_deltas(str(tuned), [delta], scratch / "backward", overwrite=True)
        restored = same_files(scratch / "forward", tuned) and same_files(scratch / "backward", base)
    else:
        restored = same_files(scratch / "forward", tuned)
    assert restored
    row = {"run": run, "precision": precision, "kind": exact.kind, "tuned_bytes": exact.tuned_bytes}
    row |= {"moved": exact.moved / exact.entries, "exact_bytes": exact.bytes}
    if exact.kind == "weights":
        rounded = make_delta(str(base), str(tuned), delta, bits=8)
        row |= {"8_bit_bytes": rounded.bytes, "8_bit_relative_error": rounded.lossy.relative_error}
    print(json.dumps(row), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path, help="folder of the runs, made by recipe.yaml")
    folder = parser.parse_args().comparison
    torch.set_num_threads(1)
    runs = {run.name: folder / run.model for run in load_results(folder).runs}
    base = embedded_model()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        base16 = in_bfloat16(base, scratch / "base")
        for run, tuned in runs.items():
            rows.append(measured(run, base, tuned, "float32", scratch))
            if rows[-1]["kind"] == "weights":
                tuned16 = in_bfloat16(tuned, scratch / run)
                rows.append(measured(run, base16, tuned16, "bfloat16", scratch))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
