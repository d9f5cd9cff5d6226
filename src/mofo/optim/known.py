"""What a step found out about its tensors, so that the next need not ask again while what it follows from is the same.

Whether tensors can be updated, and by which back end, follows from their traits and from some options of their groups,
never from values or addresses. These are read at every step, so that no address can be out of date, and no tensor is
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, eq, is_
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mofo.optim.distributed.flat_params import is_marked
from mofo.optim.kernels.memory import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mofo.optim.rule.types import Operands
    from mofo.optim.step import Route

# The type comes first: the other traits are asked of plain tensors alone, whose answers come from torch's own memory.
Trait = Callable[[Any], object]
TRAITS: tuple[Trait, ...] = (
    type,
    attrgetter("layout", "dtype", "device", "shape"),
    Tensor.stride,
    Tensor.is_neg,
)
STEP_TRAITS: tuple[Trait, ...] = (type, attrgetter("dtype", "device"))  # it is only read and counted
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
    """The route of the tensors of a step, and what it follows from.

    Args:
        groups: the options of each parameter group.
        operands: of the parameters of each group that have a gradient.
        route: of all these, one group after the other.
    """

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], operands: Sequence[Sequence[Operands]], route: Route
    ) -> None:
        self.route = route
        self._counts = list(map(len, operands))
        self._options = [option for group in groups for option in _options(group)]
        columns = _columns(operands)
        self._traits = [[list(map(trait, column)) for trait in traits] for column, traits in _asked(columns)]
        self._marks = list(map(is_marked, columns[0]))

    def holds(self, groups: Sequence[Mapping[str, Any]], operands: Sequence[Sequence[Operands]]) -> bool:
        """Check whether the same route follows for these: then all that the checks of tensors refuse is absent too."""
        options = [option for group in groups for option in _options(group)]
        if list(map(len, operands)) != self._counts or not _are(options, self._options):
            return False
        columns = _columns(operands)
        return list(map(is_marked, columns[0])) == self._marks and all(
            all(map(eq, map(trait, column), before))
            for (column, traits), known in zip(_asked(columns), self._traits, strict=True)
            for trait, before in zip(traits, known, strict=True)
        )


def can_be_known(groups: Sequence[Mapping[str, Any]], operands: Sequence[Sequence[Operands]]) -> bool:
    """Check that nothing else decides a route.

    Subclasses of tensors hold tensors of their own, and a group that is one block depends on all of its parameters.
    """
    is_plain = all(PLAIN.issuperset(map(type, column)) for column in _columns(operands))
    return is_plain and not any(group["group_as_block"] for group in groups)


def _columns(operands: Sequence[Sequence[Operands]]) -> list[tuple[Tensor, ...]]:
    """Return all parameters, gradients, first moments, second moments, and step counters."""
    columns: list[tuple[Any, ...]] = list(zip(*(of_one for of_group in operands for of_one in of_group), strict=True))
    return columns[:5] or [()] * 5


def _asked(columns: Sequence[tuple[Tensor, ...]]) -> list[tuple[tuple[Tensor, ...], tuple[Trait, ...]]]:
    """Return the columns, each with the traits that are asked of it."""
    return list(zip(columns, (TRAITS,) * 4 + (STEP_TRAITS,), strict=True))


def _options(group: Mapping[str, Any]) -> tuple[object, ...]:
    """Return those options of a group that decide more than numbers. Most are constants, of which there is one each."""
    return (group["fraction"] == 1, *map(group.__getitem__, OPTIONS))


def _are(objects: list[object], others: list[object]) -> bool:
    """Check that two lists have the same objects: an option that is only equal, as True is to 1, may be refused."""
    return len(objects) == len(others) and all(map(is_, objects, others))
