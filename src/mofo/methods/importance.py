"""How much the base needs each attention head and each neuron, on text that it wrote; and gradients scaled by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.methods.base_text import base_text

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from mofo.methods.part import Setup

HEADS, NEURONS = "o_proj", "down_proj"
"""Names of the modules whose inputs are the heads' outputs and the neurons, as in Llama and its kin."""


def importance(base: PreTrainedModel, setup: Setup, *, texts: int, tokens: int) -> dict[str, Tensor]:
    """Return the importance of the units of each layer, in [0, 1), made once for a comparison.

    As in soft-masking (arXiv 2302.03241): a unit's importance is the absolute gradient of the loss by a gate of 1 at
    its output, averaged over texts, standardised within the layer, and |tanh| of that. The loss is that of the base on
    text that it wrote, in place of the divergence between two dropout masks, which decoders no longer have.

    Returns:
        By name of the module whose input the units are: (heads,) for `o_proj`, (neurons,) for `down_proj`.

    Raises:
        UserError: The model has no modules of these names.
    """
    modules = {name: module for name, module in base.named_modules() if name.endswith((HEADS, NEURONS))}
    if not modules:
        raise UserError(f"Soft masking finds heads and neurons by modules named {HEADS} and {NEURONS}: there are none.")

    def measure() -> dict[str, Tensor]:
        total = _gate_gradients(base, modules, base_text(base, setup, texts=texts, tokens=tokens).to(setup.device))
        return {name: ((t - t.mean()) / t.std().clamp(min=1e-12)).tanh().abs().cpu() for name, t in total.items()}

    return setup.once(f"importance-{texts}x{tokens}", measure, shared=True)


def _gate_gradients(base: PreTrainedModel, modules: dict[str, nn.Module], texts: Tensor) -> dict[str, Tensor]:
    """Return the sum over texts of the absolute gradient by a gate at each unit, by module."""
    heads: int = base.config.num_attention_heads
    total: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            arguments[0].retain_grad()
            inputs[name] = arguments[0]

        return hook

    handles = [module.register_forward_pre_hook(keep_input(name)) for name, module in modules.items()]
    try:
        for text in texts.split(1):
            base(input_ids=text, labels=text, use_cache=False).loss.backward()
            for name, value in inputs.items():
                assert value.grad is not None
                by_input = (value * value.grad).detach().sum(dim=(0, 1))
                units = by_input.view(heads, -1).sum(dim=1) if name.endswith(HEADS) else by_input
                total[name] = total.get(name, 0) + units.abs().float()
            base.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
    return total


def scale_gradients(model: PreTrainedModel, units: dict[str, Tensor]) -> None:
    """Multiply the gradients of the weights of each unit by 1 − its importance, in place.

    A head's weights are its rows of the query projection and its columns of the output projection; key and value
    projections that several heads share are scaled by the mean of theirs. A neuron's are its rows of the gate and up
    projections and its column of the down projection. Frozen weights have no gradient and are passed over.
    """
    modules = dict(model.named_modules())
    for name, important in units.items():
        layer, _, output = name.rpartition(".")
        width = modules[name].in_features // len(important)  # entries of a unit's output
        for projection in ("q_proj", "k_proj", "v_proj") if output == HEADS else ("gate_proj", "up_proj"):
            module = modules.get(f"{layer}.{projection}")
            if module is not None and module.weight.grad is not None:
                groups = len(module.weight) // width
                factors = (1 - important).view(groups, -1).mean(dim=1).repeat_interleave(width)
                module.weight.grad.mul_(factors.to(module.weight)[:, None])
        weight = modules[name].weight
        if weight.grad is not None:
            weight.grad.mul_((1 - important).repeat_interleave(width).to(weight)[None, :])
