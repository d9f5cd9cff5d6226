"""The kernels. `launch.py` has the order in which they run; docs/gpu-step.md the reasons.

All kernels take the same tables: `tensors` (tensors, COLUMNS) int64, a tensor as the host describes it; `numbers`
(tensors, NUMBERS) float32 and `hash_keys` (tensors, 2) int64, which `prepare` computes from it. A block that is too
large for one program has a row in `blocks`, where the host describes it, and in `states`, where the step keeps what it
has found out. `work` has a row for each program: which tensor or large block, and which part of it.
"""

import triton
import triton.language as tl

from mofo.optim.kernels.triton import tables as T
from mofo.optim.kernels.triton.entries import (
    choose_bin,
    entries_of_block,
    find_highest,
    float64,
    hash_key,
    keys_ahead,
    list_reached,
    mix32,
    move,
    move_entries,
    pointer,
    read,
    read_keys,
    shift_to_bins,
    shrink_all,
    shrink_stored,
    update_and_rank,
    update_moments,
)


@triton.jit
def prepare(tensors, numbers, hash_keys, pending, found_inf, grad_scale, COUNT: tl.constexpr):
    """Compute the numbers of a step, and count it if COUNT. One program a tensor."""
    row = tensors + tl.program_id(0) * T.COLUMNS
    numbers += tl.program_id(0) * T.NUMBERS
    skip = tl.load(found_inf) != 0
    t = float64(row, T.STEPS_BEFORE) + 1
    address = tl.load(row + T.STEP)
    if address != 0:
        counter = address.to(tl.pointer_type(tl.float32))
        t = tl.load(counter).to(tl.float64) + 1
        if COUNT:
            tl.store(counter, t.to(tl.float32), mask=skip == 0)
    lr = float64(row, T.LR)
    address = tl.load(row + T.LR_ADDRESS)
    if address != 0:
        lr = tl.load(address.to(tl.pointer_type(tl.float32))).to(tl.float64)
    beta1 = float64(row, T.BETA1)
    beta2 = float64(row, T.BETA2)
    weight = (1 - beta1).to(tl.float32)
    from_old = weight < 0.5
    shrink = (1 - lr * float64(row, T.WEIGHT_DECAY)).to(tl.float32)
    decay_all = tl.load(row + T.DECAY_ALL) != 0
    sign = tl.where(tl.load(row + T.MAXIMIZE) != 0, -1.0, 1.0)
    tl.store(numbers + T.SKIP, skip.to(tl.float32))
    tl.store(numbers + T.GRAD_FACTOR, (sign / tl.load(grad_scale).to(tl.float64)).to(tl.float32))
    tl.store(numbers + T.FROM_OLD, from_old.to(tl.float32))
    tl.store(numbers + T.LERP_WEIGHT, tl.where(from_old, weight, weight - 1))
    tl.store(numbers + T.BETA2_ROUNDED, beta2.to(tl.float32))
    tl.store(numbers + T.ADDCMUL_VALUE, (1 - beta2).to(tl.float32))
    tl.store(numbers + T.CORRECTION, tl.sqrt(1 - tl.exp(t * tl.log(beta2))).to(tl.float32))
    tl.store(numbers + T.EPS_ROUNDED, float64(row, T.EPS).to(tl.float32))
    tl.store(numbers + T.STEP_SIZE, (lr / (1 - tl.exp(t * tl.log(beta1)))).to(tl.float32))
    tl.store(numbers + T.SHRINK, tl.where(decay_all, 1.0, shrink))
    tl.store(numbers + T.SHRINK_ALL, tl.where(decay_all, shrink, 1.0))
    hash_keys += tl.program_id(0) * 2
    seed = tl.load(row + T.SEED)
    step = t.to(tl.int64)
    tl.store(hash_keys + T.NOISE, hash_key(seed, step, T.NOISE).to(tl.int64, bitcast=True))
    tl.store(hash_keys + T.ROUNDING, hash_key(seed, step, T.ROUNDING).to(tl.int64, bitcast=True))
    if tl.program_id(0) == 0:
        tl.store(pending + tl.arange(0, T.MAX_ROUNDS), tl.zeros((T.MAX_ROUNDS,), tl.int32))


