"""The weights of a model by name: in memory or on disk, and the layer that each belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mofo.errors import UserError


class Weights(Mapping[str, Tensor]):
    """The tensors of a safetensors folder by name, each read from disk when it is asked for.

    Args:
        folder: A folder as transformers saves it: one `model.safetensors`, or several files with their index.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        try:
            if index.is_file():
                files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            elif single.is_file():
                files = [single.name]
            else:
                raise UserError(f"{folder} holds no model.safetensors: expected a model folder saved by transformers")
            # Each is a memory map, so that nothing is read yet.
            opened = [safe_open(folder / file, framework="pt") for file in files]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"the weights in {folder} cannot be read: {error}") from error
        self._file_of = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model in memory by name, tied ones once; they share its storage."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def layer_of(name: str) -> str:
    """Return the number of the decoder layer in a parameter's name, or else the module that holds the parameter."""
    number = re.search(r"(?:^|\.)(\d+)\.", name)
    return number[1] if number else name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


def depth(layer: str) -> tuple[int, int, str]:
    """Return a sort key that orders layers as in the model: embeddings, decoder layers by number, the rest.

    Args:
        layer: A layer as `layer_of` names it.
    """
    if layer.isdigit():
        return 1, int(layer), ""
    return (0 if layer.startswith(("embed", "wte", "wpe")) else 2), 0, layer


def tied_names(weights: Mapping[str, Tensor]) -> set[str]:
    """Return the names outside of the numbered layers whose matrix equals that of an earlier name."""
    seen: list[Tensor] = []
    tied = set()
    for name in sorted((name for name in weights if not layer_of(name).isdigit()), key=lambda n: depth(layer_of(n))):
        tensor = weights[name]
        if any(torch.equal(tensor, other) for other in seen):
            tied.add(name)
        elif tensor.ndim > 1:
            seen.append(tensor)
    return tied
