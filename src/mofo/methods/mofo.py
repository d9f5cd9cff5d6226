"""MoFO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from mofo.methods.part import OptimizerPart, Setup, setting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerCallback


CUTS = {"head": "heads_as_blocks", "row": "rows_as_blocks", "layer": "layers_as_blocks", "model": "model_as_block"}
"""By what entries compete within, the argument of `mofo.param_groups` that says so."""


class MoFO(OptimizerPart):
    """Adam that updates, at every step and in every tensor, only the entries with the largest momentum."""

    name = "mofo"
    label = "MoFO"
    source = "arXiv 2407.20999"
    cost = "state as AdamW; a step of 1.1 to 2 times that of fused AdamW on a CPU, 0.4 % to 1 % of training"
    across_processes = True

    fraction: float = setting(0.15, "share of the entries of a tensor that move at a step", short="f", gt=0, le=1)
    fraction_schedule: Literal["constant", "linear", "cosine", "share"] = setting(
        "constant",
        "course of the fraction: linear or cosine to fraction_end, or whatever holds momentum_share",
        variants={"linear": "fraction linear", "cosine": "fraction cosine", "share": "fraction by share"},
    )
    fraction_end: float = setting(0.05, "fraction of the last step, for linear and cosine", gt=0, le=1)
    momentum_share: float = setting(
        0.5, "share of the momentum's L1 norm that the selected entries hold, for share", gt=0, lt=1
    )
    score: Literal["momentum", "gradient", "momentum_over_rms", "random"] = setting(
        "momentum",
        "what ranks the entries",
        variants={"gradient": "gradient", "momentum_over_rms": "m/√v", "random": "random"},
    )
    rounding: Literal["nearest", "stochastic"] = setting(
        "nearest", "how new values of bfloat16 weights are rounded: nearest, or stochastic", flag=True
    )
    state_dtype: Literal["float32", "int8"] = setting("float32", "how moments are kept", variants={"int8": "8-bit"})
    blocks: Literal["tensor", "head", "row", "layer", "model"] = setting(
        "tensor",
        "within what entries compete: each tensor, each attention head, each row, the tensors of each layer, or all",
        variants={"head": "by head", "row": "by row", "layer": "by layer", "model": "one block"},
    )

    @model_validator(mode="after")
    def _refuse_blocks_in_8_bits(self) -> MoFO:
        if self.needs_whole_tensors and self.state_dtype == "int8":
            raise ValueError(f"blocks is {self.blocks}, which needs float32 moments: leave state_dtype out")
        return self

    @property
    def needs_whole_tensors(self) -> bool:
        """Whether entries of several tensors compete."""
        return self.blocks in ("layer", "model")

    @model_validator(mode="after")
    def _share_is_of_momentum(self) -> MoFO:
        if self.fraction_schedule == "share" and self.score != "momentum":
            raise ValueError(f"fraction_schedule is share, which needs score momentum, and score is {self.score}")
        return self

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state of a weight, which do not depend on its `width`."""
        return 2 if self.state_dtype == "int8" else 8

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        """Return the schedule of the fraction, where it has one."""
        from mofo.trainers.fraction import FractionCallback

        if self.fraction_schedule == "constant":
            return []
        return [FractionCallback(self.fraction_schedule, end=self.fraction_end, share=self.momentum_share)]

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return MoFO with the blocks that are wanted."""
        import mofo

        cut = {} if self.blocks == "tensor" else {CUTS[self.blocks]: True}
        groups = mofo.param_groups(model, fraction=self.fraction, weight_decay=self.weight_decay, **cut)
        return mofo.MoFO(
            groups, lr=self.learning_rate, score=self.score, rounding=self.rounding, state_dtype=self.state_dtype
        )
