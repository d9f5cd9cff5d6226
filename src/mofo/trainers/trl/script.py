"""The script that our commands launch. Ctrl-C ends it without a traceback, during its slow imports as well."""

import os
import sys
from pathlib import Path

from mofo.errors import UserError, first_line
from mofo.models.quiet import is_verbose, quiet

SAID = "MOFO_SAID"
"""Environment variable with the path of a file that the first process to say something makes."""


def say(command: str, sentence: str) -> None:
    """Say what ended the training, unless another of several processes has: the others mostly end for the same."""
    if SAID in os.environ:
        try:
            Path(os.environ[SAID]).touch(exist_ok=False)
        except FileExistsError:
            return
    print(f"mofo {command}: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    try:
        quiet()
        from mofo.trainers.trl.training import train

        train(name, words)
    except UserError as error:
        say(name, str(error))
        sys.exit(2)
    except RuntimeError as error:  # such as memory that does not suffice
        if is_verbose():
            raise
        say(name, f"{first_line(error)} (--verbose shows where)")
        sys.exit(1)
    except KeyboardInterrupt:  # the command says how to resume
        sys.exit(130)
