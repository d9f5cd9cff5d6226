"""Conversations as tokens: the chat template renders them, and what the assistant says is told from all else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from mofo.data.forms import SPOKEN, Messages, Row, Turn
from mofo.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["all", "last"]
"""Which of the assistant's turns in a conversation are learned."""

Render = Callable[..., str]
"""Renders messages as text; with `prompt=True` up to where the assistant would go on."""


class Stretch(NamedTuple):
    """Neighbouring tokens of a conversation that are all learned, or all not."""

    ids: list[int]
    learned: bool


class _Piece(NamedTuple):
    """A stretch as text."""

    text: str
    learned: bool


def token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a text and nothing else."""
    return cast("list[int]", tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def closed(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return tokens with the end-of-sequence token behind them; as they are if they have it or there is none."""
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def encode_conversation(
    row: Row, messages: Messages, first: int, tokenizer: PreTrainedTokenizerBase, turns: Turns
) -> list[Stretch]:
    """Return a conversation as tokens, of which the assistant's turns are learned.

    Args:
        row: The row, which may have tools for the chat template.
        messages: Its conversation; the last turn is always learned.
        first: Index of the first message that may be learned; what precedes it is the prompt.
        tokenizer: A tokenizer with a chat template.
        turns: Whether all turns of the assistant are learned, or the last alone.

    Returns:
        What is learned and what is not, in turn. The last is the last turn.

    Raises:
        UserError: The chat template refuses the conversation, leaves out a part of it, or writes it so that what is
            learned cannot be told from the rest.
    """
    spoken = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    last = len(messages) - 1
    learned = [last] if turns == "last" else sorted({*(i for i in spoken if i >= first), last})
    extras = _extras(row)
    render = _renderer(tokenizer, extras)
    whole = render(messages)
    _check_complete(messages, extras, render, whole)
    if _marks_the_assistant(tokenizer, extras):
        marked = _by_marks(messages, learned, spoken, extras, tokenizer)
        _check_said(last, messages, str(tokenizer.decode(marked[-1].ids)))
        return marked
    pieces = _pieces(messages, learned, whole, render, tokenizer)
    stretches = [Stretch(token_ids(piece.text, tokenizer), piece.learned) for piece in pieces]
    return [*stretches[:-1], Stretch(closed(stretches[-1].ids, tokenizer), True)]


def render_conversation(row: Row, messages: Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation as the chat template writes it.

    Raises:
        UserError: The template refuses it, or leaves out tools.
    """
    extras = _extras(row)
    render = _renderer(tokenizer, extras)
    whole = render(messages)
    _check_complete(messages, extras, render, whole)
    return whole


def conversation_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a conversation begins with, up to the user's first word.

    Raises:
        UserError: There is no chat template, or it does not write what the user says.
    """
    if tokenizer.chat_template is None:
        raise UserError("the tokenizer has no chat template, so that there is no form of a conversation.")
    said = "QUESTION"
    before, found, _ = _renderer(tokenizer, {})([{"role": "user", "content": said}]).partition(said)
    if not found:
        raise UserError("the chat template does not write what the user says as it is.")
    return token_ids(before, tokenizer)


def _extras(row: Row) -> dict[str, Any]:
    """Return what the chat template is given beside the messages."""
    return {"tools": row.get("tools") or None, **(row.get("chat_template_kwargs") or {})}


def _renderer(tokenizer: PreTrainedTokenizerBase, extras: dict[str, Any]) -> Render:
    def render(part: Messages, *, prompt: bool = False, **changes: Any) -> str:
        options = {**extras, **changes}
        try:
            return str(tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt, **options))
        except Exception as error:  # a template is a program of others, which raises what it likes
            raise UserError(f"the chat template refuses the conversation: {first_line(error)}.") from error

    return render


def _pieces(
    messages: Messages, learned: list[int], whole: str, render: Render, tokenizer: PreTrainedTokenizerBase
) -> list[_Piece]:
    """Return the rendered conversation in stretches that are learned and stretches that are not, in turn."""
    pieces: list[_Piece] = []
    position = 0
    for i in learned:
        start = _start_of(i, messages, whole, render, tokenizer)
        end = len(whole) if i == len(messages) - 1 else _end_of(i, start, messages, whole, render, tokenizer)
        completion = _until_its_end(whole[start:end], messages[i], tokenizer.eos_token or "")
        _check_said(i, messages, completion)
        pieces += [_Piece(whole[position:start], False), _Piece(completion, True)]
        position = start + len(completion)
    return pieces


def _check_said(i: int, messages: Messages, completion: str) -> None:
    """Refuse a template that leaves out what is said, as those for images do with content that is no list of parts."""
    words = (messages[i]["content"] or "").split()
    if not completion.strip() or (words and not any(word in completion for word in words)):
        raise UserError(f"the chat template writes nothing of turn {i + 1}, which is to be learned.")


