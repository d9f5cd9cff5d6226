"""The kernels of a sharded step. `shard_launch.py` has the order in which they run; docs/gpu-step.md the reasons.

The processes search the k-th highest key of each shared block together (distributed/search.py). A block has a row in
`blocks`, in `states`, and in `counts`, which the processes add up between two kernels: of each bin, and in the last
column of what is above. States are the same in all processes, but for pools. `work` has a row for each program: which
block, and which part of what this process has of it. Other tables are as in `kernels.py`.
"""

import triton
import triton.language as tl

from mofo.optim.kernels.triton import tables as T
from mofo.optim.kernels.triton.entries import (
    choose_bin,
    entries_of_block,
    keys_ahead,
    list_reached,
    move_entries,
    read_keys,
    shift_to_bins,
    shrink_stored,
    update_and_rank,
)

# ---- Where an entry is in the full tensor, on which its randomness depends, and whether it moves where keys are equal.


@triton.jit
def index_in_full(part, layouts, first, offsets, NEEDED: tl.constexpr):
    """Return the row-major index of entries in the full tensor (int64), given that in a part; if it is needed."""
    index = first + offsets
    if NEEDED:
        local = tl.load(part + T.OFFSET) + index
        index = tl.zeros_like(local)
        layout = layouts + tl.load(part + T.LAYOUT)
        dimensions = tl.load(layout)
        dimension = layout + 1
        for _ in range(dimensions):
            length = tl.load(dimension)
            indices = layouts + tl.load(dimension + 2)
            index += tl.load(indices + local % length) * tl.load(dimension + 1)
            local = local // length
            dimension += T.DIMENSION
    return index


@triton.jit
def place_of(tensors, parts, blocks, block):
    """Return where a block is: the number of its tensor, the rows of that in `tensors` and `parts`, and the entries.

    These are how many this process has of it, and where in the local tensor the first is.
    """
    its_block = blocks + block * T.SHARED_BLOCK
    tensor = tl.load(its_block + T.TENSOR)
    row = tensors + tensor * T.COLUMNS
    n = entries_of_block(row, False)
    return tensor, row, parts + tensor * T.PART, n, tl.load(its_block + T.NUMBER) * n


# ---- Local phases. One program for CHUNK entries; in the last one programs share the chunks.


