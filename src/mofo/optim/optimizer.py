"""The optimizer class: arguments, groups, checkpoints, step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch.optim import Optimizer

from mofo.optim.checks import (
    check_grad,
    check_options,
    check_param,
    check_rounding,
    check_state,
    check_together,
)
from mofo.optim.columns import columns_of
from mofo.optim.distributed.flat_params import check_flat
from mofo.optim.dtensor import is_dtensor, local
from mofo.optim.grad_scaler import GradScale
from mofo.optim.kernels import Execution
from mofo.optim.kernels.dispatch import check_capturable, check_fused
from mofo.optim.known import Known, can_be_known
from mofo.optim.rule.types import Operands, Rule
from mofo.optim.state.int8 import has_int8_moments
from mofo.optim.state.moments import needs_seed, new_seed, new_state, restored_group, restored_state, step_on_device
from mofo.optim.step import Task, make_step, repeat_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.optim.optimizer import ParamsT

    from mofo.optim.distributed.flat_params import OnFlat
    from mofo.optim.kernels.triton.launch import Variant, Workspace
    from mofo.optim.rule.types import Decay, Rounding, Score
    from mofo.optim.state.int8 import StateDtype


class MoFO(Optimizer):
    r"""AdamW that moves only the entries with the largest momentum, so that a fine-tuned model forgets less.

    Momentum-Filtered Optimizer, Algorithm 1 of Chen et al., "MoFO: Momentum-Filtered Optimizer for Mitigating
    Forgetting in LLM Fine-Tuning" (arXiv 2407.20999). At every step, in each block of n entries, exactly
    k = max(1, ⌊fraction · n⌋) entries are updated: those with the highest score, of equal scores the ones with
    the lowest row-major index. All others keep every bit. The moments of all entries are always updated.

    An entry whose momentum is not finite is always updated, beyond k if necessary: a non-finite gradient shows in the
    parameters as it does with AdamW.

    Every argument but `params` can be set per parameter group.

    Args:
        params: tensors, parameter groups or `named_parameters()`.
        lr: learning rate η; a number or a tensor of one element.
        fraction: update fraction α in (0, 1]. The paper recommends 0.05 to 0.20. 1 is `torch.optim.AdamW` with the
            same `foreach` and `fused`, bit for bit (but for 16-bit parameters, whose moments stay in float32).
        betas: decay rates β1, β2 of the two moments, in [0, 1).
        eps: ε, added to √v̂.
        weight_decay: decoupled weight decay λ: θ ← (1 − η·λ)·θ.
        blocks: number of equal contiguous pieces into which a tensor is cut along its first dimension. Entries compete
            within their piece. It must divide the first dimension.
        group_as_block: all tensors of a parameter group are one block together, in their order. Tensors without a
            gradient take no part. In plain torch; not for sharded parameters, 8-bit moments and `fused=True`.
        score: what ranks the entries of a block: `"momentum"` |m| (the paper's method), `"gradient"` |g|,
            `"momentum_over_rms"` |m̂|/√v̂, or `"random"` (each parameter draws from a seed that is kept in its state and
            set at its first step from `torch.initial_seed()`; torch's generators are not advanced).
        decay: which entries weight decay shrinks: the `"selected"` ones, or `"all"` as in the official code.
        maximize: ascend instead of descend.
        rounding: how new values of bfloat16 parameters are rounded: to the `"nearest"`, where small steps are lost, or
            `"stochastic"`, up or down at random so that the mean is right (from the seed that is kept in the state),
            which makes a float32 copy unnecessary. Only selected entries are rounded at random; the decay of the others
            with `decay="all"` is rounded to the nearest. Wider parameters hold new values as they are, float16 is
            refused.
        state_dtype: how moments are kept between steps: `"float32"`, or `"int8"` in blocks of 8 bits with a scale each,
            which takes a quarter of the memory and needs torchao. The step itself, selection too, is the float32 one
            on the values that the 8 bits stand for. Small tensors and those that cannot be cut into such blocks stay
            float32.
        foreach: True takes the fast path in plain torch, False the plain one, which needs more time and memory.
        fused: True takes the native library for CPU tensors and Triton's kernels for those on a GPU, of 16 and 32
            bits, and refuses others; `torch.amp.GradScaler` then leaves unscaling to them. If both are None, `fused` is
            used for the tensors that it can update and `foreach` for the rest; `mofo.backends()` says what is
            available. On a CPU the results of all are the same to the bit.
        on_flat: what to do with the flat pieces that DeepSpeed ZeRO and FSDP1 put in the place of parameters:
            `"refuse"`, or `"per_piece"`, which selects within each piece: an approximation, see "Large models" in the
            docs.
        capturable: count the steps on the GPU, and read a tensor `lr` there, so that a step can be captured in a CUDA
            graph; needs Triton. Replays repeat the captured step with its fraction and its other options, whatever they
            are set to afterwards: only a tensor `lr` can change. Capture again after changing another option.
        differentiable: refused; the selection of entries has no derivative.

    A sharded parameter (`DTensor`, as FSDP2 and tensor parallelism make it) is selected from as one tensor, with the
    results of one process to the bit. All processes must call `step`.

    Moments are float32 for float16, bfloat16 and float32 parameters and float64 for float64 ones. The state has
    the keys of AdamW (`step`, `exp_avg`, `exp_avg_sq`), whose checkpoints can be loaded, and `seed` with
    `score="random"` or `rounding="stochastic"`.

    Raises:
        TypeError: an argument or a parameter is of a type that is not supported.
        ValueError: an argument is outside its range or NaN, or `blocks` does not divide a parameter.
        RuntimeError: arguments exclude each other, a parameter is an expanded tensor, or `fused=True` cannot serve.
        NotImplementedError: `differentiable` is True, `capturable` where Triton cannot serve, `group_as_block` where it
            cannot serve, or a parameter is flat, or spread over processes as something else than shards or replicas.
        ImportError: `state_dtype="int8"` without torchao.

    Examples:
        >>> optimizer = MoFO(model.parameters(), lr=1e-5, fraction=0.15)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-5,
        fraction: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        blocks: int = 1,
        group_as_block: bool = False,
        score: Score = "momentum",
        decay: Decay = "selected",
        maximize: bool = False,
        rounding: Rounding = "nearest",
        state_dtype: StateDtype = "float32",
        foreach: bool | None = None,
        fused: bool | None = None,
        on_flat: OnFlat = "refuse",
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "fraction": fraction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "blocks": blocks,
            "group_as_block": group_as_block,
            "score": score,
            "decay": decay,
            "maximize": maximize,
            "rounding": rounding,
            "state_dtype": state_dtype,
            "foreach": foreach,
            "fused": fused,
            "on_flat": on_flat,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        check_options(defaults)
        self._shapes: set[torch.Size] = set()  # of the parameters as they were given
        super().__init__(params, defaults)
        self._prepare()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own, as `torch.optim.Optimizer` does.

        Raises:
            TypeError, ValueError, RuntimeError, NotImplementedError: as the class; nothing is added then.
        """
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            check_options(added)
            if added["group_as_block"]:
                check_together(added["params"])
            shapes = {param.shape for param in added["params"]}
            for param in added["params"]:
                if not param.requires_grad:  # one that is thawed later is checked at its first step
                    continue
                check_flat(param, added, shapes)
                check_param(param, added["blocks"], added["state_dtype"])
                check_rounding(param, added["rounding"])
                if added["capturable"]:
                    check_capturable(param)
                if added["fused"]:
                    check_fused(local(param))
        except Exception:
            self.param_groups.pop()
            raise
        self._shapes |= shapes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shapes": self._shapes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self._prepare()

    def _prepare(self) -> None:
        """Set up what is never checkpointed, and the mark that `torch.amp.GradScaler` looks for."""
        self.workspaces: dict[Variant, Workspace] = {}  # of Triton's kernels
        self._known: Known | None = None
        if self.defaults["fused"]:
            self._step_supports_amp_scaling = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of MoFO or of AdamW; moments keep their type whatever that of the parameters.

        Options that the checkpoint lacks, `state_dtype` and those that choose a back end stay as they are: moments of a
        float32 checkpoint are rounded if they are to be kept in 8 bits, those of 8 bits become float32 without loss.

        Raises:
            ValueError: the checkpoint does not fit the parameters, or is of AMSGrad; nothing is loaded then.
        """
        restored: dict[Tensor, dict[str, Any]] = {}

        def prepare(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            saved_groups, state = incoming["param_groups"], dict(incoming["state"])
            if [len(g["params"]) for g in saved_groups] != [len(g["params"]) for g in self.param_groups]:
                return incoming  # torch raises an error that says what is wrong
            groups = [restored_group(own, saved) for own, saved in zip(self.param_groups, saved_groups, strict=True)]
            for group, own in zip(groups, self.param_groups, strict=True):
                check_options(group)
                for index, param in zip(group["params"], own["params"], strict=True):
                    if param.requires_grad:
                        check_param(param, group["blocks"], group["state_dtype"])
                    if index in state:
                        restored[param] = restored_state(param, state.pop(index), group["state_dtype"])
            return {"state": state, "param_groups": groups}

        def restore(_: Optimizer) -> None:
            self.state.update(restored)

        # Registered last and first: other hooks see the checkpoint before, and the restored state after.
        handles = (
            self.register_load_state_dict_pre_hook(prepare),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    # Traced by Dynamo, a step would fall into a graph for each tensor, and be compiled again when anything changes.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned.

        Raises:
            RuntimeError: a gradient is sparse, or parameters overlap in memory. No tensor was written then, but where
                moments in 8 bits become float32 for the step, those before one that overlaps its own gradient were. Or
                not all processes have gradients of the same sharded parameters.
            TypeError, ValueError, RuntimeError, NotImplementedError: as the class, where options or parameters
                were changed since. No tensor was written then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        scale = GradScale(self)
        if self._known is not None and not scale.is_set:
            given = columns_of(self.param_groups, self.state)
            addresses = None if given is None else self._known.addresses(self.param_groups, *given)
            if given is not None and addresses is not None:
                for group in self.param_groups:
                    check_options(group)
                rules = [(Rule.of(group), Execution.of(group)) for group in self.param_groups]
                repeat_step(given[0], addresses, self._known.shares, rules, scale, self.workspaces)
                return loss

        self._check()
        self._known = None
        route = make_step(list(self._tasks()), scale, self.workspaces)
        given = columns_of(self.param_groups, self.state) if route is not None else None
        if route is not None and given is not None and can_be_known(self.param_groups, given[0]):
            self._known = Known(self.param_groups, *given, route)
        return loss

    def _check(self) -> None:
        """Check options, parameters and gradients, which may have changed since they were added."""
        for group in self.param_groups:
            check_options(group)
            if group["group_as_block"]:
                check_together(group["params"])
            for param in group["params"]:
                if param.grad is not None:
                    check_flat(param, group, self._shapes)
                    check_param(param, group["blocks"], group["state_dtype"])
                    check_state(param, self.state.get(param, {}))
                    check_rounding(param, group["rounding"])
                    check_grad(param.grad)
                    if group["fused"] and not is_dtensor(param):
                        check_fused(param, param.grad)

    def _tasks(self) -> Iterator[Task]:
        """Yield the parameters that have a gradient, each with its state."""
        position = 0  # of a parameter in the optimizer
        for number, group in enumerate(self.param_groups):
            together = number if group["group_as_block"] and group["fraction"] < 1 else None
            rule, execution, state_dtype = Rule.of(group), Execution.of(group), group["state_dtype"]
            on_device = bool(execution.capturable or execution.fused or self.defaults["fused"])
            for param in group["params"]:
                if param.grad is not None:
                    state = self._state_of(param, group, position)
                    state["step"] = step_on_device(state["step"], param, on_device)
                    exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
                    operands = Operands(param, param.grad, exp_avg, exp_avg_sq, state["step"], state.get("seed", 0))
                    int8 = has_int8_moments(param, exp_avg, state_dtype)
                    yield Task(operands, rule, execution, int8, together)
                position += 1

    def _state_of(self, param: Tensor, group: Mapping[str, Any], position: int) -> dict[str, Any]:
        """Return the state of a parameter; make it at its first step, and a seed when its group first needs one."""
        state: dict[str, Any] = self.state[param]
        if "step" not in state:
            state.update(new_state(param, group["state_dtype"]))
        if "seed" not in state and needs_seed(group, param):
            state["seed"] = new_seed(param, position)
        return state
