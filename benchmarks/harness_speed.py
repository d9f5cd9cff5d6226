"""What a task of lm-evaluation-harness takes beside the choice probe on the same questions.

Usage: python benchmarks/harness_speed.py --harness-data FOLDER [--rounds N]

The folder holds rows of ARC-Easy, as docs/measuring.md says. 100 of its questions are asked of the embedded model
three ways in turn: by `choice` (the questions as a file), by `harness:arc_easy@100`, and by the harness's own class for
models (HFLM, batches of 16) on the same requests. Writes benchmarks/results/harness_speed-cpu.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import about_this_run, write

from mofo.measure import make_probes
from mofo.measure.probe import Options
from mofo.models.load import load_model
from mofo.models.precision import autocast, choose_precision
from mofo.models.quiet import quiet

QUESTIONS = 100


def questions_of(probe):
    """The questions of a harness probe on ARC in the form of the choice probe."""
    (loaded,) = probe.loaded.values()
    task = loaded.leaves[0].task
    rows = [task.eval_docs[number] for number in probe.questions["arc_easy"]]
    return [
        {
            "question": row["question"],
            "choices": row["choices"]["text"],
            "answer": row["choices"]["label"].index(row["answerKey"]),
        }
        for row in rows
    ]


def plain_harness(model, tokenizer, probe):
    """A function that asks the same by the harness's own class for models."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    (loaded,) = probe.loaded.values()
    task = loaded.leaves[0].task
    # the harness ends any autocast around it, so that it is told the precision itself
    dtype = torch.bfloat16 if choose_precision("auto") == "bfloat16" else None
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, mixed_precision_dtype=dtype)

    def ask():
        evaluate(wrapped, {"tasks": {"arc_easy": task}}, samples=probe.questions, bootstrap_iters=0)

    return ask


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harness-data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    model, tokenizer = load_model("smollm2-135m")
    began = time.perf_counter()
    options = Options(arguments.harness_data)
    spec = f"harness:arc_easy@{QUESTIONS}"
    (harness,) = make_probes([spec], base=model, tokenizer=tokenizer, options=options)
    making = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in questions_of(harness)))
        (choice,) = make_probes([f"choice:{file}"], base=model, tokenizer=tokenizer)
    ways = {
        "choice": lambda: choice.measure(model),
        spec: lambda: harness.measure(model),
        "lm-evaluation-harness, HFLM": plain_harness(model, tokenizer, harness),
    }
    seconds = {name: [] for name in ways}
    with autocast(choose_precision("auto")):
        for _ in range(arguments.rounds + 1):
            for name, ask in ways.items():
                began = time.perf_counter()
                ask()
                seconds[name].append(time.perf_counter() - began)
    rows = []
    for name, times in seconds.items():
        ratios = [time / base for time, base in zip(times[1:], seconds["choice"][1:], strict=True)]
        rows.append(
            {
                "probe": name,
                "seconds": round(statistics.median(times[1:]), 2),
                "ratio_to_choice": round(statistics.median(ratios), 3),
                "lowest_ratio": round(min(ratios), 3),
                "highest_ratio": round(max(ratios), 3),
            }
        )
        print("{probe:<30} {seconds:6.2f} s   {ratio_to_choice:5.2f} × choice".format(**rows[-1]))
    print(f"reading the task's rows once: {making:.1f} s, with the harness's imports")
    result = {
        "questions": QUESTIONS,
        "model": "smollm2-135m",
        "precision": choose_precision("auto"),
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "seconds_to_make": round(making, 1),
        "rows": rows,
    }
    write(about_this_run() | result, Path(__file__).parent / "results" / "harness_speed-cpu.json")


if __name__ == "__main__":
    main()
