"""The functions that kernels share: read entries, update moments, rank, move, round.

The numbers are rounded as on a CPU (`kernels/cpu/kernel.cpp`): two fused multiply-adds, correctly rounded roots and
quotients, everything else apart, for which the kernels are launched with `enable_fp_fusion=False`.
"""

import triton
import triton.language as tl

from mofo.optim.kernels.triton import tables as T

# ---- Memory. ALIGNED: all addresses, and the bytes of a block, are multiples of 16, so that vectors can be read.


@triton.jit
def pointer(row, column, first, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the pointer to entry `first` of an operand of a tensor."""
    address = tl.load(row + column) + first * (DTYPE.primitive_bitwidth // 8)
    to = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        to = tl.multiple_of(to, 16)
    return to


@triton.jit
def entries_of_block(row, ALIGNED: tl.constexpr):
    n = tl.load(row + T.N).to(tl.int32)
    if ALIGNED:
        n = tl.multiple_of(n, 16)
    return n


@triton.jit
def read(operand, offsets, mask):
    return widen(tl.load(operand + offsets, mask=mask, other=0))


@triton.jit
def widen(x):
    if x.dtype == tl.bfloat16:  # by hand: Triton's interpreter converts subnormal numbers wrongly
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def float64(row, column):
    return tl.load(row + column).to(tl.float64, bitcast=True)


# ---- Randomness (hashing.py): from an entry's row-major index (int64), and the key (int64) of its tensor and step.


@triton.jit
def mix32(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def mix64(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def hash_key(seed, step, purpose):
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    return mix64(mix64(seed.to(tl.uint64) + purpose * golden) + step.to(tl.uint64) * golden)


@triton.jit
def hash_index(index, key):
    x = mix32(index.to(tl.uint32) ^ key.to(tl.uint32))
    return mix32(x + (key >> 32).to(tl.uint32) + (index >> 32).to(tl.uint32))


# ---- Moments: m <- m + (1 - beta1) * (g - m) and v <- beta2 * v + (1 - beta2) * g * g.


@triton.jit
def update_moments(g, m, v, numbers):
    start = tl.where(tl.load(numbers + T.FROM_OLD) != 0, m, g)  # lerp_ starts from the nearer end
    new_m = tl.fma(tl.load(numbers + T.LERP_WEIGHT), g - m, start)
    new_v = tl.fma(tl.load(numbers + T.ADDCMUL_VALUE) * g, g, v * tl.load(numbers + T.BETA2_ROUNDED))
    return new_m, new_v


# ---- Keys: scores as the integers that have their bits, for which the order is the same (scores() in scores.py).


@triton.jit
def rank(g, m, v, index, noise_key, SCORE: tl.constexpr):
    """Return the key (int32) from gradient, new moments and row-major index (int64), of which SCORE decides the use."""
    momentum = tl.minimum(m.to(tl.int32, bitcast=True) & 0x7FFFFFFF, T.INFINITE)  # NaN too
    if SCORE == T.MOMENTUM:
        key = momentum
    else:
        if SCORE == T.GRADIENT:
            score = g
        elif SCORE == T.MOMENTUM_OVER_RMS:
            score = tl.div_rn(tl.abs(m), tl.sqrt_rn(v))
            score = tl.where(score != score, 0.0, tl.where(score > T.LARGEST, T.LARGEST, score))
        else:
            score = (hash_index(index, noise_key) >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
        key = tl.where(momentum == T.INFINITE, T.INFINITE, score.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return key


@triton.jit
def read_keys(
    row, numbers, noise_key, first, offsets, index, mask,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Return the keys of entries whose moments are up to date, and the moments that had to be read for them."""
    m = read(pointer(row, T.EXP_AVG, first, tl.float32, ALIGNED), offsets, mask)
    g = m
    v = m
    if SCORE == T.GRADIENT:
        g = read(pointer(row, T.GRAD, first, G, ALIGNED), offsets, mask) * tl.load(numbers + T.GRAD_FACTOR)
    if SCORE == T.MOMENTUM_OVER_RMS:
        v = read(pointer(row, T.EXP_AVG_SQ, first, tl.float32, ALIGNED), offsets, mask)
    return tl.where(mask, rank(g, m, v, index, noise_key, SCORE), -1), m, v


@triton.jit
def keys_ahead(
    row, numbers, noise_key, first, offsets, index, mask,
    G: tl.constexpr, SCORE: tl.constexpr,
):  # fmt: skip
    """Return the keys that entries will have once their moments are updated."""
    g = read(pointer(row, T.GRAD, first, G, False), offsets, mask) * tl.load(numbers + T.GRAD_FACTOR)
    m = read(pointer(row, T.EXP_AVG, first, tl.float32, False), offsets, mask)
    v = m
    if SCORE == T.MOMENTUM_OVER_RMS:
        v = read(pointer(row, T.EXP_AVG_SQ, first, tl.float32, False), offsets, mask)
    m, v = update_moments(g, m, v, numbers)
    return rank(g, m, v, index, noise_key, SCORE)


@triton.jit
def update_and_rank(
    row, numbers, noise_key, first, offsets, index, mask,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Update the moments of entries in memory; return their keys and the moments."""
    exp_avg = pointer(row, T.EXP_AVG, first, tl.float32, ALIGNED)
    exp_avg_sq = pointer(row, T.EXP_AVG_SQ, first, tl.float32, ALIGNED)
    g = read(pointer(row, T.GRAD, first, G, ALIGNED), offsets, mask) * tl.load(numbers + T.GRAD_FACTOR)
    m, v = update_moments(g, read(exp_avg, offsets, mask), read(exp_avg_sq, offsets, mask), numbers)
    tl.store(exp_avg + offsets, m, mask=mask)
    tl.store(exp_avg_sq + offsets, v, mask=mask)
    return tl.where(mask, rank(g, m, v, index, noise_key, SCORE), -1), m, v


@triton.jit
def find_highest(keys, wanted):
    """Return a key that exactly `wanted` >= 1 keys reach, or else the highest that more do; by bisection."""
    low = tl.min(keys)
    high = tl.max(keys)
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        reached = tl.sum((keys >= middle).to(tl.int32))
        if reached >= wanted:
            low = middle
        if reached <= wanted:
            high = tl.where(reached == wanted, middle, middle - 1)
    return low


# ---- The search for the k-th highest number of a block: a bracket [low, high] of numbers, which are counted in bins.


@triton.jit
def shift_to_bins(width, BINS: tl.constexpr):
    """Return the least shift to the right that makes 0 … width − 1 less than BINS."""
    return tl.sum(((width - 1) >> tl.arange(0, 64).to(tl.int64)) >= BINS).to(tl.int64)


@triton.jit
def choose_bin(counts, wanted, above, low, high, shift, highest, BINS: tl.constexpr):
    """Return the bin with the wanted number as the bracket; if the sample misled, all above the bracket or all below.

    `counts` (BINS,) int64 are of the numbers in the bracket by (number - low) >> shift. `wanted` is a rank among these,
    less than 1 if the wanted number is one of those `above`, of which the highest possible is `highest`. Returned are
    the bracket, the rank in it, and how many numbers it has: UNKNOWN if the sample misled.
    """
    inside = tl.sum(counts)
    if wanted < 1:
        wanted += above
        low = high + 1
        high = highest
        size = tl.full((), T.UNKNOWN, tl.int64)
    elif wanted > inside:
        wanted -= inside
        high = low - 1
        low = tl.full((), 0, tl.int64)
        size = tl.full((), T.UNKNOWN, tl.int64)
    else:
        bin = tl.arange(0, BINS)
        higher = inside - tl.cumsum(counts)  # numbers in the bins after each
        chosen = tl.sum((higher >= wanted).to(tl.int64))
        size = tl.sum(tl.where(bin == chosen, counts, 0))
        wanted -= tl.sum(tl.where(bin == chosen, higher, 0))
        low += chosen << shift
        high = tl.minimum(high, low + (tl.full((), 1, tl.int64) << shift) - 1)
    return low, high, wanted, size


# ---- Parameters: p <- (1 - lr * weight_decay) * p - step_size * m / (sqrt(v) / correction + eps).


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """Round to the nearest; bfloat16 by hand, because Triton's interpreter cuts the bits off."""
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # ties to even
        narrowed = tl.where(x != x, 0x7FC0, nearest).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        narrowed = x.to(DTYPE)
    return narrowed


@triton.jit
def shrink_all(p, numbers, DTYPE: tl.constexpr):
    """Return all entries after their weight decay, rounded to DTYPE."""
    return narrow(p * tl.load(numbers + T.SHRINK_ALL), DTYPE)


@triton.jit
def move(p, m, v, numbers, index, rounding_key, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Return the new values of selected parameters, as DTYPE."""
    root = tl.div_rn(tl.sqrt_rn(v), tl.load(numbers + T.CORRECTION))
    update = tl.div_rn(-tl.load(numbers + T.STEP_SIZE) * m, root + tl.load(numbers + T.EPS_ROUNDED))
    new = widen(p) * tl.load(numbers + T.SHRINK) + update
    if STOCHASTIC:  # rounding.py
        bits = new.to(tl.int32, bitcast=True)
        finite = (bits & T.INFINITE) != T.INFINITE
        rounded = (bits + (hash_index(index, rounding_key) >> 16).to(tl.int32)) & -0x10000
        new = tl.where(finite, rounded, bits).to(tl.float32, bitcast=True)
    return narrow(new, DTYPE)


@triton.jit
def move_entries(
    row, numbers, rounding_key, first, offsets, index, m, v, selected,
    P: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Move the selected entries of a block, to which weight decay of all entries has already been applied."""
    theta = pointer(row, T.PARAM, first, P, False)
    p = tl.load(theta + offsets, mask=selected, other=0)
    if SCORE != T.MOMENTUM_OVER_RMS:  # for which v has been read
        v = read(pointer(row, T.EXP_AVG_SQ, first, tl.float32, False), offsets, selected)
    tl.store(theta + offsets, move(p, m, v, numbers, index, rounding_key, P, STOCHASTIC), mask=selected)


@triton.jit
def shrink_stored(row, numbers, first, offsets, mask, P: tl.constexpr, ALIGNED: tl.constexpr):
    """Apply weight decay of all entries in memory."""
    theta = pointer(row, T.PARAM, first, P, ALIGNED)
    tl.store(theta + offsets, shrink_all(read(theta, offsets, mask), numbers, P), mask=mask)


@triton.jit
def list_reached(reached, its_list, CHUNK: tl.constexpr):
    """List which entries of a chunk are marked, in order, in memory of the program's own; return how many.

    Barriers must separate this from what was read of the list before, and what is read afterwards.
    """
    slot = tl.cumsum(reached.to(tl.int32)) - 1
    tl.store(its_list + slot, tl.arange(0, CHUNK).to(tl.int16), mask=reached)
    return tl.max(slot) + 1
