"""The step with `fraction=1`, where every entry moves: torch's own AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim.adamw import adamw

from mofo.optim.kernels.dispatch import check_fused

if TYPE_CHECKING:
    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Operands, Rule


class AdamWStep:
    """The tensors of one step of which every entry moves, so that the results are those of AdamW to the bit."""

    unscales = False

    def __init__(self) -> None:
        self._batches: dict[tuple[Rule, Execution], list[Operands]] = {}

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check that every entry moves, and that the moments are of the parameter's type, as torch has them.

        Raises:
            RuntimeError: `fused=True` cannot serve.
        """
        if rule.fraction != 1 or operands.param.dtype != operands.exp_avg.dtype:
            return False
        if execution.fused:
            check_fused(*operands[:4])
        return True

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor; those of one rule are updated together."""
        self._batches.setdefault((rule, execution), []).append(operands)

    def run(self) -> None:
        """Update the tensors that were added."""
        for (rule, execution), batch in self._batches.items():
            _adamw(batch, rule, execution)


def _adamw(batch: list[Operands], rule: Rule, execution: Execution) -> None:
    params, grads, exp_avgs, exp_avg_sqs, steps, _ = map(list, zip(*batch, strict=True))
    by_tensor = isinstance(rule.lr, torch.Tensor)  # for which torch has no multi-tensor step
    adamw(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        steps,
        foreach=execution.foreach is not False and not execution.fused and not by_tensor,
        fused=bool(execution.fused),
        capturable=execution.capturable,
        amsgrad=False,
        beta1=rule.betas[0],
        beta2=rule.betas[1],
        lr=rule.lr,
        weight_decay=rule.weight_decay,
        eps=rule.eps,
        maximize=rule.maximize,
    )
