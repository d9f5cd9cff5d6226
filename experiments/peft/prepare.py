"""Write MetaMathQA and GSM8K as peft's method comparison has them.

Usage: python experiments/peft/prepare.py OUTPUT [--metamath SOURCE] [--gsm8k SOURCE] [--wiki SOURCE]

A source is a hub id or files, as for `mofo data`. Writes train.jsonl (all rows of MetaMathQA of at most 1300
characters, in its template, as text: the question is learned too, as there), held-out.jsonl (50 rows of GSM8K's
training set in the same form), test.jsonl (questions and answers of GSM8K's test set) and wiki.jsonl (100 articles).
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np

from mofo.data.sources import read_source

TEMPLATE = "Question: {} Think step by step.\nAnswer:"
LONGEST = 1300
HELD_OUT = 50
ARTICLES = 100


def write(file, rows):
    """Write rows as JSON lines, and say so."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} rows in {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--metamath", default="meta-math/MetaMathQA")
    parser.add_argument("--gsm8k", default="openai/gsm8k:main")
    parser.add_argument("--gsm8k-test", help="by default the test split of --gsm8k")
    parser.add_argument("--wiki", default="HuggingFaceFW/finewiki")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    metamath = [
        {"text": TEMPLATE.format(row["query"]) + row["response"]}
        for row in read_source(arguments.metamath, "train", whole=True)
        if len(f"{row['query']} {row['response']}") <= LONGEST
    ]
    write(arguments.output / "train.jsonl", metamath)
    train = list(read_source(arguments.gsm8k, "train", whole=True))
    order = np.arange(len(train))
    np.random.RandomState(0).shuffle(order)  # the rows that theirs are, by the same generator
    held_out = [train[row] for row in order[:HELD_OUT]]
    rows = [{"text": f"{TEMPLATE.format(row['question'])} {row['answer']}"} for row in held_out]
    write(arguments.output / "held-out.jsonl", rows)
    test = list(read_source(arguments.gsm8k_test or arguments.gsm8k, "test", whole=True))
    write(arguments.output / "test.jsonl", [{"question": row["question"], "answer": row["answer"]} for row in test])
    articles = islice(read_source(arguments.wiki, "train", whole=False), ARTICLES)
    write(arguments.output / "wiki.jsonl", [{"text": row["text"]} for row in articles])


if __name__ == "__main__":
    main()
