"""Loss on plain text: does the model still predict general English?"""

from __future__ import annotations

import hashlib
from importlib import util
from pathlib import Path
from typing import Any

from mofo.data.tokens import IGNORED, Labelled
from mofo.errors import UserError
from mofo.measure.scoring import held_out_loss

WINDOW = 256
WINDOWS = 16

STORY_SHA256 = "51b9cda351cecebe3fb84427acf7f9391698e6a49834546cdff557282e5e0099"


class TextProbe:
    """Mean negative log-likelihood on windows of a text.

    16 windows of 256 tokens are taken at even distances over the whole text (all of it where it is
    shorter), so that a long file costs no more than a short one and no single passage decides. Each window
    starts with what the tokenizer itself puts before a text, if anything, and its first token is not
    counted where there is nothing before it.

    Args:
        name: Name of the probe.
        text: The text.
        tokenizer: The tokenizer of the models to be measured.

    Raises:
        UserError: The text has fewer than two tokens.
    """

    def __init__(self, name: str, text: str, tokenizer: Any) -> None:
        self.name = name
        start = tokenizer("")["input_ids"]
        # `verbose=False`: the text may be longer than the model's context, its windows are not
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < 2:
            raise UserError(f"the text of probe `{name}` has {len(ids)} tokens, but at least 2 are needed")
        windows = [ids[first : first + WINDOW] for first in window_starts(len(ids))]
        self._examples: list[Labelled] = [
            {"input_ids": start + window, "labels": [IGNORED] * len(start) + window} for window in windows
        ]

    def measure(self, model: Any) -> dict[str, float]:
        """Return `loss` in nats per token; lower is better."""
        return {"loss": held_out_loss(model, self._examples)["loss"]}


def window_starts(tokens: int) -> list[int]:
    """Return where the windows start in a text of so many tokens."""
    if tokens <= WINDOW * WINDOWS:
        return list(range(0, tokens, WINDOW))
    return [round(index * (tokens - WINDOW) / (WINDOWS - 1)) for index in range(WINDOWS)]


def general_english() -> str:
    """Return *In the Year 2889*, a short story by Michel and Jules Verne (1889, in the public domain).

    It is the one piece of edited English prose that every machine with the workbench already has, since
    reasoning-gym, from which the demo's tasks come, ships it whole. No download, no licence to carry,
    nothing of mathematics in it, and the same text everywhere: the story without the Project Gutenberg
    frame is checked by its SHA-256. Lines are joined to paragraphs, as the models have mostly seen prose.

    Raises:
        UserError: reasoning-gym is not installed, or its story is another.
    """
    package = util.find_spec("reasoning_gym")
    if package is None or package.origin is None:
        raise UserError("the `text` probe reads a story that comes with reasoning-gym: `pip install mofo[train]`")
    path = Path(package.origin).with_name("data") / "in_the_year_2889.txt"
    try:
        story = strip_frame(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the story of the `text` probe cannot be read from {path}: {error}") from error
    digest = hashlib.sha256(story.encode()).hexdigest()
    if digest != STORY_SHA256:
        raise UserError(
            f"{path} holds another text than the `text` probe expects (SHA-256 {digest}, not {STORY_SHA256}): "
            "install reasoning-gym anew"
        )
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in story.split("\n\n"))


def strip_frame(book: str) -> str:
    """Return the story inside a Project Gutenberg book: from its first paragraph to its signature."""
    _, _, rest = book.partition("IN THE YEAR 2889.\n")
    story, _, _ = rest.partition("\nJules Verne.\n")
    return story.strip()
