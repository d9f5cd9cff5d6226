"""Holds a training within a budget of forgetting: brakes it along the way, and pulls its end back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from mofo.errors import UserError
from mofo.forgetting import Kept
from mofo.models.line import Line, at, check_line, copy_of_trained, has_adapters, largest_share
from mofo.processes import rank
from mofo.trainers.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from mofo.results import Point
    from mofo.trainers.budget import Budget

USED = "budget/used"
"""What the share of the budget that is used is called in a training log."""

USED_BEFORE = "budget/used_before"
"""What that was before the end was pulled back."""

KEPT = "budget/kept"
"""What the share of the change that was kept is called there."""

ORIGIN = "budget_base_{}.safetensors"
"""File of a process with the base's weights, to resume with."""


class Keeper:
    """Holds one training within a budget.

    Args:
        budget: The budget.
        watch: Measures its probes.
        origin: The base's weights by name, if the caller keeps them anyway.

    Attributes:
        used: The share of the budget that was used when it was last measured along the training.
    """

    def __init__(self, budget: Budget, watch: Watch, origin: Mapping[str, Tensor] | None = None) -> None:
        self.budget, self.watch = budget, watch
        self._given = origin
        self._origin: Mapping[str, Tensor] = {}
        self.used = 0.0
        self._braked: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def begin(
        self, model: PreTrainedModel, folder: Path, *, step: int, resumable: bool, used: float
    ) -> Callable[[], AbstractContextManager[None]] | None:
        """Keep the base's weights, if the end may have to be pulled back to them.

        Args:
            model: The model that will be trained, in all processes.
            folder: Where they are kept for a training that is resumed.
            step: Steps that it has been trained for; above 0 the training is resumed.
            resumable: Whether there will be checkpoints.
            used: The share of the budget that was used when it was last measured.

        Returns:
            The context in which the model is its base; None if only adapters or the probes know the base.

        Raises:
            UserError: The way back to the base is not known, or the weights of a resumed training are not there.
        """
        self.used, self._braked, self._origin = used, [], {}
        if self.budget.pulls:
            check_line(model)
        if has_adapters(model):
            return None
        if self._given is not None:
            self._origin = self._given
        elif self.budget.pulls:
            file = folder / ORIGIN.format(rank())
            self._origin = _read(file, model) if step else copy_of_trained(model)
            if resumable and not step:
                folder.mkdir(parents=True, exist_ok=True)
                scratch = file.with_suffix(".new")
                save_file(dict(self._origin), scratch)
                scratch.replace(file)
        if not self._origin:
            return None
        return partial(at, model, self._origin) if step else nullcontext

    @property
    def has_ended(self) -> bool:
        """Whether nothing would move any more, so that the training can end."""
        return self._brake == 0

    @property
    def _brake(self) -> float:
        return self.budget.brake(self.used)

    def before_step(self, optimizer: Optimizer) -> None:
        """Brake a step of the optimizer."""
        brake = self._brake
        for group in optimizer.param_groups if brake < 1 else ():
            self._braked.append((group, {name: group[name] for name in ("lr", "fraction") if name in group}))
            group["lr"] = group["lr"] * brake
            if brake and "fraction" in group:
                group["fraction"] = group["fraction"] * brake

    def after_step(self) -> None:
        """Set learning rate and fraction as they were: schedulers and checkpoints do not see the brake."""
        for group, values in self._braked:
            group.update(values)
        self._braked = []

    def measured(self, values: Mapping[str, float]) -> dict[str, float]:
        """Set the brake by a measurement, and return its values with the share of the budget that is used."""
        self.used = self.budget.used(values)
        return {**values, USED: self.used}

    @torch.no_grad()
    def hold(self, model: PreTrainedModel, step: int, planned: int) -> tuple[Kept, dict[str, float]]:
        """Pull the end of a training back if it is over the budget, and note how the budget was held.

        Args:
            model: The model after its last step, which has been measured.
            step: The last step.
            planned: The step that was to be the last.

        Returns:
            How the budget was held, and the values of the model as it is now.
        """
        found: dict[float, Point] = {1.0: self.watch.point(step)}

        def used(share: float) -> float:
            return self.budget.used(self.watch.changes(found[share]))

        share = 1.0
        if self.budget.pulls and not used(1.0) <= 1:
            line = Line(model, self._origin)

            def is_within(share: float) -> bool:
                line.go(share)
                if share not in found:
                    found[share] = self.watch.look(model)
                return used(share) <= 1

            share = largest_share(is_within)
            is_within(share)
        kept = Kept(
            bounds=dict(self.budget.bounds),
            way=self.budget.way,
            step=step,
            planned_steps=planned,
            share=share,
            used_before=used(1.0),
            used=used(share),
        )
        self.watch.note(step, found[share])
        self.watch.note_kept(kept)
        now = {USED: used(share), USED_BEFORE: used(1.0), KEPT: share}
        return kept, {**self.watch.changes(found[share]), **now}


def kept_sentence(kept: Kept) -> str:
    """Return how a budget was held, for the user of a trainer."""
    bounds = ", ".join(f"{spec}={bound:g}" for spec, bound in kept.bounds.items())
    used = "not finite" if kept.used is None else f"{kept.used:.0%} used"
    sentence = f"Budget {bounds}: {used}"
    if kept.step < kept.planned_steps:
        sentence += f", ended at step {kept.step} of {kept.planned_steps}"
    if kept.share < 1:
        before = "not finite" if kept.used_before is None else f"{kept.used_before:.0%}"
        sentence += f", pulled back to {kept.share:.1%} of the change (before: {before})"
    return f"{sentence}."


def _read(file: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the base's weights as an earlier session kept them.

    Raises:
        UserError: They are not there, or are of another model or number of processes.
    """
    found = load_file(file) if file.is_file() else {}
    wanted = {name: weight.shape for name, weight in copy_of_trained(model).items()}
    if {name: weight.shape for name, weight in found.items()} != wanted:
        raise UserError(
            f"The budget cannot be held: {file} does not hold the weights that this training began with; resume in the "
            "folder in which it began, or start anew."
        )
    return found
