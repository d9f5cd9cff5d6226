"""The weights of a model by name, and the layer that each belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mofo.optim.dtensor import is_dtensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model in memory by name, tied ones once; they share its storage."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


class WholeWeights(Mapping[str, Tensor]):
    """The parameters of a model by name; one that is spread over processes is gathered when it is asked for.

    All processes must then ask for the same names in the same order.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = weights_of(model)

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter, whole."""
        weight = self._weights[name]
        return weight.full_tensor() if is_dtensor(weight) else weight

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._weights)

    def __len__(self) -> int:
        """Return the number of parameters, tied ones counted once."""
        return len(self._weights)


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters of a model by name, in host memory.

    A loaded model's own names are the ones to compare by: those in its file may be others, of experts that are fused on
    loading, of former versions of the architecture, or of buffers that no model has any more.
    """
    return {name: weight.cpu() if weight.is_cuda else weight.clone() for name, weight in weights_of(model).items()}


def token_rows(model: PreTrainedModel) -> int:
    """Return the rows of a model's token embeddings, which may be more than its tokenizer has tokens."""
    return sum(len(table) for table in model.get_input_embeddings().parameters())


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
