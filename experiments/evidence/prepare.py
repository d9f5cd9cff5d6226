"""Turns the public data sets of the evidence into files that `mofo compare` reads: math, code and medicine.

Usage: python experiments/evidence/prepare.py DATASETS runs/evidence-data

DATASETS holds gsm8k/train.jsonl and gsm8k/test.jsonl (openai/grade-school-math), mbpp/mbpp.jsonl (MBPP),
medquad/medquad_small.jsonl (MedQuAD, answers of 20 to 150 words), choice/arc_easy.json (ARC-Easy test in the format of
AGI-Edgerunners/LLM-Adapters) and wikitext2/valid.txt (WikiText-2 validation text).

Each domain gets rows to train on and rows held out, and prompts of the two other domains, whose answers by the base are
a probe: text of another kind than the free text that some methods train on.
"""

import argparse
import json
import random
import re
import zlib
from pathlib import Path

ARC_QUESTIONS = 120
WIKITEXT_CHARACTERS = 20_000
ANSWER_CHARACTERS = 900
PROMPTS = 8


def prepare(source: Path, target: Path) -> None:
    domains = {
        "math": (read(source / "gsm8k" / "train.jsonl"), read(source / "gsm8k" / "test.jsonl")),
        "code": code(source / "mbpp" / "mbpp.jsonl"),
        "medicine": medicine(source / "medquad" / "medquad_small.jsonl"),
    }
    target.mkdir(parents=True, exist_ok=True)
    for domain, (train, held_out) in domains.items():
        write(target / f"{domain}-train.jsonl", train)
        write(target / f"{domain}-held-out.jsonl", held_out)
        others = [rows for other, (rows, _) in domains.items() if other != domain]
        prompts = [row for rows in others for row in random.Random(0).sample(rows, PROMPTS)]
        write(target / f"{domain}-other-prompts.jsonl", prompts)
    rows = json.loads((source / "choice" / "arc_easy.json").read_text())
    write(target / "arc_easy.jsonl", [arc_question(row) for row in random.Random(0).sample(rows, ARC_QUESTIONS)])
    text = (source / "wikitext2" / "valid.txt").read_text()
    (target / "wikitext2.txt").write_text(text[:WIKITEXT_CHARACTERS])


def code(file: Path) -> tuple[list[dict], list[dict]]:
    """Return the training problems (ids from 601) and the test problems (11 to 510) of MBPP, asked with their tests."""
    problems = [(problem["task_id"], code_row(problem)) for problem in read(file)]
    return [row for task, row in problems if task > 600], [row for task, row in problems if 10 < task <= 510]


def code_row(problem: dict) -> dict:
    tests = "\n".join(problem["test_list"])
    question = f"{problem['text']} Your code should pass these tests:\n\n{tests}"
    return {"question": question, "answer": problem["code"].replace("\r\n", "\n").strip()}


def medicine(file: Path) -> tuple[list[dict], list[dict]]:
    """Return MedQuAD cut in two by what a question is about, a tenth held out, so that no subject is in both."""
    parts: tuple[list[dict], list[dict]] = ([], [])
    for row in read(file):
        held_out = zlib.crc32(row["focus"].lower().encode()) % 10 == 0
        parts[held_out].append({"question": row["question"], "answer": row["answer"][:ANSWER_CHARACTERS].strip()})
    return parts


def arc_question(row: dict) -> dict:
    """Return a row with the choices taken out of the instruction text."""
    _, text = row["instruction"].split("question: ", 1)
    question, rest = text.split("\n\n", 1)
    choices = re.split(r"Answer\d: ", rest.split("\n\n")[0])[1:]
    return {
        "question": question.strip(),
        "choices": [choice.strip() for choice in choices],
        "answer": int(row["answer"].removeprefix("answer")) - 1,
        "subject": "ARC-Easy",
    }


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


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
