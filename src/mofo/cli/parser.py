"""The parser of all commands: no abbreviations, two spellings, short errors and narrow help."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any, NoReturn

from mofo.errors import closest

WIDTH = 100
"""Longest line of a help text, in characters; a narrower terminal has shorter ones."""


class Parser(argparse.ArgumentParser):
    """An argument parser that takes flags with dashes or underscores and refuses abbreviations.

    Args:
        options: Arguments of `argparse.ArgumentParser`.

    Attributes:
        aliases: Other names that are accepted for flags and are not in the help, both with dashes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)
        self.aliases: dict[str, str] = {}

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the arguments of a command; unknown ones end the program with the usage and one sentence."""
        arguments, unknown = self.parse_known_args([self._spelled(word) for word in words])
        if unknown:
            word = unknown[0].partition("=")[0]
            if not word.startswith("-"):
                self.error(f"{word} is one argument too many")
            suggestion = closest(word, self._option_string_actions) or closest(word, self.aliases)
            self.error(f"there is no flag {word}{suggestion}; `{self.prog} --help` lists all flags")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Print the usage and a sentence, and exit with code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}.\n")

    def _spelled(self, word: str) -> str:
        """Return a word of the command line; a flag in another spelling as the parser knows it."""
        flag, equals, value = word.partition("=")
        dashed = flag.replace("_", "-")
        name = self.aliases.get(dashed, dashed)
        return name + equals + value if name in self._option_string_actions else word


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with the flags in a column of 30 characters, and switches as `--[no-]save`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(WIDTH, shutil.get_terminal_size().columns) - 2)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return action.option_strings[0].replace("--", "--[no-]")
        return super()._format_action_invocation(action)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        if action.nargs == argparse.PARSER:  # the list of commands: without its heading, and indented as flags are
            return "".join(line[2:] for line in text.splitlines(keepends=True)[1:])
        return text
