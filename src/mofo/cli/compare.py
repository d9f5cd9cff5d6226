"""`mofo compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import add_formats, as_json, as_table, show, show_comparison
from mofo.cli.recipe_flags import add_recipe_flags, list_parts, recipe_values
from mofo.errors import UserError

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.compare.recipe import Recipe

HELP = "Fine-tune one base with several methods and compare them"
EXAMPLES = """\
examples:
  mofo compare --steps 32 --learning-rates 1e-4,3e-4 --output comparison
  mofo compare --recipe comparison/recipe.yaml --seeds 0,1 --output comparison
  mofo compare --recipe recipe.yaml --output comparison --array > submit.sh
  RAY_ADDRESS=head:6379 mofo compare --recipe recipe.yaml --on ray ...
"""


def add_arguments(parser: Parser) -> None:
    """Add the flags of a comparison and a recipe file."""
    from mofo.compare.recipe import make_recipe

    parser.usage = "mofo compare [--recipe FILE] [--output FOLDER] [settings]"
    parser.epilog = f"{list_parts()}\n{EXAMPLES}"
    parser.add_argument("--recipe", metavar="FILE", help="YAML file of any of these settings; flags win over it")
    add_comparison_flags(parser, default_output="mofo-compare")
    add_recipe_flags(parser, make_recipe({}))


def run(arguments: argparse.Namespace) -> int:
    """Run the comparison."""
    return run_comparison(arguments, arguments.recipe)


def show_plan(recipe: Recipe, output: Path, *, overwrite: bool) -> None:
    """Show what a comparison will take, and write nothing."""
    from mofo.compare.estimate import estimate_table
    from mofo.compare.folder import OutputFolder
    from mofo.compare.prepare import prepare

    found = prepare(recipe, OutputFolder(output), overwrite=overwrite, dry_run=True)
    assert found is not None
    show(estimate_table(found, output))


def add_comparison_flags(parser: Parser, *, default_output: str) -> None:
    """Add the flags that are no setting of a recipe: where results go, and how the runs are done."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(default_output),
        metavar="FOLDER",
        help=f"folder of the results (default {default_output}); an interrupted comparison resumes there",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the comparison in that folder")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default 1)")
    parser.add_argument(
        "--launch",
        type=Path,
        metavar="FILE",
        help="spread each run over several GPUs by `accelerate launch` with this file (DDP or FSDP2)",
    )
    parser.add_argument(
        "--on",
        choices=["ray"],
        help="do the runs as tasks of the Ray cluster that RAY_ADDRESS names or this machine is part of, whose nodes "
        "all see the output folder",
    )
    parser.add_argument(
        "--gpus",
        type=float,
        metavar="N",
        help="with --on ray: GPUs of a run, 1 by default, a share of one such as 0.5, or 0 for runs on CPUs",
    )
    parser.add_argument(
        "--array",
        action="store_true",
        help="prepare the folder, and print a script that has Slurm do the runs, a job each; with --dry-run only print",
    )
    parser.add_argument(
        "--until",
        type=int,
        metavar="STEP",
        help="leave each run after this step; with a later one, or without, the same command goes on from there",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, show what it will take, and stop")
    add_formats(parser)


def _array_script(recipe: Recipe, arguments: argparse.Namespace) -> str:
    """Return the script of `--array`."""
    from mofo.compare.array import array_script

    if arguments.launch or arguments.jobs > 1 or arguments.until or arguments.on:
        raise UserError(
            "--array makes a job of Slurm for each run; it does not go with --launch, --jobs, --until and --on."
        )
    return array_script(recipe, arguments.output, overwrite=arguments.overwrite, dry_run=arguments.dry_run)


def run_comparison(arguments: argparse.Namespace, recipe_file: str | Path | None) -> int:
    """Run the comparison of a recipe file and flags, and show its results."""
    from mofo.compare.launch import read_launch
    from mofo.compare.on_ray import gpus_of_run, ray_cluster
    from mofo.compare.recipe import make_recipe, override, read_recipe

    recipe = make_recipe(override(read_recipe(recipe_file) if recipe_file else {}, recipe_values(arguments)))
    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}, expected at least 1.")
    if arguments.until is not None and arguments.until < 1:
        raise UserError(f"--until is {arguments.until}, expected at least 1.")
    here = arguments.on is None
    if arguments.gpus is not None and here:
        raise UserError("--gpus is for --on ray: here each run has the GPU that there is, or several by --launch.")
    if arguments.array:
        print(_array_script(recipe, arguments), end="")
        return 0
    if arguments.dry_run:
        launched = read_launch(arguments.launch, recipe, arguments.jobs, here=here) if arguments.launch else None
        if not here:
            with ray_cluster(gpus_of_run(arguments.gpus, recipe, launched, arguments.jobs)):
                pass
        show_plan(recipe, arguments.output, overwrite=arguments.overwrite)
        return 0
    from mofo.compare.jobs import compare

    try:
        results = compare(
            recipe,
            arguments.output,
            overwrite=arguments.overwrite,
            jobs=arguments.jobs,
            launch=arguments.launch,
            on_ray=not here,
            gpus=arguments.gpus,
            until=arguments.until,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to resume") from None
    if arguments.json:
        print(as_json(results))
    elif (table := as_table(results, arguments)) is not None:
        print(table, end="")
    else:
        show_comparison(results, arguments.output / "report.html")
    return 0
