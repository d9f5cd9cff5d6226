"""The specification as a back end: one tensor after the other, for whatever no other back end serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofo.optim.rule.update import update

if TYPE_CHECKING:
    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Operands, Rule


class ReferenceStep:
    """The tensors of one step that the specification updates."""

    unscales = False

    def __init__(self) -> None:
        self._added: list[tuple[Operands, Rule]] = []

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Return True: the specification updates every tensor."""
        return True

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor."""
        self._added.append((operands, rule))

    def run(self) -> None:
        """Update the tensors that were added."""
        for operands, rule in self._added:
            update(operands, rule)
