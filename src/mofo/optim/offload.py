"""Moments and step on the CPU for parameters on a GPU."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, overload

import torch
import torch.distributed as dist
from torch.optim import Optimizer
from torch.utils.weak import TensorWeakRef

from mofo.optim.checks import check_grad
from mofo.optim.dtensor import is_dtensor
from mofo.optim.optimizer import MoFO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from torch.optim.optimizer import ParamsT

BATCH = 1 << 28  # bytes of parameters that step together; what is computed overlaps with what is still being copied


class CPUOffload(Optimizer):
    """An optimizer whose moments and step are on the CPU while the parameters are on a GPU.

    Each gradient is copied to the CPU during the backward pass, as soon as it is computed. `step()` updates a copy of
    the parameters on the CPU, with MoFO's native library, and copies them back. The GPU holds parameters, gradients
    and activations, the CPU parameters, gradients and moments. The parameters are those of the same optimizer on the
    CPU, bit for bit, and so are the checkpoints: each loads into the other.

    `step()` takes gradients and parameters as they are when it is called. What has changed since the backward pass
    (gradients clipped or unscaled, weights loaded) is copied again then, without overlap with the backward pass; so are
    all gradients where several processes reduce them after it. Changes made through `.data` are not noticed.

    Learning-rate schedulers, gradient accumulation, clipping, `GradScaler` and models on several GPUs of one process
    work. Parameters on the CPU take the same path without streams. With FSDP2, use its `CPUOffloadPolicy` and MoFO
    itself.

    Args:
        params: tensors, parameter groups or ``named_parameters()``.
        optimizer_class: the optimizer that makes the step.
        options: its arguments.

    Raises:
        NotImplementedError: a parameter is sharded, or neither on a CUDA device nor on the CPU.
        Exception: what `optimizer_class` raises for such parameters on a CPU.

    Examples:
        >>> optimizer = CPUOffload(model.parameters(), MoFO, lr=1e-5, fraction=0.15)
    """

    def __init__(self, params: ParamsT, optimizer_class: type[Optimizer] = MoFO, **options: Any) -> None:
        self._copies: dict[Tensor, _Copy] = {}
        self._lanes: dict[torch.device, _Lane] = {}
        self._optimizer: Optimizer | None = None
        super().__init__(params, {})
        self._optimizer = optimizer_class([self._on_cpu(group) for group in self.param_groups], **options)
        self.defaults = self._optimizer.defaults
        self._share_options(source=self._optimizer, target=self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own, as `torch.optim.Optimizer` does.

        Raises:
            NotImplementedError, Exception: as the class; nothing is added then.
        """
        super().add_param_group(param_group)
        if self._optimizer is None:
            return  # __init__ makes the optimizer with all groups
        added = self.param_groups[-1]
        try:
            self._optimizer.add_param_group(self._on_cpu(added))
        except Exception:
            self.param_groups.pop()
            for param in added["params"]:
                self._copies.pop(param, None)
            raise
        self._share_options(source=self._optimizer, target=self)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as MoFO's own
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned.

        Raises:
            RuntimeError: a gradient is sparse, or parameters were replaced, moved or cast. None was written then.
            Exception: what the step of `optimizer_class` raises. Parameters of earlier batches (256 MiB each) were
                written then.
        """
        assert self._optimizer is not None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        self._share_options(source=self, target=self._optimizer)
        ready = [
            self._copy(param) for group in self.param_groups for param in group["params"] if param.grad is not None
        ]
        for copy in ready:
            copy.check()
        ready.sort(key=lambda copy: copy.order)  # the gradient that was there first was copied first
        for copy in ready:
            copy.update()
        for batch in _batches(ready):
            for copy in batch:
                copy.wait()
                copy.host.grad = copy.host_grad
            try:
                self._optimizer.step()
            finally:
                for copy in batch:
                    copy.host.grad = None
            for copy in batch:
                copy.send_back()
        for lane in self._lanes.values():
            lane.join()
        self._share_state()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint that the optimizer itself would write for the same parameters on the CPU."""
        assert self._optimizer is not None
        self._share_options(source=self, target=self._optimizer)
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class or of the optimizer itself.

        Raises:
            Exception: as the optimizer itself, which decides whether anything is loaded then.
        """
        assert self._optimizer is not None
        self._share_options(source=self, target=self._optimizer)
        self._optimizer.load_state_dict(state_dict)
        self._share_options(source=self._optimizer, target=self)
        self._share_state()

    def __getstate__(self) -> NoReturn:
        raise TypeError("CPUOffload cannot be copied or pickled, it belongs to its parameters: save its state_dict()")

    def _on_cpu(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group with copies of its parameters on the CPU."""
        for param in group["params"]:
            _check_param(param)
        for param in group["params"]:
            if param.device not in self._lanes:
                self._lanes[param.device] = _Lane(param.device)
            self._copies[param] = _Copy(param, self._lanes[param.device])
        return {**group, "params": [self._copies[param].host for param in group["params"]]}

    def _copy(self, param: Tensor) -> _Copy:
        if param not in self._copies:
            raise RuntimeError(
                f"a parameter of shape {tuple(param.shape)} is not one that CPUOffload was made with: make it after "
                "the model is where it trains; with FSDP2 use CPUOffloadPolicy instead"
            )
        return self._copies[param]

    def _share_options(self, source: Optimizer, target: Optimizer) -> None:
        """Copy the options: schedulers and users change those here, the step and checkpoints those of the optimizer."""
        for given, taken in zip(source.param_groups, target.param_groups, strict=True):
            taken.update({key: value for key, value in given.items() if key != "params"})

    def _share_state(self) -> None:
        """Let `state[param]` be the very dictionary that the optimizer has for the copy of `param`."""
        assert self._optimizer is not None
        for param, copy in self._copies.items():
            if copy.host in self._optimizer.state:
                self.state[param] = self._optimizer.state[copy.host]


