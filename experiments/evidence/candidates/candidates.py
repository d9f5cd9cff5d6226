"""Ways to forget less that were tried, as parts like those of the workbench; docs/evidence.md says what came out.

Each is as short as it can be: what a trial on one seed needs. None resumes to the bit or runs sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from mofo.data.tokens import IGNORED
from mofo.methods.base_text import Form, base_text
from mofo.methods.ewc import fisher
from mofo.methods.part import OptimizerPart, Part, Setup, setting
from mofo.results import Scalar

TEXTS, TOKENS = 64, 128
"""Text of the base that its Fisher information and its activations are measured on."""


class AroundStep(TrainerCallback):
    """Changes the weights after each step of the optimizer, knowing what they were before it."""

    def __init__(self, change: Callable[[str, Tensor, Tensor, float], None], *, remember: bool = True) -> None:
        self.change, self.remember = change, remember
        self.before: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.remember:
            for name, parameter in trained(kwargs["model"]):
                self.before.setdefault(name, torch.empty_like(parameter)).copy_(parameter)

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rate = float(kwargs["optimizer"].param_groups[0]["lr"])
        for name, parameter in trained(kwargs["model"]):
            self.change(name, parameter.detach(), self.before.get(name, parameter), rate)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def guards(information: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Return s / (s + strength·√F) for each parameter, s the median of √F in it."""
    roots = {name: value.sqrt() for name, value in information.items()}
    return {name: (s := root.median() + 1e-12) / (s + strength * root) for name, root in roots.items()}


class Guard(Part):
    """Each entry's step is scaled by s / (s + strength·√F), F the base's Fisher information on its own text."""

    name = "guard"
    label = "guard"
    strength: float = setting(1.0, "weight of √F", short="g", ge=0)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        setup.scratch[self.name] = guards(fisher(model, setup, texts=TEXTS, tokens=TOKENS), self.strength)
        return model

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        def change(name: str, weight: Tensor, before: Tensor, rate: float) -> None:
            weight.copy_(before + setup.scratch[self.name][name] * (weight - before))

        return [AroundStep(change)]


