"""The order in which rows are trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence

STRETCH = 16
"""The most batches among which rows are sorted by length."""


def batch_order(lengths: Sequence[int], *, steps: int, batch: int, seed: int) -> list[int]:
    """Return the row of every place in every training batch: the same for each method that is compared.

    Rows of similar length share a batch, because padding costs as much as text. Every epoch is shuffled and cut into
    stretches of 16 batches; each stretch is sorted by length and its batches are shuffled. Where rows are seen more
    than once, a stretch is at most a quarter of an epoch, as in transformers' `LengthGroupedSampler`, so that little
    data does not come in the same batches in every epoch and with every seed. Rows at the end of an epoch that do
    not fill a batch share one with the first rows of the next.

    Args:
        lengths: Number of tokens of each row; at least one row.
        steps: Number of optimizer steps.
        batch: Rows per step.
        seed: The order's seed.

    Returns:
        `steps * batch` indices into `lengths`. How often two rows appear differs by one at most.
    """
    rng = random.Random(seed)
    quarter = max(1, len(lengths) // (4 * batch))
    stretch = (min(STRETCH, quarter) if steps * batch > len(lengths) else STRETCH) * batch
    batches: list[list[int]] = []
    carried: list[int] = []
    while len(batches) < steps:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        if carried:
            missing = batch - len(carried)
            carried, epoch = carried + epoch[:missing], epoch[missing:]
            if len(carried) < batch:
                continue
            batches.append(carried)
        del epoch[(steps - len(batches)) * batch :]
        whole = len(epoch) - len(epoch) % batch
        carried = epoch[whole:]
        for start in range(0, whole, stretch):
            rows = sorted(epoch[start : min(start + stretch, whole)], key=lambda row: lengths[row])
            cut = [rows[i : i + batch] for i in range(0, len(rows), batch)]
            rng.shuffle(cut)
            batches += cut
    return [row for rows in batches for row in rows]