@triton.jit
def count_sample(
    tensors, numbers, hash_keys, parts, layouts, blocks, counts, work,
    G: tl.constexpr, SCORE: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr, LEAST: tl.constexpr,
    SHIFT: tl.constexpr,
):  # fmt: skip
    """Count the keys that a sample of entries will have, by (key - LEAST) >> SHIFT, or in the first or the last bin.

    `counts` has no other columns yet.
    """
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    tensor, row, part, n, first = place_of(tensors, parts, blocks, block)
    taken = tl.load(work + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    offsets = taken * tl.load(part + T.SAMPLE_STRIDE)
    mask = offsets < n
    index = index_in_full(part, layouts, first, offsets, SCORE == T.RANDOM)
    noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
    key = keys_ahead(row, numbers + tensor * T.NUMBERS, noise_key, first, offsets, index, mask, G, SCORE)
    bin = tl.minimum(tl.maximum((key - LEAST) >> SHIFT, 0), BINS - 1)
    add_counts(counts + block * BINS, bin, mask, BINS)


@triton.jit
def add_counts(counters, bin, mask, BINS: tl.constexpr):
    """Count into the counters of a block how many marked entries are in each bin."""
    found = tl.histogram(tl.where(mask, bin, 0), BINS, mask=mask)
    counters += tl.arange(0, BINS)
    tl.atomic_add(counters, found.to(counters.dtype.element_ty), mask=found > 0, sem="relaxed")


@triton.jit
def update_moments_and_collect(
    tensors, numbers, hash_keys, parts, layouts, blocks, states, pools, counts, work,
    G: tl.constexpr, SCORE: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Update the moments; count the keys above the bracket and inside it, and collect the latter, in any order."""
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
    its_block = blocks + block * T.SHARED_BLOCK
    tensor, row, part, n, first = place_of(tensors, parts, blocks, block)
    mask = offsets < n
    index = index_in_full(part, layouts, first, offsets, SCORE == T.RANDOM)
    its_numbers = numbers + tensor * T.NUMBERS
    noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
    if tl.load(row + T.ALIGNED) != 0:
        vectors = offsets < entries_of_block(row, True)
        key, _, _ = update_and_rank(row, its_numbers, noise_key, first, offsets, index, vectors, G, SCORE, True)
    else:
        key, _, _ = update_and_rank(row, its_numbers, noise_key, first, offsets, index, mask, G, SCORE, False)

    state = states + block * T.SHARED_STATE
    low = tl.load(state + T.LOW).to(tl.int32)
    high = tl.load(state + T.HIGH).to(tl.int32)
    inside = (key >= low) & (key <= high)
    counters = counts + block * (BINS + 1)
    # Keys at the lower end, which may be all the zeros of a sparse gradient, do not queue for its counter.
    at_low = tl.sum((key == low).to(tl.int32))
    above = tl.sum((key > high).to(tl.int32))
    tl.atomic_add(counters, at_low.to(counters.dtype.element_ty), mask=at_low > 0, sem="relaxed")
    tl.atomic_add(counters + BINS, above.to(counters.dtype.element_ty), mask=above > 0, sem="relaxed")
    rest = inside & (key > low)
    bin = tl.where(rest, (key - low) >> tl.load(state + T.SHIFT).to(tl.int32), 0)
    tl.atomic_add(counters + bin, tl.full((), 1, counters.dtype.element_ty), mask=rest, sem="relaxed")
    number = tl.sum(inside.to(tl.int32))
    if (number > 0) & (low < high):
        before = tl.atomic_add(state + T.POOLED, number.to(tl.int64), sem="relaxed")
        place = before + tl.cumsum(inside.to(tl.int32)) - 1
        pool = pools + tl.load(its_block + T.POOL)
        tl.store(pool + place, key, mask=inside & (place < tl.load(its_block + T.CAPACITY)))


@triton.jit
def count_in_bins(
    tensors, numbers, hash_keys, parts, layouts, blocks, states, pools, counts, work,
    G: tl.constexpr, SCORE: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Count the keys of each bin of a bracket: those in its pool, or where it has not all of them, those in memory."""
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    state = states + block * T.SHARED_STATE
    its_block = blocks + block * T.SHARED_BLOCK
    tensor, row, part, n, first = place_of(tensors, parts, blocks, block)
    pooled = tl.load(state + T.POOLED)
    from_pool = (tl.load(state + T.POOL_SERVES) != 0) & (pooled <= tl.load(its_block + T.CAPACITY))
    entries = tl.where(from_pool, pooled, n.to(tl.int64)).to(tl.int32)
    start = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK
    if (tl.load(state + T.SIZE) == T.UNKNOWN) & (start < entries):
        offsets = start + tl.arange(0, CHUNK)
        mask = offsets < entries
        if from_pool:
            key = tl.load(pools + tl.load(its_block + T.POOL) + offsets, mask=mask, other=-1)
        else:
            index = index_in_full(part, layouts, first, offsets, SCORE == T.RANDOM)
            noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
            key, _, _ = read_keys(
                row, numbers + tensor * T.NUMBERS, noise_key, first, offsets, index, mask, G, SCORE, False
            )
        low = tl.load(state + T.LOW).to(tl.int32)
        inside = mask & (key >= low) & (key <= tl.load(state + T.HIGH).to(tl.int32))
        add_counts(counts + block * (BINS + 1), (key - low) >> tl.load(state + T.SHIFT).to(tl.int32), inside, BINS)


@triton.jit
def count_places(
    tensors, numbers, hash_keys, parts, layouts, blocks, states, counts, work,
    G: tl.constexpr, SCORE: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Count the places of the entries with the k-th highest key in bins, where not all of these move."""
    block = tl.load(work + 2 * tl.program_id(0)).to(tl.int64)
    state = states + block * T.SHARED_STATE
    slot = tl.load(state + T.SLOT)
    if slot >= 0:
        offsets = tl.load(work + 2 * tl.program_id(0) + 1) * CHUNK + tl.arange(0, CHUNK)
        tensor, row, part, n, first = place_of(tensors, parts, blocks, block)
        mask = offsets < n
        index = index_in_full(part, layouts, first, offsets, True)
        noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
        key, _, _ = read_keys(
            row, numbers + tensor * T.NUMBERS, noise_key, first, offsets, index, mask, G, SCORE, False
        )
        low = tl.load(state + T.LOW)
        place = tl.load(part + T.ENTRIES) - index
        inside = (key == tl.load(state + T.KEY).to(tl.int32)) & (place >= low) & (place <= tl.load(state + T.HIGH))
        inside &= mask
        bin = tl.where(inside, (place - low) >> tl.load(state + T.SHIFT), 0).to(tl.int32)
        add_counts(counts + slot * (BINS + 1), bin, inside, BINS)


@triton.jit(do_not_specialize=["chunks", "programs"])
def move_selected(
    tensors, numbers, hash_keys, parts, layouts, blocks, states, lists, work, chunks, programs,
    P: tl.constexpr, G: tl.constexpr, SCORE: tl.constexpr, STOCHASTIC: tl.constexpr, CHUNK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Move the entries with a higher key than the k-th highest, and of those with this key the first ones.

    Few entries move. A program first lists them, in memory of its own, so that it computes roots and quotients for them
    alone.
    """
    reached_list = lists + tl.program_id(0) * CHUNK
    for chunk in range(tl.program_id(0), chunks, programs):
        block = tl.load(work + 2 * chunk).to(tl.int64)
        start = tl.load(work + 2 * chunk + 1) * CHUNK
        offsets = start + tl.arange(0, CHUNK)
        tensor, row, part, n, first = place_of(tensors, parts, blocks, block)
        its_numbers = numbers + tensor * T.NUMBERS
        noise_key = tl.load(hash_keys + 2 * tensor + T.NOISE)
        rounding_key = tl.load(hash_keys + 2 * tensor + T.ROUNDING)
        mask = offsets < n
        if tl.load(row + T.DECAY_ALL) != 0:
            shrink_stored(row, its_numbers, first, offsets, mask, P, False)

        state = states + block * T.SHARED_STATE
        least_key = tl.load(state + T.KEY).to(tl.int32)
        least_place = tl.load(state + T.LOW)  # of those with this key
        index = index_in_full(part, layouts, first, offsets, SCORE == T.RANDOM)
        key, _, _ = read_keys(row, its_numbers, noise_key, first, offsets, index, mask, G, SCORE, False)
        count = list_reached(mask & (key >= least_key), reached_list, CHUNK)
        tl.debug_barrier()
        for done in range(0, count, TILE):
            turn = done + tl.arange(0, TILE)
            few = turn < count
            positions = start + tl.load(reached_list + turn, mask=few, other=0).to(tl.int32)
            its_index = index_in_full(part, layouts, first, positions, (SCORE == T.RANDOM) | STOCHASTIC)
            its_key, m, v = read_keys(row, its_numbers, noise_key, first, positions, its_index, few, G, SCORE, False)
            selected = few
            if least_place > 0:
                place = tl.load(part + T.ENTRIES) - index_in_full(part, layouts, first, positions, True)
                selected &= (its_key > least_key) | (place >= least_place)
            move_entries(
                row, its_numbers, rounding_key, first, positions, its_index, m, v, selected, P, SCORE, STOCHASTIC
            )
        tl.debug_barrier()


# ---- The search. One program a block; the same in all processes. Counts are cleared when they have been read.


@triton.jit
def guess_brackets(
    tensors, blocks, states, counts,
    SPREAD: tl.constexpr, BINS: tl.constexpr, LEAST: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Bracket the k-th highest key, from the sample of all processes."""
    block = tl.program_id(0).to(tl.int64)
    bin = tl.arange(0, BINS)
    counters = counts + block * BINS + bin
    found = tl.load(counters).to(tl.int64)
    tl.store(counters, tl.zeros((BINS,), counters.dtype.element_ty))
    k = tl.load(tensors + tl.load(blocks + block * T.SHARED_BLOCK + T.WHOLE) * T.COLUMNS + T.K)
    n = tl.load(blocks + block * T.SHARED_BLOCK + T.ENTRIES_OF_ALL)

    size = tl.sum(found)
    at_least = size - tl.cumsum(found) + found  # sampled keys in each bin or a higher one
    rank = size.to(tl.float64) * k.to(tl.float64) / n.to(tl.float64)
    # how far off it may be, which is not at all where the sample is the whole block
    slack = SPREAD * tl.sqrt(rank * (1 - k.to(tl.float64) / n.to(tl.float64))) + 1
    slack = tl.where(size == n, 0.0, slack)
    lowest = tl.sum((at_least >= rank + slack).to(tl.int64)) - 1
    highest = tl.sum((at_least >= rank - slack).to(tl.int64)) - 1
    low = tl.where(lowest < 1, 0, LEAST + (lowest << SHIFT))
    high = LEAST + ((tl.maximum(highest, 0) + 1) << SHIFT) - 1
    high = tl.where(highest == BINS - 1, T.INFINITE, high)

    state = states + block * T.SHARED_STATE
    tl.store(state + T.LOW, low)
    tl.store(state + T.HIGH, high)
    tl.store(state + T.WANTED, k)
    tl.store(state + T.SIZE, T.UNKNOWN)
    tl.store(state + T.SHIFT, shift_to_bins(high - low + 1, BINS))
    tl.store(state + T.SLOT, -1)
    tl.store(state + T.POOLED, 0)
    tl.store(state + T.POOL_SERVES, 1)
    tl.store(state + T.MISSING, 0)


@triton.jit
def narrow_brackets(states, counts, BINS: tl.constexpr, FIRST: tl.constexpr, PLACES: tl.constexpr):
    """Take the bin with the wanted number as the bracket, of blocks for which a number is still searched.

    FIRST: of keys, when the sample may have misled. PLACES: of places, in those blocks alone that have a slot.
    """
    block = tl.program_id(0).to(tl.int64)
    state = states + block * T.SHARED_STATE
    place_in_counts = block
    searched = tl.load(state + T.SIZE) == T.UNKNOWN
    if PLACES:
        place_in_counts = tl.load(state + T.SLOT)
        searched &= place_in_counts >= 0
    if searched:
        counters = counts + place_in_counts * (BINS + 1)
        bins = counters + tl.arange(0, BINS)
        found = tl.load(bins).to(tl.int64)
        above = tl.load(counters + BINS).to(tl.int64)
        tl.store(bins, tl.zeros((BINS,), counters.dtype.element_ty))
        tl.store(counters + BINS, tl.full((), 0, counters.dtype.element_ty))
        wanted = tl.load(state + T.WANTED)
        if FIRST:
            wanted -= above
        before = tl.load(state + T.LOW)
        below = wanted > tl.sum(found)
        high = tl.load(state + T.HIGH)
        highest = tl.full((), T.INFINITE, tl.int64)
        low, high, wanted, size = choose_bin(
            found, wanted, above, before, high, tl.load(state + T.SHIFT), highest, BINS
        )
        misled = size == T.UNKNOWN
        missing = below & (before == 0)
        if not FIRST:
            missing = misled
        tl.store(state + T.LOW, low)
        tl.store(state + T.HIGH, high)
        tl.store(state + T.WANTED, wanted)
        tl.store(state + T.SIZE, tl.where(low == high, size, T.UNKNOWN))
        tl.store(state + T.SHIFT, shift_to_bins(high - low + 1, BINS))
        tl.store(state + T.POOL_SERVES, 0, mask=misled)
        tl.store(state + T.MISSING, 1, mask=missing)


@triton.jit(do_not_specialize=["number", "largest"])
def conclude(states, report, number, largest, BINS: tl.constexpr, WIDTH: tl.constexpr):
    """Report what is left to do; if all keys are known, begin with the places. One program for all blocks.

    A block gets a slot if fewer of the entries with its k-th highest key move than there are. Infinite ones all move.
    """
    unsettled = tl.full((), 0, tl.int64)
    missing = tl.full((), 0, tl.int64)
    for first in range(0, number, WIDTH):
        block = first + tl.arange(0, WIDTH)
        state = states + block.to(tl.int64) * T.SHARED_STATE
        mask = block < number
        unsettled += tl.sum((tl.load(state + T.SIZE, mask=mask, other=0) == T.UNKNOWN).to(tl.int64))
        missing += tl.sum(tl.load(state + T.MISSING, mask=mask, other=0))
    tied = tl.full((), 0, tl.int64)
    if unsettled == 0:
        shift = shift_to_bins(largest.to(tl.int64) + 1, BINS)
        for first in range(0, number, WIDTH):
            block = first + tl.arange(0, WIDTH)
            state = states + block.to(tl.int64) * T.SHARED_STATE
            mask = block < number
            key = tl.load(state + T.LOW, mask=mask, other=0)
            size = tl.load(state + T.SIZE, mask=mask, other=0)
            cut = mask & (tl.load(state + T.WANTED, mask=mask, other=0) < size) & (key < T.INFINITE)
            slot = tied + tl.cumsum(cut.to(tl.int64)) - 1
            tl.store(state + T.KEY, key, mask=mask)
            tl.store(state + T.LOW, tl.zeros_like(key), mask=mask)
            tl.store(state + T.SLOT, slot, mask=cut)
            tl.store(state + T.HIGH, tl.zeros_like(key) + largest, mask=cut)
            tl.store(state + T.SIZE, tl.zeros_like(key) + T.UNKNOWN, mask=cut)
            tl.store(state + T.SHIFT, tl.zeros_like(key) + shift, mask=cut)
            tied += tl.sum(cut.to(tl.int64))
    tl.store(report + T.UNSETTLED, unsettled)
    tl.store(report + T.INCOMPLETE, missing)
    tl.store(report + T.TIED, tied)
