"""Adapters of the peft library: LoRA, DoRA and OFT. Only they are trained; the base's weights stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel


class _Adapter(Part):
    """What the adapters have in common: they go into all linear layers but the output layer."""

    def config(self) -> PeftConfig:
        """Return the adapter's configuration."""
        raise NotImplementedError

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Return the model with adapters, initialised by the run's seed."""
        import torch
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(setup.seed)
            adapted = get_peft_model(model, self.config())
        return cast("PreTrainedModel", adapted)  # wraps it, and is used like it

    def weights(self, model: PreTrainedModel) -> Mapping[str, Tensor]:
        """Return copies of the weights with the adapters merged, under the base's names."""
        before = {name: p.detach().clone() for name, p in model.named_parameters() if ".base_layer." in name}
        model.merge_adapter()  # type: ignore[operator]
        merged = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): p.detach().clone()
            for name, p in model.named_parameters()
            if name in before or not p.requires_grad
        }
        model.unmerge_adapter()  # type: ignore[operator]
        for name, p in model.named_parameters():
            if name in before:
                p.detach().copy_(before[name])  # unmerging rounds
        return {name: tensor for name, tensor in merged.items() if ".lora_" not in name and ".oft_" not in name}


class LoRA(_Adapter):
    """W = W₀ + (α/r)·B·A with trained A (r × in) and B (out × r)."""

    name = "lora"
    label = "LoRA"
    source = "arXiv 2106.09685"
    cost = "state and gradients of the adapters alone; about the time of AdamW"

    rank: int = setting(16, "rank r of the adapters", short="r", ge=1)
    alpha: int = setting(32, "scale α", gt=0)

    def config(self) -> PeftConfig:
        """Return LoRA on all linear layers."""
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


class DoRA(LoRA):
    """LoRA on the directions of W's columns, with their norms trained apart."""

    name = "dora"
    label = "DoRA"
    source = "arXiv 2402.09353"
    cost = "as LoRA, slower by the norms"

    def config(self) -> PeftConfig:
        """Return DoRA on all linear layers."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"
        )


class OFT(_Adapter):
    """W = R·W₀ with trained orthogonal R, block-diagonal."""

    name = "oft"
    label = "OFT"
    source = "arXiv 2306.07280"
    cost = "state and gradients of the rotations alone; slower than LoRA"

    block: int = setting(
        32, "rows and columns of a block of R; it must divide the width of the layers", short="b", ge=2
    )

    def config(self) -> PeftConfig:
        """Return OFT on all linear layers."""
        from peft import OFTConfig

        return OFTConfig(oft_block_size=self.block, target_modules="all-linear", task_type="CAUSAL_LM")
