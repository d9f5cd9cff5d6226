"""What the processes of a comparison share: its recipe, model and data, and the way to measure; and the base's part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from mofo.compare.folder import LEARNED, BaseResult, OutputFolder, answers_in
from mofo.compare.measuring import progress_in
from mofo.compare.tasks import TaskSettings
from mofo.data.order import batch_order
from mofo.data.tokens import Example, encode, has_labels
from mofo.errors import UserError
from mofo.files import read_jsonl
from mofo.measure import Probe, distance_metrics, held_out_loss, make_probes, probe_states, sequence_metrics
from mofo.measure.answers import ask
from mofo.measure.generation import GENERAL_QUESTIONS, generate, generate_answers
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.measure.scores import SCORES
from mofo.models.load import load_model
from mofo.models.precision import autocast, compute_device
from mofo.results import ALL_TASKS, Metric, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE_TOKENS = 120
"""Where the answers that are shown are cut off."""


class Job:
    """What all jobs of a folder share: the recipe, the model, the data and the way to measure.

    Args:
        path: The output folder that `mofo compare` prepared.
    """

    def __init__(self, path: Path) -> None:
        self.folder = OutputFolder(path)
        self.recipe = self.folder.recipe
        self.plan = self.folder.plan
        self.device = compute_device()
        self.model, self.tokenizer = load_model(
            self.recipe.model,
            dtype=getattr(torch, self.recipe.weights),
            trust_remote_code=self.recipe.trust_remote_code,
        )
        self.model.to(self.device)  # type: ignore[arg-type]  # the decorator of `to` hides its signature
        self.tasks = self.recipe.sequence
        files = [self.folder.held_out_rows(number) for number in range(len(self.tasks))]
        self.held_out = {task.name: self._examples(file) for task, file in zip(self.tasks, files, strict=True)}
        states = self.folder.probe_states
        known = states or {}
        self.probes = self._probes((*self.recipe.probes, *self.recipe.end_probes), known)
        self.at_end_only = {probe.name for probe in self.probes[len(self.recipe.probes) :]}
        self.learned = self._probes([self.recipe.learned] if self.recipe.learned else [], known.get(LEARNED, {}))
        if states is None:
            self.folder.write_probe_states(
                probe_states(self.probes) | ({LEARNED: probe_states(self.learned)} if self.learned else {})
            )

    def _probes(self, specs: Sequence[str], states: Mapping[str, Any]) -> list[Probe]:
        with autocast(self.plan.precision):
            return make_probes(
                specs, base=self.model, tokenizer=self.tokenizer, states=states, options=self.recipe.options
            )

    def _examples(self, file: Path) -> list[Example]:
        recipe = self.recipe
        rows = read_jsonl(file)
        examples = [encode(row, self.tokenizer, recipe.max_length, turns=recipe.turns) for row in rows]
        return [example for example in examples if has_labels(example)]

    def training_examples(self, seed: int) -> list[list[Example]]:
        """Return the rows of all steps of each task, in the order in which every method sees them."""
        found = []
        for number, plan in enumerate(self.plan.tasks):
            examples = self._examples(self.folder.training_rows(number))
            found.append(self._in_order(examples, steps=plan.steps, seed=seed))
        return found

    def joint_examples(self, seed: int) -> list[Example]:
        """Return the rows of all steps of all tasks, as often as they come in sequence, in one order."""
        examples = [example for rows in self.training_examples(seed) for example in rows]
        return self._in_order(examples, steps=self.plan.total_steps, seed=seed)

    def _in_order(self, examples: list[Example], *, steps: int, seed: int) -> list[Example]:
        lengths = [len(example["input_ids"]) for example in examples]
        order = batch_order(lengths, steps=steps, batch=self.recipe.rows_per_step, seed=seed)
        return [examples[i] for i in order]

    def measure(self, model: PreTrainedModel, folder: Path, *, answers: bool, in_full: bool) -> Measured:
        """Return what a model has learned of every task, and forgotten.

        Args:
            model: The model.
            folder: Where to say how far the measuring is, and to leave the answers.
            answers: Whether questions of the tasks are answered.
            in_full: Whether this is the base or the end of a run: then all probes are taken, and the answers to their
                questions are kept.
        """
        kept = answers_in(folder) if in_full else None
        with autocast(self.plan.precision), progress_in(folder):
            learned = {task.name: self._learned(task, model, answers=answers) for task in self.tasks}
            for probe in self.learned:  # of the only task
                learned[self.tasks[0].name] |= ask(probe, model, kept, LEARNED)[0]
            if len(self.tasks) > 1:
                learned[ALL_TASKS] = self._means(learned)
            taken = [probe for probe in self.probes if in_full or probe.name not in self.at_end_only]
            return Measured(
                learned=learned,
                forgotten={probe.name: ask(probe, model, kept, probe.name)[0] for probe in taken},
            )

    def _learned(self, task: TaskSettings, model: PreTrainedModel, *, answers: bool) -> dict[str, float]:
        """Return the held-out loss of a task, and the score of its answers."""
        rows = self.held_out[task.name]
        learned: dict[str, float] = {"loss": held_out_loss(model, rows)["loss"]}
        if answers and self.recipe.answers:
            score, questions = SCORES[task.metric], rows[: self.recipe.answers]
            limit = task.answer_tokens or self.recipe.answer_tokens
            given = generate_answers(model, self.tokenizer, questions, max_new_tokens=limit)
            learned[score.key] = Mean([score.judge(a, q["answer"]) for a, q in zip(given, questions, strict=True)])
        return learned

    def _means(self, learned: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return the means over the tasks of their losses, and of their scores where there are any."""
        means = {"loss": fmean(learned[task.name]["loss"] for task in self.tasks)}
        scores = [learned[task.name].get(SCORES[task.metric].key) for task in self.tasks]
        known = [score for score in scores if score is not None]
        return means | ({"score": fmean(known)} if known else {})

    @cached_property
    def base(self) -> Measured:
        """The base as it was measured."""
        return Measured.from_units(self.folder.base.units if self.folder.base else {})

    @cached_property
    def sample_prompts(self) -> list[Example]:
        """What the base and every tuned model answer to be read: prompts of the tasks, and general questions."""
        if not self.recipe.samples:
            return []
        try:
            general = [encode(row, self.tokenizer, self.recipe.max_length) for row in GENERAL_QUESTIONS]
        except UserError:  # a chat template that refuses questions is no obstacle to a comparison on texts
            general = []
        each = ceil(self.recipe.samples / len(self.tasks))
        asking = [[example for example in rows if example["prompt_ids"]] for rows in self.held_out.values()]
        prompts = [example for rows in asking for example in rows[:each]]
        for example in general:
            example["answer"] = ""  # a reader judges
        return [*prompts, *general]

    def write_samples(self, model: PreTrainedModel) -> list[str]:
        """Return a model's answers to the samples' prompts."""
        prompts = [example["prompt_ids"] for example in self.sample_prompts]
        with autocast(self.plan.precision):
            return generate(model, self.tokenizer, prompts, SAMPLE_TOKENS) if prompts else []


def measure_base(job: Job) -> None:
    """Measure the base and write `base.json`."""
    measured = job.measure(job.model, job.folder.path, answers=True, in_full=True)
    samples = [
        Sample(
            prompt=str(job.tokenizer.decode(example["prompt_ids"])), expected=example["answer"] or None, answer=answer
        )
        for example, answer in zip(job.sample_prompts, job.write_samples(job.model), strict=True)
    ]
    metrics = [*_learned_metrics(job), *(m for probe in job.probes for m in probe.metrics)]
    job.folder.write_base(
        BaseResult(
            metrics=[*metrics, *distance_metrics()],
            point=measured.point(None),
            units=measured.units,
            samples=samples,
        )
    )


def _learned_metrics(job: Job) -> list[Metric]:
    """Return what is measured of learning, first what it is compared by: a probe's first number, or the loss."""
    own = sequence_metrics({task.name: SCORES[task.metric] for task in job.tasks})
    task = job.tasks[0].name
    asked = [
        metric.model_copy(update={"kind": "learned", "source": task, "task": task})
        for probe in job.learned
        for metric in probe.metrics
    ]
    if asked:
        own = [metric.model_copy(update={"headline": False}) for metric in own]
    return [*asked, *own]
