"""Tasks of the harness, ready to be asked: their definitions, and their rows from files or from the Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import lm_eval.tasks
from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from mofo.errors import UserError, closest, first_line
from mofo.measure.harness.rows import read_splits
from mofo.measure.harness.sandbox import isolation
from mofo.measure.probe import Options

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

logging.getLogger("lm_eval").setLevel(logging.ERROR)

OWN = Path(__file__).with_name("tasks")
"""Definitions of our own, which take the place of the harness's."""

BUILT_IN = Path(lm_eval.tasks.__file__).parent

FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "ai2_arc": "arc",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "gsm8k": "gsm8k",
    "ifeval": "ifeval",
    "medmcqa": "medmcqa",
    "medqa_4options": "medqa",
}
"""Where the harness defines the most common tasks: to read all of its ten thousand files takes several seconds."""

SHOTS_SEED = 1234
"""Seed of the examples before a question, the harness's own; every model gets the same ones."""


@dataclass(frozen=True)
class Leaf:
    """A task without parts, with its rows.

    Attributes:
        task: The harness's object.
        stands_in: The split whose rows take the place of those that the task asks for, where these are missing.
    """

    task: ConfigurableTask
    stands_in: str | None


@dataclass(frozen=True)
class Loaded:
    """What a name of the harness stands for.

    Attributes:
        leaves: Its tasks: one, or those of a group or tag.
        by_size: Whether a question of a group weighs the same in all of its tasks; otherwise its tasks weigh the same.
    """

    leaves: list[Leaf]
    by_size: bool


class _Task(ConfigurableTask):  # type: ignore[misc]  # the harness is not annotated
    """A task of the harness on rows that are there already."""

    def __init__(self, config: dict[str, Any], rows: datasets.DatasetDict) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Take the rows."""
        self.dataset = self._rows


@cache
def load_tasks(name: str, options: Options) -> Loaded:
    """Return the tasks that a name of the harness stands for.

    Raises:
        UserError: There is no such name; its rows cannot be had; or it runs generated code, which was not allowed.
    """
    index = _index(name)
    if name not in index:
        raise UserError(
            f"lm-evaluation-harness has no task {name!r}{closest(name, index)}: `lm_eval ls tasks` lists all."
        )
    if name.startswith("ifeval"):
        _find_sentence_splitter(options.harness_data)
    entry = index[name]
    metrics = (entry.cfg or {}).get("aggregate_metric_list") or [{}]
    metrics = metrics if isinstance(metrics, list) else [metrics]
    leaves = [_load(config, options) for config in _leaves(entry, index, {})]
    return Loaded(leaves, by_size=bool(metrics[0].get("weight_by_size", True)))


def _find_sentence_splitter(folder: Path | None) -> None:
    """Let IFEval find nltk's data in the folder of rows; without such a folder it downloads them itself.

    Raises:
        UserError: There is a folder of rows, and the data are neither there nor where nltk keeps them.
    """
    import nltk

    if folder is None:
        return
    if str(folder / "nltk_data") not in nltk.data.path:
        nltk.data.path.append(str(folder / "nltk_data"))
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise UserError(
            "IFEval counts sentences with nltk's punkt_tab, which is not here: `python -m nltk.downloader -d "
            f"{folder / 'nltk_data'} punkt_tab` on a machine with network, and copy it."
        ) from None


@cache
def _index(name: str) -> dict[str, Entry]:
    """Return the definitions that are needed for a name."""
    if (OWN / f"{name}.yaml").is_file():
        folders = [OWN]
    elif name in FOLDERS:
        folders = [BUILT_IN / FOLDERS[name]]
    elif name == "mmlu" or (BUILT_IN / "mmlu" / "default" / f"{name}.yaml").is_file():
        folders = [BUILT_IN / "mmlu" / "default"]
    else:
        folders = [BUILT_IN, OWN]
    index: dict[str, Entry] = TaskManager(include_defaults=False, include_path=folders).task_index
    return index


def _leaves(entry: Entry, index: dict[str, Entry], changes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the definition of each task of an entry, with what the groups above it change."""
    if entry.kind == Kind.TAG:
        for name in sorted(entry.tags):
            yield from _leaves(index[name], index, changes)
    elif entry.kind == Kind.GROUP:
        for member in (entry.cfg or {})["task"]:
            if isinstance(member, str):
                yield from _leaves(index[member], index, changes)
                continue
            name = member.get("task", member.get("group"))
            if not isinstance(name, str) or name not in index:
                raise UserError(
                    f"{entry.name} defines tasks of its own inside a group: ask for its parts by their names."
                )
            own = {key: value for key, value in member.items() if key not in ("task", "group")}
            yield from _leaves(index[name], index, changes | own)
    elif entry.kind == Kind.TASK:
        yield load_yaml(entry.yaml_path) | changes
    else:
        raise UserError(f"{entry.name} is written in Python, not defined by a file; such tasks cannot be probes.")


