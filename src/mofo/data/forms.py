"""The forms that rows come in, and what each becomes.

Everything after this file knows four forms alone: `messages`; `prompt` and `completion`, both texts or both messages;
`question` and `answer`; and `text`. A form is added by a line in `FORMS` and, where its fields are not merely named
otherwise, a function that converts a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, NamedTuple

from mofo.errors import UserError, closest

Row = dict[str, Any]
"""The fields of one row by name."""

Turn = dict[str, Any]
"""A turn of a conversation: `role`, `content`, and what else it has."""

Messages = list[Turn]
"""The turns of a conversation."""

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Names of roles in ShareGPT data, and what templates call them; others stay as they are."""

TURN_NAMES = {"from": "role", "value": "content"}
"""Names of a turn's fields in ShareGPT data, and what templates call them."""

SPOKEN = ("content", "tool_calls", "reasoning_content", "thinking", "reasoning")
"""What an assistant's turn may consist of."""


class RowError(Exception):
    """A row that cannot be used; the message is half a sentence about it."""


class Form(NamedTuple):
    """A form of rows.

    Attributes:
        needed: Fields that each row has.
        optional: Further fields that mean something.
        convert: Makes a row of one of the four forms.
    """

    needed: tuple[str, ...]
    convert: Callable[[Row], Row]
    optional: tuple[str, ...] = ()


def _messages(row: Row) -> Row:
    return {"messages": turns(row["messages"], "messages"), **template_extras(row)}


