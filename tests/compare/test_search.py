"""`mofo tune`: what is planned for a time, which candidates go on, what is proposed, and that it resumes."""

import json
import shlex
from pathlib import Path

import pytest

from mofo import cli
from mofo.compare import jobs
from mofo.compare.folder import BASE_JOB, BaseResult, OutputFolder, RunResult
from mofo.compare.recipe import make_recipe
from mofo.compare.search import TIMING, Round, candidates_of, full_command, parse_time, plan_rounds, search
from mofo.errors import UserError
from mofo.files import read_json
from mofo.measure.metrics import learned_metrics
from mofo.results import Metric, Point, Run, Seconds
from mofo.trainers.trl.arguments import parse
from mofo.trainers.trl.sft import OBJECTIVE as SFT

BUDGET = {"divergence": 0.05}
METHODS = ["adamw", "self-distill", "mofo"]
GRID = {"learning_rate": [1e-4, 2e-4, 4e-4], "fraction": [0.1, 0.3]}


@pytest.fixture
def values(tiny_model, tiny_data):
    return {
        "model": tiny_model,
        "data": tiny_data,
        "held_out_rows": 4,
        "methods": ["adamw", "mofo"],
        "settings": GRID,
        "steps": 90,
        "batch_size": 2,
        "probes": ["divergence"],
        "precision": "float32",
    }


class Ended:
    """The process of a job that has ended."""

    returncode = 0

    def poll(self):
        return 0

    def kill(self):
        pass

    def communicate(self):
        pass


@pytest.fixture
def played(monkeypatch):
    """Plays jobs instead of training: a second each by a clock of their own, with losses that are best at 2e-4 and 0.3.

    The list has the folder and the name of each job that was started; `loss` can be replaced.
    """

    class Played(list):
        now = 0.0

        @staticmethod
        def loss(method, steps):
            distance = abs(method.optimizer.learning_rate - 2e-4) * 1e3
            return 1 + distance + abs(getattr(method.optimizer, "fraction", 1.0) - 0.3) + 1 / steps

    seen = Played()

    def start_job(folder, name, *_):
        seen.append((folder.path.name, name))
        seen.now += 1
        task = folder.recipe.sequence[0].name
        if name == BASE_JOB:
            base = Point(step=0, learned={task: {"loss": 2.0}}, forgotten={"divergence": {"kl": 0.0}})
            metric = Metric(kind="forgotten", source="divergence", name="kl", label="divergence")
            folder.write_probe_states({"divergence": [[1, 2]]})
            folder.write_base(BaseResult(metrics=[*learned_metrics(task), metric], point=base))
            return Ended()
        run, steps = folder.run(name).run, folder.plan.total_steps
        if folder.path.name == TIMING:
            folder.shared.mkdir(exist_ok=True)
            (folder.shared / "bank.safetensors").write_bytes(b"text that the base wrote")
        point = Point(
            step=steps,
            learned={task: {"loss": seen.loss(run.method, steps)}},
            forgotten={"divergence": {"kl": 0.04}},
        )
        result = Run(
            name=name,
            method=run.method_name,
            settings=run.method.settings,
            seed=run.seed,
            points=[point],
            seconds=Seconds(training=0.05 * steps, total=1.0),
        )
        folder.run(name).write_result(RunResult(runs=[result]))
        return Ended()

    monkeypatch.setattr(jobs, "start_job", start_job)
    monkeypatch.setattr(jobs, "write_report", lambda output: None)
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    return seen


def play(values, output, played, seconds=400.0, **more):
    return search(values, output, budget=BUDGET, seconds=seconds, clock=lambda: played.now, **more)


