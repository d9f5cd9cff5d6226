"""The kernels. ``launch.py`` says in which order they run; docs/gpu-step.md why.

All kernels take the same tables: ``tensors`` (tensors, COLUMNS) int64, what the host says of a tensor; ``numbers``
(tensors, NUMBERS) float32 and ``hash_keys`` (tensors, 2) int64, what ``prepare`` makes of it. A block that is
too large for one program has a row in ``blocks``, what the host says of it, and in ``states``, what the step found out.
``work`` has a row for each program: which tensor or large block, and which part of it.
"""

import triton
import triton.language as tl

from mofo.optim.kernels.triton import tables as at
from mofo.optim.kernels.triton.entries import (
    entries_of_block,
    find_highest,
    float64,
    hash_key,
    mix32,
    move,
    pointer,
    rank,
    read,
    shrink_all,
    update_moments,
)


@triton.jit
def prepare(tensors, numbers, hash_keys, pending, found_inf, grad_scale):
    """The numbers of a step, one program a tensor."""
    row = tensors + tl.program_id(0) * at.COLUMNS
    numbers += tl.program_id(0) * at.NUMBERS
    skip = tl.load(found_inf) != 0
    t = float64(row, at.STEPS_BEFORE) + 1
    address = tl.load(row + at.STEP)
    if address != 0:
        counter = address.to(tl.pointer_type(tl.float32))
        t = tl.load(counter).to(tl.float64) + 1
        tl.store(counter, t.to(tl.float32), mask=skip == 0)
    lr = float64(row, at.LR)
    address = tl.load(row + at.LR_ADDRESS)
    if address != 0:
        lr = tl.load(address.to(tl.pointer_type(tl.float32))).to(tl.float64)
    beta1 = float64(row, at.BETA1)
    beta2 = float64(row, at.BETA2)
    weight = (1 - beta1).to(tl.float32)
    from_old = weight < 0.5
    shrink = (1 - lr * float64(row, at.WEIGHT_DECAY)).to(tl.float32)
    decay_all = tl.load(row + at.DECAY_ALL) != 0
    sign = tl.where(tl.load(row + at.MAXIMIZE) != 0, -1.0, 1.0)
    tl.store(numbers + at.SKIP, skip.to(tl.float32))
    tl.store(numbers + at.GRAD_FACTOR, (sign / tl.load(grad_scale).to(tl.float64)).to(tl.float32))
    tl.store(numbers + at.FROM_OLD, from_old.to(tl.float32))
    tl.store(numbers + at.LERP_WEIGHT, tl.where(from_old, weight, weight - 1))
    tl.store(numbers + at.BETA2_ROUNDED, beta2.to(tl.float32))
    tl.store(numbers + at.ADDCMUL_VALUE, (1 - beta2).to(tl.float32))
    tl.store(numbers + at.CORRECTION, tl.sqrt(1 - tl.exp(t * tl.log(beta2))).to(tl.float32))
    tl.store(numbers + at.EPS_ROUNDED, float64(row, at.EPS).to(tl.float32))
    tl.store(numbers + at.STEP_SIZE, (lr / (1 - tl.exp(t * tl.log(beta1)))).to(tl.float32))
    tl.store(numbers + at.SHRINK, tl.where(decay_all, 1.0, shrink))
    tl.store(numbers + at.SHRINK_ALL, tl.where(decay_all, shrink, 1.0))
    hash_keys += tl.program_id(0) * 2
    seed = tl.load(row + at.SEED)
    step = t.to(tl.int64)
    tl.store(hash_keys + at.NOISE, hash_key(seed, step, at.NOISE).to(tl.int64, bitcast=True))
    tl.store(hash_keys + at.ROUNDING, hash_key(seed, step, at.ROUNDING).to(tl.int64, bitcast=True))
    if tl.program_id(0) == 0:
        tl.store(pending + tl.arange(0, at.MAX_ROUNDS), tl.zeros((at.MAX_ROUNDS,), tl.int32))


# ---- Blocks whose entries all move: one pass, as AdamW. One program for CHUNK entries.


