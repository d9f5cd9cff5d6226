"""The command line: parse, call, print. Each command is a file of this folder; `mofo help COMMAND` shows its flags."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Protocol

from mofo import __version__
from mofo.cli import (
    apply,
    blend,
    compare,
    data,
    demo,
    diff,
    dpo,
    env,
    gate,
    grpo,
    landscape,
    measure,
    methods,
    probes,
    report,
    sft,
    tune,
    undo,
)
from mofo.cli.parser import Parser
from mofo.errors import UserError, closest, first_line
from mofo.models.quiet import VERBOSE, is_verbose, quiet


class Command(Protocol):
    """A module of this folder. Heavy imports stay inside its functions, so that help is quick.

    Attributes:
        HELP: What the command does, in a line.
    """

    __name__: str
    HELP: str

    def add_arguments(self, parser: Parser) -> None:
        """Add the command's arguments, usage and examples to its parser."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do what the arguments say and return the exit code."""


COMMANDS: tuple[Command, ...] = (
    demo,
    data,
    sft,
    dpo,
    grpo,
    compare,
    tune,
    measure,
    gate,
    blend,
    landscape,
    report,
    diff,
    apply,
    undo,
    methods,
    probes,
    env,
)

EXAMPLES = """\
Start with `mofo demo`: it needs no data, no GPU and a few minutes.
https://github.com/mofo-developers/mofo
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 the input cannot be used, 3 and 4 what was measured is not good
        enough (`--fail-on`, `mofo gate`), 130 interrupted by Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    parser, parsers = _parsers()
    commands = {_name(command): command for command in COMMANDS}
    if not words:
        parser.print_help()
        return 0
    if words[0].startswith("-"):
        parser.parse(words)  # --help and --version end the program
    name = words[0]
    if name not in commands:
        parser.error(f"there is no command {name}{closest(name, [*commands, 'help'])}; `mofo help` lists all commands")
    return _run(name, commands[name], parsers[name], words[1:])


def _run(name: str, command: Command, parser: Parser, words: list[str]) -> int:
    """Run a command, and say in one sentence what ended it before it was done."""
    if "--verbose" in words:
        os.environ[VERBOSE] = "1"
        words = [word for word in words if word != "--verbose"]
    quiet()
    try:
        command.add_arguments(parser)
        return command.run(parser.parse(words))
    except UserError as error:
        code, sentence = 2, str(error)
    except ModuleNotFoundError as error:
        if (error.name or "mofo").split(".")[0] == "mofo":
            raise
        code = 2
        sentence = f"the library {error.name} is missing; install the workbench with pip install 'mofo[train]'."
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if is_verbose():
            raise
        named = error.filename and error.strerror
        code, sentence = 2, f"{error.filename} cannot be used: {error.strerror}." if named else first_line(error)
    except RuntimeError as error:
        if is_verbose():
            raise
        code, sentence = 1, str(error)
    except KeyboardInterrupt as interrupt:  # the command may have said how to resume
        code, sentence = 130, "; ".join(["interrupted", *map(str, interrupt.args)])
    print(f"mofo {name}: {sentence}", file=sys.stderr)
    return code


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of `mofo` itself, and one for each command, still without its flags."""
    parser = Parser(
        prog="mofo",
        usage="mofo COMMAND [flags]",
        description="Fine-tune a language model with MoFO, and measure what it learned and forgot.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"mofo {__version__}", help="show the version and exit")
    parser.add_argument("--verbose", action="store_true", help="after a command: show what libraries say on the side")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    parsers = {
        _name(command): subparsers.add_parser(
            _name(command), prog=f"mofo {_name(command)}", help=command.HELP, description=f"{command.HELP}."
        )
        for command in COMMANDS
    }
    subparsers.add_parser("help", prog="mofo help", help="Show the flags of a command: mofo help compare")
    return parser, parsers


def _name(command: Command) -> str:
    return command.__name__.rpartition(".")[2]
