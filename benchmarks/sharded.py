"""The step of sharded parameters: time against AdamW on the same shards, and bytes sent, against the model's size.

Usage: python benchmarks/sharded.py [--ranks 2 4] [--repeats 9] [--without NAME ...] [--output FILE]

The parameters are cut as FSDP2 cuts them, `Shard(0)` over gloo processes with one thread each. In every round each
contender makes one step on the same gradients and moments, in another order each time, and the ratio to torch's AdamW
is taken within the round; a step ends when the last process has ended it. `AdamW` is with torch's defaults, as a
trainer makes it; `AdamW fused` is its fastest. The parts of a step of MoFO at 0.05 are timed apart. The bytes are those
of the tensors that a process gives to all-reduces during a step; models of the same number of tensors, but of a quarter
and a sixteenth of the entries in each, show whether they depend on their size.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import SHAPES, about_this_run, fill_gradients, held, write
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from mofo import MoFO
from mofo.optim.distributed.shards_native import NativeShards
from mofo.optim.dtensor import local
from mofo.optim.state.moments import MOMENTS

BASELINE = "AdamW"


def contenders():
    """A constructor for each contender, by name."""
    made = {
        BASELINE: lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0),
        "AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0, fused=True),
    }
    for fraction in (0.01, 0.05, 0.15):
        made[f"MoFO α={fraction}"] = lambda params, f=fraction: MoFO(params, lr=1e-5, fraction=f)
    made["MoFO α=0.05, plain torch"] = lambda params: MoFO(params, lr=1e-5, fraction=0.05, foreach=True)
    return made


def make_params(shapes, mesh):
    """Parameters with gradients, as FSDP2 cuts them: by rows, as ``torch.chunk`` does."""
    ranks, rank = mesh.size(), mesh.get_local_rank()
    params = []
    for shape in shapes:
        size = -(-shape[0] // ranks)
        rows = max(0, min(size, shape[0] - rank * size))
        strides = (shape[1], 1) if len(shape) == 2 else (1,)
        parts = [
            DTensor.from_local(
                torch.randn(rows, *shape[1:]).mul_(0.02), mesh, [Shard(0)], run_check=False, shape=shape, stride=strides
            )
            for _ in range(2)
        ]
        params.append(torch.nn.Parameter(parts[0]))
        params[-1].grad = parts[1]
    return params


class Messages:
    """What the all-reduces of a step send."""

    def __init__(self):
        self.count = self.bytes = 0

    def __enter__(self):
        self.original = dist.all_reduce
        dist.all_reduce = self
        return self

    def __exit__(self, *_):
        dist.all_reduce = self.original

    def __call__(self, tensor, *args, **kwargs):
        """Count a message and send it."""
        self.count += 1
        self.bytes += tensor.nbytes
        return self.original(tensor, *args, **kwargs)


def measure_times(shapes, mesh, repeats, without, warmup=2):
    """Seconds of each contender's step in every round, the same on all processes."""
    params = make_params(shapes, mesh)
    generator = torch.Generator().manual_seed(mesh.get_local_rank())
    grads = [param.grad.to_local() for param in params]
    fill_gradients(grads, generator)
    moments = None
    ready = {}
    for name, make in contenders().items():
        if name in without:
            continue
        ready[name] = make(params)
        ready[name].step()
        moments = moments or [(state["exp_avg"], state["exp_avg_sq"]) for state in ready[name].state.values()]
        for state, (exp_avg, exp_avg_sq) in zip(ready[name].state.values(), moments, strict=True):
            state.update(exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    seconds = {name: [] for name in ready}
    for round_ in range(warmup + repeats):
        fill_gradients(grads, generator)
        for name, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            dist.barrier()
            start = time.perf_counter()
            optimizer.step()
            dist.barrier()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
        if mesh.get_local_rank() == 0:
            print(f"round {round_ + 1} of {warmup + repeats}", file=sys.stderr, flush=True)
    return seconds


class Watch:
    """How long the parts of a step take: each local phase, the wait for the slower process, and the all-reduces."""

    PHASES = ("count_sample", "update_moments", "count_keys", "move")

    def __init__(self):
        self.seconds = defaultdict(float)

    def __enter__(self):
        self.original = dist.all_reduce, {name: getattr(NativeShards, name) for name in self.PHASES}
        dist.all_reduce = self.all_reduce
        for name, phase in self.original[1].items():
            setattr(NativeShards, name, lambda *args, own=phase, key=name: self.timed(key, own, *args))
        return self

    def __exit__(self, *_):
        dist.all_reduce = self.original[0]
        for name, phase in self.original[1].items():
            setattr(NativeShards, name, phase)

    def all_reduce(self, tensor, *args, **kwargs):
        """Wait until all processes have come so far, and send a message."""
        self.timed("wait", dist.barrier)
        self.timed("all_reduce", self.original[0], tensor, *args, **kwargs)

    def timed(self, key, call, *args, **kwargs):
        """Call, and add the time."""
        start = time.perf_counter()
        call(*args, **kwargs)
        self.seconds[key] += time.perf_counter() - start


def measure_phases(shapes, mesh, repeats, warmup=2):
    """Milliseconds of the parts of the first process's step, medians over steps; the rest is Python's and torch's."""
    params = make_params(shapes, mesh)
    generator = torch.Generator().manual_seed(mesh.get_local_rank())
    optimizer = MoFO(params, lr=1e-5, fraction=0.05)
    steps = []
    for _ in range(warmup + repeats):
        fill_gradients([param.grad.to_local() for param in params], generator)
        dist.barrier()
        with Watch() as watch:
            start = time.perf_counter()
            optimizer.step()
            watch.seconds["rest"] = time.perf_counter() - start - sum(watch.seconds.values())
        steps.append(watch.seconds)
    return {key: round(1000 * statistics.median(step[key] for step in steps[warmup:]), 2) for key in steps[0]}


def measure_messages(shapes, mesh):
    """Messages and bytes of MoFO's second step, by the model's size."""
    rows = []
    for divisor in (16, 4, 1):
        params = make_params([(max(1, shape[0] // divisor), *shape[1:]) for shape in shapes], mesh)
        optimizer = MoFO(params, lr=1e-5, fraction=0.05)
        optimizer.step()
        with Messages() as sent:
            optimizer.step()
        entries = sum(param.numel() for param in params)
        rows.append({"parameters": entries, "tensors": len(params), "all_reduces": sent.count, "bytes": sent.bytes})
    return rows


def measure_state(shapes, mesh):
    """Bytes of the moments that each process holds a parameter of its own, by the kind of state."""
    held_by = {}
    for kind in ("float32", "int8"):
        params = make_params([(max(1, shape[0] // 16), *shape[1:]) for shape in shapes], mesh)
        optimizer = MoFO(params, lr=1e-5, state_dtype=kind)
        optimizer.step()
        own = sum(param.to_local().numel() for param in params)
        moments = [local(state[key]) for state in optimizer.state.values() for key in MOMENTS]
        held_by[kind] = round(sum(map(held, moments)) / own, 4)
    return held_by


def run(rank, ranks, shapes, repeats, without, queue):
    """What one process does."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group(
        "gloo", store=dist.FileStore(os.environ["MOFO_BENCH_STORE"], ranks), rank=rank, world_size=ranks
    )
    mesh = init_device_mesh("cpu", (ranks,))
    messages, state = measure_messages(shapes, mesh), measure_state(shapes, mesh)
    phases = measure_phases(shapes, mesh, repeats)
    seconds = measure_times(shapes, mesh, repeats, without)
    if rank == 0:
        queue.put((messages, state, phases, seconds))
    dist.barrier()
    dist.destroy_process_group()


def summary(seconds):
    """A row for each contender."""
    rows = []
    for name, times in seconds.items():
        row = {"contender": name, "milliseconds": round(1000 * statistics.median(times), 2)}
        for baseline, key in ((BASELINE, "ratio_to_adamw"), ("AdamW fused", "ratio_to_fused_adamw")):
            ratios = [own / other for own, other in zip(times, seconds[baseline], strict=True)]
            row[key] = [round(q, 3) for q in statistics.quantiles(ratios, n=4, method="inclusive")]
        rows.append(row)
    return rows


def print_tables(ranks, rows, messages):
    print(f"{ranks} processes")
    print(f"{'contender':<28}{'ms':>8}{'× AdamW':>24}{'× AdamW fused':>24}")
    for row in rows:
        low, middle, high = row["ratio_to_adamw"]
        fused_low, fused, fused_high = row["ratio_to_fused_adamw"]
        print(
            f"{row['contender']:<28}{row['milliseconds']:>8.1f}{f'{middle:.2f} ({low:.2f} – {high:.2f})':>24}"
            f"{f'{fused:.2f} ({fused_low:.2f} – {fused_high:.2f})':>24}"
        )
    for row in messages:
        print(f"{row['parameters']:>12,} parameters: {row['all_reduces']} all-reduces of {row['bytes']:,} bytes in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=9, help="rounds that count (default 9)")
    others = [name for name in contenders() if name not in (BASELINE, "AdamW fused")]
    parser.add_argument("--without", nargs="+", default=[], choices=others, metavar="NAME", help="contenders left out")
    parser.add_argument("--shapes", default="smollm2-135m", choices=SHAPES)
    default = Path(__file__).parent / "results" / "sharded-cpu.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file (default %(default)s)")
    arguments = parser.parse_args()
    shapes = SHAPES[arguments.shapes]
    runs = []
    for ranks in arguments.ranks:
        store = arguments.output.with_suffix(f".{os.getpid()}-{ranks}")
        os.environ["MOFO_BENCH_STORE"] = str(store)
        queue = mp.get_context("spawn").SimpleQueue()
        try:
            mp.spawn(run, (ranks, shapes, arguments.repeats, arguments.without, queue), nprocs=ranks)
        finally:
            store.unlink(missing_ok=True)
        messages, state, phases, seconds = queue.get()
        rows = summary(seconds)
        print_tables(ranks, rows, messages)
        print(f"moments, bytes a parameter of a process: {state}")
        print(f"a step at 0.05, ms: {phases}")
        runs.append(
            {
                "ranks": ranks,
                "rows": rows,
                "messages": messages,
                "moment_bytes_per_parameter": state,
                "milliseconds_of_phases": phases,
            }
        )
    write(
        {**about_this_run(), "shapes": arguments.shapes, "repeats": arguments.repeats, "runs": runs}, arguments.output
    )


if __name__ == "__main__":
    main()
