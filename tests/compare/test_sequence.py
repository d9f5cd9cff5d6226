"""Tasks one after the other in one run: what is measured when, memory, and resuming to the same bits."""

import json
import shutil

import pytest
import torch

from mofo.compare.fine_tuning import FineTuning
from mofo.compare.folder import OutputFolder
from mofo.compare.gather import gather
from mofo.compare.job import Job, measure_base
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe
from mofo.compare.recorder import Recorder
from mofo.compare.tune import end_losses
from mofo.errors import UserError
from mofo.files import read_jsonl
from mofo.trainers.checkpoints import last_checkpoint

METHODS = {
    "adamw": "adamw",
    "gem+mofo": {"mofo": {"fraction": 0.1}, "gem": {"memory": 3, "per_step": 2}},
    "hft": "hft",
    "replay": {"replay": {"share": 0.5}},
    "lora": {"lora": {"rank": 2}},
}


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def tasks(tmp_path, tiny_data):
    """Sums, and two tasks of other words; each of 12 steps of 2 rows at most."""
    made = [{"name": "sums", "data": tiny_data}]
    for name, words in (("animals", ("cat", "dog", "hen")), ("colours", ("red", "blue", "green"))):
        rows = [{"prompt": f"{word} {n}?", "completion": f" {word} " * (n % 3 + 1)} for word in words for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append({"name": name, "data": str(tmp_path / f"{name}.jsonl")})
    return made


@pytest.fixture
def folder(tiny_model, tmp_path):
    """Prepares a comparison of one run and measures its base; returns the folder and the run."""

    def make(tasks, method="adamw", **changes):
        values = {
            "model": tiny_model,
            "tasks": tasks,
            "held_out_rows": 4,
            "methods": [method],
            "settings": {"learning_rate": 1e-2},
            "steps": 2,
            "points": 1,
            "batch_size": 2,
            "probes": ["divergence"],
            "precision": "float32",
            "save": "none",
            "samples": 0,
        }
        recipe = make_recipe(values | changes)
        output = OutputFolder(tmp_path / "out")
        prepare(recipe, output, overwrite=True)
        (run,) = recipe.runs()
        measure_base(Job(output.path))
        output.run(run.name).write_run(run)
        return output, run

    return make


def train(output, run):
    FineTuning(Job(output.path), run.name).train()
    (result,) = output.run(run.name).result.runs
    return result


def without_time(run):
    return run.model_dump(exclude={"seconds", "peak_memory_bytes"})


def test_task_of_a_list_is_the_only_task_of_a_recipe_without_one(folder, tasks, tiny_data):
    listed = train(*folder(tasks[:1], steps=4, points=2, answers=2, answer_tokens=4))
    plain = train(*folder([], data=tiny_data, steps=4, points=2, answers=2, answer_tokens=4))
    assert without_time(plain) == without_time(listed)
    assert plain.name == "adamw-lr0.01-s0"
    assert [(point.step, list(point.learned), point.task) for point in plain.points] == [
        (2, ["sums"], "sums"),
        (4, ["sums"], "sums"),
    ]


def test_all_tasks_are_measured_after_each(folder, tasks):
    tasks[1] |= {"steps": 3, "metric": "rouge-l", "answer_tokens": 3}
    output, run = folder(tasks, points=2, answers=2, answer_tokens=4, schedule="linear", warmup=0)
    result = train(output, run)
    assert [(point.step, point.task) for point in result.points] == [
        (1, "sums"),
        (2, "sums"),
        (4, "animals"),
        (5, "animals"),
        (6, "colours"),
        (7, "colours"),
    ]
    for point in result.points:
        losses = [point.learned[name]["loss"] for name in ("sums", "animals", "colours")]
        assert point.learned["all tasks"]["loss"] == pytest.approx(sum(losses) / 3)
        assert point.forgotten["divergence"]["kl"] > 0
        asked = point.step in (2, 5, 7)
        assert [set(numbers) - {"loss"} for numbers in point.learned.values()] == (
            [{"accuracy"}, {"rouge_l"}, {"accuracy"}, {"score"}] if asked else [set()] * 4
        )
    assert [entry.step for entry in result.training] == list(range(1, 8))
    rates = [entry.learning_rate for entry in result.training]
    assert rates == pytest.approx([1e-2, 5e-3, 1e-2, 2e-2 / 3, 1e-2 / 3, 1e-2, 5e-3])  # a schedule for each task
    assert result.points[0].tokens < result.points[1].tokens < result.points[2].tokens

    recipe = output.recipe
    results = gather(recipe, output)
    assert [task.name for task in results.tasks] == ["sums", "animals", "colours"]
    assert [task.steps for task in results.plan.tasks] == [2, 3, 2]
    assert results.plan.total_steps == 7
    assert results.learning.label == "mean held-out loss"
    assert [metric.label for metric in results.metrics if metric.kind == "learned"][2:4] == [
        "sums loss",
        "sums accuracy",
    ]
    assert end_losses(recipe, output)[run.name] == result.points[-1].learned["all tasks"]["loss"]


def train_until(output, run, monkeypatch, where, step):
    """Train until a kill: at a logged step, after a measurement before its checkpoint, or where a task has ended."""
    log, measured, begin = Recorder.on_log, Recorder.on_step_end, FineTuning.next_stage

    def on_log(self, args, state, control, **kwargs):
        log(self, args, state, control, **kwargs)
        if self.before + state.global_step == step:
            raise KilledError

    def on_step_end(self, args, state, control, **kwargs):
        measured(self, args, state, control, **kwargs)
        if self.before + state.global_step == step:
            raise KilledError

    def next_stage(self):
        if self.stage.end == step:
            raise KilledError
        begin(self)

    with monkeypatch.context() as patched:
        if where == "logged":
            patched.setattr(Recorder, "on_log", on_log)
        elif where == "measured":
            patched.setattr(Recorder, "on_step_end", on_step_end)
        else:
            patched.setattr(FineTuning, "next_stage", next_stage)
        with pytest.raises(KilledError):
            FineTuning(Job(output.path), run.name).train()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("adamw", {"optimizer_state": "keep"}),
        ("gem+mofo", {}),
        pytest.param("adamw", {}, marks=pytest.mark.full),
        pytest.param("hft", {}, marks=pytest.mark.full),
        pytest.param("replay", {}, marks=pytest.mark.full),
        pytest.param("lora", {"optimizer_state": "keep"}, marks=pytest.mark.full),
        pytest.param("adamw", {"order": "joint", "steps": 3}, marks=pytest.mark.full),
        pytest.param("adamw", {"order": "alone"}, marks=pytest.mark.full),
    ],
)
def test_killed_run_ends_with_the_same_bits(folder, tasks, monkeypatch, method, changes):
    output, run = folder(tasks, METHODS[method], points=2 if changes.get("order") != "joint" else 4, **changes)
    whole = train(output, run)
    shutil.rmtree(output.run(run.name).path)
    output.run(run.name).write_run(run)
    moments = [("measured", 2), ("ended", 2), ("logged", 3), ("logged", 6)]
    for where, step in moments:
        if where != "ended" or run.order != "joint":
            train_until(output, run, monkeypatch, where, step)
            torch.manual_seed(7)  # another process has another random state
            kept = list(output.run(run.name).path.glob("checkpoints/*/checkpoint-*/trainer_state.json"))
            assert len(kept) <= 1
    assert without_time(train(output, run)) == without_time(whole)
    assert not output.run(run.name).checkpoints().exists()