@triton.jit
def update_everything(
    tensors, numbers, hash_keys, work,
    P: tl.constexpr, G: tl.constexpr, STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tensor = tl.load(work + 2 * tl.program_id(0))
    offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
    row = tensors + tensor * at.COLUMNS
    numbers += tensor * at.NUMBERS
    if tl.load(numbers + at.SKIP) == 0:
        mask = offsets < entries_of_block(row, ALIGNED)
        theta = pointer(row, at.PARAM, 0, P, ALIGNED)
        exp_avg = pointer(row, at.EXP_AVG, 0, tl.float32, ALIGNED)
        exp_avg_sq = pointer(row, at.EXP_AVG_SQ, 0, tl.float32, ALIGNED)
        g = read(pointer(row, at.GRAD, 0, G, ALIGNED), offsets, mask) * tl.load(numbers + at.GRAD_FACTOR)
        m, v = update_moments(g, read(exp_avg, offsets, mask), read(exp_avg_sq, offsets, mask), numbers)
        p = shrink_all(read(theta, offsets, mask), numbers, P)
        rounding_key = tl.load(hash_keys + 2 * tensor + at.ROUNDING)
        tl.store(exp_avg + offsets, m, mask=mask)
        tl.store(exp_avg_sq + offsets, v, mask=mask)
        new = move(p, m, v, numbers, offsets.to(tl.int64), rounding_key, P, STOCHASTIC)
        tl.store(theta + offsets, new, mask=mask)


# ---- Small blocks: one program has all WIDTH >= n entries in its registers.


@triton.jit
def update_small_block(
    tensors, numbers, hash_keys, work,
    P: tl.constexpr, G: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    tensor = tl.load(work + 2 * tl.program_id(0))
    row = tensors + tensor * at.COLUMNS
    numbers += tensor * at.NUMBERS
    if tl.load(numbers + at.SKIP) == 0:
        n = entries_of_block(row, ALIGNED)
        first = tl.load(work + 2 * tl.program_id(0) + 1).to(tl.int64) * n
        offsets = tl.arange(0, WIDTH)
        mask = offsets < n
        exp_avg = pointer(row, at.EXP_AVG, first, tl.float32, ALIGNED)
        exp_avg_sq = pointer(row, at.EXP_AVG_SQ, first, tl.float32, ALIGNED)
        g = read(pointer(row, at.GRAD, first, G, ALIGNED), offsets, mask) * tl.load(numbers + at.GRAD_FACTOR)
        m, v = update_moments(g, read(exp_avg, offsets, mask), read(exp_avg_sq, offsets, mask), numbers)
        tl.store(exp_avg + offsets, m, mask=mask)
        tl.store(exp_avg_sq + offsets, v, mask=mask)

        key = rank(g, m, v, first + offsets, tl.load(hash_keys + 2 * tensor + at.NOISE), SCORE)
        key = tl.where(mask, key, -1)
        wanted = tl.load(row + at.K).to(tl.int32)
        threshold = find_highest(key, wanted)
        equal = (key == threshold).to(tl.int32)
        room = wanted - tl.sum((key > threshold).to(tl.int32))
        selected = (key > threshold) | ((equal != 0) & (tl.cumsum(equal) <= room)) | (key == at.INFINITE)

        theta = pointer(row, at.PARAM, first, P, ALIGNED)
        touched = tl.where(tl.load(row + at.DECAY_ALL) != 0, mask, selected)
        p = shrink_all(read(theta, offsets, touched), numbers, P)
        rounding_key = tl.load(hash_keys + 2 * tensor + at.ROUNDING)
        new = move(p, m, v, numbers, first + offsets, rounding_key, P, STOCHASTIC)
        tl.store(theta + offsets, tl.where(selected, new, p), mask=touched)


# ---- Large blocks, in phases.


@triton.jit
def guess_bracket(
    tensors, numbers, hash_keys, blocks, states, bins,
    G: tl.constexpr, SCORE: tl.constexpr, PAIRS: tl.constexpr, LINE: tl.constexpr, SPREAD: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """Between which two keys the k-th highest probably lies, from a sample. One program a block.

    The sample is 2 · PAIRS lines of LINE neighbouring entries, one somewhere in each stratum of the block. Neighbours
    may be of one size, so that lines and not entries are the observations; the differences within pairs of lines tell
    how far off the count may be, without what differs between far parts of the block.
    """
    block = tl.program_id(0)
    tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
    row = tensors + tensor * at.COLUMNS
    numbers += tensor * at.NUMBERS
    state = states + block * at.STATE
    tl.store(bins + block.to(tl.int64) * BINS + tl.arange(0, BINS), tl.zeros((BINS,), tl.int32))

    n = entries_of_block(row, False)
    first = tl.load(blocks + block * at.BLOCK + at.NUMBER) * n
    pair = tl.arange(0, PAIRS)[:, None]
    within = tl.arange(0, 2 * LINE)[None, :]
    line = 2 * pair + within // LINE  # (PAIRS, 2 · LINE)
    stratum = n // (2 * PAIRS)
    somewhere = (mix32((line + 1).to(tl.uint32)) % (stratum - LINE + 1).to(tl.uint32)).to(tl.int32) // LINE * LINE
    offsets = line * stratum + somewhere + within % LINE
    everywhere = offsets >= 0
    g = read(pointer(row, at.GRAD, first, G, False), offsets, everywhere) * tl.load(numbers + at.GRAD_FACTOR)
    m = read(pointer(row, at.EXP_AVG, first, tl.float32, False), offsets, everywhere)
    v = m
    if SCORE == at.MOMENTUM_OVER_RMS:
        v = read(pointer(row, at.EXP_AVG_SQ, first, tl.float32, False), offsets, everywhere)
    m, v = update_moments(g, m, v, numbers)
    key = rank(g, m, v, first + offsets, tl.load(hash_keys + 2 * tensor + at.NOISE), SCORE)

    wanted = tl.load(row + at.K).to(tl.float32) / n * (2 * PAIRS * LINE)
    reached = (key >= find_highest(key, tl.maximum(wanted, 1.0).to(tl.int32))).to(tl.int32)
    difference = tl.sum(tl.where(within < LINE, reached, -reached), axis=1)  # (PAIRS,)
    variance = tl.sum(difference * difference).to(tl.float32)
    slack = SPREAD * tl.sqrt(tl.maximum(variance, 1.0)) + 1
    low = tl.full((), 0, tl.int32)
    high = tl.full((), at.INFINITE, tl.int32)
    if wanted + slack <= 2 * PAIRS * LINE:
        low = find_highest(key, (wanted + slack).to(tl.int32))
    if wanted - slack >= 1:
        high = find_highest(key, (wanted - slack).to(tl.int32))

    bits = tl.load(row + at.BITS)
    tl.store(state + at.LOW, low.to(tl.int64) << bits)
    tl.store(state + at.HIGH, ((high + 1).to(tl.int64) << bits) - 1)
    tl.store(state + at.WANTED, tl.load(row + at.K))
    tl.store(state + at.SHIFT, shift_to_bins((high - low + 1).to(tl.int64), BINS) + bits)
    tl.store(state + at.ABOVE, 0)
    tl.store(state + at.INSIDE, 0)
    tl.store(state + at.POOLED, 0)


@triton.jit
def shift_to_bins(width, BINS: tl.constexpr):
    """The least shift to the right that makes 0 … width − 1 less than BINS."""
    return tl.sum(((width - 1) >> tl.arange(0, 64).to(tl.int64)) >= BINS).to(tl.int64)


@triton.jit
def update_moments_and_count(
    tensors, numbers, hash_keys, blocks, states, bins, work,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """The pass over gradients and moments; counts keys above and in the bracket, and these in bins."""
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
    tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
    row = tensors + tensor * at.COLUMNS
    numbers += tensor * at.NUMBERS
    state = states + block * at.STATE
    if tl.load(numbers + at.SKIP) == 0:
        n = entries_of_block(row, ALIGNED)
        mask = offsets < n
        first = tl.load(blocks + block * at.BLOCK + at.NUMBER) * n
        exp_avg = pointer(row, at.EXP_AVG, first, tl.float32, ALIGNED)
        exp_avg_sq = pointer(row, at.EXP_AVG_SQ, first, tl.float32, ALIGNED)
        g = read(pointer(row, at.GRAD, first, G, ALIGNED), offsets, mask) * tl.load(numbers + at.GRAD_FACTOR)
        m, v = update_moments(g, read(exp_avg, offsets, mask), read(exp_avg_sq, offsets, mask), numbers)
        tl.store(exp_avg + offsets, m, mask=mask)
        tl.store(exp_avg_sq + offsets, v, mask=mask)

        key = rank(g, m, v, first + offsets, tl.load(hash_keys + 2 * tensor + at.NOISE), SCORE)
        key = tl.where(mask, key, -1)
        bits = tl.load(row + at.BITS)
        low = (tl.load(state + at.LOW) >> bits).to(tl.int32)
        high = (tl.load(state + at.HIGH) >> bits).to(tl.int32)
        above = key > high
        inside = (key >= low) & (key <= high)
        counts = tl.sum(above.to(tl.int32) + (inside.to(tl.int32) << 16))  # both in one sum: CHUNK < 2^15
        tl.atomic_add(state + at.ABOVE, (counts & 0xFFFF).to(tl.int64), sem="relaxed")
        tl.atomic_add(state + at.INSIDE, (counts >> 16).to(tl.int64), sem="relaxed")
        # Keys at the lower end, which may be all the zeros of a sparse gradient, need no counter for which they queue.
        shift = (tl.load(state + at.SHIFT) - bits).to(tl.int32)
        bin = tl.where(inside, (key - low) >> shift, 0)
        tl.atomic_add(bins + block * BINS + bin, 1, mask=inside & (key > low), sem="relaxed")


@triton.jit
def narrow_bracket(
    tensors, numbers, blocks, states, bins, pending,
    BINS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Take the bin with the k-th highest code as the bracket, and clear the bins. One program a block."""
    block = tl.program_id(0).to(tl.int64)
    state = states + block * at.STATE
    tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
    capacity = tl.load(blocks + block * at.BLOCK + at.CAPACITY)
    search = tl.load(numbers + tensor * at.NUMBERS + at.SKIP) == 0
    if ROUND > 0:
        search = tl.load(state + at.SIZE) > capacity
    if search:
        bin = tl.arange(0, BINS)
        counts = tl.load(bins + block * BINS + bin)
        tl.store(bins + block * BINS + bin, tl.zeros((BINS,), tl.int32))
        low = tl.load(state + at.LOW)
        high = tl.load(state + at.HIGH)
        wanted = tl.load(state + at.WANTED)
        shift = tl.load(state + at.SHIFT)
        inside = tl.sum(counts).to(tl.int64)
        if ROUND == 0:
            at_the_end = tl.load(state + at.INSIDE) - inside
            counts += tl.where(bin == 0, at_the_end, 0).to(tl.int32)
            inside += at_the_end
            wanted -= tl.load(state + at.ABOVE)
        if wanted < 1:  # the sample misled: it is above
            bits = tl.load(tensors + tensor * at.COLUMNS + at.BITS)
            wanted += tl.load(state + at.ABOVE)
            low = high + 1
            high = ((tl.full((), at.INFINITE, tl.int64) + 1) << bits) - 1
            size = tl.full((), at.UNKNOWN, tl.int64)
        elif wanted > inside:  # it is below
            wanted -= inside
            high = low - 1
            low = tl.full((), 0, tl.int64)
            size = tl.full((), at.UNKNOWN, tl.int64)
        else:
            higher = inside - tl.cumsum(counts.to(tl.int64))  # entries in the bins after each
            chosen = tl.sum((higher >= wanted).to(tl.int64))
            size = tl.sum(tl.where(bin == chosen, counts, 0)).to(tl.int64)
            wanted -= tl.sum(tl.where(bin == chosen, higher, 0))
            low += chosen << shift
            high = tl.minimum(high, low + (tl.full((), 1, tl.int64) << shift) - 1)
        tl.store(state + at.LOW, low)
        tl.store(state + at.HIGH, high)
        tl.store(state + at.WANTED, wanted)
        tl.store(state + at.SIZE, size)
        tl.store(state + at.SHIFT, shift_to_bins(high - low + 1, BINS))
        if size > capacity:
            tl.atomic_add(pending + ROUND, 1)


@triton.jit(do_not_specialize=["chunks", "programs"])
def count_in_bins(
    tensors, numbers, hash_keys, blocks, states, bins, pending, work, chunks, programs,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
    ROUND: tl.constexpr,
):  # fmt: skip
    """Where a bracket still holds too many entries: how many in each of its bins. Mostly there is none."""
    if tl.load(pending + ROUND - 1) != 0:
        for chunk in range(tl.program_id(0), chunks, programs):
            block = tl.load(work + 2 * chunk).to(tl.int64)
            state = states + block * at.STATE
            if tl.load(state + at.SIZE) > tl.load(blocks + block * at.BLOCK + at.CAPACITY):
                offsets = tl.load(work + 2 * chunk + 1) * CHUNK + tl.arange(0, CHUNK)
                tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
                row = tensors + tensor * at.COLUMNS
                n = entries_of_block(row, ALIGNED)
                mask = offsets < n
                first = tl.load(blocks + block * at.BLOCK + at.NUMBER) * n
                key, _, _ = read_keys(row, numbers, hash_keys, tensor, first, offsets, mask, G, SCORE, ALIGNED)
                code = code_of(key, offsets, tl.load(row + at.BITS))
                low = tl.load(state + at.LOW)
                inside = mask & (code >= low) & (code <= tl.load(state + at.HIGH))
                bin = tl.where(inside, (code - low) >> tl.load(state + at.SHIFT), 0).to(tl.int32)
                counts = tl.histogram(bin, BINS, mask=inside)
                tl.atomic_add(bins + block * BINS + tl.arange(0, BINS), counts, mask=counts > 0, sem="relaxed")


@triton.jit
def read_keys(
    row, numbers, hash_keys, tensor, first, offsets, mask,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Keys of entries whose moments are up to date, and what had to be read for them."""
    m = read(pointer(row, at.EXP_AVG, first, tl.float32, ALIGNED), offsets, mask)
    g = m
    v = m
    if SCORE == at.GRADIENT:
        factor = tl.load(numbers + tensor * at.NUMBERS + at.GRAD_FACTOR)
        g = read(pointer(row, at.GRAD, first, G, ALIGNED), offsets, mask) * factor
    if SCORE == at.MOMENTUM_OVER_RMS:
        v = read(pointer(row, at.EXP_AVG_SQ, first, tl.float32, ALIGNED), offsets, mask)
    key = rank(g, m, v, first + offsets, tl.load(hash_keys + 2 * tensor + at.NOISE), SCORE)
    return tl.where(mask, key, -1), m, v


@triton.jit
def code_of(key, offsets, bits):
    return (key.to(tl.int64) << bits) | ((tl.full((), 1, tl.int64) << bits) - 1 - offsets)


@triton.jit(do_not_specialize=["chunks", "programs"])
def move_above(
    tensors, numbers, hash_keys, blocks, states, pools, lists, work, chunks, programs,
    P: tl.constexpr, G: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Move the entries above the bracket, and collect the positions of those inside, in any order.

    Few entries reach the bracket. A program first lists them, in memory of its own, so that roots and quotients need
    not be computed for all.
    """
    reached_list = lists + tl.program_id(0) * CHUNK
    for chunk in range(tl.program_id(0), chunks, programs):
        block = tl.load(work + 2 * chunk).to(tl.int64)
        tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
        row = tensors + tensor * at.COLUMNS
        if tl.load(numbers + tensor * at.NUMBERS + at.SKIP) == 0:
            n = entries_of_block(row, ALIGNED)
            first = tl.load(blocks + block * at.BLOCK + at.NUMBER) * n
            start = tl.load(work + 2 * chunk + 1) * CHUNK
            offsets = start + tl.arange(0, CHUNK)
            mask = offsets < n
            if tl.load(row + at.DECAY_ALL) != 0:
                theta = pointer(row, at.PARAM, first, P, ALIGNED)
                p = shrink_all(read(theta, offsets, mask), numbers + tensor * at.NUMBERS, P)
                tl.store(theta + offsets, p, mask=mask)

            # Codes are compared by their halves, as 32-bit integers.
            state = states + block * at.STATE
            bits = tl.load(row + at.BITS)
            last = (tl.full((), 1, tl.int64) << bits) - 1
            low = tl.load(state + at.LOW)
            low_key = (low >> bits).to(tl.int32)
            low_position = (last - (low & last)).to(tl.int32)
            high = tl.load(state + at.HIGH)
            high_key = (high >> bits).to(tl.int32)
            high_position = (last - (high & last)).to(tl.int32)

            key, _, _ = read_keys(row, numbers, hash_keys, tensor, first, offsets, mask, G, SCORE, ALIGNED)
            reached = (key > low_key) | ((key == low_key) & (offsets <= low_position)) | (key == at.INFINITE)
            reached &= mask
            slot = tl.cumsum(reached.to(tl.int32)) - 1
            tl.store(reached_list + slot, tl.arange(0, CHUNK).to(tl.int16), mask=reached)
            tl.debug_barrier()
            count = tl.max(slot) + 1
            pool = pools + tl.load(blocks + block * at.BLOCK + at.POOL)
            capacity = tl.load(blocks + block * at.BLOCK + at.CAPACITY)
            for done in range(0, count, TILE):
                turn = done + tl.arange(0, TILE)
                few = turn < count
                some = start + tl.load(reached_list + turn, mask=few, other=0).to(tl.int32)
                its_key, m, v = read_keys(row, numbers, hash_keys, tensor, first, some, few, G, SCORE, False)
                above = (its_key > high_key) | ((its_key == high_key) & (some < high_position))
                above = few & (above | (its_key == at.INFINITE))
                move_entries(
                    row, numbers + tensor * at.NUMBERS, hash_keys + 2 * tensor, first, some, m, v, above,
                    P, SCORE, STOCHASTIC,
                )  # fmt: skip
                inside = few & (above == 0)
                pooled = state + at.POOLED + tl.zeros_like(some)
                place = tl.atomic_add(pooled, tl.full((), 1, tl.int64), mask=inside, sem="relaxed")
                tl.store(pool + place, some, mask=inside & (place < capacity))
            tl.debug_barrier()


@triton.jit
def move_entries(
    row, numbers, hash_keys, first, offsets, m, v, selected,
    P: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Move those entries of a block that are selected. Weight decay of all has been done."""
    theta = pointer(row, at.PARAM, first, P, False)
    p = tl.load(theta + offsets, mask=selected, other=0)
    if SCORE != at.MOMENTUM_OVER_RMS:  # which had to read it
        v = read(pointer(row, at.EXP_AVG_SQ, first, tl.float32, False), offsets, selected)
    new = move(p, m, v, numbers, first + offsets, tl.load(hash_keys + at.ROUNDING), P, STOCHASTIC)
    tl.store(theta + offsets, new, mask=selected)


@triton.jit
def move_from_pool(
    tensors, numbers, hash_keys, blocks, states, pools,
    P: tl.constexpr, G: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of the entries in the pool, move the highest, as many as are still wanted. One program a block."""
    block = tl.program_id(0).to(tl.int64)
    tensor = tl.load(blocks + block * at.BLOCK + at.TENSOR)
    row = tensors + tensor * at.COLUMNS
    state = states + block * at.STATE
    pooled = tl.load(state + at.POOLED)
    wanted = tl.load(state + at.WANTED) - (tl.load(state + at.SIZE) - pooled)  # infinite ones have moved already
    if (tl.load(numbers + tensor * at.NUMBERS + at.SKIP) == 0) & (pooled > 0) & (wanted > 0):
        first = tl.load(blocks + block * at.BLOCK + at.NUMBER) * entries_of_block(row, False)
        slot = tl.arange(0, WIDTH)
        mask = slot < pooled
        offsets = tl.load(pools + tl.load(blocks + block * at.BLOCK + at.POOL) + slot, mask=mask, other=0)
        key, m, v = read_keys(row, numbers, hash_keys, tensor, first, offsets, mask, G, SCORE, False)
        code = tl.where(mask, code_of(key, offsets, tl.load(row + at.BITS)), -1)
        selected = mask & (code >= find_highest(code, wanted.to(tl.int32)))

        move_entries(
            row, numbers + tensor * at.NUMBERS, hash_keys + 2 * tensor, first, offsets, m, v, selected,
            P, SCORE, STOCHASTIC,
        )  # fmt: skip
