"""Adapters of the peft library: folders of low-rank updates, and the base that each belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.errors import UserError, first_line
from mofo.models.weights import token_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
"""The file by which an adapter's folder is known."""

EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight", "embeddings.weight")
"""How names of token embeddings end, where an adapter was saved together with them."""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, and no whole model beside it."""
    whole = [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return (folder / CONFIG).is_file() and not whole


def adapter_base(folder: Path) -> str:
    """Return the base that an adapter was trained on, as its configuration names it.

    Raises:
        UserError: The configuration cannot be read or names none.
    """
    try:
        base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The adapter in {folder} cannot be read: its {CONFIG} names no base.") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"The adapter in {folder} does not name its base: merge it into the base with peft first.")
    return base


def scaled_config(content: bytes, tensors: Iterable[str], scale: float) -> bytes:
    """Return the configuration of a LoRA adapter whose change is a share of what it was.

    W = W₀ + (α/r)·B·A is linear in α, with rank-stabilised scaling too, so that only α is changed.

    Args:
        content: The file `adapter_config.json`.
        tensors: Names of the adapter's tensors.
        scale: The share.

    Raises:
        UserError: The change of the adapter is not in proportion to α.
    """
    config = json.loads(content)
    if config.get("peft_type") != "LORA" or config.get("use_dora") or "lora_alpha" not in config:
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        raise UserError(f"The change of an adapter of the kind {kind} cannot be scaled: merge it into its base first.")
    if whole := sorted(name for name in tensors if "lora_" not in name):
        raise UserError(
            f"The change of an adapter that holds whole weights, such as {whole[0]}, cannot be scaled: merge it into "
            "its base first."
        )
    config["lora_alpha"] *= scale
    config["alpha_pattern"] = {name: alpha * scale for name, alpha in (config.get("alpha_pattern") or {}).items()}
    return json.dumps(config, indent=2, sort_keys=True).encode()


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a base with an adapter merged into its weights; the base itself is changed.

    A base whose vocabulary is smaller than that which the adapter was saved with is given more rows first.

    Raises:
        UserError: The adapter does not fit the base, or is not of a kind that can be merged.
    """
    from peft import PeftModel

    rows = _embedding_rows(folder)
    if rows and rows != token_rows(base):
        base.resize_token_embeddings(rows, mean_resizing=False)
    try:
        model: PreTrainedModel = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, OSError, AttributeError, TypeError) as error:
        raise UserError(f"The adapter in {folder} cannot be merged into its base: {first_line(error)}") from error
    return model


def _embedding_rows(folder: Path) -> int | None:
    """Return the rows of the token embeddings that an adapter was saved with; None if it was saved without."""
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name.endswith(EMBEDDINGS):
                return int(tensors.get_slice(name).get_shape()[0])
    return None
