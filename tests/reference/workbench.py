"""Fixtures of the workbench's tests: a tiny model and data for it. A folder's `conftest.py` imports what it needs."""

import json

import pytest

from reference import tiny_llama


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random two-layer Llama with tokenizer and chat template; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = tiny_llama.make_tokenizer()
    tiny_llama.make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def sums():
    """Twenty-four questions with answers."""
    return [
        {"question": f"what is {a} plus {b}?", "answer": f"{a} plus {b} is {a + b}."}
        for a in range(1, 5)
        for b in range(1, 7)
    ]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory, sums):
    """The sums as a jsonl file of prompts and completions."""
    file = tmp_path_factory.mktemp("tiny-data") / "sums.jsonl"
    rows = [{"prompt": row["question"], "completion": " " + row["answer"]} for row in sums]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)
