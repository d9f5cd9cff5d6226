"""What a sharded step sends and waits for on more GPUs than anyone lends us: computed, not measured.

Usage: python benchmarks/at_scale.py

The bytes follow from the code (`sent_bytes`, which tests hold against counted bytes of 2 and 4 processes, and of 16 in
`make test-full`). Times come from bandwidths of data sheets and latencies that are assumed, named below: they are
bounds from below, to see what matters and what does not. Writes benchmarks/results/at_scale.json.
"""

import json
import math
from pathlib import Path

from common import llama_shapes

MODELS = {
    "7B": llama_shapes(32000, 4096, 11008, 32, 4096, tied=False),
    "70B": llama_shapes(32000, 8192, 28672, 80, 1024, tied=False),
    "405B": llama_shapes(128256, 16384, 53248, 126, 1024, tied=False),
}
GPUS = (8, 64, 1024, 4096)
ROUNDS = 3  # a sample and two rounds of the search: what was counted for models of 8 to 135 million parameters
WIDTH, COUNTS = 11, 1 << 23  # as in src/mofo/optim/distributed/search.py

# NVIDIA H100 SXM, by its data sheet; eight to a node, each with a network port of 400 Gbit/s
GPUS_OF_A_NODE = 8
MEMORY = 3.35e12  # bytes a second
NVLINK = 450e9  # bytes a second and direction
NETWORK = 50e9  # bytes a second and direction
# assumed, not measured
NVLINK_LATENCY = 3e-6  # seconds a hop
NETWORK_LATENCY = 10e-6  # seconds a hop

ADAMW_BYTES = 28  # of memory an entry: float32 parameter, gradient and two moments read, all but the gradient written
FSDP_BYTES = 6  # an entry: gathered twice and reduced once, in 16 bits


def width(blocks):
    """Bits of the number of a bin."""
    return min(WIDTH, max(1, COUNTS.bit_length() - 1 - blocks.bit_length()))


def sent_bytes(blocks, rounds=ROUNDS):
    """Bytes that each process gives to the all-reduces of a step: int32 counts of all shared blocks.

    The first round has a count for each bin, the others one more, of the entries above all bins.
    """
    bins = 1 << width(blocks)
    return 4 * blocks * (bins + (rounds - 1) * (bins + 1))


def all_reduce_seconds(size, gpus):
    """Time of an all-reduce: a ring within each node, a tree between nodes in which each GPU has its part."""
    here = min(gpus, GPUS_OF_A_NODE)
    nodes = gpus // here
    within = 2 * (here - 1) * (NVLINK_LATENCY + size / here / NVLINK)
    part = size / here
    between = 2 * math.ceil(math.log2(nodes)) * NETWORK_LATENCY + 2 * part * (nodes - 1) / nodes / NETWORK
    return within + between


def row(model, shapes, gpus):
    """What a step takes of one model on some number of GPUs."""
    entries = sum(math.prod(shape) for shape in shapes)
    blocks = len(shapes)  # every tensor is a block, and all are shared
    size = sent_bytes(blocks)
    waiting = ROUNDS * all_reduce_seconds(size / ROUNDS, gpus)
    adamw = ADAMW_BYTES * entries / gpus / MEMORY
    return {
        "model": model,
        "parameters": entries,
        "tensors": blocks,
        "gpus": gpus,
        "all_reduces": ROUNDS,
        "sent_bytes": size,
        "share_of_fsdp_bytes": size / (FSDP_BYTES * entries),
        "all_reduce_ms": round(1e3 * waiting, 3),
        "adamw_memory_ms": round(1e3 * adamw, 3),
    }


def main():
    rows = [row(model, shapes, gpus) for model, shapes in MODELS.items() for gpus in GPUS]
    print("| model | GPUs | sent, MB | of FSDP's bytes | all-reduces, ms | AdamW's memory traffic, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for r in rows:
        print(
            f"| {r['model']} | {r['gpus']} | {r['sent_bytes'] / 1e6:.1f} | {r['share_of_fsdp_bytes']:.3%} | "
            f"{r['all_reduce_ms']:.2f} | {r['adamw_memory_ms']:.2f} |"
        )
    constants = {
        name.lower(): globals()[name]
        for name in ("MEMORY", "NVLINK", "NETWORK", "NVLINK_LATENCY", "NETWORK_LATENCY", "GPUS_OF_A_NODE")
    }
    found = {"computed": True, "constants": constants, "rows": rows}
    (Path(__file__).parent / "results" / "at_scale.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
