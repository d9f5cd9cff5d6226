"""A run in this process: every part trains, is measured, and resumes to the same bits."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.compare.fine_tuning import FineTuning
from mofo.compare.folder import OutputFolder
from mofo.compare.job import Job, measure_base
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe
from mofo.compare.recorder import Recorder
from mofo.files import read_jsonl
from mofo.methods.parts import PARTS
from mofo.trainers.checkpoints import last_checkpoint
from reference.architectures import make_model, save_as_on_the_hub

METHODS = {
    "mofo": {"mofo": {"fraction": 0.1}},
    "self-distill": {"mofo": {}, "self-distill": {"texts": 3, "tokens": 8, "per_step": 2}},
    "replay": {"replay": {"share": 0.3, "texts": 3, "tokens": 8}},
    "lora": {"lora": {"rank": 2}},
    "blend": {"blend": {}},
    "adamw": {"adamw": {}},
    "lion": {"lion": {}},
    "mofo-lion": {"mofo-lion": {}},
    "sgd": {"sgd": {}},
    "anchor": {"anchor": {}},
    "l2": {"l2": {"strength": 0.1}},
    "l1": {"l1": {"strength": 0.1, "decoupled": True}},
    "ewc": {"ewc": {"texts": 3, "tokens": 8}},
    "dora": {"dora": {"rank": 2}},
    "oft": {"oft": {"block": 8}},
    "hft": {"hft": {}},
    "cofitune": {"cofitune": {"texts": 3, "tokens": 8, "first": 0.0}},
    "soft-masking": {"soft-masking": {"texts": 3, "tokens": 8}},
    "token-mask": {"token-mask": {"perplexity": 300}},
    "dft": {"dft": {}},
    "budget": {"mofo": {"fraction_schedule": "cosine"}, "budget": {"bound": 0.01, "way": "slow-pull", "every": 1}},
}
"""A method for each part, in which its settings are small."""

ALWAYS = ("mofo", "self-distill", "replay", "lora", "blend", "budget")
"""Parts with a hook each; the others are of the full matrix."""


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def folder(tiny_model, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))

    def make(method, **changes):
        recipe = make_recipe(
            {
                "model": tiny_model,
                "data": tiny_data,
                "held_out_rows": 4,
                "methods": [method],
                "settings": {"learning_rate": 1e-2},
                "steps": 4,
                "points": 2,
                "batch_size": 2,
                "probes": ["divergence"],
                "precision": "float32",
                "save": "none",
            }
            | changes
        )
        output = OutputFolder(tmp_path / "out")
        prepare(recipe, output, overwrite=False)
        (run,) = recipe.runs()
        measure_base(Job(output.path))
        output.run(run.name).write_run(run)
        return output, run

    return make


def test_every_part_is_tried():
    assert set(METHODS) == {part.name for part in PARTS if not part.remembers_tasks}  # those: test_sequence.py


@pytest.mark.parametrize(
    "part", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.full) for name in METHODS]
)
def test_run_learns_and_resumes_to_the_same_bits(folder, monkeypatch, part):
    output, run = folder(METHODS[part])
    path = output.run(run.name).path
    FineTuning(Job(output.path), run.name).train()
    whole = without_time(output.run(run.name).result)
    losses = [point["learned"]["sums"]["loss"] for point in whole[0]["points"]]
    assert losses[-1] < output.base.point.learned["sums"]["loss"]

    shutil.rmtree(path)
    output.run(run.name).write_run(run)
    log = Recorder.on_log

    def killed_after_step_3(self, args, state, control, **kwargs):
        log(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_log", killed_after_step_3)
        with pytest.raises(KilledError):
            FineTuning(Job(output.path), run.name).train()
    assert last_checkpoint(path / "checkpoints" / "1").name == "checkpoint-2"
    torch.manual_seed(7)  # another process has another random state
    FineTuning(Job(output.path), run.name).train()
    assert without_time(output.run(run.name).result) == whole


def without_time(result):
    return [run.model_dump(exclude={"seconds", "peak_memory_bytes"}) for run in result.runs]


def test_variants_of_the_end_are_runs_of_their_own(folder):
    output, run = folder({"adamw": {}, "blend": {"keep": [0.5, 0.25]}})
    FineTuning(Job(output.path), run.name).train()
    end, half, quarter = output.run(run.name).result.runs
    assert [other.settings["blend.keep"] for other in (half, quarter)] == [0.5, 0.25]
    assert half.name == f"{run.name}-blend.keep0.5"
    assert half.distance.l2 == pytest.approx(end.distance.l2 / 2, rel=1e-4)
    assert half.points[-1].forgotten["divergence"]["kl"] < end.points[-1].forgotten["divergence"]["kl"]


def test_rows_of_a_part_must_be_as_many_as_were_given(folder, monkeypatch):
    output, run = folder("mofo")
    monkeypatch.setattr("mofo.methods.part.Part.rows", lambda self, rows, setup: rows[1:])
    with pytest.raises(RuntimeError, match="mofo returned 7 training rows for 8"):
        FineTuning(Job(output.path), run.name)


@pytest.mark.parametrize("method", ["mofo", {"lora": {"rank": 2}}], ids=["mofo", "lora"])
@pytest.mark.parametrize(
    "architecture",
    ["gpt_neox", *(pytest.param(name, marks=pytest.mark.full) for name in ("gpt2", "gemma3", "bloom", "mixtral"))],
)
def test_distance_of_a_base_as_the_hub_has_it(folder, tiny_model, tmp_path, architecture, method):
    base = make_model(architecture)
    hub = tmp_path / "hub"
    hub.mkdir()
    save_as_on_the_hub(base, architecture, hub)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(hub)
    output, run = folder(method, model=str(hub))
    tuning = FineTuning(Job(output.path), run.name)
    assert tuning.measure(0)[1].l2 == 0
    tuning.train()
    (result,) = output.run(run.name).result.runs
    assert result.distance.l2 > 0
    assert 0 < result.distance.moved < 1
    assert tuning.setup.base.keys() == dict(base.named_parameters()).keys()


def test_weights_of_bfloat16_are_trained_rounded_at_random_and_kept_in_bfloat16(folder, tiny_model):
    output, run = folder("mofo", weights="bfloat16", precision="auto", save="all", settings={"rounding": "stochastic"})
    tuning = FineTuning(Job(output.path), run.name)
    assert {weight.dtype for weight in tuning.setup.base.values()} == {torch.bfloat16}
    assert output.plan.precision == "bfloat16"
    tuning.train()
    (result,) = output.run(run.name).result.runs
    assert result.settings["rounding"] == "stochastic"
    assert 0 < result.distance.moved < 0.6
    assert AutoModelForCausalLM.from_pretrained(output.run(run.name).model).dtype == torch.bfloat16


def test_gradient_checkpointing_gives_the_same_gradients(folder):
    ends = []
    for checkpointing in (False, True):
        output, run = folder("adamw", gradient_checkpointing=checkpointing)
        FineTuning(Job(output.path), run.name).train()
        ends.append(without_time(output.run(run.name).result))
        shutil.rmtree(output.path)
    assert ends[0] == ends[1]


def test_save_points_keeps_the_models_on_the_way_and_at_the_end(folder):
    output, run = folder({"mofo": {"fraction": 0.1}}, save="points", probes=["text"], samples=0)
    FineTuning(Job(output.path), run.name).train()
    kept = output.run(run.name)
    assert [path.name for path in kept.path.glob("checkpoint*")] == ["checkpoint-2"]
    start, halfway, end = (
        AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().weight
        for path in (output.recipe.model, kept.model_at(2), kept.model)
    )
    assert not torch.equal(start, halfway)
    assert not torch.equal(halfway, end)


@pytest.mark.parametrize(
    "until", [3, *(pytest.param(step, marks=pytest.mark.full) for step in (1, 2))], ids=["after", "before", "at"]
)  # a point
def test_run_that_is_left_at_a_step_goes_on_to_the_same_bits(folder, until):
    output, run = folder({"mofo": {"fraction": 0.1}}, probes=["text"], samples=0)
    whole_folder = output.run(run.name)
    FineTuning(Job(output.path), run.name).train()
    whole = without_time(whole_folder.result)
    shutil.rmtree(whole_folder.path)
    output.run(run.name).write_run(run)
    for _ in range(2):  # the second time there is nothing to do
        FineTuning(Job(output.path), run.name).train(until)
        assert output.run(run.name).result is None
        assert last_checkpoint(whole_folder.path / "checkpoints" / "1").name == f"checkpoint-{until}"
    left = [row["seconds"]["training"] for row in read_jsonl(whole_folder.metrics) if "seconds" in row]
    FineTuning(Job(output.path), run.name).train(until=4)
    assert without_time(output.run(run.name).result) == whole
    assert output.run(run.name).result.runs[0].seconds.training > left[-1] > 0