def test_best_thirds_go_on_with_three_times_the_steps(values, tmp_path, played):
    found = play(values, tmp_path / "out", played)
    assert [(tried.candidates, tried.steps) for tried in found.rounds] == [(9, 10), (3, 30), (2, 90)]
    assert found.method.run_name == "mofo-lr0.0002-f0.3"
    assert found.has_learned
    assert found.folder == tmp_path / "out" / "round-3"
    by_folder = {name: [job for folder, job in played if folder == name] for name, _ in played}
    assert [len(names) for names in by_folder.values()] == [2, 9, 3, 2], "the base is measured once"
    assert all("+budget-" in name for name in by_folder["round-1"])
    assert set(by_folder["round-3"]) == {
        f"{name}-budget.b0.05-budget.every90-s0" for name in ("mofo+budget-lr0.0002-f0.3", "mofo+budget-lr0.0001-f0.3")
    }
    for number in (1, 2, 3):
        recipe = OutputFolder(tmp_path / "out" / f"round-{number}").recipe
        assert recipe.steps == 10 * 3 ** (number - 1)
        assert {run.method.extras[0].way for run in recipe.runs()} == {"pull"}


def test_costliest_candidate_is_timed_and_what_it_keeps_of_the_base_is_kept_for_all_rounds(values, tmp_path, played):
    found = play(values | {"methods": METHODS}, tmp_path / "out", played)
    assert next(job for folder, job in played if folder == TIMING and job != BASE_JOB).startswith("adamw+self-distill")
    assert len(found.rounds) == 3
    for number in (1, 2, 3):
        kept = tmp_path / "out" / f"round-{number}" / "shared" / "bank.safetensors"
        assert kept.read_bytes() == b"text that the base wrote"


def test_interrupted_search_goes_on_and_a_finished_one_is_shown_again(values, tmp_path, played, monkeypatch):
    whole = play(values, tmp_path / "whole", played)
    jobs_of_whole = list(played)
    played.clear()
    start = jobs.start_job

    def interrupted(folder, name, *more):
        if len(played) == 7:
            raise KeyboardInterrupt
        return start(folder, name, *more)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "start_job", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(values, tmp_path / "out", played)
    spent = read_json(tmp_path / "out" / "tune.json")["spent"]
    assert spent == 7
    again = play(values, tmp_path / "out", played)
    assert again.command == whole.command
    assert list(played) == jobs_of_whole
    assert read_json(tmp_path / "out" / "tune.json")["spent"] == len(jobs_of_whole)
    assert play(values, tmp_path / "out", played).results == again.results
    assert list(played) == jobs_of_whole
    with pytest.raises(UserError, match="has a search of something else"):
        play(values | {"steps": 30}, tmp_path / "out", played)
    play(values | {"steps": 30}, tmp_path / "out", played, overwrite=True)


def test_no_run_begins_that_would_end_after_the_time(values, tmp_path, played, monkeypatch):
    monkeypatch.setattr("mofo.compare.search._timed", lambda *_: (0.1, 0.0))  # a job takes a second whatever its steps
    found = play(values | {"steps": 8}, tmp_path / "out", played, seconds=7.5)
    assert [(tried.candidates, tried.steps) for tried in found.rounds] == [(2, 8)]
    assert played.now <= 8


def test_search_of_which_nothing_learned_says_so(values, tmp_path, played):
    played.loss = lambda method, steps: 3.0
    assert not play(values, tmp_path / "out", played).has_learned


