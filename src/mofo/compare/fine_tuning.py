"""One run of a comparison: fine-tune as a method says, and measure along the way.

All that it finds out goes into its folder, so that a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from mofo.compare.folder import RunFolder, RunResult
from mofo.compare.job import Job
from mofo.compare.launch import is_launched, is_main, spread_name, world_size
from mofo.compare.planned import PlannedRun
from mofo.compare.recorder import LoggedStep, Measurement, Recorder
from mofo.compare.stages import Stage, stages_of
from mofo.compare.trainer import MethodTrainer
from mofo.data.tokens import Example
from mofo.files import new_folder, read_json, read_jsonl, write_jsonl
from mofo.measure import weight_distance
from mofo.methods.method import Method
from mofo.methods.part import Setup
from mofo.models.memory import peak_memory
from mofo.models.weights import WholeWeights, copy_of_weights
from mofo.results import Distance, FinalDistance, Point, Run, Scalar, TrainingStep
from mofo.trainers.checkpoints import last_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
            steps=self.last_step,
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
        self.setup = replace(self.setup, task=self.number, rows=self.stage.rows, earlier=earlier)
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
            max_steps=stage.steps,
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