class InputGuard(Part):
    """The step of each linear layer is shrunk along the directions in which its inputs vary on the base's own text.

    ΔW ← ΔW·U·diag(γ/(γ + λᵢ/λ̄))·Uᵀ with the eigenvectors U and eigenvalues λ of E[xxᵀ].
    """

    name = "input-guard"
    label = "input guard"
    gamma: float = setting(1.0, "γ: the smaller, the stronger", short="g", gt=0)
    form: Literal["free", "mixed"] = setting("free", "what the base writes: text, or half of it conversations")

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        name = "input-covariances" if self.form == "free" else f"input-covariances-{self.form}"
        covariances = setup.once(name, lambda: input_covariances(model, setup, self.texts(model, setup)), shared=True)
        setup.scratch[self.name] = {name: self.projection(value) for name, value in covariances.items()}
        return model

    def texts(self, model: PreTrainedModel, setup: Setup) -> list[Tensor]:
        """Return texts of the base, in batches of eight."""
        if self.form == "free":
            return list(base_text(model, setup, texts=TEXTS, tokens=TOKENS).split(8))
        forms: tuple[Form, ...] = ("free", "chat")
        return [
            batch
            for form in forms
            for batch in base_text(model, setup, texts=TEXTS // 2, tokens=TOKENS, form=form).split(8)
        ]

    def projection(self, covariance: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance.double())
        values = values.clamp(min=0)
        return (vectors * (self.gamma / (self.gamma + values / values.mean()))) @ vectors.T

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        projections = {name: value.float() for name, value in setup.scratch[self.name].items()}

        def change(name: str, weight: Tensor, before: Tensor, rate: float) -> None:
            if name in projections:
                weight.copy_(before + (weight - before) @ projections[name])

        return [AroundStep(change)]


def input_covariances(model: PreTrainedModel, setup: Setup, texts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return E[xxᵀ] of the inputs of each linear layer of the decoder by the name of its weight."""
    layers = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            sums[name] = sums.get(name, torch.zeros(x.shape[1], x.shape[1])) + x.T @ x

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    with torch.no_grad():
        for text in texts:
            model(input_ids=text.to(setup.device), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: value / sum(map(Tensor.numel, texts)) for name, value in sums.items()}


class FisherPull(Part):
    """After each step θ − θ₀ is divided by 1 + η·λ·F: the proximal step of EWC, which needs no forward pass."""

    name = "fisher-pull"
    label = "pull by curvature"
    strength: float = setting(1e5, "λ", short="s", ge=0)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        setup.scratch[self.name] = fisher(model, setup, texts=TEXTS, tokens=TOKENS)
        return model

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        def change(name: str, weight: Tensor, before: Tensor, rate: float) -> None:
            base = setup.base_on_device[name]
            weight.copy_(base + (weight - base) / (1 + rate * self.strength * setup.scratch[self.name][name]))

        return [AroundStep(change, remember=False)]


class EAFT(Part):
    """Each token's loss is weighted by the model's entropy there, over its 20 likeliest tokens (2601.02151)."""

    name = "eaft"
    label = "EAFT"

    def loss(self, loss: Tensor, logits: Tensor, inputs: Mapping[str, Tensor], tokens: Tensor, setup: Setup) -> Tensor:
        targets = inputs["labels"][:, 1:]
        counts = targets != IGNORED
        log_p = logits[:, :-1][counts].float().log_softmax(dim=-1)
        top = log_p.detach().topk(20, dim=-1).values.softmax(dim=-1)
        weight = -(top * top.log()).sum(dim=-1) / math.log(20)
        return -(weight * log_p.gather(-1, targets[counts][:, None]).squeeze(-1)).sum() / tokens


class Freeze(Part):
    """Embeddings and norms are frozen."""

    name = "freeze"
    label = "frozen embeddings and norms"

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        model.get_input_embeddings().weight.requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.requires_grad_(False)
        return model


class Average(Part):
    """The mean of the weights over the last steps, each counting `decay` times the next."""

    name = "average"
    label = "average"
    decay: float = setting(0.85, "decay of a step", short="d", gt=0, lt=1)

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        means: dict[str, Tensor] = setup.scratch.setdefault(self.name, {})

        def change(name: str, weight: Tensor, before: Tensor, rate: float) -> None:
            if name in means:
                means[name].lerp_(weight, 1 - self.decay)
            else:
                means[name] = weight.clone()

        return [AroundStep(change, remember=False)]

    def after_training(self, model: PreTrainedModel, setup: Setup) -> Iterator[dict[str, Scalar]]:
        with torch.no_grad():
            end = {name: parameter.clone() for name, parameter in trained(model)}
            for name, parameter in trained(model):
                parameter.copy_(setup.scratch[self.name][name])
            yield {"decay": self.decay}
            for name, parameter in trained(model):
                parameter.copy_(end[name])


class AdamWBetas(OptimizerPart):
    """AdamW with other decays of its moments."""

    name = "adamw-betas"
    label = "AdamW (β1)"
    beta1: float = setting(0.95, "decay of the first moment", short="b", ge=0, lt=1)
    beta2: float = setting(0.999, "decay of the second moment", ge=0, lt=1)

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [parameter for _, parameter in trained(model)],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )


class GuardedMoFO(OptimizerPart):
    """MoFO whose score is |m|·s / (s + √F): of two large momenta, the one the base cares less for moves."""

    name = "guarded-mofo"
    label = "guarded MoFO"
    fraction: float = setting(0.15, "share of the entries of a tensor that move at a step", short="f", gt=0, le=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        setup.scratch[self.name] = guards(fisher(model, setup, texts=TEXTS, tokens=TOKENS), 1.0)
        return model

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        weights = {parameter: setup.scratch[self.name][name] for name, parameter in trained(model)}
        return _GuardedMoFO(weights, lr=self.learning_rate, fraction=self.fraction)


class _GuardedMoFO(torch.optim.Optimizer):
    def __init__(self, guards: dict[nn.Parameter, Tensor], lr: float, fraction: float) -> None:
        super().__init__(list(guards), {"lr": lr})
        self.guards, self.fraction = guards, fraction

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                m, v, t = state["m"].lerp_(p.grad, 0.1), state["v"], state["t"]
                v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                if p.dim() >= 2:
                    score = (m.abs() * self.guards[p]).flatten()
                    k = max(1, int(self.fraction * score.numel()))
                    step[score.kthvalue(score.numel() - k + 1).values > score.view_as(step)] = 0
                p.add_(step, alpha=-group["lr"])
