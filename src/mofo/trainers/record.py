"""What a trainer leaves beside the weights: `mofo.json`, the log, and the model card."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from mofo.files import write_text
from mofo.machine import LIBRARIES, versions
from mofo.methods.adamw import AdamW
from mofo.methods.mofo import MoFO
from mofo.models.embedded import EMBEDDED_MODEL, HUB_ID
from mofo.trainers.method import is_plain_adamw
from mofo.training import LogEntry, Training, write_training

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from mofo.methods.method import Method
    from mofo.trainers.trl.arguments import Arguments

    _Trainer = Trainer
else:
    _Trainer = object

LOGGED = {
    "step": "step",
    "epoch": "epoch",
    "num_input_tokens_seen": "tokens",
    "loss": "loss",
    "eval_loss": "held_out_loss",
    "learning_rate": "learning_rate",
    "mofo/selected": "selected",
    "mofo/moved": "moved",
    "mofo/overlap": "overlap",
    "mofo/distance": "distance",
    "rewards/margins": "margin",
    "rewards/accuracies": "preferred",
    "reward": "reward",
    "kl": "kl",
}
"""Fields of the log by the trainer's names for them."""

LENGTHS = ("max_length", "max_completion_length", "num_generations", "beta")
"""Settings of the objectives that a model card names."""

CITATION = """\
@article{chen2025mofo,
  title   = {{MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM Fine-Tuning}},
  author  = {Chen, Yupeng and Wang, Senmiao and Zhang, Yushun and Lin, Zhihang and Zhang, Haozhe and Sun, Weijian and Ding, Tian and Sun, Ruoyu},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  note    = {arXiv:2407.20999}
}"""  # noqa: E501


@dataclass(frozen=True)
class Made:
    """What was decided before the training: which model, data, method and settings.

    Attributes:
        objective: What was trained for, as trl's command is called.
        base: The model before, as its user named it.
        data: The rows, as their user named them.
        method: The method, with the settings that it trains with.
        settings: All its settings, by part.
        arguments: All other settings, as JSON values.
    """

    objective: str
    base: str
    data: str
    method: Method
    settings: dict[str, dict[str, Any]]
    arguments: dict[str, Any]


def made_by(args: Arguments, method: Method, optimizer_settings: dict[str, Any]) -> Made:
    """Return what a command line decides.

    Args:
        args: The command line.
        method: Its method.
        optimizer_settings: The arguments of MoFO; of them AdamW has betas and epsilon.
    """
    own = {"learning_rate": args.training.learning_rate, "weight_decay": args.training.weight_decay}
    settings = method.to_dict()
    settings[method.optimizer.name] |= own
    if method.optimizer.name == MoFO.name:
        settings[MoFO.name] |= {name: value for name, value in optimizer_settings.items() if name != "lr"}
    elif is_plain_adamw(method.optimizer):
        settings[AdamW.name] |= {name: optimizer_settings[name] for name in ("betas", "eps")}
    given = dataclasses.asdict(args.script) | dataclasses.asdict(args.model) | args.training.to_dict()
    named = ("eos_token", "pad_token")  # which look like secrets
    given |= {name: getattr(args.training, name) for name in named if hasattr(args.training, name)}
    given = {name: value for name, value in given.items() if not name.startswith(("optim", "adam_"))}  # in settings
    if args.mofo.probes or args.mofo.budget:
        given |= {name: getattr(args.mofo, name) for name in ("probes", "probe_steps")}
    if args.mofo.budget:
        given |= {name: getattr(args.mofo, name) for name in ("budget", "budget_way")}
    given |= {"model_name_or_path": args.base, "dataset_name": args.data}
    return Made(args.objective.name, args.base, args.data, method, settings, json.loads(json.dumps(given, default=str)))


