"""The step with ``fraction=1``, where every entry moves: AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_whole(group: Mapping[str, Any], tensors: tuple[Any, ...]) -> bool:
    """Whether torch's AdamW can make this step: all entries move, and the moments are of the parameter's type."""
    param, _, exp_avg, *_ = tensors
    return bool(group["fraction"] == 1 and param.dtype == exp_avg.dtype)


def update_whole(
    tensors: list[tuple[Any, ...]], foreach: bool | None, fused: bool | None, capturable: bool, **options: Any
) -> None:
    """Leave the tuples of tensors to torch's own step, so that the results are those of AdamW to the bit.

    The moments must be of the type of the parameters.
    """
    params, grads, exp_avgs, exp_avg_sqs, steps, _ = map(list, zip(*tensors, strict=True))
    by_tensor = isinstance(options["lr"], torch.Tensor)  # for which torch has no multi-tensor step
    adamw(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        steps,
        foreach=foreach is not False and not fused and not by_tensor,
        fused=bool(fused),
        capturable=capturable,
        amsgrad=False,
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        maximize=options["maximize"],
    )
