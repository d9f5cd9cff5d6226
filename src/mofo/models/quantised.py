"""Models whose weights are stored in fewer bits than torch can compute with."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mofo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def quantisation(folder: Path) -> str | None:
    """Return the method by which the weights in a model's folder are quantised; None for plain weights."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the model will say what is wrong
        return None
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    return str(settings.get("quant_method", "an unknown method")) if isinstance(settings, dict) else None


def with_plain_weights(model: PreTrainedModel, method: str, spec: str) -> PreTrainedModel:
    """Return a quantised model with the values that its weights stand for as plain weights.

    Args:
        model: The model as it was loaded.
        method: As `quantisation` names it.
        spec: The user's name of the model.

    Raises:
        UserError: Neither transformers nor the weights themselves can do it.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if type(parameter.data) is not torch.Tensor:  # torchao's tensors know what they stand for
                setattr(module, name, nn.Parameter(parameter.dequantize()))
    if not _is_plain(model):
        with suppress(NotImplementedError, AttributeError, ValueError, RuntimeError, ImportError):
            model = model.dequantize()
    if not _is_plain(model):
        raise UserError(
            f"The weights of {spec} are quantised ({method}) and cannot be made plain here: give the model in 16 or "
            "32 bits."
        )
    return model


def _is_plain(model: PreTrainedModel) -> bool:
    """Return whether a model has the parameters that its architecture has, and all of plain types."""
    with torch.device("meta"):
        names = {name for name, _ in type(model)(model.config).named_parameters()}
    weights = dict(model.named_parameters())
    return weights.keys() == names and all(
        type(p) is nn.Parameter and type(p.data) is torch.Tensor and p.dtype in PLAIN for p in weights.values()
    )