def test_checkpoint_where_a_task_ended_is_dropped_once_the_next_has_one(folder, tasks, monkeypatch):
    output, run = folder(tasks)
    train_until(output, run, monkeypatch, "ended", 2)
    checkpoints = output.run(run.name).checkpoints()
    assert last_checkpoint(checkpoints / "1").name == "checkpoint-2"
    train_until(output, run, monkeypatch, "ended", 4)
    assert last_checkpoint(checkpoints / "2").name == "checkpoint-2"
    assert not (checkpoints / "1").exists()
    steps = [row["step"] for row in read_jsonl(output.run(run.name).metrics) if row["kind"] == "training"]
    assert steps == [1, 2, 3, 4]


def test_optimizer_state_is_kept_or_reset(folder, tasks):
    ends = []
    for state in ("reset", "keep"):
        output, run = folder(tasks, optimizer_state=state)
        result = train(output, run)
        ends.append([point.learned["all tasks"]["loss"] for point in result.points])
        shutil.rmtree(output.path)
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] != ends[1][1]


def test_each_task_alone_begins_with_the_base(folder, tasks):
    output, run = folder(tasks, order="alone")
    apart = train(output, run)
    assert run.name == "adamw-lr0.01-alone-s0"
    output, run = folder(tasks[1:2])
    only = train(output, run)
    assert apart.points[1].learned["animals"] == only.points[0].learned["animals"]
    assert apart.points[1].distance == only.points[0].distance


