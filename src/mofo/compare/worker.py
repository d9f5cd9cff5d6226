"""One job in a process of its own: measure the base, or fine-tune once and measure along the way.

`mofo compare` starts ``python -m mofo.compare.worker FOLDER JOB`` for each job. Everything a job needs lies in the
folder, and everything it finds out goes there, so that a job that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from mofo.compare.recipe import Recipe, Run, make_recipe, read_recipe
from mofo.compare.recorder import Recorder, peak_memory, weights_of
from mofo.data.rows import Example, batch_order, encode
from mofo.errors import UserError
from mofo.files import read_json, read_jsonl, write_json, write_jsonl
from mofo.measure import Weights, answer_accuracy, distance, held_out_loss, make_probes
from mofo.methods.method import get_method
from mofo.models.load import load_model
from mofo.models.precision import autocast, compute_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_JOB = "base"


class Job:
    """What all jobs of a folder share: the recipe, the model, the data and the way to measure.

    Args:
        folder: The output folder that `mofo compare` prepared.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe: Recipe = make_recipe(read_recipe(folder / "recipe.yaml"))
        self.plan: dict[str, Any] = read_json(folder / "plan.json")
        self.device = compute_device()
        self.model, self.tokenizer = load_model(
            self.plan["model_folder"], trust_remote_code=self.recipe.trust_remote_code
        )
        self.model.to(self.device)
        self.held_out = self._examples("held_out")
        written = folder / "base-text.json"
        with autocast(self.plan["precision"]):
            self.probes = make_probes(
                self.recipe.probes,
                base=self.model,
                tokenizer=self.tokenizer,
                written=read_json(written) if written.exists() else None,
            )
        for probe in self.probes:
            if probe.name == "divergence" and not written.exists():
                write_json(written, probe.written)

    def _examples(self, name: str) -> list[Example]:
        rows = read_jsonl(self.folder / "data" / f"{name}.jsonl")
        examples = [encode(row, self.tokenizer, self.recipe.max_length) for row in rows]
        return [example for example in examples if any(label != -100 for label in example["labels"])]

    def training_examples(self, seed: int, steps: int) -> list[Example]:
        """The rows of ``steps`` steps, in the order in which every method sees them."""
        examples = self._examples("train")
        batch = self.recipe.batch_size * self.recipe.gradient_accumulation
        lengths = [len(example["input_ids"]) for example in examples]
        return [examples[i] for i in batch_order(lengths, steps=steps, batch=batch, seed=seed)]

    def measure(self, *, answers: bool) -> dict[str, Any]:
        """What the model has learned and forgotten, as a point of results.json."""
        with autocast(self.plan["precision"]):
            learned: dict[str, Any] = {
                "loss": held_out_loss(self.model, self.held_out)["loss"],
                "accuracy": None,
            }
            if answers and self.recipe.answers:
                questions = [
                    {"prompt_ids": example["prompt_ids"], "answer": example["answer"]}
                    for example in self.held_out[: self.recipe.answers]
                ]
                found = answer_accuracy(self.model, self.tokenizer, questions, max_new_tokens=self.recipe.answer_tokens)
                learned["accuracy"] = found["accuracy"]
            return {
                "learned": learned,
                "forgotten": {probe.name: probe.measure(self.model) for probe in self.probes},
            }


def measure_base(job: Job) -> None:
    """Measures the base and writes ``base.json``."""
    write_json(job.folder / "base.json", {"step": 0, **job.measure(answers=True)})


def fine_tune(job: Job, run: Run) -> None:
    """Fine-tunes once, measures along the way and writes ``runs/NAME/result.json``.

    A run that was stopped goes on from its last whole checkpoint and ends with the same measurements.
    """
    folder = job.folder / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    steps = job.plan["total_steps"]
    checkpoint = last_checkpoint(folder / "checkpoints")
    start = 0 if checkpoint is None else read_json(checkpoint / "trainer_state.json")["global_step"]
    metrics = [row for row in read_jsonl(folder / "metrics.jsonl") if row["step"] <= start]
    write_jsonl(folder / "metrics.jsonl", metrics)

    examples = job.training_examples(run.seed, steps)
    base_weights = Weights(job.plan["model_folder"])
    recorder = Recorder(
        folder / "metrics.jsonl",
        points=job.recipe.point_steps(steps),
        measure=lambda last: job.measure(answers=last) | {"distance": distance(base_weights, weights_of(job.model))},
    )
    trainer = _make_trainer(job, run, folder / "checkpoints", examples, recorder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if job.recipe.save:
        _save_model(job.model, job.tokenizer, folder / "model")
    write_json(folder / "result.json", _result(job, run, folder, examples))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the others are of a run that was killed.

    The trainer writes ``trainer_state.json`` last, so a checkpoint is whole if that file is.
    """
    for candidate in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            read_json(candidate / "trainer_state.json")
        except (OSError, ValueError):
            continue
        return candidate
    return None


def _make_trainer(job: Job, run: Run, folder: Path, examples: list[Example], recorder: Recorder) -> Trainer:
    recipe = job.recipe
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=job.plan["total_steps"],
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        train_sampling_strategy="sequential",  # the order is ours: see batch_order
        learning_rate=run.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        max_grad_norm=recipe.max_grad_norm,
        bf16=job.plan["precision"] == "bfloat16",
        gradient_checkpointing=recipe.gradient_checkpointing,
        seed=run.seed,
        logging_steps=1,
        save_strategy="no",  # the recorder asks for a checkpoint after each measurement
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.device.type == "cpu",
    )
    return Trainer(
        model=job.model,
        args=arguments,
        processing_class=job.tokenizer,
        data_collator=DataCollatorForSeq2Seq(job.tokenizer),
        train_dataset=Dataset.from_list([{"input_ids": e["input_ids"], "labels": e["labels"]} for e in examples]),
        optimizers=(get_method(run.method).make_optimizer(job.model, run, recipe), None),
        callbacks=[recorder],
    )


def _result(job: Job, run: Run, folder: Path, examples: list[Example]) -> dict[str, Any]:
    """The run as results.json has it."""
    batch = job.recipe.batch_size * job.recipe.gradient_accumulation
    metrics = read_jsonl(folder / "metrics.jsonl")
    points = [row for row in metrics if row["kind"] == "point"]
    return {
        "name": run.name,
        "method": run.method,
        "settings": run.settings,
        "seed": run.seed,
        "points": [
            {
                "step": point["step"],
                "tokens": sum(len(example["input_ids"]) for example in examples[: point["step"] * batch]),
                "learned": point["learned"],
                "forgotten": point["forgotten"],
                "distance": {name: point["distance"][name] for name in ("l2", "moved")},
            }
            for point in points
        ],
        "training": [
            {name: row[name] for name in ("step", "loss", "learning_rate")}
            for row in metrics
            if row["kind"] == "training"
        ],
        "distance": points[-1]["distance"],
        "seconds": points[-1]["seconds"],
        "peak_memory_bytes": peak_memory(job.device),
    }


def _save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    scratch = target.with_name(".model.new")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, so that no two ever write to the same run."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread that waits for its lock would disturb the interpreter's end
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str, job_name: str) -> int:
    """Does one job; returns the exit code. The last line of the output says what went wrong."""
    _end_with_parent()
    try:
        job = Job(Path(folder))
        if job_name == BASE_JOB:
            measure_base(job)
        else:
            fine_tune(job, next(run for run in job.recipe.runs() if run.name == job_name))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