def _prompt_and_completion(row: Row) -> Row:
    prompt, completion = (text_or_turns(row[name], name) for name in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise RowError(": prompt and completion must both be texts or both be lists of messages")
    return {"prompt": prompt, "completion": completion, **(template_extras(row) if isinstance(prompt, list) else {})}


def _question_and_answer(question: str, answer: str) -> Callable[[Row], Row]:
    return lambda row: {"question": text(row[question], question), "answer": text(row[answer], answer)}


def _alpaca(row: Row) -> Row:
    """Join instruction and input by an empty line; a system text or earlier turns make the row a conversation."""
    asked = [text(row["instruction"], "instruction")]
    if not is_empty(row.get("input")):
        asked.append(text(row["input"], "input"))
    question, answer = "\n\n".join(asked), text(row["output"], "output")
    before = _system(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(": history must be a list of pairs of instruction and output")
        before += [
            {"role": role, "content": text(spoken, "history")}
            for role, spoken in zip(("user", "assistant"), pair, strict=True)
        ]
    if not before:
        return {"question": question, "answer": answer}
    asks, answers = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return {"prompt": [*before, asks], "completion": [answers]}


def _sharegpt(row: Row) -> Row:
    messages = turns(row["conversations"], "conversations")
    system = _system(row) if messages and messages[0]["role"] != "system" else []
    return {"messages": system + messages, **template_extras(row)}


def _text_alone(row: Row) -> Row:
    if isinstance(row["text"], int | float):
        raise RowError(": text must be a text, not a number")
    return {"text": text(row["text"], "text")}


def _system(row: Row) -> Messages:
    return [] if is_empty(row.get("system")) else [{"role": "system", "content": text(row["system"], "system")}]


EXTRAS = ("tools", "chat_template_kwargs")
"""Fields of a conversation that the chat template is given, by the names that trl has for them."""

FORMS = (
    Form(("messages",), _messages, EXTRAS),
    Form(("prompt", "completion"), _prompt_and_completion, EXTRAS),
    Form(("question", "answer"), _question_and_answer("question", "answer")),
    Form(("conversations",), _sharegpt, ("system", *EXTRAS)),
    Form(("instruction", "output"), _alpaca, ("input", "system", "history")),
    Form(("query", "response"), _question_and_answer("query", "response")),
    Form(("problem", "solution"), _question_and_answer("problem", "solution")),
    Form(("text",), _text_alone),  # last: others often have it as well
)
"""All forms; a row is of the first that it has the fields of."""


def in_words(forms: Sequence[Form]) -> str:
    """Return the fields of forms, as messages have them."""
    return ", ".join(" and ".join(form.needed) for form in forms)


def parse_columns(words: str) -> dict[str, str]:
    """Return what `--columns question=Prompt,answer=Reply` says.

    Raises:
        ValueError: It is of another form.
    """
    pairs = [pair.partition("=") for pair in words.split(",") if pair.strip()]
    wrong = next((pair for pair in pairs if not all(part.strip() for part in pair)), None)
    if wrong is not None:
        raise ValueError(f"columns has {''.join(wrong)!r}, expected NAME=FIELD, as in question=Prompt,answer=Reply")
    return {name.strip(): column.strip() for name, _, column in pairs}


def find_form(row: Any, columns: Mapping[str, str], where: str, forms: Sequence[Form] = FORMS) -> Form:
    """Return the form of the first row.

    Args:
        row: The row.
        columns: The user's names of fields, by a form's: `{"question": "Prompt", "answer": "Reply"}`.
        where: What the message begins with.
        forms: The forms that are expected.

    Raises:
        UserError: It is of no form, or lacks what `columns` names.
    """
    names = in_words(forms)
    if not isinstance(row, dict):
        raise UserError(f"{where} is {json.dumps(row)[:40]}, expected an object with the fields {names}.")
    known = dict.fromkeys(name for form in forms for name in (*form.needed, *form.optional))
    for name, column in columns.items():
        if name not in known:
            raise UserError(f"--columns has {name}{closest(name, known)}, expected a field of a form: {names}.")
        if column not in row:
            raise UserError(f"{where} has no {column}, which --columns names{closest(column, row)}: {_fields(row)}.")
    present = row.keys() | columns.keys()
    for form in forms:
        if present >= {*form.needed} and columns.keys() <= {*form.needed, *form.optional}:
            return form
    if columns:
        raise UserError(f"{where} has no form with {' and '.join(columns)} alone; {_fields(row)}; expected {names}.")
    suggestion = _suggestion(row) if forms is FORMS else ""
    raise UserError(f"{where} has the fields {sorted(row)}; expected {names}.{suggestion}")


def convert(row: Any, form: Form, columns: Mapping[str, str]) -> Row:
    """Return a row of a form as one of the four that the rest of the package knows.

    Raises:
        RowError: The row lacks a field, or a field has another content than its form says.
    """
    if not isinstance(row, dict):
        raise RowError(f" has no {' and no '.join(form.needed)}: expected {' and '.join(form.needed)}")
    named = row | {name: row.get(column) for name, column in columns.items()}
    missing = [name for name in form.needed if is_empty(named.get(name))]
    if missing:
        raise RowError(f" has no {' and no '.join(missing)}: expected {' and '.join(form.needed)}")
    converted = form.convert(named)
    _check_conversation(converted)
    try:
        json.dumps(converted, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError(" has one half of a surrogate pair, which is no character") from None
    return converted


def text(value: Any, field: str) -> str:
    """Return a field as text: a number as it is written, and parts of text joined.

    Raises:
        RowError: It is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and is_parts(value):
        return _joined(value, field)
    expected = "a list of messages with role and content, or a text" if field in ("prompt", "completion") else "a text"
    raise RowError(f": {field} must be {expected}, not {_kind(value)}")


def text_or_turns(value: Any, field: str) -> str | Messages:
    """Return a field that may be either: a list of turns as a conversation, and all else as text.

    Raises:
        RowError: It is neither.
    """
    return turns(value, field) if isinstance(value, list) and not is_parts(value) else text(value, field)


def turns(value: Any, field: str) -> Messages:
    """Return a conversation with `role` and `content`, whatever its turns call them; all else in them stays.

    Raises:
        RowError: It is no list of turns, or a turn has nothing that was said.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, field)  # as a CSV file has it
    expected = "a list of messages with role and content" + (
        "" if field in ("messages", "conversations") else ", or a text"
    )
    if not isinstance(value, list):
        raise RowError(f": {field} must be {expected}")
    return [
        _turn(turn, f"turn {number} of {field}", f": {field} must be {expected}")
        for number, turn in enumerate(value, 1)
    ]


def _turn(turn: Any, where: str, problem: str) -> Turn:
    if not isinstance(turn, dict):
        raise RowError(problem)
    renamed = {TURN_NAMES.get(str(name), str(name)): value for name, value in turn.items()}
    role = renamed.get("role")
    if not isinstance(role, str) or not ("content" in renamed or renamed.get("tool_calls")):
        raise RowError(problem)
    if "from" in turn:
        renamed = _sharegpt_turn(renamed, role, where)
    content = renamed.get("content")
    if content is None and renamed.get("tool_calls"):
        spoken = None
    elif isinstance(content, str):
        spoken = content
    elif isinstance(content, list):
        spoken = _joined(content, where)
    else:
        raise RowError(f": the content of {where} must be a text, or a list of parts of text, not {_kind(content)}")
    return {**{name: _plain(value) for name, value in renamed.items()}, "content": spoken}


def _sharegpt_turn(turn: Turn, role: str, where: str) -> Turn:
    known = ROLES.get(role, role)
    if known not in ("user", "assistant", "system", "tool"):
        raise RowError(f": {where} is from {role!r}, expected human, gpt, system, function_call or observation")
    if role != "function_call":
        return {**turn, "role": known}
    called = _parsed(turn["content"], where) if isinstance(turn["content"], str) else turn["content"]
    calls = [{"type": "function", "function": call} for call in (called if isinstance(called, list) else [called])]
    return {**turn, "role": known, "content": None, "tool_calls": calls}


def _check_conversation(row: Row) -> None:
    """Check that there is something to learn, and something in front of it."""
    last = "messages" if "messages" in row else "completion"
    messages = row.get(last)
    if not isinstance(messages, list):
        return
    if last == "messages" and (not messages or messages[-1]["role"] != "assistant"):
        raise RowError(": the last message must be the assistant's, which is what is learned")
    if last == "messages" and len(messages) == 1:
        raise RowError(": there is no message before the assistant's, so there is nothing that it answers")
    for number, turn in enumerate(messages, 1):
        silent = all(is_empty(turn.get(name)) for name in SPOKEN)
        if turn["role"] == "assistant" and silent:
            raise RowError(f" has no answer: turn {number} of {last}, the assistant's, is empty")


def template_extras(row: Row) -> Row:
    """Return what else the template is given; tools may be JSON in a text, as trl has them."""
    extras = {}
    for name, kind in (("tools", list), ("chat_template_kwargs", dict)):
        value = row.get(name)
        value = _parsed(value, name) if isinstance(value, str) and value.strip() else value
        if not value:
            continue
        if not isinstance(value, kind):
            raise RowError(f": {name} must be {_kind(kind())}, not {_kind(value)}")
        extras[name] = _plain(value)
    return extras


def _parsed(value: str, field: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowError(f": {field} is not JSON ({error})") from None


def is_parts(value: list[Any]) -> bool:
    """Return whether a list is a text in parts, and not a list of turns."""
    return bool(value) and all(
        isinstance(part, dict) and "type" in part and "role" not in part and "from" not in part for part in value
    )


def _joined(parts: list[Any], where: str) -> str:
    """Return the text of a list of parts, which are texts or `{"type": "text", "text": ...}`."""
    texts: list[str] = []
    for part in parts:
        found = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(found, str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RowError(f": {where} has a part that is {f'of type {kind!r}' if kind else _kind(part)}, not a text")
        texts.append(found)
    return "".join(texts)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; dates and what else a table may hold become text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)


def is_empty(value: Any) -> bool:
    """Return whether a field has nothing in it."""
    if isinstance(value, float) and math.isnan(value):  # what pandas writes where there is nothing
        return True
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)


def _kind(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", int: "a number", type(None): "null"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def _fields(row: Row) -> str:
    return f"its fields are {', '.join(map(str, sorted(row)))}"


ASKED = ("question", "instruction", "prompt", "query", "problem", "input", "user", "human", "request", "source")
ANSWERED = ("answer", "response", "output", "reply", "completion", "solution", "assistant", "target", "chosen", "label")
WRITTEN = ("text", "content", "document", "body", "story", "passage", "article")


def _suggestion(row: Row) -> str:
    """Return a sentence with the `--columns` that would fit an unknown row, by the names and contents of its fields."""
    for name, value in row.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and first.keys() & {"role", "from"}:
            return f" Perhaps --columns {_flag('messages', name)} fits."
    texts = [
        name for name, value in row.items() if isinstance(value, str | int | float) and not isinstance(value, bool)
    ]
    asked, answered = _like(texts, ASKED), _like(texts, ANSWERED)
    if len(texts) == 1 or (asked is None and answered is None):
        written = _like(texts, WRITTEN)
        if written is not None or len(texts) == 1:
            return f" Perhaps --columns {_flag('text', written or texts[0])} fits."
    others = [name for name in texts if name not in (asked, answered)]
    asked = asked or next(iter(others), None)
    if answered is None or answered == asked:
        answered = next((name for name in others if name != asked), None)
    if asked is None or answered is None:
        return " Give the names of its fields with --columns, as in --columns question=Prompt,answer=Reply."
    return f" Perhaps --columns {_flag('question', asked)},{_flag('answer', answered)} fits."


def _flag(name: str, column: str) -> str:
    return f"'{name}={column}'" if " " in column else f"{name}={column}"


def _like(names: list[str], known: tuple[str, ...]) -> str | None:
    """Return the name that is most like a known one: the same but for capitals, or else with it inside."""
    same = [name for word in known for name in names if name.lower() == word]
    inside = [name for word in known for name in names if word in name.lower()]
    return next(iter(same + inside), None)
