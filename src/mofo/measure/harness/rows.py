"""Rows of tasks from files, for machines without the Hub.

In the folder that `--harness-data` names, rows are looked for

- as `OWNER/NAME`, the copy of a data set that `hf download --repo-type dataset OWNER/NAME --local-dir OWNER/NAME`
  makes, for any task;
- as `NAME/SPLIT.jsonl` with the fields that the Hub has, and in the files that the authors publish, for the data sets
  of `SOURCES`.

Whatever the files look like, what comes out has the fields of the data set on the Hub, which the harness expects.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mofo.errors import UserError

Row = dict[str, Any]
"""A row, by the names of its fields."""

LETTERS = "ABCDEFGH"


def _same(row: Row) -> Row:
    return row


@dataclass(frozen=True)
class Source:
    """Files in which the rows of a data set may lie, besides `NAME/SPLIT.jsonl`.

    Attributes:
        name: Folder of the data set.
        files: For each split other files, relative to the folder of all data; the first that exists is read.
        convert: Returns a row with the Hub's fields.
        split: Returns the split of a row, where one file holds all splits under the name `all`.
    """

    name: str
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    convert: Callable[[Row], Row] = _same
    split: Callable[[Row], str] | None = None


def read_splits(folder: Path, dataset: str, config: str | None) -> dict[str, list[Row]]:
    """Return the rows of each split of a data set that lie in files; none if there are no files that are known.

    Args:
        folder: The folder of all data.
        dataset: The data set's id on the Hub, such as `allenai/ai2_arc`.
        config: Its configuration, such as `ARC-Easy`.

    Raises:
        UserError: A file cannot be read, or a row has not the fields that are expected.
    """
    if dataset == "cais/mmlu":
        return _read_mmlu(folder, config or "")
    if dataset == "qiaojin/PubMedQA":
        return _read_pubmedqa(folder)
    source = SOURCES.get((dataset, config)) or SOURCES.get((dataset, None))
    if source is None:
        return {}
    found: dict[str, list[Row]] = {}
    for split in ("train", "validation", "test", "all"):
        names = [f"{source.name}/{split}.jsonl", *source.files.get(split, ())]
        file = next((path for name in names if (path := folder / name).is_file()), None)
        if file is None:
            continue
        rows = [_converted(source, row, file, number) for number, row in enumerate(_read_file(file), 1)]
        if source.split is None:
            found[split] = rows
        else:
            for row in rows:
                found.setdefault(source.split(row), []).append(row)
    return found


def _converted(source: Source, row: Row, file: Path, number: int) -> Row:
    try:
        return source.convert(row)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{file}, row {number} is not one of {source.name}: {type(error).__name__} {error}.") from error


def _read_file(file: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON Lines, or of a list in JSON."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"The rows of {file} cannot be read: {error}.") from error
    if file.name == "valid.jsonl" and (labels := file.with_name("valid-labels.lst")).is_file():  # of PIQA
        for row, label in zip(rows, labels.read_text(encoding="utf-8").split(), strict=True):
            row["label"] = int(label)
    yield from rows


def _listed(row: Row) -> tuple[str, list[str], int]:
    """Return question, choices and answer of a row in the form of LLM-Adapters, which has all in one instruction."""
    text = row["instruction"].partition(": ")[2]
    text = re.sub(r"\s*Answer format: .*$", "", text, flags=re.DOTALL)
    question, *choices = re.split(r"\s*\b(?:Answer|Option|Solution)\d: ", text)
    if len(choices) < 2:
        raise ValueError("no choices in its instruction")
    return question.strip(), [choice.strip() for choice in choices], int(re.sub(r"\D", "", row["answer"])) - 1


def _choices(texts: Sequence[str]) -> Row:
    return {"text": list(texts), "label": list(LETTERS[: len(texts)])}


def _arc(row: Row) -> Row:
    if "instruction" in row:
        question, choices, answer = _listed(row)
        return {"id": "", "question": question, "choices": _choices(choices), "answerKey": LETTERS[answer]}
    if isinstance(row["question"], dict):  # as AI2 publishes it
        return {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": {key: [choice[key] for choice in row["question"]["choices"]] for key in ("text", "label")},
            "answerKey": row["answerKey"],
        }
    return row


def _openbookqa(row: Row) -> Row:
    if "question_stem" in row:
        return row
    row = _arc(row)
    return {"question_stem" if key == "question" else key: value for key, value in row.items()}


def _winogrande(row: Row) -> Row:
    if "instruction" not in row:
        return {key: row[key] for key in ("sentence", "option1", "option2", "answer")}
    sentence, (option1, option2), answer = _listed(row)
    return {"sentence": sentence, "option1": option1, "option2": option2, "answer": str(answer + 1)}


def _piqa(row: Row) -> Row:
    if "instruction" not in row:
        return {key: row[key] for key in ("goal", "sol1", "sol2", "label")}
    goal, (sol1, sol2), answer = _listed(row)
    return {"goal": goal, "sol1": sol1, "sol2": sol2, "label": answer}


def _hellaswag(row: Row) -> Row:
    keys = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    return {key: str(row[key]) if key == "label" else row[key] for key in keys}


def _mbpp_split(row: Row) -> str:
    """Return the split of a problem, which the authors define by its number."""
    number = row["task_id"]
    return "prompt" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"


SOURCES: dict[tuple[str, str | None], Source] = {
    ("allenai/ai2_arc", "ARC-Easy"): Source(
        "arc_easy", {"test": ["ARC-Easy/ARC-Easy-Test.jsonl", "choice/arc_easy.json"]}, _arc
    ),
    ("allenai/ai2_arc", "ARC-Challenge"): Source(
        "arc_challenge", {"test": ["ARC-Challenge/ARC-Challenge-Test.jsonl", "choice/arc_challenge.json"]}, _arc
    ),
    ("allenai/openbookqa", None): Source("openbookqa", {"test": ["choice/openbookqa.json"]}, _openbookqa),
    ("allenai/winogrande", None): Source(
        "winogrande", {"validation": ["winogrande/dev.jsonl", "choice/winogrande.json"]}, _winogrande
    ),
    ("Rowan/hellaswag", None): Source(
        "hellaswag",
        {"train": ["hellaswag/hellaswag_train.jsonl"], "validation": ["hellaswag/hellaswag_val.jsonl"]},
        _hellaswag,
    ),
    ("baber/piqa", None): Source("piqa", {"validation": ["piqa/valid.jsonl", "choice/piqa.json"]}, _piqa),
    ("openai/gsm8k", None): Source("gsm8k"),
    ("google-research-datasets/mbpp", None): Source("mbpp", {"all": ["mbpp/mbpp.jsonl"]}, split=_mbpp_split),
    ("openai/openai_humaneval", None): Source("humaneval", {"test": ["humaneval/HumanEval.jsonl"]}),
    ("google/IFEval", None): Source("ifeval", {"train": ["ifeval/input_data.jsonl"]}),
    ("openlifescienceai/medmcqa", None): Source("medmcqa", {"validation": ["medmcqa/dev.json"]}),
    ("GBaker/MedQA-USMLE-4-options-hf", None): Source("medqa"),
}
"""Data sets that are read from files, by id and configuration on the Hub."""


def _read_mmlu(folder: Path, subject: str) -> dict[str, list[Row]]:
    """Return the rows of a subject of MMLU as its authors publish them: `mmlu/val/anatomy_val.csv` without a head."""
    splits = {"dev": "dev", "validation": "val", "test": "test"}
    found = {}
    for split, short in splits.items():
        file = folder / "mmlu" / short / f"{subject}_{short}.csv"
        if not file.is_file():
            continue
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines))
        for number, row in enumerate(rows, 1):
            if len(row) != 6 or row[5] not in ("A", "B", "C", "D"):
                raise UserError(
                    f"{file}, row {number} is not one of MMLU: expected question, four choices and a letter."
                )
        found[split] = [
            {"question": row[0], "subject": subject, "choices": row[1:5], "answer": "ABCD".index(row[5])}
            for row in rows
        ]
    return found


def _read_pubmedqa(folder: Path) -> dict[str, list[Row]]:
    """Return the labelled questions of PubMedQA: those of its authors' test set as `test`, the others as `train`.

    Rows lie as its authors publish them in `pubmedqa/ori_pqal.json`, by number, and the test set's numbers in
    `pubmedqa/test_ground_truth.json`; or in `pubmedqa/test.jsonl` with the fields of the Hub.
    """
    rows, numbers, plain = (
        folder / "pubmedqa" / name for name in ("ori_pqal.json", "test_ground_truth.json", "test.jsonl")
    )
    if plain.is_file():
        return {"test": list(_read_file(plain))}
    if not rows.is_file():
        return {}
    if not numbers.is_file():
        raise UserError(
            f"{rows} has the questions of PubMedQA, but {numbers} is missing, which says which are its test set."
        )
    test = json.loads(numbers.read_text(encoding="utf-8"))
    found: dict[str, list[Row]] = {"train": [], "test": []}
    for number, row in json.loads(rows.read_text(encoding="utf-8")).items():
        found["test" if number in test else "train"].append(
            {
                "pubid": int(number),
                "question": row["QUESTION"],
                "context": {"contexts": row["CONTEXTS"]},
                "final_decision": row["final_decision"],
            }
        )
    return found
