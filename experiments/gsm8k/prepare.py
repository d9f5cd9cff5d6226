"""Turns the public data sets of the GSM8K experiment into files that `mofo compare` reads.

Usage: python experiments/gsm8k/prepare.py DATASETS runs/gsm8k-data

DATASETS holds gsm8k/train.jsonl and gsm8k/test.jsonl (openai/grade-school-math), choice/arc_easy.json (ARC-Easy test in
the format of AGI-Edgerunners/LLM-Adapters) and wikitext2/valid.txt (WikiText-2 validation text).
"""

import json
import random
import re
import shutil
import sys
from pathlib import Path

ARC_QUESTIONS = 120
WIKITEXT_CHARACTERS = 20_000


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        shutil.copy(source / "gsm8k" / f"{name}.jsonl", target / f"gsm8k-{name}.jsonl")
    rows = json.loads((source / "choice" / "arc_easy.json").read_text())
    chosen = random.Random(0).sample(rows, ARC_QUESTIONS)
    questions = "".join(json.dumps(arc_question(row)) + "\n" for row in chosen)
    (target / "arc_easy.jsonl").write_text(questions)
    text = (source / "wikitext2" / "valid.txt").read_text()
    (target / "wikitext2.txt").write_text(text[:WIKITEXT_CHARACTERS])


def arc_question(row: dict) -> dict:
    """One row with the choices taken out of the instruction text."""
    _, text = row["instruction"].split("question: ", 1)
    question, rest = text.split("\n\n", 1)
    choices = re.split(r"Answer\d: ", rest.split("\n\n")[0])[1:]
    return {
        "question": question.strip(),
        "choices": [choice.strip() for choice in choices],
        "answer": int(row["answer"].removeprefix("answer")) - 1,
        "subject": "ARC-Easy",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
