"""Replay: some rows of each batch are not the task's."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from mofo.data.rows import load_rows
from mofo.data.tokens import Example, encode_rows, find_row, has_labels
from mofo.errors import UserError
from mofo.methods.base_text import base_text
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Replay(Part):
    """A share of the task's rows is replaced by others: rows of a file, or text that the base wrote.

    Over the steps the share is kept exactly: a step has ⌊share · rows so far⌋ replaced rows in total.
    """

    name = "replay"
    label = "replay"
    source = "arXiv 2407.20999, section 4"
    cost = "nothing a step; the base writes the text once"
    across_processes = True

    share: float = setting(0.1, "share of the rows that are replaced", short="share", gt=0, lt=1)
    data: str = setting("", "where they come from, as --data; text that the base writes if empty")
    texts: int = setting(64, "texts that the base writes", ge=1)
    tokens: int = setting(128, "tokens of each text", ge=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Have the base write the text, where no data are given."""
        if not self.data:
            base_text(model, setup, texts=self.texts, tokens=self.tokens)
            setup.scratch[self.name] = model
        return model

    def rows(self, rows: list[Example], setup: Setup) -> list[Example]:
        """Return the rows with some replaced, at places and by rows that the seed draws."""
        others = self._others(setup)
        chance = random.Random(setup.seed)
        mixed = list(rows)
        for start in range(0, len(rows), setup.batch):
            end = min(start + setup.batch, len(rows))
            count = math.floor(self.share * end) - math.floor(self.share * start)
            for place in chance.sample(range(start, end), count):
                mixed[place] = chance.choice(others)
        return mixed

    def _others(self, setup: Setup) -> list[Example]:
        if not self.data:
            written = base_text(setup.scratch[self.name], setup, texts=self.texts, tokens=self.tokens)
            return [Example(input_ids=ids, labels=ids, prompt_ids=[], answer="") for ids in written.tolist()]
        longest = max(len(row["input_ids"]) for row in setup.rows)
        rows = load_rows(self.data)
        examples = encode_rows(rows, setup.tokenizer, longest, place=find_row({self.data: rows}))
        usable = [example for example in examples if has_labels(example)]
        if not usable:
            raise UserError(f"replay.data: no row of {self.data} has a completion within {longest} tokens.")
        return usable
