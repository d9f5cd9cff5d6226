"""Compile every Triton kernel as it is launched. Usage: python compile_kernels.py cuda:90|hip:gfx942 SCORE..."""

import inspect
import itertools
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mofo.optim.kernels.triton import kernels
from mofo.optim.kernels.triton.launch import LINE, SCORES, WARPS, Settings, _warps

TYPES = dict.fromkeys(("tensors", "hash_keys", "blocks", "states"), "*i64")
TYPES |= dict.fromkeys(("pending", "work", "bins", "pools"), "*i32")
TYPES |= dict.fromkeys(("numbers", "found_inf", "grad_scale"), "*fp32")
TYPES["lists"] = "*i16"
TYPES |= dict.fromkeys(("chunks", "programs"), "i32")


def compile_kernel(kernel, target, warps, **constants):
    """The kernel for a target; arguments that are not constants are of the types above."""
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {name: TYPES.get(name, "constexpr") for name in names}
    chosen = {name: constants[name] for name in names if signature[name] == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=chosen, attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": False})


def variants(settings):
    """Name, warps and constants of every launch."""
    wide = [(width, _warps(width)) for width in settings.widths]
    yield from (("update_small_block", warps, {"WIDTH": width}) for width, warps in wide)
    yield "prepare", 1, {}
    yield "update_everything", WARPS, {}
    yield "guess_bracket", _warps(2 * LINE * settings.sample_pairs), {}
    yield "update_moments_and_count", WARPS, {}
    yield from (("narrow_bracket", 4, {"ROUND": round_}) for round_ in (0, 1))
    yield "count_in_bins", WARPS, {"ROUND": 1}
    yield "move_above", WARPS, {}
    yield "move_from_pool", _warps(settings.pool), {"WIDTH": settings.pool}


def main():
    backend, processor = sys.argv[1].split(":")
    target = GPUTarget(backend, int(processor) if processor.isdigit() else processor, 32 if backend == "cuda" else 64)
    settings = Settings()
    sizes = {"CHUNK": settings.chunk, "BINS": settings.bins, "TILE": settings.tile, "PAIRS": settings.sample_pairs}
    types = [(tl.bfloat16, True), (tl.float16, False), (tl.float32, False)]
    for score, (dtype, stochastic) in itertools.product(sys.argv[2:], types):
        for name, warps, own in variants(settings):
            kind = {"P": dtype, "G": dtype, "SCORE": SCORES[score], "STOCHASTIC": stochastic, "ALIGNED": stochastic}
            constants = sizes | {"LINE": LINE, "SPREAD": settings.spread} | kind | own
            compile_kernel(getattr(kernels, name), target, warps, **constants)


if __name__ == "__main__":
    main()
