"""Probes that are tasks of lm-evaluation-harness: one task, a group of tasks, or a suite."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from mofo.errors import UserError
from mofo.measure.harness.suites import CODE_TASK, DESCRIPTIONS, SUITES, Average, parse_limit, parse_request
from mofo.measure.mean import Mean
from mofo.measure.probe import Answer, Base, Options, Probe
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mofo.measure.harness.loading import Leaf, Loaded


class HarnessProbe(Probe):
    """A task or group of lm-evaluation-harness, such as arc_easy or mmlu.

    Prompts, answers and metrics are the harness's own, with its number of examples; the model that is in memory is
    asked, in the precision in which everything is measured. After `@` stands the most questions of each task, drawn
    once by a fixed seed, so that every model gets the same ones. Needs `pip install 'mofo[eval]'`, and the rows from
    the Hub or from a folder (`--harness-data`).

    Args:
        name: Name of the probe.
        suite: The tasks, and which of them are averaged.
        limit: The most questions of each task.
        tokenizer: The tokenizer of the models to be measured.
        seed: Seed of what models write by sampling.
        options: What holds for all probes.

    Attributes:
        loaded: The tasks by the names in the suite.
        questions: Numbers of the rows that are asked, by the harness's names of the tasks.
    """

    usage = ("harness:TASK", "harness:TASK@LIMIT")
    numbers = "the task's metrics by the harness's names, and for choices the log-probability of the right one"
    better = "higher"
    cost = "a pass over all prompts and choices; answers that are written take longer"

    def __init__(
        self,
        name: str,
        suite: Average,
        limit: int | None,
        tokenizer: PreTrainedTokenizerBase,
        seed: int = 0,
        options: Options = Options(),  # noqa: B008  (it is frozen)
    ) -> None:
        super().__init__(name)
        self._suite, self._limit, self._tokenizer, self._seed = suite, limit, tokenizer, seed
        self.loaded = {task: _load(task, options) for task in suite.tasks}
        self.questions = {
            leaf.task.task_name: _choose(leaf, limit) for loaded in self.loaded.values() for leaf in loaded.leaves
        }

    @classmethod
    def name_of(cls, kind: str, argument: str) -> str:
        """Return the task's name."""
        return argument.partition("@")[0]

    @classmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check that the task exists, that its rows are there, and that it may do what it does."""
        _load(parse_request(argument).task, options)

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> HarnessProbe:
        """Return a probe of a task; a state must be that of the same questions."""
        request = parse_request(argument)
        suite = Average(request.task, request.task, (request.task,))
        return cls(name, suite, request.limit, base.tokenizer, base.seed, base.options)._checked(state)

    def _checked(self, state: Any) -> HarnessProbe:
        if state is not None and state != self.state():
            raise UserError(f"The questions of the probe {self.name} are others than when the base was measured.")
        return self

    def state(self) -> Any:
        """Return a digest of the questions, by which a resumed run sees that they are still the same."""
        digest = hashlib.sha256()
        for loaded in self.loaded.values():
            for leaf in loaded.leaves:
                rows = leaf.task.eval_docs
                digest.update(repr([rows[number] for number in self.questions[leaf.task.task_name]]).encode())
        return digest.hexdigest()

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the numbers of all tasks, and their averages. Their units are the questions."""
        return self.ask(model)[0]

    def ask(self, model: PreTrainedModel) -> tuple[dict[str, float], list[Answer]]:
        """Return the numbers, and the answer to each question."""
        from mofo.measure.harness.scores import task_answers, task_means

        samples = self._evaluate(model)
        numbers: dict[str, float] = {}
        answers: list[Answer] = []
        headlines: dict[str, Mean] = {}
        for task, loaded in self.loaded.items():
            parts = [task_means(leaf.task, samples[leaf.task.task_name]) for leaf in loaded.leaves]
            joined = {name: _joined([part[name] for part in parts], by_size=loaded.by_size) for name in parts[0]}
            headlines[task] = next(iter(joined.values()))
            numbers |= {self._number(task, name): mean for name, mean in joined.items()}
            for leaf in loaded.leaves:
                rows = samples[leaf.task.task_name]
                answers += task_answers(leaf.task, rows, partial(self._number, task))
        return numbers | self._averages(headlines), answers

    def _evaluate(self, model: PreTrainedModel) -> dict[str, list[dict[str, Any]]]:
        """Return what the harness logged of each question, by task."""
        from lm_eval.evaluator import evaluate

        from mofo.measure.harness.loading import SHOTS_SEED
        from mofo.measure.harness.model import ModelInMemory, without_bars

        tasks = {leaf.task.task_name: leaf.task for loaded in self.loaded.values() for leaf in loaded.leaves}
        for task in tasks.values():
            task.set_fewshot_seed(SHOTS_SEED)  # the draw goes on from model to model otherwise
        with without_bars():
            found = evaluate(
                ModelInMemory(model, self._tokenizer, self.name, self._seed),
                {"tasks": tasks},
                samples=self.questions,
                bootstrap_iters=0,
                confirm_run_unsafe_code=True,  # such a task was refused when it was loaded, unless this was allowed
            )
        assert found is not None
        logged: dict[str, list[dict[str, Any]]] = found["samples"]
        return logged

    def _averages(self, means: dict[str, Mean]) -> dict[str, float]:
        """Return the averages of tasks; every member of an average weighs the same."""
        known = dict(means)
        for average in self._suite.averages():
            members = [known[member.name if isinstance(member, Average) else member] for member in average.members]
            known[average.name] = Mean.average(members)
        return {name: mean for name, mean in known.items() if name not in means}

    def _number(self, task: str, name: str) -> str:
        """Return the name of a task's number: with its task, if there are several."""
        return f"{task} {name}" if len(self.loaded) > 1 else name

    @property
    def metrics(self) -> list[Metric]:
        """The averages, the outermost first, and the numbers of all tasks."""
        from mofo.measure.harness.scores import LOG_PROBABILITY, columns, has_choices

        averages = [
            self._metric(average.name, average.label, f"average of {_listed(average)}, each weighing the same", True)
            for average in self._suite.averages()
        ][::-1]
        tasks = []
        for task, loaded in self.loaded.items():
            leaf = loaded.leaves[0]
            about = self._about(task, loaded)
            for place, column in enumerate(columns(leaf.task)):
                label = task if place == 0 else f"{task} {column.name}"
                description = f"{column.name} {about}"
                metric = self._metric(self._number(task, column.name), label, description, column.higher_is_better)
                tasks.append(metric.model_copy(update={"headline": place == 0 and len(self.loaded) == 1}))
            if has_choices(leaf.task):
                tasks.append(
                    Metric(
                        kind="forgotten",
                        source=self.name,
                        name=self._number(task, LOG_PROBABILITY),
                        label=f"{task} log-probability",
                        description="log-probability of the right answer among the choices",
                        unit="nats",
                        higher_is_better=True,
                        headline=False,
                    )
                )
        inner = [metric.model_copy(update={"headline": False}) for metric in averages[1:]]
        return [*averages[:1], *inner, *tasks]

    def _metric(self, name: str, label: str, description: str, higher_is_better: bool) -> Metric:
        return Metric(
            kind="forgotten",
            source=self.name,
            name=name,
            label=label,
            description=description,
            unit="%",
            scale=100,
            higher_is_better=higher_is_better,
        )

    def _about(self, task: str, loaded: Loaded) -> str:
        """Return of which questions a task's numbers are."""
        questions = sum(len(self.questions[leaf.task.task_name]) for leaf in loaded.leaves)
        tasks = f" from {len(loaded.leaves)} tasks" if len(loaded.leaves) > 1 else ""
        drawn = f", at most {self._limit} of each" if self._limit and tasks else ""
        splits = sorted({leaf.stands_in for leaf in loaded.leaves if leaf.stands_in})
        stand_in = f" of the {splits[0]} split, for want of the other" if splits else ""
        return f"on {questions} questions of {task}{tasks}{drawn}{stand_in}, lm-evaluation-harness"