class _Copy:
    """A parameter and its gradient on the CPU.

    Attributes:
        host: the parameter on the CPU.
        host_grad: its gradient there, None before the first.
        order: the place of its gradient among those of all backward passes.
    """

    _backward = itertools.count(1)

    def __init__(self, param: Tensor, lane: _Lane) -> None:
        pinned = lane.is_asynchronous and param.requires_grad
        self.host = torch.empty_like(param, device="cpu", pin_memory=pinned, requires_grad=False)
        self.host_grad: Tensor | None = None
        self.order = 0
        self._param = param
        self._lane = lane
        self._param_version: tuple[int, int] | None = None  # of what host holds
        self._grad_version: tuple[TensorWeakRef, int] | None = None  # of what host_grad holds
        self._event: torch.cuda.Event | None = None  # the end of the last copy, either way
        if param.requires_grad:
            itself = weakref.ref(self)  # the parameter must not keep an optimizer that nobody uses any more

            def copy_early(_: Tensor) -> None:
                found = itself()
                if found is not None:
                    found.copy_early()

            param.register_post_accumulate_grad_hook(copy_early)

    @torch.no_grad()
    def copy_early(self) -> None:
        """Begin to copy the gradient during the backward pass, which has just computed it."""
        grad = self._param.grad
        # Several processes may reduce gradients after this hook, in memory and unseen by their version.
        if grad is None or grad.layout is not torch.strided or (dist.is_available() and _several_processes()):
            return
        self.order = next(self._backward)
        self.update()

    def check(self) -> None:
        """Check that parameter and gradient can be copied.

        Raises:
            RuntimeError: they cannot.
        """
        param = self._param
        assert param.grad is not None
        check_grad(param.grad)
        if param.device != self._lane.device or param.dtype != self.host.dtype or param.shape != self.host.shape:
            raise RuntimeError(
                f"a parameter was {self.host.dtype} of shape {tuple(self.host.shape)} on {self._lane.device} when "
                f"CPUOffload was made, is {param.dtype} of shape {tuple(param.shape)} on {param.device}: make it after "
                "the model was moved and cast"
            )

    def update(self) -> None:
        """Begin to copy what is not on the CPU as it is on the device."""
        param = self._param
        if self._param_version != _version(param):
            self._event = self._lane.copy(self.host, param)
            self._param_version = _version(param)
        grad = param.grad
        assert grad is not None
        if not self._has(grad):
            if self.host_grad is None:
                self.host_grad = torch.empty_like(self.host, pin_memory=self._lane.is_asynchronous)
            self._event = self._lane.copy(self.host_grad, grad)
            self._grad_version = (TensorWeakRef(grad), grad._version)

    def _has(self, grad: Tensor) -> bool:
        """Check whether `host_grad` is a copy of this gradient as it is now."""
        if self._grad_version is None:
            return False
        copied, version = self._grad_version
        return copied() is grad and version == grad._version

    def wait(self) -> None:
        """Wait until all copies are done."""
        if self._event is not None:
            self._event.synchronize()

    def send_back(self) -> None:
        """Begin to copy the parameter to the device."""
        self._event = self._lane.copy(self._param, self.host)
        self._param_version = _version(self._param)


class _Lane:
    """The copies between one GPU and the CPU, on a stream of their own; without a GPU they are made at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_asynchronous = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.is_asynchronous else None

    def copy(self, target: Tensor, source: Tensor) -> torch.cuda.Event | None:
        """Copy once the device has done the work it was given so far; the event marks the end of the copy."""
        if self._stream is None:
            target.copy_(source)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            if source.is_cuda:
                source.record_stream(self._stream)  # its memory may be freed before the copy is done
            event: torch.cuda.Event = self._stream.record_event()
            return event

    def join(self) -> None:
        """Have the device wait for the copies before it goes on; this thread does not wait."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)


def _check_param(param: Tensor) -> None:
    if is_dtensor(param):
        raise NotImplementedError(
            f"the parameter of shape {tuple(param.shape)} is sharded (DTensor): give fully_shard an "
            "offload_policy=CPUOffloadPolicy() and use MoFO itself"
        )
    if param.device.type not in ("cuda", "cpu"):
        raise NotImplementedError(f"CPUOffload is for parameters on CUDA devices, got one on {param.device}")


def _version(tensor: Tensor) -> tuple[int, int]:
    """Return a value that changes when the tensor's content does, except through `.data`."""
    return tensor.data_ptr(), tensor._version


def _several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _batches(copies: list[_Copy]) -> Iterator[list[_Copy]]:
    """Cut into batches of consecutive copies, of about `BATCH` bytes of parameters each."""
    batch, size = [], 0
    for copy in copies:
        batch.append(copy)
        size += copy.host.nbytes
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
