"""Write preferences and problems for the trainings by `mofo dpo` and `mofo grpo`.

Usage: python experiments/preferences/prepare.py OUTPUT [--rows N]

OUTPUT/pairs.jsonl has a right and a wrong worked answer to each of N word problems (reasoning-gym's gsm_symbolic, which
the workbench embeds). In the wrong answer the last number that is computed is off by a little, and so is the final
answer; all else is the same. OUTPUT/sums.jsonl has N sums of two or three numbers below 100, which a small model solves
now and then.
"""

import argparse
import json
import random
import re
from pathlib import Path

import reasoning_gym

LAST_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?=\D*$)")


def wrong(worked, draw):
    """Return a worked answer whose last result is off, and its final answer with it; None if it has none."""
    steps, mark, final = worked.rpartition("####")
    result = LAST_NUMBER.search(steps)
    if not mark or result is None or result.group().replace(",", "") != final.strip().replace(",", ""):
        return None
    right = float(final.replace(",", ""))
    off = right + draw.choice([-1, 1]) * draw.randint(1, max(2, int(abs(right) * 0.2)))
    text = f"{off:g}" if abs(off) < 1e6 else f"{off:.0f}"
    return f"{steps[: result.start()]}{text}{steps[result.end() :]}#### {text}"


def pairs(rows):
    """Yield preferences over distinct problems."""
    draw, count = random.Random(0), 0
    for problem in reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=4 * rows):
        right = problem["metadata"]["answer_cot"]
        rejected = wrong(right, draw)
        if rejected is not None:
            yield {"question": problem["question"], "chosen": right, "rejected": rejected}
            count += 1
        if count == rows:
            return


def sums(rows):
    """Return sums that can be checked."""
    made = reasoning_gym.create_dataset(
        "chain_sum", seed=0, size=rows, min_terms=2, max_terms=3, min_digits=1, max_digits=2
    )
    return [{"question": problem["question"], "answer": problem["answer"]} for problem in made]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=250)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in {"pairs": list(pairs(arguments.rows)), "sums": sums(arguments.rows)}.items():
        file = arguments.output / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{len(rows)} rows in {file}")


if __name__ == "__main__":
    main()
