"""Turns five tasks of TRACE into files that `mofo compare` reads, short enough for a small model on a few cores.

Usage: python experiments/continual/prepare.py DATASETS runs/continual-data

DATASETS holds trace/TASK/train.json and trace/TASK/test.json of FOMC, ScienceQA, Py150, NumGLUE-cm and NumGLUE-ds in
TRACE's own format (github.com/BeyonderXX/TRACE): lists of `prompt` and `answer`.

Two tasks are cut: of the code of Py150 only the end stands before the line that is to be written, and the reasons of
ScienceQA end with the sentence that begins before a certain length. Rows of the test file come first to last.
"""

import argparse
import json
import re
from pathlib import Path

TASKS = ("FOMC", "ScienceQA", "Py150", "NumGLUE-cm", "NumGLUE-ds")
CODE_CHARACTERS = 500
REASON_CHARACTERS = 300


def prepare(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        for part in ("train", "test"):
            rows = json.loads((source / "trace" / task / f"{part}.json").read_text(encoding="utf-8"))
            lines = "".join(json.dumps(row_of(task, row), ensure_ascii=False) + "\n" for row in rows)
            (target / f"{task}-{part}.jsonl").write_text(lines, encoding="utf-8")


def row_of(task: str, row: dict) -> dict:
    question, answer = row["prompt"].strip(), row["answer"].strip()
    if task == "Py150":
        question = f"Write the next line of this code:\n{end_of(question, CODE_CHARACTERS)}"
    if task == "ScienceQA":
        answer = beginning_of(answer, REASON_CHARACTERS)
    return {"question": question, "answer": answer}


def end_of(code: str, characters: int) -> str:
    """Return the end of a code, from a token on; tokens are set apart by spaces."""
    if len(code) <= characters:
        return code
    return code[-characters:].partition(" ")[2]


def beginning_of(text: str, characters: int) -> str:
    """Return the beginning of a text up to the first end of a sentence behind a number of characters."""
    end = re.search(r"[.!?]", text[characters:])
    return text[: characters + end.end()] if end else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, help="folder of the data sets")
    parser.add_argument("output", type=Path, help="folder of the files that are written")
    arguments = parser.parse_args()
    try:
        prepare(arguments.datasets, arguments.output)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing: the first lines of {Path(__file__).name} say what DATASETS holds.")


if __name__ == "__main__":
    main()
