"""What each probe costs, and how small a change it can see: counted and computed, without a trained model.

Usage: python benchmarks/probe_cost.py [--harness-data FOLDER]

Three tables, which go to benchmarks/results/probe_cost.json:
- tokens that go through a model for each probe, and how many passes: counted at the door of a model of SmolLM2's
  vocabulary whose weights are random and tiny, since what goes in does not depend on them. What a model writes does:
  the random one seldom stops, so these are about the most.
- the standard error of the change of each probe from the base, at the end of the runs in experiments/ that kept it:
  the median over runs. Twice that is beyond chance.
- for right-or-wrong questions the smallest loss that the rules of `mofo measure` call worse, if a share f of the
  answers flips; beside it the loss that two independent samples of as many questions would need.

With rows for the harness (docs/measuring.md says which) its tasks are counted too.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
from common import write
from transformers import LlamaConfig, LlamaForCausalLM

from mofo.measure.kinds import make_probes
from mofo.measure.mean import Mean
from mofo.measure.pairing import paired
from mofo.measure.probe import Options
from mofo.models.load import load_tokenizer, local_folder
from mofo.models.quiet import quiet

ROOT = Path(__file__).parents[1]
PROBES = ("text", "divergence", "choice")
TASKS = ("harness:arc_easy@100", "harness:mmlu@15", "harness:winogrande@100", "harness:gsm8k@20")
QUESTIONS = (100, 400, 1500, 14042)
FLIPPED = (0.05, 0.1, 0.2)


class Door:
    """Counts the tokens and passes that go into a model."""

    def __init__(self, model):
        self.tokens = self.passes = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _model, arguments, named):
        ids = named.get("input_ids", arguments[0] if arguments else None)
        self.tokens += ids.numel()
        self.passes += 1

    def taken(self):
        """Return what went in since the last time."""
        found = {"tokens": self.tokens, "passes": self.passes}
        self.tokens = self.passes = 0
        return found


def costs(specs, options):
    """Count what each probe puts through a model: once to be made from the base, and to measure a model."""
    tokenizer = load_tokenizer(local_folder("smollm2-135m"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, max_position_embeddings=8192, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    door, rows = Door(model), []
    for spec in specs:
        (probe,) = make_probes([spec], base=model, tokenizer=tokenizer, options=options)
        making = door.taken()
        numbers = probe.measure(model)
        units = len(next(mean for mean in numbers.values() if isinstance(mean, Mean)).totals)
        rows.append({"probe": spec, "units": units, "to make": making, "to measure": door.taken()})
        print(f"{spec:<24} {units:6} units, to measure {rows[-1]['to measure']['tokens']:9,} tokens")
    return rows


def change_errors():
    """Return the median standard error of the change of each probe at the end of the runs that are kept here."""
    found = {}
    for file in sorted((ROOT / "experiments").glob("**/results.json")):
        results = json.loads(file.read_text())
        for run in results.get("runs", []):
            errors = run["points"][-1].get("change_errors", {}).get("forgotten", {})
            for source, numbers in errors.items():
                for name, error in numbers.items():
                    if error:
                        found.setdefault(f"{source} {name}", []).append(error)
    return [
        {"number": name, "runs": len(errors), "standard error of the change": round(statistics.median(errors), 5)}
        for name, errors in sorted(found.items())
    ]


def smallest_loss(questions, flipped):
    """Return the smallest loss, a share of the questions, that is worse beyond chance; None if none is.

    Half of the questions are right before. Of those that flip, as few are lost and not won as the rules allow.
    """
    flips = round(questions * flipped)
    right = questions // 2
    for lost in range((flips + 1) // 2, flips + 1):
        won = flips - lost
        before = [1.0] * right + [0.0] * (questions - right)
        after = [0.0] * lost + [1.0] * (right - lost) + [1.0] * won + [0.0] * (questions - right - won)
        if paired(Mean(before), Mean(after)).is_significant:
            return (lost - won) / questions
    return None


def losses():
    """Return the smallest losses by the number of questions."""
    rows = []
    for questions in QUESTIONS:
        independent = 1.96 * math.sqrt(2 * 0.25 / questions)  # half right in each sample
        row = {"questions": questions, "independent samples": round(100 * independent, 2)}
        for flipped in FLIPPED:
            loss = smallest_loss(questions, flipped)
            row[f"paired, f = {flipped}"] = None if loss is None else round(100 * loss, 2)
        rows.append(row)
        print(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harness-data", type=Path)
    arguments = parser.parse_args()
    quiet()
    specs = [*PROBES, *(TASKS if arguments.harness_data else ())]
    result = {
        "command": f"python benchmarks/probe_cost.py{' --harness-data FOLDER' if arguments.harness_data else ''}",
        "costs": costs(specs, Options(arguments.harness_data)),
        "change_errors": change_errors(),
        "smallest_losses": losses(),
    }
    write(result, Path(__file__).parent / "results" / "probe_cost.json")


if __name__ == "__main__":
    main()
