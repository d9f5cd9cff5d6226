"""The model in memory as lm-evaluation-harness expects it.

The harness makes requests of texts and gets back log-probabilities or new text. Tokenisation, truncation and what is
cut off after generating are its own; the forward passes are ours: each prompt runs once for all of its choices, logits
are computed only where they are needed, and the precision is that in which everything else is measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lm_eval.api.task
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from mofo.measure.continuations import Tokenized, score_continuations
from mofo.measure.generation import complete_texts
from mofo.measure.scoring import inference

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Encoded = tuple[Any, list[int], list[int]]
"""A request as the harness has encoded it: its texts, and the tokens of context and continuation."""


class ModelInMemory(HFLM):  # type: ignore[misc]  # the harness is not annotated
    """A loaded model and its tokenizer, answering the requests of the harness.

    Args:
        model: A causal language model. It is left in the mode that it is in.
        tokenizer: Its tokenizer, which has a padding token.
        name: Name of the probe, for those who watch the progress.
        seed: Seed of samples.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "harness", seed: int = 0
    ) -> None:
        training = model.training
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal")
        model.train(training)
        self._name, self._seed = name, seed

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return for each request the log-probability of its continuation, and whether it is the greedy one."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability of each text as a whole."""
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return what `loglikelihood` returns; requests of one context are the choices of one question.

        A context that is too long for the model is cut off at its beginning, as in the harness.
        """
        owners: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            owners[tuple(context[-max(1, self.max_length + 1 - len(continuation)) :])].append(number)
        questions = [
            Tokenized(list(context), [requests[number][2] for number in numbers]) for context, numbers in owners.items()
        ]
        with inference(self.model):
            scores = score_continuations(self.model, questions, self._name)
        answers: dict[int, tuple[float, bool]] = {}
        for numbers, choices in zip(owners.values(), scores, strict=True):
            answers.update(
                (n, (choice.log_probability, choice.greedy)) for n, choice in zip(numbers, choices, strict=True)
            )
        return [answers[number] for number in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return the text that follows each context, up to where its task says that it ends.

        Samples are drawn from the whole distribution; the global random states are left as they were.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True)].append(number)
        texts: dict[int, str] = {}
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(self._seed)
            for numbers in groups.values():
                contexts = [requests[number].args[0] for number in numbers]
                texts.update(zip(numbers, self._complete(contexts, requests[numbers[0]].args[1]), strict=True))
        return [texts[number] for number in range(len(requests))]

    def _complete(self, contexts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        """Continue contexts that share the settings of generating."""
        settings = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        stop = handle_stop_sequences(
            settings.pop("until"), self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        )
        # a model with few positions keeps half of them for the question
        room = min(settings.pop("max_gen_toks"), self.max_length // 2)
        if settings.get("do_sample"):
            settings.setdefault("top_k", 0)
        else:
            settings = {"do_sample": False}
        texts = complete_texts(
            self.model,
            self.tokenizer,
            [self.tok_encode(context, left_truncate_len=self.max_length - room) for context in contexts],
            max_new_tokens=room,
            stop=stop,
            what=self._name,
            **settings,
        )
        return [postprocess_generated_text(text, stop, None) for text in texts]


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the bars that the harness draws while it makes requests; ours show the progress."""
    shown = lm_eval.api.task.tqdm

    def hidden(rows: Any, **_: Any) -> Any:
        return rows

    lm_eval.api.task.tqdm = hidden
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = shown