class RecordsTraining(_Trainer):
    """Mix-in for a trainer class: lays `mofo.json` and the log beside all weights, and writes a card that names them.

    Attributes:
        made: What was decided before the training.
    """

    made: Made

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and what it was made of: the latter first, for saving may push the folder to the Hub."""
        folder = Path(str(output_dir or self.args.output_dir))
        if self.is_world_process_zero():
            write_training(self.training_so_far(), _log(self.state.log_history), folder)
        super().save_model(output_dir, _internal_call)
        if folder == Path(str(self.args.output_dir)):  # not before: peft writes a card of its own
            self.create_model_card()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write `README.md`, in the place of trl's, which knows neither the method nor a base that is a folder."""
        if self.is_world_process_zero():
            write_text(Path(str(self.args.output_dir)) / "README.md", self._card())

    def training_so_far(self) -> Training:
        """Return what `mofo.json` holds."""
        return Training(
            objective=self.made.objective,
            base=self.made.base,
            data=self.made.data,
            method="+".join(part.name for part in self.made.method.parts),
            label=self.made.method.info.label,
            settings=self.made.settings,
            arguments=self.made.arguments,
            steps=self.state.global_step,
            planned_steps=self.state.max_steps,
            rows=_length(self.train_dataset),
            epochs=self.state.epoch or 0.0,
            tokens=int(self.state.num_input_tokens_seen),
            versions=versions(*LIBRARIES),
        )

    def _card(self) -> str:
        folder = Path(str(self.args.output_dir))
        training, optimizer = self.training_so_far(), self.made.method.optimizer
        name = (self.args.hub_model_id or folder.resolve().name).rpartition("/")[2]
        base = HUB_ID if training.base == EMBEDDED_MODEL else training.base
        is_hub_id = not Path(training.base).expanduser().exists() and not training.base.endswith(".gguf")
        peft = training.arguments["use_peft"]
        data = ModelCardData(
            base_model=base if is_hub_id else None,
            library_name="peft" if peft else "transformers",
            model_name=name,
            tags=["generated_from_trainer", "trl", self.made.objective, "mofo", *(["lora"] if peft else [])],
        )
        environment = Environment(
            loader=PackageLoader("mofo.trainers", "."),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template("model_card.md.jinja").render(
            card_data=data.to_yaml(),
            name=name,
            model_id=self.args.hub_model_id or name,
            base=f"[{base}](https://huggingface.co/{base})" if is_hub_id else f"`{Path(base).name}`",
            data=f"`{Path(training.data).name if Path(training.data).exists() else training.data}`",
            training=training,
            is_adapter=peft,
            source=_link(optimizer.source),
            description=(type(optimizer).__doc__ or "").strip().splitlines()[0],
            is_chat=bool(getattr(self.processing_class, "chat_template", None)),
            table=_table(training, self.args, self.made.method),
            citation=CITATION if optimizer.name == MoFO.name else "",
        )


def _log(history: list[dict[str, Any]]) -> list[LogEntry]:
    """Return the entries of a trainer's history that have a loss; the last one sums the training up."""
    return [
        LogEntry(**{field: logs[name] for name, field in LOGGED.items() if name in logs})
        for logs in history
        if "loss" in logs or "eval_loss" in logs
    ]


def _link(source: str) -> str:
    """Return a source as Markdown: a link if it is a paper of arXiv."""
    number = source.removeprefix("arXiv ")
    return source if number == source else f"[{source}](https://arxiv.org/abs/{number})"


def _length(rows: Any) -> int | None:
    """Return the number of rows; None of rows that are streamed, which have none."""
    try:
        return len(rows)
    except TypeError:
        return None


def _table(training: Training, args: TrainingArguments, method: Method) -> dict[str, str]:
    """Return the settings that decide a training, by their names for readers."""
    table: dict[str, str] = {}
    for part in method.parts:
        prefix = "" if part is method.optimizer else f"{part.name}."
        table |= {f"{prefix}{name}": f"{value}" for name, value in training.settings[part.name].items()}
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return table | {
        "schedule": f"{training.arguments['lr_scheduler_type']}, warm-up {args.warmup_steps:g}",
        "rows of a step": f"{batch}",
        "steps": f"{training.steps} of {training.planned_steps}",
        "epochs": f"{training.epochs:.3g}",
        "rows": "streamed" if training.rows is None else f"{training.rows}",
        "tokens": f"{training.tokens}",
        **{name: f"{training.arguments[name]}" for name in LENGTHS if name in training.arguments},
        "seed": f"{args.seed}",
    }
