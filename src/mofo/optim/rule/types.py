"""What an update takes: the tensors it reads and writes, and the rule it follows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mofo.optim.rule.blocks import block_size, selected_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Score = Literal["momentum", "gradient", "momentum_over_rms", "random"]
Decay = Literal["selected", "all"]
Rounding = Literal["nearest", "stochastic"]


class Operands(NamedTuple):
    """One tensor of a step. An update writes all of it but the gradient and the seed."""

    param: Tensor  # θ: float16, bfloat16, float32 or float64; any strides
    grad: Tensor  # g: shape of param
    exp_avg: Tensor  # m: shape of param; float32, for a float64 parameter float64
    exp_avg_sq: Tensor  # v: as exp_avg
    step: Tensor  # t - 1: float32 scalar, the number of steps before this one
    seed: int  # of random scores and random rounding

    def of_rows(self, start: int, stop: int) -> Operands:
        """Return the same of some rows of the tensor, as views."""
        param, grad, exp_avg, exp_avg_sq = (tensor[start:stop] for tensor in self[:4])
        return Operands(param, grad, exp_avg, exp_avg_sq, self.step, self.seed)


@dataclass(frozen=True, eq=False, slots=True)
class Rule:
    """Everything that decides the result of an update besides its operands: options of `MoFO`, by the same names."""

    lr: float | Tensor  # η
    fraction: float  # α
    betas: tuple[float, float]  # β1, β2
    eps: float  # ε
    weight_decay: float  # λ
    blocks: int  # B
    score: Score
    decay: Decay
    maximize: bool
    rounding: Rounding

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Rule:
        """Return the rule of a parameter group."""
        return cls(**{field.name: group[field.name] for field in fields(cls)})

    def sizes(self, param: Tensor) -> tuple[int, int]:
        """Return n, the number of entries of a block of a parameter, and k, how many of them are selected."""
        n = block_size(param, self.blocks)
        return n, selected_count(self.fraction, n)
