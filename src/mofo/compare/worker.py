"""One job in a process of its own: measure the base, or fine-tune once and measure along the way.

`mofo compare` starts `python -m mofo.compare.worker FOLDER JOB` for each job. Everything a job needs lies in the
folder, and everything it finds out goes there, so that a job that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from mofo.compare.folder import BASE_JOB, LEARNED, REFUSED, BaseResult, OutputFolder, RunFolder, RunResult
from mofo.compare.launch import is_launched, is_main, spread_name, world_size
from mofo.compare.measuring import progress_in
from mofo.compare.recipe import PlannedRun
from mofo.compare.recorder import LoggedStep, Measurement, Recorder
from mofo.compare.trainer import MethodTrainer
from mofo.data.order import batch_order
from mofo.data.tokens import Example, encode, has_labels
from mofo.errors import UserError
from mofo.files import new_folder, read_json, read_jsonl, write_jsonl
from mofo.measure import (
    Probe,
    answer_accuracy,
    distance_metrics,
    held_out_loss,
    learned_metrics,
    make_probes,
    probe_states,
    weight_distance,
)
from mofo.measure.answers import write_answers
from mofo.measure.generation import GENERAL_QUESTIONS, generate
from mofo.measure.measured import Measured
from mofo.methods.method import Method
from mofo.methods.part import Setup
from mofo.models.load import load_model
from mofo.models.memory import peak_memory
from mofo.models.precision import autocast, compute_device
from mofo.models.quiet import quiet
from mofo.models.weights import WholeWeights, copy_of_weights
from mofo.results import Distance, FinalDistance, Metric, Point, Run, Sample, Scalar, TrainingStep
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
        self.held_out = self._examples(self.folder.held_out_rows)
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

    def training_examples(self, seed: int) -> list[Example]:
        """Return the rows of all steps, in the order in which every method sees them."""
        examples = self._examples(self.folder.training_rows)
        lengths = [len(example["input_ids"]) for example in examples]
        order = batch_order(lengths, steps=self.plan.total_steps, batch=self.recipe.rows_per_step, seed=seed)
        return [examples[i] for i in order]

    def measure(self, model: PreTrainedModel, folder: Path, *, in_full: bool) -> Measured:
        """Return what a model has learned and forgotten.

        Args:
            model: The model.
            folder: Where to say how far the measuring is, and to leave the answers.
            in_full: Whether this is the base or the end of a run: then questions of the task are answered, all probes
                are taken, and the answers to their questions are kept.
        """
        with autocast(self.plan.precision), progress_in(folder):
            learned: dict[str, float] = {"loss": held_out_loss(model, self.held_out)["loss"]}
            if in_full and self.recipe.answers:
                questions = self.held_out[: self.recipe.answers]
                found = answer_accuracy(model, self.tokenizer, questions, max_new_tokens=self.recipe.answer_tokens)
                learned["accuracy"] = found["accuracy"]
            for probe in self.learned:
                learned |= self._ask(probe, model, folder if in_full else None, LEARNED)
            taken = [probe for probe in self.probes if in_full or probe.name not in self.at_end_only]
            return Measured(
                learned={self.recipe.task.name: learned},
                forgotten={
                    probe.name: self._ask(probe, model, folder if in_full else None, probe.name) for probe in taken
                },
            )

    def _ask(self, probe: Probe, model: PreTrainedModel, folder: Path | None, name: str) -> dict[str, float]:
        """Return the numbers of a probe, and leave the answers to its questions in a folder, if one is given."""
        numbers, answers = probe.ask(model)
        if answers and folder is not None:
            write_answers(folder, name, answers)
        return numbers

    @cached_property
    def base(self) -> Measured:
        """The base as it was measured."""
        return Measured.from_units(self.folder.base.units if self.folder.base else {})

    @cached_property
    def sample_prompts(self) -> list[Example]:
        """What the base and every tuned model answer to be read: prompts of the task, and general questions."""
        if not self.recipe.samples:
            return []
        try:
            general = [encode(row, self.tokenizer, self.recipe.max_length) for row in GENERAL_QUESTIONS]
        except UserError:  # a chat template that refuses questions is no obstacle to a comparison on texts
            general = []
        prompts = [example for example in self.held_out if example["prompt_ids"]][: self.recipe.samples]
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
    measured = job.measure(job.model, job.folder.path, in_full=True)
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
    task = job.recipe.task.name
    own = learned_metrics(task)
    asked = [
        metric.model_copy(update={"kind": "learned", "source": task, "task": task})
        for probe in job.learned
        for metric in probe.metrics
    ]
    if asked:
        own = [metric.model_copy(update={"headline": False}) for metric in own]
    return [*asked, *own]


class FineTuning:
    """One run: the model prepared by the method's parts, trained, and measured along the way.

    Args:
        job: The job.
        name: Name of the run.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.folder: RunFolder = job.folder.run(name)
        self.run: PlannedRun = self.folder.run
        self.method: Method = self.run.method
        self.examples = job.training_examples(self.run.seed)
        self.setup = Setup(
            base=copy_of_weights(job.model),
            tokenizer=job.tokenizer,
            device=job.device,
            seed=self.run.seed,
            steps=job.plan.total_steps,
            batch=job.recipe.rows_per_step,
            rows=self.examples,
            folder=self.folder.parts,
            shared=job.folder.shared,
        )
        self.model: PreTrainedModel = job.model
        for part in self.method.parts:
            self.model = part.prepare(self.model, self.setup)
        for part in self.method.parts:
            self.examples = _same_length(part.rows(self.examples, self.setup), self.examples, part.name)

    def train(self) -> None:
        """Train, measure and write the result.

        A run that was stopped goes on from its last whole checkpoint and ends with the same measurements.
        """
        checkpoint = last_checkpoint(self.folder.checkpoints(spread_name()))
        start = 0 if checkpoint is None else read_json(checkpoint / "trainer_state.json")["global_step"]
        if is_main():
            rows = [row for row in read_jsonl(self.folder.metrics) if (row.get("point") or row)["step"] <= start]
            write_jsonl(self.folder.metrics, rows)
        trainer = self._trainer()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.job.recipe.save != "none":
            _save_model(self.model, self.job.tokenizer, self.folder.model)
        samples = self.job.write_samples(self.model)
        if is_main():
            self.folder.write_result(RunResult(runs=[self._result(samples), *self._variants()]))
        trainer.accelerator.end_training()
        if is_main():
            self.folder.drop_checkpoints()

    def measure(self, step: int) -> tuple[Point, FinalDistance]:
        """Return the point after a step, and the distance in full."""
        last = step == self.setup.steps
        distance = weight_distance(self.setup.base, self._weights())
        seen = self.examples[: step * self.setup.batch]
        measured = self.job.measure(self.model, self.folder.path, in_full=last)
        found = measured.point(self.job.base)
        point = found.model_copy(
            update={
                "paired": found.paired if last else found.paired.counts_only(),
                "step": step,
                "tokens": sum(len(example["input_ids"]) for example in seen),
                "task": self.job.recipe.task.name,
                "distance": Distance(l2=distance.l2, moved=distance.moved),
            }
        )
        return point, distance

    def _weights(self) -> Mapping[str, Tensor]:
        """Return the weights as they are now, under the base's names."""
        given = (part.weights(self.model) for part in self.method.parts)
        return next((weights for weights in given if weights is not None), WholeWeights(self.model))

    def _trainer(self) -> MethodTrainer:
        recipe, setup = self.job.recipe, self.setup
        recorder = Recorder(
            self.folder.metrics, points=recipe.point_steps(setup.steps), measure=self.measure, writes=is_main()
        )
        arguments = TrainingArguments(
            output_dir=str(self.folder.checkpoints(spread_name())),
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
            model=self.model,
            args=arguments,
            processing_class=self.job.tokenizer,
            data_collator=DataCollatorForSeq2Seq(self.job.tokenizer),
            train_dataset=Dataset.from_list(
                [{"input_ids": e["input_ids"], "labels": e["labels"]} for e in self.examples]
            ),
            callbacks=[recorder, *(callback for part in self.method.parts for callback in part.callbacks(setup))],
        )

    def _result(self, samples: list[str]) -> Run:
        """Return the run as `results.json` has it."""
        rows = read_jsonl(self.folder.metrics)
        measured = [Measurement.model_validate(row) for row in rows if row["kind"] == "point"]
        logged = [LoggedStep.model_validate(row) for row in rows if row["kind"] == "training"]
        return Run(
            name=self.run.name,
            method=self.method.name,
            settings=self.method.settings,
            seed=self.run.seed,
            points=[measurement.point for measurement in measured],
            training=[TrainingStep.model_validate(step.model_dump(exclude={"kind"})) for step in logged],
            distance=measured[-1].distance,
            samples=samples,
            seconds=measured[-1].seconds,
            peak_memory_bytes=peak_memory(self.job.device),
        )

    def _variants(self) -> Iterator[Run]:
        """Yield a run for each variant that the parts make of the trained model."""
        for part in self.method.parts:
            for values in part.after_training(self.model, self.setup):
                settings: dict[str, Scalar] = {f"{part.name}.{name}": value for name, value in values.items()}
                point, distance = self.measure(self.setup.steps)
                yield Run(
                    name="-".join([self.run.name, *(f"{key}{value:g}" for key, value in settings.items())]),
                    method=self.method.name,
                    settings=self.method.settings | settings,
                    seed=self.run.seed,
                    points=[point],
                    distance=distance,
                    samples=self.job.write_samples(self.model),
                )


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


def main(folder: str, job_name: str) -> int:
    """Do one job and return the exit code. The last line of the output says what went wrong."""
    _end_with_parent()
    quiet()
    if is_launched():
        PartialState()  # this process's GPU becomes the current one
    try:
        job = Job(Path(folder))
        if job_name == BASE_JOB:
            measure_base(job)
        else:
            FineTuning(job, job_name).train()
    except UserError as error:
        print(f"{REFUSED}{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__" and (code := main(*sys.argv[1:])):
    sys.exit(code)
