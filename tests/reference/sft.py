"""Command lines of `mofo sft`, data files for it, and what it wrote."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from safetensors.torch import load_file


def flags(settings, **more):
    """The settings as a command line."""
    return [word for name, value in {**settings, **more}.items() for word in (f"--{name}", str(value))]


def weights(folder):
    """The tensors of a saved model."""
    return load_file(Path(folder) / "model.safetensors")


def equal(one, other):
    """Whether two models have the same tensors, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def write_rows(file, rows):
    """Write rows into a file of the kind that its name says."""
    if file.suffix == ".csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


PROMPTS = [{"prompt": f"{n} plus zero is ", "completion": f"00{n}"} for n in range(8)]