# ---- Blocks whose entries all move: one pass, as AdamW. One program for CHUNK entries.


@triton.jit
def update_everything(
    tensors, numbers, hash_keys, work,
    P: tl.constexpr, G: tl.constexpr, STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tensor = tl.load(work + 2 * tl.program_id(0))
    offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
    row = tensors + tensor * T.COLUMNS
    numbers += tensor * T.NUMBERS
    if tl.load(numbers + T.SKIP) == 0:
        mask = offsets < entries_of_block(row, ALIGNED)
        theta = pointer(row, T.PARAM, 0, P, ALIGNED)
        exp_avg = pointer(row, T.EXP_AVG, 0, tl.float32, ALIGNED)
        exp_avg_sq = pointer(row, T.EXP_AVG_SQ, 0, tl.float32, ALIGNED)
        g = read(pointer(row, T.GRAD, 0, G, ALIGNED), offsets, mask) * tl.load(numbers + T.GRAD_FACTOR)
        m, v = update_moments(g, read(exp_avg, offsets, mask), read(exp_avg_sq, offsets, mask), numbers)
        p = shrink_all(read(theta, offsets, mask), numbers, P)
        rounding_key = tl.load(hash_keys + 2 * tensor + T.ROUNDING)
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
    row = tensors + tensor * T.COLUMNS
    numbers += tensor * T.NUMBERS
    if tl.load(numbers + T.SKIP) == 0:
        n = entries_of_block(row, ALIGNED)
        first = tl.load(work + 2 * tl.program_id(0) + 1).to(tl.int64) * n
        offsets = tl.arange(0, WIDTH)
        mask = offsets < n
        noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
        key, m, v = update_and_rank(row, numbers, noise_key, first, offsets, first + offsets, mask, G, SCORE, ALIGNED)
        wanted = tl.load(row + T.K).to(tl.int32)
        threshold = find_highest(key, wanted)
        equal = (key == threshold).to(tl.int32)
        room = wanted - tl.sum((key > threshold).to(tl.int32))
        selected = (key > threshold) | ((equal != 0) & (tl.cumsum(equal) <= room)) | (key == T.INFINITE)

        theta = pointer(row, T.PARAM, first, P, ALIGNED)
        touched = tl.where(tl.load(row + T.DECAY_ALL) != 0, mask, selected)
        p = shrink_all(read(theta, offsets, touched), numbers, P)
        rounding_key = tl.load(hash_keys + 2 * tensor + T.ROUNDING)
        new = move(p, m, v, numbers, first + offsets, rounding_key, P, STOCHASTIC)
        tl.store(theta + offsets, tl.where(selected, new, p), mask=touched)


# ---- Large blocks, in phases.


@triton.jit
def guess_bracket(
    tensors, numbers, hash_keys, blocks, states, bins,
    G: tl.constexpr, SCORE: tl.constexpr, PAIRS: tl.constexpr, LINE: tl.constexpr, SPREAD: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """Bracket the k-th highest key, from a sample. One program a block.

    The sample is 2 · PAIRS lines of LINE neighbouring entries, one somewhere in each stratum of the block. Neighbours
    may be of one size, so that lines and not entries are the observations; how far off the count may be follows from
    the differences within pairs of lines, which leave out what differs between far parts of the block.
    """
    block = tl.program_id(0)
    tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
    row = tensors + tensor * T.COLUMNS
    numbers += tensor * T.NUMBERS
    state = states + block * T.STATE
    tl.store(bins + block.to(tl.int64) * BINS + tl.arange(0, BINS), tl.zeros((BINS,), tl.int32))

    n = entries_of_block(row, False)
    first = tl.load(blocks + block * T.BLOCK + T.NUMBER) * n
    pair = tl.arange(0, PAIRS)[:, None]
    within = tl.arange(0, 2 * LINE)[None, :]
    line = 2 * pair + within // LINE  # (PAIRS, 2 · LINE)
    stratum = n // (2 * PAIRS)
    somewhere = (mix32((line + 1).to(tl.uint32)) % (stratum - LINE + 1).to(tl.uint32)).to(tl.int32) // LINE * LINE
    offsets = line * stratum + somewhere + within % LINE
    everywhere = offsets >= 0
    noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
    key = keys_ahead(row, numbers, noise_key, first, offsets, first + offsets, everywhere, G, SCORE)

    wanted = tl.load(row + T.K).to(tl.float32) / n * (2 * PAIRS * LINE)
    reached = (key >= find_highest(key, tl.maximum(wanted, 1.0).to(tl.int32))).to(tl.int32)
    difference = tl.sum(tl.where(within < LINE, reached, -reached), axis=1)  # (PAIRS,)
    variance = tl.sum(difference * difference).to(tl.float32)
    slack = SPREAD * tl.sqrt(tl.maximum(variance, 1.0)) + 1
    low = tl.full((), 0, tl.int32)
    high = tl.full((), T.INFINITE, tl.int32)
    if wanted + slack <= 2 * PAIRS * LINE:
        low = find_highest(key, (wanted + slack).to(tl.int32))
    if wanted - slack >= 1:
        high = find_highest(key, (wanted - slack).to(tl.int32))

    bits = tl.load(row + T.BITS)
    tl.store(state + T.LOW, low.to(tl.int64) << bits)
    tl.store(state + T.HIGH, ((high + 1).to(tl.int64) << bits) - 1)
    tl.store(state + T.WANTED, tl.load(row + T.K))
    tl.store(state + T.SHIFT, shift_to_bins((high - low + 1).to(tl.int64), BINS) + bits)
    tl.store(state + T.ABOVE, 0)
    tl.store(state + T.INSIDE, 0)
    tl.store(state + T.POOLED, 0)


@triton.jit
def update_moments_and_count(
    tensors, numbers, hash_keys, blocks, states, bins, work,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Update the moments; count the keys above the bracket and inside it, and the latter in bins."""
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
    tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
    row = tensors + tensor * T.COLUMNS
    numbers += tensor * T.NUMBERS
    state = states + block * T.STATE
    if tl.load(numbers + T.SKIP) == 0:
        n = entries_of_block(row, ALIGNED)
        mask = offsets < n
        first = tl.load(blocks + block * T.BLOCK + T.NUMBER) * n
        noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
        key, _, _ = update_and_rank(row, numbers, noise_key, first, offsets, first + offsets, mask, G, SCORE, ALIGNED)
        bits = tl.load(row + T.BITS)
        low = (tl.load(state + T.LOW) >> bits).to(tl.int32)
        high = (tl.load(state + T.HIGH) >> bits).to(tl.int32)
        above = key > high
        inside = (key >= low) & (key <= high)
        counts = tl.sum(above.to(tl.int32) + (inside.to(tl.int32) << 16))  # both in one sum: CHUNK < 2^15
        tl.atomic_add(state + T.ABOVE, (counts & 0xFFFF).to(tl.int64), sem="relaxed")
        tl.atomic_add(state + T.INSIDE, (counts >> 16).to(tl.int64), sem="relaxed")
        # Keys at the lower end, which may be all the zeros of a sparse gradient, need no counter for which they queue.
        shift = (tl.load(state + T.SHIFT) - bits).to(tl.int32)
        bin = tl.where(inside, (key - low) >> shift, 0)
        tl.atomic_add(bins + block * BINS + bin, 1, mask=inside & (key > low), sem="relaxed")


@triton.jit
def narrow_bracket(
    tensors, numbers, blocks, states, bins, pending,
    BINS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Take the bin with the k-th highest code as the bracket, and clear the bins. One program a block."""
    block = tl.program_id(0).to(tl.int64)
    state = states + block * T.STATE
    tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
    capacity = tl.load(blocks + block * T.BLOCK + T.CAPACITY)
    search = tl.load(numbers + tensor * T.NUMBERS + T.SKIP) == 0
    if ROUND > 0:
        search = tl.load(state + T.SIZE) > capacity
    if search:
        bin = tl.arange(0, BINS)
        counts = tl.load(bins + block * BINS + bin).to(tl.int64)
        tl.store(bins + block * BINS + bin, tl.zeros((BINS,), tl.int32))
        low = tl.load(state + T.LOW)
        high = tl.load(state + T.HIGH)
        wanted = tl.load(state + T.WANTED)
        shift = tl.load(state + T.SHIFT)
        if ROUND == 0:
            at_the_end = tl.load(state + T.INSIDE) - tl.sum(counts)
            counts += tl.where(bin == 0, at_the_end, 0)
            wanted -= tl.load(state + T.ABOVE)
        bits = tl.load(tensors + tensor * T.COLUMNS + T.BITS)
        highest = ((tl.full((), T.INFINITE, tl.int64) + 1) << bits) - 1
        low, high, wanted, size = choose_bin(counts, wanted, tl.load(state + T.ABOVE), low, high, shift, highest, BINS)
        tl.store(state + T.LOW, low)
        tl.store(state + T.HIGH, high)
        tl.store(state + T.WANTED, wanted)
        tl.store(state + T.SIZE, size)
        tl.store(state + T.SHIFT, shift_to_bins(high - low + 1, BINS))
        if size > capacity:
            tl.atomic_add(pending + ROUND, 1)


@triton.jit(do_not_specialize=["chunks", "programs"])
def count_in_bins(
    tensors, numbers, hash_keys, blocks, states, bins, pending, work, chunks, programs,
    G: tl.constexpr, SCORE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
    ROUND: tl.constexpr,
):  # fmt: skip
    """Count the entries of each bin of a bracket that still holds too many. Mostly there is no such bracket."""
    if tl.load(pending + ROUND - 1) != 0:
        for chunk in range(tl.program_id(0), chunks, programs):
            block = tl.load(work + 2 * chunk).to(tl.int64)
            state = states + block * T.STATE
            if tl.load(state + T.SIZE) > tl.load(blocks + block * T.BLOCK + T.CAPACITY):
                offsets = tl.load(work + 2 * chunk + 1) * CHUNK + tl.arange(0, CHUNK)
                tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
                row = tensors + tensor * T.COLUMNS
                n = entries_of_block(row, ALIGNED)
                mask = offsets < n
                first = tl.load(blocks + block * T.BLOCK + T.NUMBER) * n
                noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
                key, _, _ = read_keys(
                    row, numbers + tensor * T.NUMBERS, noise_key, first, offsets, first + offsets, mask,
                    G, SCORE, ALIGNED,
                )  # fmt: skip
                code = code_of(key, offsets, tl.load(row + T.BITS))
                low = tl.load(state + T.LOW)
                inside = mask & (code >= low) & (code <= tl.load(state + T.HIGH))
                bin = tl.where(inside, (code - low) >> tl.load(state + T.SHIFT), 0).to(tl.int32)
                counts = tl.histogram(bin, BINS, mask=inside)
                tl.atomic_add(bins + block * BINS + tl.arange(0, BINS), counts, mask=counts > 0, sem="relaxed")


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

    Few entries reach the bracket. A program first lists them, in memory of its own, so that it computes roots and
    quotients for them alone.
    """
    reached_list = lists + tl.program_id(0) * CHUNK
    for chunk in range(tl.program_id(0), chunks, programs):
        block = tl.load(work + 2 * chunk).to(tl.int64)
        tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
        row = tensors + tensor * T.COLUMNS
        its_numbers = numbers + tensor * T.NUMBERS
        if tl.load(its_numbers + T.SKIP) == 0:
            noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
            rounding_key = tl.load(hash_keys + 2 * tensor + T.ROUNDING)
            n = entries_of_block(row, ALIGNED)
            first = tl.load(blocks + block * T.BLOCK + T.NUMBER) * n
            start = tl.load(work + 2 * chunk + 1) * CHUNK
            offsets = start + tl.arange(0, CHUNK)
            mask = offsets < n
            if tl.load(row + T.DECAY_ALL) != 0:
                shrink_stored(row, its_numbers, first, offsets, mask, P, ALIGNED)

            # Codes are compared by their halves, as 32-bit integers.
            state = states + block * T.STATE
            bits = tl.load(row + T.BITS)
            last = (tl.full((), 1, tl.int64) << bits) - 1
            low = tl.load(state + T.LOW)
            low_key = (low >> bits).to(tl.int32)
            low_position = (last - (low & last)).to(tl.int32)
            high = tl.load(state + T.HIGH)
            high_key = (high >> bits).to(tl.int32)
            high_position = (last - (high & last)).to(tl.int32)

            key, _, _ = read_keys(row, its_numbers, noise_key, first, offsets, first + offsets, mask, G, SCORE, ALIGNED)
            reached = (key > low_key) | ((key == low_key) & (offsets <= low_position)) | (key == T.INFINITE)
            reached &= mask
            count = list_reached(reached, reached_list, CHUNK)
            tl.debug_barrier()
            pool = pools + tl.load(blocks + block * T.BLOCK + T.POOL)
            capacity = tl.load(blocks + block * T.BLOCK + T.CAPACITY)
            for done in range(0, count, TILE):
                turn = done + tl.arange(0, TILE)
                few = turn < count
                positions = start + tl.load(reached_list + turn, mask=few, other=0).to(tl.int32)
                index = first + positions
                its_key, m, v = read_keys(row, its_numbers, noise_key, first, positions, index, few, G, SCORE, False)
                above = (its_key > high_key) | ((its_key == high_key) & (positions < high_position))
                above = few & (above | (its_key == T.INFINITE))
                move_entries(row, its_numbers, rounding_key, first, positions, index, m, v, above, P, SCORE, STOCHASTIC)
                inside = few & (above == 0)
                pooled = state + T.POOLED + tl.zeros_like(positions)
                place = tl.atomic_add(pooled, tl.full((), 1, tl.int64), mask=inside, sem="relaxed")
                tl.store(pool + place, positions, mask=inside & (place < capacity))
            tl.debug_barrier()


@triton.jit
def move_from_pool(
    tensors, numbers, hash_keys, blocks, states, pools,
    P: tl.constexpr, G: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Move the highest entries of the pool, as many as are still wanted. One program a block."""
    block = tl.program_id(0).to(tl.int64)
    tensor = tl.load(blocks + block * T.BLOCK + T.TENSOR)
    row = tensors + tensor * T.COLUMNS
    state = states + block * T.STATE
    pooled = tl.load(state + T.POOLED)
    wanted = tl.load(state + T.WANTED) - (tl.load(state + T.SIZE) - pooled)  # infinite ones have moved already
    if (tl.load(numbers + tensor * T.NUMBERS + T.SKIP) == 0) & (pooled > 0) & (wanted > 0):
        first = tl.load(blocks + block * T.BLOCK + T.NUMBER) * entries_of_block(row, False)
        slot = tl.arange(0, WIDTH)
        mask = slot < pooled
        offsets = tl.load(pools + tl.load(blocks + block * T.BLOCK + T.POOL) + slot, mask=mask, other=0)
        noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
        rounding_key = tl.load(hash_keys + 2 * tensor + T.ROUNDING)
        its_numbers = numbers + tensor * T.NUMBERS
        key, m, v = read_keys(row, its_numbers, noise_key, first, offsets, first + offsets, mask, G, SCORE, False)
        code = tl.where(mask, code_of(key, offsets, tl.load(row + T.BITS)), -1)
        selected = mask & (code >= find_highest(code, wanted.to(tl.int32)))

        move_entries(
            row, its_numbers, rounding_key, first, offsets, first + offsets, m, v, selected, P, SCORE, STOCHASTIC
        )
