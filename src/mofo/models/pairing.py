"""Two models that are to be compared: whether they can be, and the tokens that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from mofo.errors import UserError
from mofo.models.adapter import adapter_base, is_adapter
from mofo.models.load import empty_model, load_model, local_folder
from mofo.models.quantised import quantisation
from mofo.models.weights import token_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """Two loaded models of one architecture.

    Attributes:
        base: The base, in float32.
        tuned: The tuned model, in the precision in which it was stored; an adapter in float32.
        tokenizer: The tokenizer by which both are measured.
        notes: What a reader must know of how the two were made comparable, a sentence each.
    """

    base: PreTrainedModel
    tuned: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: list[str]


def base_of(base: str | None, tuned: str) -> str:
    """Return the base as it was given, or else the one that the tuned model, an adapter, names.

    Raises:
        UserError: None was given, and the tuned model is no adapter.
    """
    if base is not None:
        return base
    folder = local_folder(tuned)
    if not is_adapter(folder):
        raise UserError(f"{tuned} is a whole model, which does not say what it was tuned from: give its --base.")
    return adapter_base(folder)


def load_pair(base: str, tuned: str, *, trust_remote_code: bool = False) -> Pair:
    """Load a base and a tuned model that can be compared.

    Where one has more tokens than the other, it loses those that the other does not have.

    Args:
        base: The base, as for `mofo.models.load.load_model`.
        tuned: The tuned model, likewise; an adapter is merged into the base.
        trust_remote_code: Whether code that comes with a model may run.

    Raises:
        UserError: A model cannot be found or loaded; or the two are not of one architecture, which is said before
            either is loaded.
    """
    _check_same_architecture(base, tuned, trust_remote_code=trust_remote_code)
    folder = local_folder(tuned)
    precision: torch.dtype | Literal["auto"] = torch.float32 if is_adapter(folder) else "auto"
    base_model, tokenizer = load_model(base, trust_remote_code=trust_remote_code)
    tuned_model, tuned_tokenizer = load_model(tuned, base=base, dtype=precision, trust_remote_code=trust_remote_code)
    notes = []
    methods = [quantisation(local_folder(spec)) for spec in (base, tuned)]
    if methods[1] and not methods[0]:
        notes.append(f"The tuned model's weights are quantised ({methods[1]}): their rounding is part of the distance.")
    rows = [token_rows(model) for model in (base_model, tuned_model)]
    if rows[0] != rows[1]:
        common = min(rows)
        for model, own in zip((base_model, tuned_model), rows, strict=True):
            if own != common:
                model.resize_token_embeddings(common, mean_resizing=False)
        if len(tokenizer) > common:
            tokenizer = tuned_tokenizer
        notes.append(
            f"The base has {rows[0]} tokens and the tuned model {rows[1]}: everything is measured on the {common} that "
            "both have."
        )
    return Pair(base_model, tuned_model, tokenizer, notes)


def _check_same_architecture(base: str, tuned: str, *, trust_remote_code: bool) -> None:
    """Refuse two models whose parameters differ in more than the rows of their vocabulary, without loading them."""
    models = [
        empty_model(base, trust_remote_code=trust_remote_code),
        empty_model(tuned, base=base, trust_remote_code=trust_remote_code),
    ]
    shapes = [_shapes_but_vocabulary(model) for model in models]
    if shapes[0] == shapes[1]:
        return
    kinds = [
        f"{spec} ({model.config.model_type}, {sum(p.numel() for p in model.parameters()) / 1e6:,.1f} M parameters)"
        for spec, model in zip((base, tuned), models, strict=True)
    ]
    different = sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
    raise UserError(
        f"{kinds[0]} and {kinds[1]} are not of one architecture: {len(different)} of their parameters differ in name "
        f"or shape, such as {different[0]}; give a base and a model that was tuned from it."
    )


def check_same_shapes(base: str, others: Sequence[str], *, trust_remote_code: bool = False) -> None:
    """Refuse models whose parameters differ from a base's in name or shape, without loading any.

    Args:
        base: The base, as for `mofo.models.load.load_model`.
        others: Models, likewise; of adapters their base is looked at.
        trust_remote_code: Whether code that comes with a model may run.

    Raises:
        UserError: A model cannot be found, or differs.
    """
    expected = _shapes(empty_model(base, trust_remote_code=trust_remote_code))
    for spec in others:
        found = _shapes(empty_model(spec, base=base, trust_remote_code=trust_remote_code))
        different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        if different:
            shapes = " and ".join(str(shapes.get(different[0], "missing")) for shapes in (expected, found))
            raise UserError(
                f"{spec} does not have the parameters of {base}: {len(different)} differ in name or shape, such as "
                f"{different[0]} ({shapes}); give models that were tuned from this base."
            )


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _shapes_but_vocabulary(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by name, without the rows where these are the tokens.

    An output layer of its own is left out: whether it is tied is seen in the weights.
    """
    tables = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    vocabulary = {id(parameter) for layer in tables for parameter in layer.parameters()}
    output = {id(parameter) for layer in tables[1:] for parameter in layer.parameters()}
    output -= {id(parameter) for parameter in tables[0].parameters()}
    return {
        name: tuple(parameter.shape[1:]) if id(parameter) in vocabulary else tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if id(parameter) not in output
    }
