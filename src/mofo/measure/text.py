"""Loss on plain text: does the model still predict general English?"""

from __future__ import annotations

import hashlib
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofo.data.tokens import IGNORED, Labelled
from mofo.errors import UserError
from mofo.measure.probe import Base, Options, Probe
from mofo.measure.scoring import held_out_loss
from mofo.models.limits import position_limit
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 256
"""Tokens of a window of the text."""

WINDOWS = 16
"""The most windows of a text."""

STORY_SHA256 = "51b9cda351cecebe3fb84427acf7f9391698e6a49834546cdff557282e5e0099"


class TextProbe(Probe):
    """Mean negative log-likelihood on windows of a text.

    16 windows of 256 tokens, or of as many as the model has positions for, are taken at even distances over the whole
    text (all of it if it is shorter), so that a long file costs no more than a short one and no single passage decides.
    Each window starts with what the tokenizer itself puts before a text, if anything; where it puts nothing, a
    window's first token does not count.

    Args:
        name: Name of the probe.
        text: The text.
        tokenizer: The tokenizer of the models to be measured.
        subject: What the text is, in words.
        positions: The most tokens that the models can read at once; windows are no longer.

    Raises:
        UserError: The text has fewer than two tokens.
    """

    usage = ("text", "text:FILE.txt")
    numbers = "loss in nats per token"
    better = "lower"
    cost = "a pass over at most 4096 tokens"

    def __init__(
        self,
        name: str,
        text: str,
        tokenizer: PreTrainedTokenizerBase,
        subject: str = "a text of your own",
        positions: int = sys.maxsize,
    ) -> None:
        super().__init__(name)
        self._subject = subject
        start: list[int] = tokenizer("")["input_ids"]
        window = min(WINDOW, positions - len(start))
        # `verbose=False`: the text may be longer than the model's context, its windows are not.
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < 2:
            raise UserError(f"The text of probe `{name}` has {len(ids)} tokens, but at least 2 are needed.")
        windows = [ids[first : first + window] for first in window_starts(len(ids), window)]
        self._examples: list[Labelled] = [
            {"input_ids": start + tokens, "labels": [IGNORED] * len(start) + tokens} for tokens in windows
        ]

    @classmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check that the text file can be read, or else the general English text."""
        read_text(argument)

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> TextProbe:
        """Return a probe on the text of a file, or on general English if no file is given."""
        subject = f"the text {Path(argument).name}" if argument else "a short story by Jules Verne, general English"
        return cls(name, read_text(argument), base.tokenizer, subject, position_limit(base.model.config))

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Return `loss` in nats per token; lower is better. Its units are the windows."""
        return {"loss": held_out_loss(model, self._examples)["loss"]}

    @property
    def metrics(self) -> list[Metric]:
        """The loss."""
        return [
            Metric(
                kind="forgotten",
                source=self.name,
                name="loss",
                label=f"{self.name} loss",
                description=f"mean loss on {len(self._examples)} windows of {self._subject}: lower means that the "
                "model still predicts it well",
                unit="nats per token",
            )
        ]


def window_starts(tokens: int, window: int = WINDOW) -> list[int]:
    """Return where the windows start in a text of the given length in tokens."""
    if tokens <= window * WINDOWS:
        return list(range(0, tokens, window))
    return [round(index * (tokens - window) / (WINDOWS - 1)) for index in range(WINDOWS)]


def read_text(file: str) -> str:
    """Return the text of a file, or the general English text if the file's name is empty.

    Raises:
        UserError: The file is missing, empty or not UTF-8.
    """
    if not file:
        return general_english()
    try:
        text = Path(file).read_text(encoding="utf-8-sig")  # a mark of the byte order is no text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The text of a probe cannot be read from {file}: {error}.") from error
    if not text.strip():
        raise UserError(f"{file} is empty: expected a text to measure the loss on.")
    return text


def general_english() -> str:
    """Return *In the Year 2889*, a short story by Michel and Jules Verne (1889, in the public domain).

    It is the one piece of edited English prose that every machine with the workbench already has, because
    reasoning-gym, from which the demo's tasks come, ships it whole. It needs no download and no licence, has nothing
    of mathematics in it, and is the same everywhere: the story without the Project Gutenberg frame is checked by its
    SHA-256. Lines are joined to paragraphs, as the models have mostly seen prose.

    Raises:
        UserError: reasoning-gym is not installed, or its story is another.
    """
    package = util.find_spec("reasoning_gym")
    if package is None or package.origin is None:
        raise UserError("The `text` probe reads a story that comes with reasoning-gym: `pip install mofo[train]`.")
    path = Path(package.origin).with_name("data") / "in_the_year_2889.txt"
    try:
        story = strip_frame(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The story of the `text` probe cannot be read from {path}: {error}.") from error
    digest = hashlib.sha256(story.encode()).hexdigest()
    if digest != STORY_SHA256:
        raise UserError(
            f"{path} holds another text than the `text` probe expects (SHA-256 {digest}, not {STORY_SHA256}): "
            "install reasoning-gym again."
        )
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in story.split("\n\n"))


def strip_frame(book: str) -> str:
    """Return the story inside a Project Gutenberg book: from its first paragraph to its signature."""
    _, _, rest = book.partition("IN THE YEAR 2889.\n")
    story, _, _ = rest.partition("\nJules Verne.\n")
    return story.strip()
