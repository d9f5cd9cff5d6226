"""One job in a process of its own: measure the base, or fine-tune once and measure along the way.

`mofo compare` starts `python -m mofo.compare.worker FOLDER JOB [STEP]` for each job. Everything a job needs lies in the
folder, and everything it finds out goes there, so that a job that was killed goes on from its last checkpoint. With a
step a run is left there, to go on later.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from mofo.compare.folder import (
    ALONE,
    BASE_JOB,
    LEARNED,
    REFUSED,
    BaseResult,
    OutputFolder,
    RunFolder,
    RunResult,
    answers_in,
)
from mofo.compare.launch import is_launched, is_main, spread_name, world_size
from mofo.compare.measuring import progress_in
from mofo.compare.recipe import PlannedRun
from mofo.compare.recorder import LoggedStep, Measurement, Recorder
from mofo.compare.tasks import TaskSettings
from mofo.compare.trainer import MethodTrainer
from mofo.data.order import batch_order
from mofo.data.tokens import Example, encode, has_labels
from mofo.errors import UserError
from mofo.files import new_folder, read_json, read_jsonl, write_jsonl
from mofo.measure import (
    Probe,
    distance_metrics,
    held_out_loss,
    make_probes,
    probe_states,
    sequence_metrics,
    weight_distance,
)
from mofo.measure.answers import ask
from mofo.measure.generation import GENERAL_QUESTIONS, generate, generate_answers
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.measure.scores import SCORES
from mofo.methods.method import Method
from mofo.methods.part import Setup
from mofo.models.load import load_model
from mofo.models.memory import peak_memory
from mofo.models.precision import autocast, compute_device
from mofo.models.quiet import quiet
from mofo.models.weights import WholeWeights, copy_of_weights
from mofo.results import ALL_TASKS, Distance, FinalDistance, Metric, Point, Run, Sample, Scalar, TrainingStep
from mofo.trainers.checkpoints import last_checkpoint

SAMPLE_TOKENS = 120
"""Where the answers that are shown are cut off."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
                learned[self.tasks[0].name] |= ask(probe, model, kept, LEARNED)
            if len(self.tasks) > 1:
                learned[ALL_TASKS] = self._means(learned)
            taken = [probe for probe in self.probes if in_full or probe.name not in self.at_end_only]
            return Measured(
                learned=learned,
                forgotten={probe.name: ask(probe, model, kept, probe.name) for probe in taken},
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


@dataclass(frozen=True)
class Stage:
    """A stretch of a run with a trainer of its own: one task, or all tasks at once.

    Attributes:
        task: Name of the task; None for all at once.
        rows: Its rows in the order of training.
        before: Steps of the run before it.
        steps: Its steps.
    """

    task: str | None
    rows: list[Example]
    before: int
    steps: int

    @property
    def end(self) -> int:
        """The last step of the stage, counted from the run's beginning."""
        return self.before + self.steps


def stages_of(job: Job, run: PlannedRun) -> list[Stage]:
    """Return the stages of a run in order."""
    if run.order == "joint":
        return [Stage(None, job.joint_examples(run.seed), 0, job.plan.total_steps)]
    stages: list[Stage] = []
    for task, rows, plan in zip(job.tasks, job.training_examples(run.seed), job.plan.tasks, strict=True):
        stages.append(Stage(task.name, rows, stages[-1].end if stages else 0, plan.steps))
    return stages


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


class FineTuning:
    """One run: the model prepared by the method's parts, trained on task after task, and measured along the way.

    Args:
        job: The job.
        name: Name of the run.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.folder: RunFolder = job.folder.run(name)
        self.run: PlannedRun = self.folder.run
        self.method: Method = self.run.method
        self.stages = stages_of(job, self.run)
        self.number = 0
        self.tokens = [0]  # training tokens up to the end of each stage that is done
        in_sequence = self.run.order == "sequence"
        self.setup = Setup(
            base=copy_of_weights(job.model),
            tokenizer=job.tokenizer,
            device=job.device,
            seed=self.run.seed,
            steps=self.stage.steps,
            batch=job.recipe.rows_per_step,
            rows=self.stage.rows,
            folder=self.folder.parts,
            shared=job.folder.shared,
            tasks=len(self.stages) if in_sequence else 1,
        )
        self.model: PreTrainedModel = job.model
        for part in self.method.parts:
            self.model = part.prepare(self.model, self.setup)
        self.start = copy_of_weights(self.model) if self.run.order == "alone" else None
        self.examples = self._rows()

    @property
    def stage(self) -> Stage:
        """The stage under way."""
        return self.stages[self.number]

    @property
    def last_step(self) -> int:
        """The last step of the run."""
        return self.stages[-1].end

    def _rows(self) -> list[Example]:
        """Return the rows of the stage as the parts want them."""
        examples = self.stage.rows
        for part in self.method.parts:
            examples = _same_length(part.rows(examples, self.setup), examples, part.name)
        return examples

    def next_stage(self) -> None:
        """Go on to the next stage, with the model as it is, or as it was before the first if each task is alone."""
        self.tokens.append(self.tokens[-1] + _tokens(self.examples))
        self.number += 1
        earlier = [] if self.start else [stage.rows for stage in self.stages[: self.number]]
        self.setup = replace(
            self.setup, task=self.number, steps=self.stage.steps, rows=self.stage.rows, earlier=earlier
        )
        if self.start:
            for name, parameter in self.model.named_parameters():
                parameter.detach().copy_(self.start[name])
        for part in self.method.parts:
            part.next_task(self.model, self.setup)
        self.examples = self._rows()

    def train(self, until: int | None = None) -> None:
        """Train, measure and write the result; or leave the run with a checkpoint, and without a result.

        A run that was left or killed goes on from its last whole checkpoint and ends with the same measurements.

        Args:
            until: The step after which to leave the run; None for its end.
        """
        begun, checkpoint = self._last_checkpoint()
        start = 0 if checkpoint is None else read_json(checkpoint / "trainer_state.json")["global_step"]
        start += self.stages[begun].before
        if until is not None and until <= start:
            return
        if is_main():
            rows = [row for row in read_jsonl(self.folder.metrics) if (row.get("point") or row)["step"] <= start]
            write_jsonl(self.folder.metrics, rows)
        carried: Mapping[Tensor, Any] = {}
        while self.number < begun:
            self.next_stage()
        while True:
            trainer = self._trainer(carried, until)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if until is not None and until <= self.stage.before + trainer.state.global_step < self.last_step:
                trainer.accelerator.end_training()
                return
            if self.stage is self.stages[-1]:
                break
            checkpoint = None
            carried = trainer.state_by_parameter() if self.job.recipe.optimizer_state == "keep" else {}
            trainer.release()
            del trainer
            gc.collect()  # a trainer is part of cycles, and holds the state of its optimizer
            self.next_stage()
        if self.job.recipe.save != "none":
            _save_model(self.model, self.job.tokenizer, self.folder.model)
        samples = self.job.write_samples(self.model)
        if is_main():
            run = self._result(samples)
            self.folder.write_result(RunResult(runs=[run, *self._variants(run.points[-1].step)]))
        trainer.accelerator.end_training()
        if is_main():
            self.folder.drop_checkpoints()

    def _checkpoints(self, number: int) -> Path:
        """Return the folder of the checkpoints of a stage."""
        return self.folder.checkpoints(spread_name()) / str(number + 1)

    def _last_checkpoint(self) -> tuple[int, Path | None]:
        """Return the last stage that has a whole checkpoint, and that; the first and None if none has."""
        for number in reversed(range(len(self.stages))):
            if checkpoint := last_checkpoint(self._checkpoints(number)):
                return number, checkpoint
        return 0, None

    def _drop_earlier_checkpoints(self) -> None:
        """Remove the checkpoints of earlier stages, which are not needed once this one has one."""
        for number in range(self.number):
            shutil.rmtree(self._checkpoints(number), ignore_errors=True)

    def measure(self, step: int, ended: bool = False) -> tuple[Point, FinalDistance]:
        """Return the point after a step, and the distance in full. Questions are answered where a task ends.

        Args:
            step: The step, counted from the run's beginning.
            ended: Whether the method ended the run with it.
        """
        distance = weight_distance(self.setup.base, self._weights())
        last = ended or step == self.last_step
        seen = self.examples[: (step - self.stage.before) * self.setup.batch]
        measured = self.job.measure(self.model, self.folder.path, answers=last or step == self.stage.end, in_full=last)
        found = measured.point(self.job.base)
        point = found.model_copy(
            update={
                "paired": found.paired if last else found.paired.counts_only(),
                "step": step,
                "tokens": self.tokens[-1] + _tokens(seen),
                "task": self.stage.task,
                "distance": Distance(l2=distance.l2, moved=distance.moved),
            }
        )
        return point, distance

    def _measure_and_keep(self, step: int, ended: bool) -> tuple[Point, FinalDistance]:
        """Return the point after a step, and keep the model on its way if the recipe wants that."""
        if self.job.recipe.save == "points" and step != self.last_step and not ended:
            _save_model(self.model, self.job.tokenizer, self.folder.model_at(step))
        return self.measure(step, ended)

    def _weights(self) -> Mapping[str, Tensor]:
        """Return the weights as they are now, under the base's names."""
        given = (part.weights(self.model) for part in self.method.parts)
        return next((weights for weights in given if weights is not None), WholeWeights(self.model))

    def _trainer(self, carried: Mapping[Tensor, Any], until: int | None) -> MethodTrainer:
        """Return a trainer of the stage, whose optimizer goes on with the states of an earlier one."""
        recipe, setup, stage = self.job.recipe, self.setup, self.stage
        recorder = Recorder(
            self.folder.metrics,
            points=[stage.before + step for step in recipe.point_steps(stage.steps)],
            before=stage.before,
            last=self.last_step,
            measure=self._measure_and_keep,
            saved=self._drop_earlier_checkpoints,
            until=until,
            writes=is_main(),
        )
        arguments = TrainingArguments(
            output_dir=str(self._checkpoints(self.number)),
            max_steps=setup.steps,
            per_device_train_batch_size=recipe.batch_size // world_size(),
            gradient_accumulation_steps=recipe.gradient_accumulation,
            train_sampling_strategy="sequential",  # the order is ours: see batch_order
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup,
            max_grad_norm=recipe.max_grad_norm,
            bf16=self.job.plan.precision == "bfloat16",
            gradient_checkpointing=recipe.gradient_checkpointing,
            seed=setup.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,  # a loss that is not finite would be logged as 0
            save_strategy="no",  # the recorder asks for a checkpoint after each measurement
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=setup.device.type == "cpu" and not is_launched(),
        )
        return MethodTrainer(
            self.method,
            setup,
            carried=carried,
            model=self.model,
            args=arguments,
            processing_class=self.job.tokenizer,
            data_collator=DataCollatorForSeq2Seq(self.job.tokenizer),
            train_dataset=Dataset.from_list(
                [{"input_ids": e["input_ids"], "labels": e["labels"]} for e in self.examples]
            ),
            callbacks=[*(callback for part in self.method.parts for callback in part.callbacks(setup)), recorder],
        )

    def _result(self, samples: list[str]) -> Run:
        """Return the run as `results.json` has it."""
        rows = read_jsonl(self.folder.metrics)
        measured = [Measurement.model_validate(row) for row in rows if row["kind"] == "point"]
        logged = [LoggedStep.model_validate(row) for row in rows if row["kind"] == "training"]
        return Run(
            name=self.run.name,
            method=self.run.method_name,
            settings=self.method.settings,
            seed=self.run.seed,
            points=[measurement.point for measurement in measured],
            ended_at=end if (end := measured[-1].point.step) < self.last_step else None,
            training=[TrainingStep.model_validate(step.model_dump(exclude={"kind"})) for step in logged],
            distance=measured[-1].distance,
            samples=samples,
            seconds=measured[-1].seconds,
            peak_memory_bytes=peak_memory(self.job.device),
        )

    def _variants(self, end: int) -> Iterator[Run]:
        """Yield a run for each variant that the parts make of the model that was trained up to a step."""
        for part in self.method.parts:
            for values in part.after_training(self.model, self.setup):
                settings: dict[str, Scalar] = {f"{part.name}.{name}": value for name, value in values.items()}
                point, distance = self.measure(end, ended=True)
                yield Run(
                    name="-".join([self.run.name, *(f"{key}{value:g}" for key, value in settings.items())]),
                    method=self.run.method_name,
                    settings=self.method.settings | settings,
                    seed=self.run.seed,
                    points=[point],
                    distance=distance,
                    samples=self.job.write_samples(self.model),
                )


def _tokens(rows: Sequence[Example]) -> int:
    return sum(len(example["input_ids"]) for example in rows)


def _same_length(rows: list[Example], given: list[Example], part: str) -> list[Example]:
    if len(rows) != len(given):
        raise RuntimeError(f"{part} returned {len(rows)} training rows for {len(given)}: it must return as many")
    return rows


def _save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Save a model; all processes that share it gather its weights, and the main one writes them."""
    state = None
    if is_launched():
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}
        state = buffers | {name: weight.cpu() for name, weight in WholeWeights(model).items()}
    if is_main():
        with new_folder(target) as scratch:
            model.save_pretrained(scratch, state_dict=state)
            tokenizer.save_pretrained(scratch)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, so that no two ever write to the same run."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread that waits for its lock would disturb the interpreter's end
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str, job_name: str, *words: str) -> int:
    """Do one job and return the exit code. The last line of the output says what went wrong.

    Args:
        folder: The output folder.
        job_name: `base`, or the name of a run.
        words: The step after which to leave the run, or `ALONE`.
    """
    until = next((int(word) for word in words if word != ALONE), None)
    if ALONE not in words:
        _end_with_parent()
    quiet()
    if is_launched():
        PartialState()  # this process's GPU becomes the current one
    try:
        job = Job(Path(folder))
        if job_name == BASE_JOB:
            measure_base(job)
        else:
            FineTuning(job, job_name).train(until)
    except UserError as error:
        print(f"{REFUSED}{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__" and (code := main(*sys.argv[1:])):
    sys.exit(code)