def test_end_loss_of_tasks_alone_is_that_of_each_at_its_own_end(folder, tasks):
    output, run = folder(tasks, order="alone")
    result = train(output, run)
    own = [point.learned[point.task]["loss"] for point in result.points]
    assert end_losses(output.recipe, output)[run.name] == pytest.approx(sum(own) / 3)


def test_joint_training_sees_the_rows_of_all_tasks_as_often_as_the_sequence(folder, tasks):
    output, run = folder(tasks, order="joint", steps=3)
    job = Job(output.path)
    apart = [row["input_ids"] for rows in job.training_examples(0) for row in rows]
    joint = [row["input_ids"] for row in job.joint_examples(0)]
    assert sorted(apart) == sorted(joint)
    assert apart != joint
    result = train(output, run)
    assert [(point.step, point.task) for point in result.points] == [(9, None)]
    assert set(result.points[0].learned) == {"sums", "animals", "colours", "all tasks"}


def test_gem_keeps_an_earlier_loss_lower_than_plain_training_does(folder, tasks):
    ends = {}
    for name, method in (("plain", "sgd"), ("gem", {"sgd": {}, "gem": {"memory": 16, "per_step": 16}})):
        settings = {"learning_rate": 0.1}
        output, run = folder(tasks[:2], method, settings=settings, steps=8, max_grad_norm=100)
        result = train(output, run)
        ends[name] = [point.learned["sums"]["loss"] for point in result.points]
        shutil.rmtree(output.path)
    assert ends["gem"][0] == ends["plain"][0]
    assert ends["gem"][1] < ends["plain"][1]


def test_hft_draws_another_half_for_each_task(folder, tasks):
    output, run = folder(tasks, "hft")
    tuning = FineTuning(Job(output.path), run.name)
    drawn = []
    for _ in tuning.stages:
        drawn.append({name for name, parameter in tuning.model.named_parameters() if not parameter.requires_grad})
        if tuning.stage is not tuning.stages[-1]:
            tuning.next_stage()
    assert len({len(names) for names in drawn}) == 1
    assert drawn[0] != drawn[1] != drawn[2]


def test_replay_replaces_rows_by_those_of_earlier_tasks(folder, tasks):
    output, run = folder(tasks, {"replay": {"share": 0.5}}, steps=6)
    tuning = FineTuning(Job(output.path), run.name)
    assert tuning.examples == tuning.stage.rows  # there is nothing earlier
    tuning.next_stage()
    tuning.next_stage()
    others = [row for row in tuning.examples if row not in tuning.stage.rows]
    assert len(others) == 6
    for stage in tuning.stages[:2]:
        assert any(row in stage.rows for row in others)


def test_prepare_names_the_task_whose_rows_are_not_used(folder, tasks, tmp_path):
    rows = [{"prompt": "x", "completion": "y" * n} for n in range(1, 9)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output, _ = folder([*tasks, {"name": "long", "data": str(tmp_path / "long.jsonl")}], max_length=60)
    assert output.plan.rows == {}
    with pytest.raises(UserError, match=r"No training row \(animals\) has a completion within max_length = 4"):
        folder(tasks[1:], max_length=4)
