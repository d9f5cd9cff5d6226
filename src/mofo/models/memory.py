"""How much memory a model took, and what a training pass will take."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: allocated on the GPU, or on a CPU resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pass_memory(
    model: PreTrainedModel, *, rows: int, length: int, dtype: torch.dtype, bf16: bool, checkpointing: bool, batches: int
) -> int | None:
    """Return the most bytes that the batches of an optimizer step hold at once, besides the weights.

    These are activations, logits, what the loss makes of them, and gradients. The model's own code runs forward and
    backward on tensors without storage, whose sizes are added up while they live; nothing is computed.

    Args:
        model: A causal language model, whose parameters need no storage.
        rows: Rows of a batch.
        length: Tokens of each.
        dtype: Data type of the weights.
        bf16: Whether the pass computes in bfloat16 (autocast).
        checkpointing: Whether activations are computed again in the backward pass.
        batches: Batches of an optimizer step; the gradients of the first are there in the second.

    Returns:
        The bytes, or None for a model whose code asks for values of its activations, which tensors without storage
        do not have.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    step = _Step(model, bf16=bf16, batches=min(batches, 2))
    try:
        with FakeTensorMode():
            held = {name: torch.empty(p.shape, dtype=dtype, requires_grad=True) for name, p in step.named_parameters()}
            held |= {name: torch.empty(b.shape, dtype=b.dtype) for name, b in step.named_buffers()}
            ids = torch.zeros(rows, length, dtype=torch.int64)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}
            with _Living([*held.values(), *inputs.values()]) as living:
                torch.func.functional_call(step, held, kwargs=inputs)
            return int(living.peak)
    except Exception:  # whatever a model's code makes of tensors that have no values
        return None


class _Step(nn.Module):
    """The batches of an optimizer step, forward and backward."""

    def __init__(self, model: PreTrainedModel, *, bf16: bool, batches: int) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.batches = batches

    def forward(self, **inputs: Any) -> None:
        """Leave the gradients in the parameters."""
        for _ in range(self.batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = self.model(**inputs).loss
            loss.backward()
            del loss


class _Living(TorchDispatchMode):
    """Adds up the sizes of the storages that come into being, for as long as each lives.

    Args:
        known: What is not to be counted.

    Attributes:
        peak: The largest sum so far, in bytes.
    """

    def __init__(self, known: Iterable[object]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known if isinstance(tensor, Tensor)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do what is asked, and count the storages of what comes out."""
        result = _call(func, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def _call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call an operator. Without storage, the product of experts takes bfloat16 alone, though its kernels take more."""
    if func is torch.ops.aten._grouped_mm.default:
        operands = [operand.bfloat16() for operand in args[:2]]
        return func(*operands, *args[2:], **kwargs).to(args[0].dtype)
    return func(*args, **kwargs)
