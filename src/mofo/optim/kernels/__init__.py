"""Back ends that make a step faster than the specification in `mofo.optim.rule`, and equal it to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mofo.optim.rule.types import Operands, Rule


class Execution(NamedTuple):
    """How a parameter group wants its steps made: the options of `torch.optim` that choose a back end."""

    foreach: bool | None = None
    fused: bool | None = None
    capturable: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Execution:
        """Return the execution that a parameter group wants."""
        return cls(group["foreach"], group["fused"], group["capturable"])


class Kernels(Protocol):
    """A back end during one step: it collects the tensors that it serves and then updates them all.

    Attributes:
        unscales: whether it reads `found_inf` and `grad_scale` of `torch.amp.GradScaler` itself. If not, it is given
            gradients without the scale, and nothing in a step that is to be left out.
    """

    unscales: bool

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether this back end updates a tensor.

        Raises:
            RuntimeError: the group insists on this back end with `fused=True`, and it cannot.
            NotImplementedError: the group insists on it with `capturable=True`, and it cannot.
        """
        ...

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor that it serves. Nothing is written before `run`."""
        ...

    def run(self) -> None:
        """Update the tensors that were added."""
        ...