def _load(config: dict[str, Any], options: Options) -> Leaf:
    name = config["task"]
    if config.get("unsafe_code"):
        if not (OWN / f"{name}.yaml").is_file():
            raise UserError(
                f"{name} runs generated code in the harness's own process: humaneval and mbpp run it apart."
            )
        if not options.allow_code_execution:
            raise UserError(f"{name} runs code that the model writes: allow it with --allow-code-execution.")
        isolation()
    rows, stands_in = _rows(config, options)
    config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list", "class")}
    config.setdefault("num_fewshot", 0)
    config["num_fewshot"] = config["num_fewshot"] or 0
    try:
        return Leaf(_Task(config, rows), stands_in)
    except (LookupError, ValueError, TypeError, AssertionError, TemplateError) as error:
        raise UserError(
            f"The rows of {name} are not what it expects: {type(error).__name__} {first_line(error)}."
        ) from error


def _rows(config: dict[str, Any], options: Options) -> tuple[datasets.DatasetDict, str | None]:
    """Return the rows of a task's splits, and the split that stands in for the one that it is scored on, if any."""
    dataset, name = config["dataset_path"], config.get("dataset_name")
    folder = options.harness_data
    found: datasets.DatasetDict | None = None
    if folder is not None:
        splits = read_splits(folder, dataset, name)
        if splits:
            found = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
        elif (folder / dataset).is_dir():
            found = datasets.load_dataset(str(folder / dataset), name)
        else:
            raise UserError(
                f"{folder} has no rows of {config['task']}: put them there as docs/measuring.md says, or fetch them "
                f"with `hf download --repo-type dataset {dataset} --local-dir {folder / dataset}`."
            )
    else:
        found = _from_hub(config)
    scored = config.get("test_split") or config.get("validation_split")
    stands_in = None
    if scored not in found:
        stands_in = next((split for split in ("validation", "test") if split in found), None)
        if stands_in is None:
            raise UserError(f"{folder} has rows of {config['task']}, but not those of its {scored} split.")
        found[scored] = found[stands_in]
    shown = config.get("fewshot_split") or config.get("training_split")
    if config.get("num_fewshot") and shown and shown not in found:
        raise UserError(f"{folder} has not the {shown} split of {config['task']}, whose rows are shown as examples.")
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        split = config.get(key)
        if split and split not in found:
            found[split] = found[scored].select([])
    return found, stands_in


def _from_hub(config: dict[str, Any]) -> datasets.DatasetDict:
    dataset = config["dataset_path"]
    arguments = {
        key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "trust_remote_code"
    }
    try:
        return datasets.load_dataset(dataset, config.get("dataset_name"), **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"The rows of {config['task']} ({dataset}) cannot be fetched from the Hub ({first_line(error)}): give a "
            "folder of files with --harness-data, as docs/measuring.md says."
        ) from error
