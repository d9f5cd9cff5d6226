"""Compile every Triton kernel as it is launched. Usage: python compile_kernels.py cuda:90|hip:gfx942 SCORE..."""

import inspect
import itertools
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mofo.optim.kernels.triton import kernels, shard_kernels
from mofo.optim.kernels.triton.launch import LINE, SCORE_NUMBERS, WARPS, TritonConfig
from mofo.optim.kernels.triton.packing import warps_for
from mofo.optim.kernels.triton.shard_launch import WIDTH, ShardConfig

TYPES = dict.fromkeys(("tensors", "hash_keys", "blocks", "states", "parts", "layouts", "report"), "*i64")
TYPES |= dict.fromkeys(("pending", "work", "bins", "pools", "counts"), "*i32")
TYPES |= dict.fromkeys(("numbers", "found_inf", "grad_scale"), "*fp32")
TYPES["lists"] = "*i16"
TYPES |= dict.fromkeys(("chunks", "programs", "number", "largest"), "i32")


def compile_kernel(kernel, target, warps, **constants):
    """The kernel for a target; arguments that are not constants are of the types above."""
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {name: TYPES.get(name, "constexpr") for name in names}
    chosen = {name: constants[name] for name in names if signature[name] == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=chosen, attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": False})


def variants(config):
    """Name, warps and constants of every launch."""
    wide = [(width, warps_for(width)) for width in config.widths]
    yield from (("update_small_block", warps, {"WIDTH": width}) for width, warps in wide)
    yield "prepare", 1, {"COUNT": True}
    yield "update_everything", WARPS, {}
    yield "guess_bracket", warps_for(2 * LINE * config.sample_pairs), {}
    yield "update_moments_and_count", WARPS, {}
    yield from (("narrow_bracket", 4, {"ROUND": round_}) for round_ in (0, 1))
    yield "count_in_bins", WARPS, {"ROUND": 1}
    yield "move_above", WARPS, {}
    yield "move_from_pool", warps_for(config.pool), {"WIDTH": config.pool}


def shard_variants():
    """The same of a sharded step."""
    yield from ((name, WARPS, {}) for name in ("update_moments_and_collect", "count_in_bins", "count_places"))
    bins = {"LEAST": ShardConfig().least, "SHIFT": ShardConfig().shift}
    yield from ((name, WARPS, bins) for name in ("count_sample", "guess_brackets"))
    yield from (("narrow_brackets", WARPS, {"FIRST": first, "PLACES": not first}) for first in (True, False))
    yield "conclude", warps_for(WIDTH), {"WIDTH": WIDTH}
    yield "move_selected", WARPS, {}


def main():
    backend, processor = sys.argv[1].split(":")
    target = GPUTarget(backend, int(processor) if processor.isdigit() else processor, 32 if backend == "cuda" else 64)
    config, of_shards = TritonConfig(), ShardConfig()
    sizes = {"CHUNK": config.chunk, "BINS": config.bins, "TILE": config.tile, "PAIRS": config.sample_pairs}
    types = [(tl.bfloat16, True), (tl.float16, False), (tl.float32, False)]
    for score, (dtype, stochastic) in itertools.product(sys.argv[2:], types):
        for name, warps, own in variants(config):
            variant = {"P": dtype, "G": dtype, "STOCHASTIC": stochastic, "ALIGNED": stochastic}
            variant["SCORE"] = SCORE_NUMBERS[score]
            constants = sizes | {"LINE": LINE, "SPREAD": config.spread} | variant | own
            compile_kernel(getattr(kernels, name), target, warps, **constants)
        if stochastic:  # which has all that the other types have
            constants |= {"CHUNK": of_shards.chunk, "BINS": 1 << of_shards.bits, "TILE": of_shards.tile}
            for name, warps, own in shard_variants():
                compile_kernel(getattr(shard_kernels, name), target, warps, **constants | own)


if __name__ == "__main__":
    main()
