"""What a step found out about its tensors, so that the next need not ask again while what it follows from is the same.

Whether tensors can be updated, and by which back end, follows from their traits and from some options of their groups,
never from values or addresses. These are read at every step, so that no address can be out of date, and no tensor is
kept.
"""

from __future__ import annotations

from array import array
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mofo.optim.distributed.flat_params import is_marked
from mofo.optim.kernels.cpu import library
from mofo.optim.kernels.memory import PLAIN
from mofo.optim.rule.types import Rule
from mofo.optim.step import shares_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mofo.optim.columns import Columns
    from mofo.optim.step import Route

    # Addresses of tensors, and what else tells how they lie in memory, to be compared
    Describe = Callable[[list[Tensor]], tuple[array[int], object]]

OPTIONS = (
    "blocks",
    "group_as_block",
    "score",
    "rounding",
    "state_dtype",
    "foreach",
    "fused",
    "capturable",
    "on_flat",
)


class Known:
    """Who updates the tensors of a step, and what that follows from.

    Args:
        groups: the options of each parameter group.
        columns: of the parameters that have a gradient.
        counts: how many of them each group has.
        route: of the tensors.
    """

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], columns: Columns, counts: Sequence[int], route: Route
    ) -> None:
        self.shares = shares_of(columns, counts, list(map(Rule.of, groups)), route)
        self._counts = counts
        self._options = _options(groups)
        self._marks = list(map(is_marked, columns.params))
        self._describe = _describer(columns)
        _, self._description = self._describe(columns.tensors())

    def addresses(
        self, groups: Sequence[Mapping[str, Any]], columns: Columns, counts: Sequence[int]
    ) -> list[array[int]] | None:
        """Return the addresses of the tensors, column by column; None if they may have another route.

        If they have the same, all that the checks of tensors refuse is absent too.
        """
        if counts != self._counts or not all(map(is_, _options(groups), self._options)) or not _are_plain(columns):
            return None
        try:
            addresses, description = self._describe(columns.tensors())
        except (RuntimeError, BufferError):  # one of them is sparse
            return None
        if description != self._description or list(map(is_marked, columns.params)) != self._marks:
            return None
        size = len(columns.params)
        return [addresses[number * size : (number + 1) * size] for number in range(5)]


def can_be_known(groups: Sequence[Mapping[str, Any]], columns: Columns) -> bool:
    """Check that nothing else decides a route.

    Subclasses of tensors hold tensors of their own, and a group that is one block depends on all of its parameters.
    """
    return _are_plain(columns) and not any(group["group_as_block"] for group in groups)


def _are_plain(columns: Columns) -> bool:
    """Check that all tensors are plain ones, whose bits are those of their numbers."""
    *operands, steps, _ = columns
    return PLAIN.issuperset(map(type, steps)) and all(
        PLAIN.issuperset(map(type, column)) and not any(map(Tensor.is_neg, column)) for column in operands
    )


def _describer(columns: Columns) -> Describe:
    native = library.load()
    devices = {tensor.device for tensor in columns.tensors()}
    if isinstance(native, library.Library) and all(map(native.can_describe, devices)):
        return native.describe
    return _describe


def _describe(tensors: list[Tensor]) -> tuple[array[int], object]:
    traits = attrgetter("layout", "dtype", "device", "shape")
    return array("Q", map(Tensor.data_ptr, tensors)), [*map(traits, tensors), *map(Tensor.stride, tensors)]


def _options(groups: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return those options that decide more than numbers. Most are constants, of which there is one each.

    They are compared by identity: an option that is only equal, as True is to 1, may be refused.
    """
    return [option for group in groups for option in (group["fraction"] == 1, *map(group.__getitem__, OPTIONS))]