def test_command_line_prints_the_evidence_and_the_command(values, tmp_path, played, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = f"--data {values['data']} --model {values['model']} --held-out-rows 4 --steps 20 --batch-size 2"
    words = ["tune", *shlex.split(flags), "--budget", "divergence=0.05", "--time", "2h"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "Tried: 16 candidates for " in printed
    assert "Evidence: mofo-tune/round-3/report.html" in printed
    assert "--method mofo --learning_rate 0.0002 --fraction 0.15 --budget divergence=0.05" in printed
    assert "divergence" in printed


def test_proposed_command_is_one_that_mofo_sft_takes(values, tmp_path, monkeypatch):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    entry = {"mofo": {"fraction": 0.3, "fraction_schedule": "cosine"}, "self-distill": {"weight": 0.5}}
    recipe = make_recipe(values | {"methods": [entry], "settings": {"learning_rate": 3e-4, "weight_decay": 0.1}})
    words = shlex.split(full_command(recipe, recipe.runs()[0].method, BUDGET))
    assert words[:2] == ["mofo", "sft"]
    args = parse(SFT, words[2:])
    assert not args.unknown_in_argv
    assert (args.training.learning_rate, args.training.weight_decay, args.training.max_steps) == (3e-4, 0.1, 90)
    assert (args.mofo.fraction, args.mofo.fraction_schedule, args.mofo.budget) == (0.3, "cosine", "divergence=0.05")
    method = args.mofo.chosen_method()
    assert method.name == "mofo-cosine+self-distill"
    assert method.extras[0].weight == 0.5


@pytest.mark.parametrize(
    ("candidates", "full", "seconds", "rounds"),
    [
        (9, 900, 1e6, [(9, 100), (3, 300), (2, 900)]),  # time is plenty: the last round is the full run
        (9, 900, 1000, [(9, 21), (3, 63), (2, 189)]),
        (9, 900, 100, [(2, 35)]),
        (2, 5, 1000, [(2, 5)]),
    ],
)
def test_rounds_fit_into_the_time(candidates, full, seconds, rounds):
    found = plan_rounds(candidates, full, seconds, per_step=1.0, overhead=10.0)
    assert found[-1].steps <= full
    assert sum(r.candidates * (10 + r.steps) for r in found) <= seconds
    if seconds != 100:
        assert found == [Round(candidates=n, steps=steps) for n, steps in rounds]
    else:
        assert found[0].candidates < 9, "fewer candidates, so that each has enough steps"


def test_time_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="The time is too short: a step takes 1 s and a run 10 s more, so two"):
        plan_rounds(9, 900, 30, per_step=1.0, overhead=10.0)


def test_first_candidates_are_of_all_methods(values):
    methods = candidates_of(make_recipe(values), BUDGET)
    assert len(methods) == 9
    assert {method.name for method in methods[:3]} == {"adamw", "mofo"}


@pytest.mark.parametrize(
    ("changed", "budget", "message"),
    [
        ({"methods": ["adamw", "lora"], "settings": {}}, BUDGET, "lora is for mofo compare alone"),
        ({"methods": ["adamw+budget", "mofo"]}, BUDGET, "leave the part budget out"),
        ({"methods": ["adamw", {"mofo": {"blocks": "row"}}]}, BUDGET, "leave mofo.blocks out"),
        ({"methods": ["adamw"], "settings": {}}, BUDGET, "There is one candidate"),
        ({"seeds": [0, 1]}, BUDGET, "tries one seed"),
        ({"tune": True}, BUDGET, "widens no grids"),
        ({}, {"divergence": 0.05, "text": 1.0}, "holds one probe, and the budget has 2"),
        ({}, {"divergence": 0.0}, "The budget of divergence is 0"),
        ({}, {"kl": 1.0}, "Unknown probe `kl`"),
    ],
)
def test_searches_that_cannot_be_are_refused_before_anything_is_written(values, tmp_path, changed, budget, message):
    with pytest.raises(UserError, match=message):
        search(values | changed, tmp_path / "out", budget=budget, seconds=100)
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_refused(values, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a folder of mofo tune"):
        search(values, tmp_path, budget=BUDGET, seconds=100)


def test_times_are_read():
    assert [parse_time(text) for text in ("90s", "30m", "1.5h")] == [90, 1800, 5400]
    for text in ("30", "0m", "-1h", "soon"):
        with pytest.raises(UserError, match="expected a time above 0 such as 30m"):
            parse_time(text)


@pytest.mark.full
def test_search_trains_for_real(values, tmp_path, monkeypatch):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    few = values | {"settings": {"learning_rate": [1e-2, 1e-3]}, "methods": ["adamw"], "steps": 6}
    found = search(few, tmp_path / "out", budget={"divergence": 0.01}, seconds=3600)
    assert [(tried.candidates, tried.steps) for tried in found.rounds] == [(2, 6)]
    assert found.has_learned
    for run in found.results.runs:
        assert run.points[-1].forgotten["divergence"]["kl"] <= 0.01
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["seconds_per_step"] > 0
    assert Path(found.folder / "report.html").exists()