def _start_of(i: int, messages: Messages, whole: str, render: Render, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return where a turn of the assistant begins: after all that generation would start from."""
    if i == 0:  # there is nothing to render before it: what leads to an answer is what leads to a later one
        later = next(k for k in range(1, len(messages)) if messages[k]["role"] != "assistant") + 1
        lead = render(messages[:later], prompt=True)[len(render(messages[:later])) :]
        found = whole.find(lead) if lead else -1
        if found < 0:
            raise UserError(
                "the conversation begins with the assistant, where the chat template cannot: use --turns last."
            )
        return found + len(lead)
    before = render(messages[:i], prompt=True)
    if not before.strip():
        raise UserError("the chat template writes nothing of what comes before the completion.")
    if whole.startswith(before):
        return len(before)
    is_last = i == len(messages) - 1
    asked = render(messages[:i])
    if not is_last and whole.startswith(asked) and before.startswith(asked):  # it begins later turns in another way
        return len(asked) + _common(before[len(asked) :], whole[len(asked) :], tokenizer)
    hint = "" if is_last else "learn the last turn alone with --turns last, or "
    raise UserError(
        "The model's chat template does not put the prompt before the completion unchanged, so the loss cannot be "
        f"kept to the completion: {hint}give the data as text, or as prompt and completion texts."
    )


def _end_of(
    i: int, start: int, messages: Messages, whole: str, render: Render, tokenizer: PreTrainedTokenizerBase
) -> int:
    """Return where a turn that others follow ends."""
    until = render(messages[: i + 1])
    if whole.startswith(until) and len(until) > start:
        return len(until)
    content = (messages[i]["content"] or "").strip()  # some templates write the last turn in another way than others
    found = whole.find(content, start) if content else -1
    if found < 0:
        raise UserError(
            f"the chat template rewrites turn {i + 1} where others follow it: learn the last alone with --turns last."
        )
    end, alone = found + len(content), until.rfind(content)
    return end + (_common(until[alone + len(content) :], whole[end:], tokenizer) if alone >= 0 else 0)


def _common(one: str, other: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many characters two texts begin with in common, in whole tokens."""
    ids = token_ids(one, tokenizer)
    pairs = zip(ids, token_ids(other, tokenizer), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    common = str(tokenizer.decode(ids[:same], clean_up_tokenization_spaces=False))
    return len(common) if one.startswith(common) and other.startswith(common) else 0


def _until_its_end(completion: str, turn: Turn, eos: str) -> str:
    """Return a completion up to the end-of-sequence token that the template put there; those in its text are text."""
    if not eos or completion.count(eos) <= sum(_count(turn.get(name), eos) for name in SPOKEN):
        return completion
    return completion[: completion.rindex(eos) + len(eos)]


def _count(spoken: Any, eos: str) -> int:
    written = spoken if isinstance(spoken, str) else json.dumps(spoken, ensure_ascii=False)
    return written.count(eos)


def _marks_the_assistant(tokenizer: PreTrainedTokenizerBase, extras: dict[str, Any]) -> bool:
    template = tokenizer.get_chat_template(None, extras["tools"])
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _by_marks(
    messages: Messages,
    learned: list[int],
    spoken: list[int],
    extras: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Stretch]:
    """Return tokens up to the last that is learned, by the template's marks of what the assistant says."""
    options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    made = cast("dict[str, list[int]]", tokenizer.apply_chat_template(messages, **options, **extras))
    ids, mask = made["input_ids"], made["assistant_masks"]
    edges = [i for i, (before, now) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if before != now]
    runs = list(zip(edges[::2], edges[1::2], strict=True))
    if not runs:
        raise UserError("the chat template marks nothing of what the assistant says as generated.")
    if len(runs) == len(spoken):
        runs = [run for run, turn in zip(runs, spoken, strict=True) if turn in learned]
    elif len(learned) < len(spoken):
        runs = runs[-1:]
    stretches: list[Stretch] = []
    position = 0
    for start, stop in runs:
        stretches += [Stretch(ids[position:start], False), Stretch(ids[start:stop], True)]
        position = stop
    return stretches


def _check_complete(
    messages: Messages,
    extras: dict[str, Any],
    render: Render,
    whole: str,
) -> None:
    """Refuse a template that leaves out tools or calls of them: the model would learn answers without their reason."""
    if any(turn.get("tool_calls") for turn in messages):
        without = [{name: value for name, value in turn.items() if name != "tool_calls"} for turn in messages]
        try:
            complete = render(without) != whole
        except UserError:  # it writes them in place of the content
            complete = True
        if not complete:
            raise UserError("the chat template leaves out tool_calls: take a model whose template writes them.")
    if extras["tools"] and render(messages, tools=None) == whole:
        raise UserError("the chat template leaves out tools: take a model whose template writes them.")
