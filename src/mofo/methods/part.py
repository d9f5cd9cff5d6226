"""A part of a way to fine-tune: an optimizer, or an extra that goes with any optimizer.

A part is a small class in a file of its own: its fields are its settings, checked by pydantic, and it overrides only
the hooks that it needs. The workbench calls hooks and shows settings and labels; it knows no part by its name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from pydantic import Field

from mofo.errors import UserError
from mofo.files import write_bytes
from mofo.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from mofo.data.tokens import Example
    from mofo.results import Scalar

SettingType = TypeVar("SettingType")


@dataclass(frozen=True)
class Setup:
    """What a hook may know of the run that it is a part of.

    Attributes:
        base: A copy of the base's weights by the names of the model's parameters, in host memory.
        tokenizer: The base's tokenizer.
        device: Where the model computes.
        seed: The run's seed.
        steps: Optimizer steps of the whole training, all tasks of a sequence together; None if nobody knows.
        batch: Rows of one optimizer step.
        rows: The rows of the task in the order of training, `batch` a step.
        folder: A folder that is this run's own and survives a kill.
        shared: A folder that all runs of a comparison share.
        scratch: Memory of this process for what parts keep from hook to hook; a resumed run begins with none.
        task: Number of the task, from 0.
        tasks: Number of tasks that the run learns one after the other.
        earlier: The rows of each task that it has learned before, in the order of training.
        base_name: Returns the name of the folder below these two that is of this base alone, where other bases may be
            trained into the same ones; it is asked for when something is first kept.
        is_sharded: Whether the model's parameters are spread over processes, so that all of them must compute together.
        is_base: Whether the model is the base when parts are prepared; where they are prepared late, one that goes on
            with a training has loaded its checkpoint by then.
    """

    base: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    seed: int
    steps: int | None
    batch: int
    rows: Sequence[Example]
    folder: Path
    shared: Path
    scratch: dict[str, Any] = field(default_factory=dict)
    task: int = 0
    tasks: int = 1
    earlier: Sequence[Sequence[Example]] = ()
    base_name: Callable[[], str] = lambda: ""
    is_sharded: bool = False
    is_base: bool = True

    def once(self, name: str, make: Callable[[], dict[str, Tensor]], *, shared: bool = False) -> dict[str, Tensor]:
        """Return the tensors that `make` returned when it was first called, interrupted or not.

        What a part draws or computes from the base belongs here, so that a resumed run goes on with the same.

        Args:
            name: Name of the file; it must tell all settings that `make` depends on apart.
            make: Computes the tensors.
            shared: Whether all runs of the comparison have the same tensors; otherwise they are this run's own.

        Raises:
            UserError: They were not made yet, and the model is not the base any more.
        """
        if name not in self.scratch:
            file = (self.shared if shared else self.folder) / self.base_name() / f"{name}.safetensors"
            made = _made_together if self.is_sharded else _made_once
            tensors = made(file, make if self.is_base else functools.partial(_refuse_to_make, file))
            self.scratch[name] = {key: tensor.to(self.device) for key, tensor in tensors.items()}
        return self.scratch[name]  # type: ignore[no-any-return]

    @functools.cached_property
    def base_on_device(self) -> dict[str, Tensor]:
        """The base's weights by name, in memory where the model computes; on a CPU the same tensors as `base`."""
        return {name: self.base[name].to(self.device) for name in self.base}

    def pairs(self, model: PreTrainedModel, part: Part) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each trainable parameter with the base's weight of the same name.

        Raises:
            UserError: A trainable parameter is not one of the base's, as those of adapters; `part` is named.
        """
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                if name not in self.base_on_device:
                    raise UserError(
                        f"{part.name} compares each trained weight with the base's, which has no {name}: it does not "
                        "go with adapters."
                    )
                yield parameter, self.base_on_device[name]


def _made_once(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what a file holds; whichever process comes first makes it."""
    from filelock import FileLock
    from safetensors.torch import load_file

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            _write(file, make())
    return load_file(file)