class SuiteProbe(HarnessProbe):
    """A suite of tasks."""

    suite: str

    @classmethod
    def name_of(cls, kind: str, argument: str) -> str:
        """Return the suite's name."""
        return kind

    @classmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check every task of the suite."""
        parse_limit(cls.suite, argument)
        for task in _suite(cls.suite, options).tasks:
            _load(task, options)

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> HarnessProbe:
        """Return a probe of all tasks of the suite."""
        limit = parse_limit(cls.suite, argument)
        return cls(name, _suite(cls.suite, base.options), limit, base.tokenizer, base.seed, base.options)._checked(
            state
        )


def _suite_kind(name: str) -> type[SuiteProbe]:
    """Return the kind of probe of a suite."""
    document = (
        f"{DESCRIPTIONS[name]}\n\nTasks of lm-evaluation-harness: {', '.join(SUITES[name].tasks)}.\n"
        f"`{name}@100` asks at most 100 questions of each. `mofo probes harness` says how they are asked."
    )
    members = {"suite": name, "usage": (name,), "__doc__": document}
    return type(f"{name.title()}Probe", (SuiteProbe,), members)


SUITE_KINDS: dict[str, type[Probe]] = {name: _suite_kind(name) for name in SUITES}
"""A kind of probe for each suite."""


def _suite(name: str, options: Options) -> Average:
    """Return a suite; the general one without HumanEval where generated code may not run."""
    return SUITES[name] if options.allow_code_execution or name != "general" else SUITES[name].without(CODE_TASK)


def _load(task: str, options: Options) -> Loaded:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("Tasks of the harness need lm-evaluation-harness: pip install 'mofo[eval]'.")
    from mofo.measure.harness.loading import load_tasks

    return load_tasks(task, options)


def _choose(leaf: Leaf, limit: int | None) -> list[int]:
    """Return the numbers of the questions that are asked, in order: a draw that depends on the task alone."""
    count = len(leaf.task.eval_docs)
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(leaf.task.task_name).sample(range(count), limit))


def _joined(means: list[Mean], *, by_size: bool) -> Mean:
    """Return the number of a group from those of its tasks."""
    if not by_size:
        return Mean.average(means)
    return Mean([total for mean in means for total in mean.totals], [count for mean in means for count in mean.counts])


def _listed(average: Average) -> str:
    names = [member.label if isinstance(member, Average) else member for member in average.members]
    return f"{', '.join(names[:-1])} and {names[-1]}"
