"""A model that is being trained, measured against its base from time to time; the training does not notice."""

from __future__ import annotations

import hashlib
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mofo import __version__
from mofo.errors import UserError
from mofo.files import cache_folder, read_json, write_json
from mofo.forgetting import Forgetting, Kept, Mark, find_forgetting, write_forgetting
from mofo.measure.kinds import check_probe_specs, make_probes, probe_states
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.measure.probe import Probe
from mofo.measure.share import among_processes
from mofo.models.line import has_adapters
from mofo.optim.dtensor import local
from mofo.processes import are_several, from_first, rank
from mofo.trainers.pace import Pace
from mofo.trainers.sample import sum_over_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mofo.results import Metric, Point, TrainingStep

PROBES = ("divergence", "text")
"""What is measured where nothing else is asked for: both need no data, and a pass over 6000 tokens together."""

KEPT = "forgetting_base_{}.safetensors"
"""File of a process with what the probes have computed from the base, to resume with."""


class Watch:
    """Measures a model against its base, and keeps what was measured in `forgetting.json`.

    The base is the model as it is when `begin` is called at step 0; with adapters of peft it is the model with them
    switched off. A measurement leaves the modes of all modules and all random states as they were.

    Args:
        probes: What to measure, as for `mofo measure`.
        every: Steps between two measurements; None as for `mofo.trainers.pace.Pace`.
        seed: Seed of what the probes draw.

    Raises:
        UserError: A probe is unknown or cannot be made, or `every` is no number of steps.
    """

    def __init__(self, probes: Sequence[str] = PROBES, every: int | None = None, *, seed: int = 0) -> None:
        if not probes:
            raise UserError("There is nothing to measure: name at least one probe, such as divergence.")
        self._pace = Pace(every)
        check_probe_specs(probes)
        self.specs, self.seed = list(probes), seed
        self._probes: list[Probe] = []
        self._record: Forgetting | None = None
        self._seconds = 0.0

    def begin(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        step: int,
        resumable: bool,
        precision: str,
        computing: Callable[[], AbstractContextManager[object]] = nullcontext,
        at_base: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Measure the base, or read what was measured of it.

        Args:
            model: The model that will be trained, in all processes.
            tokenizer: Its tokenizer.
            folder: Where `forgetting.json` goes.
            step: Steps that it has been trained for; above 0 the training is resumed.
            resumable: Whether there will be checkpoints, so that what was computed from the base must be kept.
            precision: The trainer's own name of the precision that it computes in.
            computing: Context in which the model computes, such as autocast.
            at_base: Context in which the model is its base, where the caller has its weights: then nothing needs to be
                kept for a resumed training.
        """
        self._folder, self._computing = folder, computing
        self._started = time.monotonic()
        self._seconds = 0.0
        self._record = None
        has_base = has_adapters(model) or at_base is not None
        with self._measuring(model), (at_base or nullcontext)():
            if step and not has_base:
                self._resume(model, tokenizer, step)
            else:
                key = self._key(model, tokenizer, precision)  # not with adapters off, which look like the base's own
                with adapters_off(model):
                    self._begin(model, tokenizer, step, key)
                if resumable and not has_base:
                    self._keep()
        self._pace.begin()

    def is_due(self, step: int, last: int | None = None) -> bool:
        """Return whether a step is one to measure after: as the pace says, and the last. All processes must ask."""
        if self._record is None or self.has(step):
            return False
        return step == last or self._pace.is_due(step)

    def has(self, step: int) -> bool:
        """Return whether a step has been measured."""
        return self._record is not None and any(mark.at == step for mark in self._record.marks)

    @property
    def is_ready(self) -> bool:
        """Whether it can measure: the base of a resumed training may be gone."""
        return self._record is not None

    def point(self, step: int) -> Point:
        """Return what was measured after a step, which has been."""
        return next(mark.point for mark in self._noted.marks if mark.at == step)

    def measure(self, model: PreTrainedModel, step: int) -> dict[str, float]:
        """Measure the model after a step, and note it.

        Returns:
            As `changes`.
        """
        with self._pace.measuring():
            point = self.look(model)
        self.note(step, point)
        return self.changes(point)

    def look(self, model: PreTrainedModel) -> Point:
        """Measure the model as it is."""
        with self._measuring(model):
            return self._numbers(model).point(self._base)

    def note(self, step: int, point: Point) -> None:
        """Note a measurement after a step, in place of an earlier one."""
        others = [mark for mark in self._noted.marks if mark.at != step]
        marks = [*others, Mark(at=step, point=point.model_copy(update={"step": step}))]
        self._record = self._noted.model_copy(update={"marks": marks})

    @property
    def kept(self) -> Kept | None:
        """How a budget was held at the end; None before."""
        return self._noted.kept

    def note_kept(self, kept: Kept) -> None:
        """Note how a budget was held at the end."""
        self._record = self._noted.model_copy(update={"kept": kept})

    def changes(self, point: Point) -> dict[str, float]:
        """Return changes from the base to be logged, positive is worse.

        They are `forgotten/PROBE`, and `forgotten/PROBE_NAME` for those numbers of a probe that do not stand for it.
        """
        changes = {log_name(metric): metric.change(self._noted.base, point) for metric in self._noted.metrics}
        return {name: change for name, change in changes.items() if change is not None}

    @property
    def _noted(self) -> Forgetting:
        assert self._record is not None, "measured before it began"
        return self._record

    def write(self, training: Sequence[TrainingStep] = ()) -> None:
        """Write `forgetting.json`; call it in one process."""
        if self._record is not None:
            times = {"seconds": self._seconds, "total_seconds": time.monotonic() - self._started}
            self._folder.mkdir(parents=True, exist_ok=True)
            write_forgetting(self._record.model_copy(update={"training": list(training), **times}), self._folder)

    @contextmanager
    def _measuring(self, model: nn.Module) -> Iterator[None]:
        start = time.monotonic()
        with unnoticed(model), among_processes(), self._computing():
            yield
        self._seconds += time.monotonic() - start

    def _begin(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int, key: str) -> None:
        """Make the probes from the base and measure it, as far as that is not in the cache."""
        file = cache_folder() / "bases" / f"{key}.json"
        cached: dict[str, Any] = from_first(read_json(file) if file.is_file() else {})
        states = cached.get("states")
        self._probes = make_probes(self.specs, base=model, tokenizer=tokenizer, seed=self.seed, states=states)
        self._base = _measured(cached["numbers"]) if cached else self._numbers(model)
        if not cached and rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"states": probe_states(self._probes), "numbers": _numbers(self._base)})
        self._start_record(model, step)

    def _start_record(self, model: PreTrainedModel, step: int) -> None:
        """Begin the record, with what was measured up to a step before."""
        earlier = find_forgetting(self._folder) if step else None
        kept = earlier.kept if earlier else None
        self._record = Forgetting(
            over="step",
            model=Path(model.config.name_or_path or "").name or type(model).__name__,
            metrics=[metric for probe in self._probes for metric in probe.metrics],
            base=self._base.point(None),
            marks=[mark for mark in earlier.marks if mark.at <= step] if earlier else [],
            kept=kept if kept and kept.step <= step else None,  # else of an end that this training goes to again
        )

    def _numbers(self, model: PreTrainedModel) -> Measured:
        return Measured({}, {probe.name: probe.measure(model) for probe in self._probes})

    def _keep(self) -> None:
        """Write what the probes have computed from the base, for a training that is resumed when it is gone."""
        about = {"states": probe_states(self._probes), "numbers": _numbers(self._base), "specs": self.specs}
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / KEPT.format(rank())
        scratch = file.with_suffix(".new")
        tensors = {f"{p.name}/{key}": tensor.contiguous() for p in self._probes for key, tensor in p.kept().items()}
        save_file(tensors, scratch, metadata={"about": json.dumps(about)})
        scratch.replace(file)

    def _resume(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int) -> None:
        """Make the probes from what `_keep` wrote; without it nothing is measured, and a warning says so."""
        about, kept = _kept_by_all(self._folder)
        fits = about.get("specs") == self.specs
        if fits:
            states = about["states"]
            self._probes = make_probes(self.specs, base=model, tokenizer=tokenizer, seed=self.seed, states=states)
            try:
                for probe in self._probes:
                    own = {name.partition("/")[2]: t for name, t in kept.items() if name.startswith(f"{probe.name}/")}
                    probe.restore(own)
            except KeyError:
                fits = False
        if sum_over_processes(torch.tensor([float(not fits)], device=model.device)).item():
            warnings.warn(
                f"forgetting is not measured any more: what was measured of the base is not in {self._folder}, or was "
                "of other probes",
                stacklevel=2,
            )
            self._probes = []
            return
        self._base = _measured(about["numbers"])
        self._start_record(model, step)

    def _key(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: str) -> str:
        """Return what the measurement of the base depends on, as a name."""
        digest = hashlib.sha256(weights_digest(model).encode())
        files = [Path(spec.partition(":")[2]) for spec in self.specs]
        about = {
            "mofo": __version__,
            "probes": [[spec, _digest_of(file)] for spec, file in zip(self.specs, files, strict=True)],
            "seed": self.seed,
            "tokens": hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest(),
            "device": model.device.type,
            "precision": [str(model.dtype), precision],
        }
        digest.update(json.dumps(about, sort_keys=True).encode())
        return digest.hexdigest()[:32]


def log_name(metric: Metric) -> str:
    """Return what a metric is called in a training log."""
    return f"forgotten/{metric.source}" if metric.headline else f"forgotten/{metric.source}_{metric.name}"


@contextmanager
def unnoticed(model: nn.Module) -> Iterator[None]:
    """Leave the modes of a model's modules, what requires a gradient, all random states and all shards as they were."""
    modes = {module: module.training for module in model.modules()}
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, the state that others may use
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for module, training in modes.items():
                module.training = training
                if isinstance(module, FSDPModule):  # the outermost stays gathered until a backward pass
                    module.reshard()
            for parameter, requires_grad in trained:
                parameter.requires_grad_(requires_grad)


def adapters_off(model: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which a model with adapters is its base; any other model is left as it is."""
    from peft import PeftModel

    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def weights_digest(model: nn.Module) -> str:
    """Return a SHA-256 of the parameters of a base, the same on all processes.

    In a model with adapters, where they have other names, these are the parameters that are not trained.
    """
    own = hashlib.sha256()
    adapted = has_adapters(model)
    for parameter in model.parameters():
        if not (adapted and parameter.requires_grad):
            weight = local(parameter.detach())
            own.update(f"{weight.dtype} {tuple(weight.shape)}".encode())
            own.update(weight.cpu().reshape(-1).view(torch.uint8).numpy().data)
    parts: list[str] = [own.hexdigest()]
    if are_several():
        parts = [""] * dist.get_world_size()
        dist.all_gather_object(parts, own.hexdigest())
    return hashlib.sha256("".join(dict.fromkeys(parts)).encode()).hexdigest()


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _numbers(measured: Measured) -> dict[str, dict[str, Any]]:
    """Return numbers as JSON can hold them; a mean with the units that it is the mean of."""
    return {
        source: {
            name: [value.totals, value.counts] if isinstance(value, Mean) else value for name, value in values.items()
        }
        for source, values in measured.forgotten.items()
    }


def _measured(numbers: Mapping[str, Mapping[str, Any]]) -> Measured:
    """Return what `_numbers` was given."""
    found = {
        source: {name: Mean(*value) if isinstance(value, list) else value for name, value in values.items()}
        for source, values in numbers.items()
    }
    return Measured({}, found)


def _kept_by_all(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `Watch` kept of the base: what it says of itself, and the tensors of all processes."""
    about: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob(KEPT.format("*"))):
        with safe_open(file, framework="pt") as kept:
            about = json.loads(kept.metadata()["about"])
            tensors |= {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    return about, tensors
