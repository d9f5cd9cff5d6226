"""Judge the models of a comparison as peft's method comparison does: accuracy on GSM8K, and loss on Wikipedia.

Usage: python experiments/peft/evaluate.py COMPARISON DATA [--rows N] [--batch-size N]

Writes COMPARISON/peft/METHOD.json with the fields of that comparison's results that ours know. Answers are read as
there: greedy, at most 300 tokens, what follows the last "The answer is" or "####".
"""

import argparse
import json
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

from prepare import TEMPLATE

from mofo.measure.generation import generate
from mofo.measure.scoring import held_out_loss
from mofo.models.load import load_model
from mofo.results import load_results

MARKS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
NEW_TOKENS = 300
LONGEST = 768


def final_answer(text):
    """What a text gives as its answer; None if it gives none."""
    text = text.strip().rstrip(".!?")
    mark = next((mark for mark in MARKS if mark in text), None)
    return None if mark is None else text.rpartition(mark)[2].strip().split("\n")[0].strip(" .!?$%")


def value(answer):
    """An answer as a number where it is one, so that 1,000.0 is 1000 and 20/35 is 4/7."""
    if answer is None:
        return None
    plain = answer.replace(",", "")
    try:
        return float(Fraction(plain) if "/" in plain else Decimal(plain))
    except (InvalidOperation, ValueError, ZeroDivisionError):
        return answer


def accuracy(model, tokenizer, rows, batch_size):
    """The share of questions that the model answers right."""
    right = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        prompts = [tokenizer(TEMPLATE.format(row["question"]))["input_ids"] for row in batch]
        texts = generate(model, tokenizer, prompts, NEW_TOKENS)
        given = [value(final_answer(text)) for text in texts]
        right += sum(
            one is not None and one == value(final_answer(row["answer"])) for one, row in zip(given, batch, strict=True)
        )
    return right / len(rows)


def wiki_loss(model, tokenizer, rows):
    """The mean loss of a token of the articles, in nats."""
    texts = [tokenizer(row["text"], truncation=True, max_length=LONGEST)["input_ids"] for row in rows]
    return float(held_out_loss(model, [{"input_ids": ids, "labels": ids} for ids in texts if len(ids) > 1])["loss"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, help="only the first N questions")
    parser.add_argument("--batch-size", type=int, default=50)
    arguments = parser.parse_args()
    questions, articles = (
        [json.loads(line) for line in (arguments.data / name).read_text().splitlines()]
        for name in ("test.jsonl", "wiki.jsonl")
    )
    results = load_results(arguments.comparison)
    before = wiki_loss(*load_model(results.model), articles)
    for run in results.runs:
        model, tokenizer = load_model(str(arguments.comparison / "runs" / run.name / "model"))
        after = wiki_loss(model, tokenizer, articles)
        right = accuracy(model, tokenizer, questions[: arguments.rows], arguments.batch_size)
        found = {
            "run_info": {"experiment_name": run.name, "train_config": {"model_id": results.model, **run.settings}},
            "train_info": {
                "metrics": [{"step": run.points[-1].step, "test accuracy": right, "forgetting": after - before}]
            },
        }
        file = arguments.comparison / "peft" / f"{run.name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{run.name}: accuracy {right:.4f}, forgetting {after - before:+.4f}")


if __name__ == "__main__":
    main()
