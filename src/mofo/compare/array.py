"""`mofo compare --array`: a comparison as jobs of a Slurm cluster, one for each run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mofo.compare.folder import ALONE, BASE_JOB, OutputFolder
from mofo.compare.jobs import WORKER
from mofo.compare.prepare import check_folder, prepare
from mofo.compare.recipe import Recipe
from mofo.errors import UserError
from mofo.files import sole_owner_of, write_text

NAMES = "array.txt"
"""File in the output folder with the names of the runs, a line each."""

SCRIPT = """\
#!/bin/sh
# A comparison of {count} as jobs of Slurm: the base first, then a job for each run, at the end results and report.
# Run this script where sbatch is, in this folder, which all nodes must see. What all jobs need goes into FLAGS.
# A run that was killed goes on from its last checkpoint: the last job does what is missing, or run this again.
set -eu
cd {here}
FLAGS="--gpus=1"
base=$(sbatch --parsable $FLAGS --job-name=mofo-base --wrap={base})
runs=$(sbatch --parsable $FLAGS --job-name=mofo-run --dependency=afterok:"$base" --array=0-{last} --wrap={run})
sbatch $FLAGS --job-name=mofo-report --dependency=afterany:"$runs" --wrap={again}
"""


def array_script(recipe: Recipe, output: Path, *, overwrite: bool = False, dry_run: bool = False) -> str:
    """Make the folder of a comparison, and return the script that submits its jobs.

    Args:
        recipe: What to do.
        output: The folder of the results.
        overwrite: Replace what an earlier comparison left in the folder.
        dry_run: Check everything and write nothing.

    Raises:
        UserError: The input cannot be used, or it is not known beforehand which runs there will be.
    """
    if recipe.tunes:
        raise UserError(
            "--array needs to know all runs beforehand, and with tune the next one depends on those before: give the "
            "learning rates, or tune without --array."
        )
    check_folder(output)
    folder, runs = OutputFolder(output), recipe.runs()
    if dry_run:
        prepare(recipe, folder, overwrite=overwrite, dry_run=True)
    else:
        with sole_owner_of(output):
            prepare(recipe, folder, overwrite=overwrite)
            for run in runs:
                folder.run(run.name).write_run(run)
            write_text(output / NAMES, "".join(f"{run.name}\n" for run in runs))
    where = shlex.quote(str(output))
    python = f"exec {shlex.quote(sys.executable)} -m"
    worker = f"{python} {WORKER[1]} {where}"
    name = f'"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {where}/{NAMES})"'
    return SCRIPT.format(
        count=f"{len(runs)} runs" if len(runs) > 1 else "1 run",
        here=shlex.quote(str(Path.cwd())),
        last=len(runs) - 1,
        base=shlex.quote(f"{worker} {BASE_JOB} {ALONE}"),
        run=shlex.quote(f"{worker} {name} {ALONE}"),
        again=shlex.quote(f"{python} mofo.cli compare --recipe {where}/recipe.yaml --output {where}"),
    )