def _made_together(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what the first process's file holds; if there is none, all make it, and the first one's is kept."""
    from safetensors.torch import load_file

    from mofo.processes import from_first, rank

    is_first = rank() == 0
    if not from_first(file.is_file()):
        made = make()
        if is_first:
            file.parent.mkdir(parents=True, exist_ok=True)
            _write(file, made)
    return from_first(load_file(file) if is_first else {})


def _refuse_to_make(file: Path) -> NoReturn:
    raise UserError(
        f"The training cannot go on: {file}, made from the base, is not there; resume with the settings and in the "
        "folder with which the training began, or start anew."
    )


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    write_bytes(file, save({key: tensor.contiguous() for key, tensor in tensors.items()}))


class Part(Settings):
    """An extra, or the base class of an optimizer. The fields are the settings; each hook does nothing by default.

    Class attributes:
        name: How a recipe calls the part.
        label: What readers call it.
        source: Where it was published.
        cost: What it takes beyond plain training with AdamW, in memory and time.
        compares_with_base: Whether its hooks read `Setup.base`.
        remembers_tasks: Whether it does nothing but keep what earlier tasks of a sequence taught.
        single_task: Whether it makes no sense in a sequence of tasks.
        across_processes: Whether it does the same where rows, or parameters too, are spread over several processes.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    source: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    compares_with_base: ClassVar[bool] = False
    remembers_tasks: ClassVar[bool] = False
    single_task: ClassVar[bool] = False
    across_processes: ClassVar[bool] = False

    @property
    def needs_whole_tensors(self) -> bool:
        """Whether its settings exclude that parameters are spread over processes."""
        return False

    @property
    def ends(self) -> int:
        """How many variants `after_training` yields; a trainer, which leaves one model, takes no part with several."""
        return 1

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Return the model to train: the given one with parts of it frozen, or wrapped in adapters."""
        return model

    def next_task(self, model: PreTrainedModel, setup: Setup) -> None:
        """Make ready for a task that follows others: called before each but the first, with the model to train.

        Must depend on its arguments alone: a resumed run calls it for all tasks that it has begun.
        """

    def rows(self, rows: list[Example], setup: Setup) -> list[Example]:
        """Return the rows to train on, `setup.batch` a step, as many as were given.

        Must depend on its arguments alone: a resumed run asks again.
        """
        return rows

    def loss(self, loss: Tensor, logits: Tensor, inputs: Mapping[str, Tensor], tokens: Tensor, setup: Setup) -> Tensor:
        """Return the loss to minimise on a batch, in place of the task's.

        Args:
            loss: The task's: the sum over the labelled tokens of the batch, divided by `tokens`.
            logits: The model's, (rows, length, vocabulary); position i predicts token i + 1.
            inputs: What the model was given, (rows, length) each: `input_ids`, `attention_mask`, and `labels`, which
                are `IGNORED` where a token does not count.
            tokens: Number of labelled tokens of the whole optimizer step.
            setup: The run.
        """
        return loss

    def penalty(self, model: PreTrainedModel, step: int, setup: Setup) -> Tensor | None:
        """Return what is added to the loss in an optimizer step, a scalar with a gradient; steps count from 0."""
        return None

    def after_backward(self, model: PreTrainedModel, step: int, setup: Setup) -> None:
        """Change the gradients of an optimizer step in place, before they are clipped; steps count from 0."""

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        """Return callbacks for the trainer, such as schedules; after a step they come before its measurement."""
        return []

    def weights(self, model: PreTrainedModel) -> Mapping[str, Tensor] | None:
        """Return the trained weights under the base's names where the model has others; else None."""
        return None

    def after_training(self, model: PreTrainedModel, setup: Setup) -> Iterator[dict[str, Scalar]]:
        """Change the trained model in place, and yield a value of the part's settings for each variant.

        In a comparison each is measured and recorded as a run of its own, with these settings; when the iterator ends,
        the model must be as it was trained. A trainer leaves the first, and does not let the iterator end.
        """
        return iter(())


@dataclass(frozen=True)
class SettingNote:
    """What the workbench knows of a setting beyond its type.

    Attributes:
        label: What readers call it.
        short: Its name in the names of runs.
        in_name: Whether the names of runs always have it; otherwise only where it is not the default.
        variants: If not empty, values other than the default make methods of their own, with these labels.
        flag: Whether the command line has a flag for it, besides those that every run's name has.
    """

    label: str
    short: str
    in_name: bool
    variants: Mapping[str, str]
    flag: bool


def setting(
    default: SettingType,
    description: str,
    *,
    label: str = "",
    short: str = "",
    variants: Mapping[str, str] | None = None,
    flag: bool = False,
    **limits: Any,
) -> SettingType:
    """Return a field of a part: its default, what it means, and its limits as in `pydantic.Field`.

    Args:
        default: The default.
        description: What it means, for `--help` and the report.
        label: What readers call it; by default its name.
        short: Its name in the names of runs, which then always have it.
        variants: Labels of those values that make a method of their own, such as the scores of MoFO.
        flag: Whether the command line has a flag for it.
        limits: `gt`, `ge`, `lt`, `le`, ...
    """
    note: dict[str, Any] = {"label": label, "short": short, "variants": dict(variants or {}), "flag": flag}
    field: SettingType = Field(default, description=description, json_schema_extra={"note": note}, **limits)
    return field


def note_of(part: type[Part], name: str) -> SettingNote:
    """Return what `setting` was given for a field of a part."""
    extra = part.model_fields[name].json_schema_extra
    given: dict[str, Any] = extra["note"] if isinstance(extra, dict) else {}  # type: ignore[assignment]
    short = given.get("short") or ""
    label = given.get("label") or name.replace("_", " ")
    return SettingNote(label, short or name, bool(short), given.get("variants") or {}, bool(given.get("flag")))


class OptimizerPart(Part):
    """The optimizer of a method."""

    learning_rate: float = setting(1e-4, "peak learning rate", label="lr", short="lr", gt=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", ge=0)

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state that it keeps for a weight of `width` bytes: by default two float32 moments."""
        return 8

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return an optimizer of the model's trainable parameters."""
        raise NotImplementedError
