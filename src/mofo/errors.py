"""The one exception that the command line shows to its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Input that cannot be used: the message says what was wrong, what was expected and what to do.

    The command line prints the message as one sentence and exits with code 2.
    """


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, as half a sentence: `runs.0.seed is 'x', expected an integer`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the whole"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "json_invalid":
        return f"it is not JSON ({message})"
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where} is {problem['input']!r}, expected {expected[:1].lower()}{expected[1:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's name if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
