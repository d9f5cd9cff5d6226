"""Figure 1 of the paper: maps of learning and forgetting around the base.

Usage: python experiments/landscape/run.py [RESOLUTION]

Fine-tunes the models of recipe.yaml into runs/landscape, and writes a map into results/ for each plane through the
base, AdamW's end and that of one other method, with the other models and all paths projected onto it. Interrupted, the
same command goes on where it stopped. A map of 9 × 9 points is refined to 17, the default, by measuring what is new.
"""

import sys
from pathlib import Path

from mofo import cli
from mofo.compare.recipe import make_recipe, read_recipe

HERE = Path(__file__).parent
RUNS = Path("runs/landscape")
HELD_OUT_ROWS = 16  # enough for the shape of a map, and a third of the time of 50
RESOLUTION = 17


def main(resolution: int = RESOLUTION) -> int:
    if code := cli.main(["compare", "--recipe", str(HERE / "recipe.yaml"), "--output", str(RUNS), "--jobs", "2"]):
        return code
    recipe = make_recipe(read_recipe(HERE / "recipe.yaml"))
    flags = (
        f"--data {recipe.held_out} --rows {HELD_OUT_ROWS} --max-length {recipe.max_length} --resolution {resolution}"
    )
    folders = {run.method_name: str(RUNS / "runs" / run.name) for run in recipe.runs()}
    for across in list(folders)[1:]:
        further = [folder for method, folder in folders.items() if method not in ("adamw", across)]
        models = [folders["adamw"], folders[across], *further]
        output = str(HERE / "results" / across)
        if code := cli.main(["landscape", recipe.model, *models, *flags.split(), "--output", output]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
