"""The fraction over time: schedules that a training loop calls as it calls those of the learning rate.

    optimizer = MoFO(model.parameters(), lr=1e-5, fraction=0.3)
    schedule = CosineFraction(optimizer, end=0.05, steps=1000)
    for batch in batches:
        ...
        optimizer.step()
        schedule.step()

A schedule writes nothing but the option `fraction` of the groups, which MoFO reads anew at every step: changing it
costs nothing. `state_dict` and `load_state_dict` continue it where it was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mofo.optim.dtensor import is_dtensor
from mofo.optim.rule.blocks import as_blocks, selected_count
from mofo.optim.state.int8 import dequantise, is_int8

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.optim import Optimizer

SAMPLE = 2**18
"""About how many entries of the momentum `ShareFraction` looks at; a smaller model is looked at as a whole."""

LOWEST = 1e-4
"""The smallest fraction that `ShareFraction` sets by default."""


class FractionSchedule:
    """What all schedules have in common: they set the `fraction` of every group of an optimizer after each step.

    What a group began with stays in it as `initial_fraction`, so that the optimizer's checkpoint knows it too.

    Args:
        optimizer: MoFO, or another optimizer whose groups have a `fraction`.

    Raises:
        TypeError: A group has none.
        NotImplementedError: A group is `capturable`: replays of its step would keep the fraction that was captured.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            if "fraction" not in group:
                raise TypeError(f"{type(optimizer).__name__} has no fraction that a schedule could set: use MoFO")
            if group.get("capturable"):
                raise NotImplementedError(
                    "capturable=True records a step with its fraction, which a schedule could not change any more: "
                    "leave one of the two out"
                )
            group.setdefault("initial_fraction", group["fraction"])
        self.optimizer = optimizer
        self.last_step = 0

    def step(self) -> None:
        """Set the fraction of the next step; call it after `optimizer.step()`."""
        self.last_step += 1
        for group, fraction in zip(self.optimizer.param_groups, self._fractions(), strict=True):
            group["fraction"] = fraction

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` continues from, as plain values."""
        groups = self.optimizer.param_groups
        return {
            "last_step": self.last_step,
            "initial_fractions": [group["initial_fraction"] for group in groups],
            "fractions": [group["fraction"] for group in groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where another schedule of the same arguments was.

        Raises:
            ValueError: It was of another number of groups.
        """
        groups, saved = self.optimizer.param_groups, state_dict["fractions"]
        if len(groups) != len(saved):
            raise ValueError(f"the loaded schedule is of {len(saved)} groups, the optimizer has {len(groups)}")
        self.last_step = state_dict["last_step"]
        for group, first, now in zip(groups, state_dict["initial_fractions"], saved, strict=True):
            group["initial_fraction"], group["fraction"] = first, now

    def _fractions(self) -> Iterable[float]:
        """Return the fraction of each group for the step that follows `last_step`."""
        raise NotImplementedError


class LinearFraction(FractionSchedule):
    """From each group's own fraction at the first step to `end` at the last, in equal steps.

    Args:
        optimizer: MoFO; the fractions of its groups are where the schedule begins.
        end: The fraction of the last step and of all that follow, in (0, 1].
        steps: Steps of the training.

    Raises:
        TypeError: The optimizer has no fraction.
        ValueError: `end` or `steps` is out of range.
    """

    def __init__(self, optimizer: Optimizer, end: float, steps: int) -> None:
        if not 0 < end <= 1:
            raise ValueError(f"end must be in (0, 1], got {end!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps!r}")
        super().__init__(optimizer)
        self.end, self.steps = end, steps

    def _fractions(self) -> Iterable[float]:
        left = self._left(min(1.0, self.last_step / max(1, self.steps - 1)))
        return [left * group["initial_fraction"] + (1 - left) * self.end for group in self.optimizer.param_groups]

    @staticmethod
    def _left(done: float) -> float:
        """Return what is left of the way to `end` after a share of the training: 1 at its first step, 0 at its last."""
        return 1 - done


class CosineFraction(LinearFraction):
    """As `LinearFraction`, but along half a cosine: slowly at the beginning and at the end."""

    @staticmethod
    def _left(done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2


class ShareFraction(FractionSchedule):
    """The smallest fraction whose selected entries hold a share of the momentum's L1 norm; the same for all groups.

    Where few entries hold most of the momentum, few move; where it is spread evenly, many do. The first step is made
    with the optimizer's own fraction.

    Every `every` steps about 260,000 entries of the momentum are sorted, evenly distant within each block; of smaller
    models all, so that the fraction is then exact. The optimizer itself does nothing more than without a schedule.

    Args:
        optimizer: MoFO, with `score="momentum"` in all groups.
        share: The share to keep, in (0, 1).
        lowest: The smallest fraction to set.
        highest: The largest.
        every: Steps from one change of the fraction to the next.

    Raises:
        TypeError: The optimizer has no fraction.
        ValueError: An argument is out of range, or a group ranks its entries otherwise.
        NotImplementedError: Parameters are sharded: no process sees a whole block.
    """

    def __init__(
        self, optimizer: Optimizer, share: float, *, lowest: float = LOWEST, highest: float = 1.0, every: int = 1
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share!r}")
        if not 0 < lowest <= highest <= 1:
            raise ValueError(f"lowest and highest must be in (0, 1] in this order, got {lowest!r} and {highest!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every!r}")
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            if group["score"] != "momentum":
                raise ValueError(f"the selected entries are those of largest {group['score']}, not of largest momentum")
            if any(is_dtensor(param) for param in group["params"]):
                raise NotImplementedError("the share of the momentum is not known of sharded parameters: use cosine")
        self.share, self.lowest, self.highest, self.every = share, lowest, highest, every

    def _fractions(self) -> Iterable[float]:
        groups = self.optimizer.param_groups
        if self.last_step % self.every == 0:
            held = _Held(self.optimizer, SAMPLE)
            if math.isfinite(held.total) and held.total > 0:
                return [held.smallest(self.share, self.lowest, self.highest)] * len(groups)
        return [group["fraction"] for group in groups]


def momentum_share(optimizer: Optimizer) -> float:
    """Return the share of the momentum's L1 norm that those entries hold which a step selects; NaN without momentum.

    The momentum is what the last step left, from which that step has selected. Exact; it sorts the whole momentum, so
    call it from time to time.

    Args:
        optimizer: MoFO, with `score="momentum"`.
    """
    held = _Held(optimizer, None)
    return held.share(None) if held.total else math.nan


class _Curve(NamedTuple):
    """What the largest entries of the blocks of one parameter hold."""

    group: dict[str, Any]
    size: int  # entries of a block
    sums: Tensor  # (blocks, 1 + entries looked at): L1 norm of the first 0, 1, 2, ... largest, float64


class _Held:
    """What the largest entries of every block hold of the momentum's L1 norm.

    Args:
        optimizer: The optimizer.
        sample: About how many entries to look at; None for all.
    """

    def __init__(self, optimizer: Optimizer, sample: int | None) -> None:
        moments = [
            (group, optimizer.state[param]["exp_avg"])
            for group in optimizer.param_groups
            for param in group["params"]
            if "exp_avg" in optimizer.state.get(param, {})
        ]
        entries = sum(moment.numel() for _, moment in moments)
        stride = math.ceil(entries / sample) | 1 if sample and entries > sample else 1  # odd: not one column alone
        self._curves = [_curve(group, moment, stride) for group, moment in moments if moment.numel()]
        self.total = float(sum(curve.sums[:, -1].sum() for curve in self._curves))

    def share(self, fraction: float | None) -> float:
        """Return the share that is held by what a fraction selects; None for each group's own."""
        held = 0.0
        for group, size, sums in self._curves:
            k = selected_count(group["fraction"] if fraction is None else fraction, size)
            looked_at = sums.shape[1] - 1
            held += float(sums[:, max(1, round(k * looked_at / size))].sum())
        return held / self.total

    def smallest(self, share: float, lowest: float, highest: float) -> float:
        """Return the smallest fraction of a range that holds a share, to 1 part in 4000 of the fraction."""
        if self.share(lowest) >= share:
            return lowest
        while highest / lowest > 1 + 1 / 4000:
            middle = math.sqrt(lowest * highest)
            lowest, highest = (lowest, middle) if self.share(middle) >= share else (middle, highest)
        return highest


def _curve(group: dict[str, Any], moment: Tensor, stride: int) -> _Curve:
    blocks = as_blocks(dequantise(moment) if is_int8(moment) else moment, group["blocks"]).detach()
    looked_at = blocks[:, ::stride].abs().double().cpu()
    ranked = looked_at.sort(dim=1, descending=True).values
    scale = blocks.shape[1] / looked_at.shape[1]
    sums = torch.cat([torch.zeros(len(ranked), 1, dtype=torch.float64), ranked.cumsum(dim=1) * scale], dim=1)
    return _Curve(group, blocks.shape[1], sums)
