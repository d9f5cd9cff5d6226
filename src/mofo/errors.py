"""The one exception that the command line shows to its user, and the words for what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Input that cannot be used: the message says what was wrong, what was expected and what to do.

    The command line prints the message as one sentence and exits with code 2.
    """


EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} value",
}
"""What pydantic expected, by the type of its error, in the words of a recipe."""


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, as half a sentence: `seeds is 'x', expected a whole number`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int)) or "the whole"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is unknown"
    if kind == "json_invalid":
        return f"it is not JSON ({context['error']})"
    expected = EXPECTED[kind].format(**context) if kind in EXPECTED else problem["msg"]
    return f"{where} is {problem['input']!r}, expected {expected}"


def closest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` with the known name that is most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's name if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
