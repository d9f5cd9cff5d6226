"""What a user means by a tuned model, and the checkpoints on the way to it."""

import pytest

from mofo.errors import UserError
from mofo.models.ends import find_tuned


def models(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text("{}")
    return str(folder)


def test_run_of_a_comparison_is_its_model_and_checkpoints_in_the_order_of_steps(tmp_path):
    run = models(tmp_path / "adamw-s0", "model", "checkpoint-8", "checkpoint-16", "checkpoint-x")
    (tmp_path / "adamw-s0" / "checkpoint-24").mkdir()  # was being written
    found = find_tuned(run)
    assert (found.name, found.model) == ("adamw-s0", f"{run}/model")
    assert list(found.checkpoints.items()) == [(8, f"{run}/checkpoint-8"), (16, f"{run}/checkpoint-16")]


def test_folder_of_a_trainer_and_hub_id_are_models_themselves(tmp_path):
    tuned = models(tmp_path, ".", "checkpoint-2")
    found = find_tuned(tuned)
    assert (found.name, found.model, list(found.checkpoints)) == (tmp_path.name, tuned, [2])
    assert find_tuned("someone/a-model") == ("a-model", "someone/a-model", {})
    models(tmp_path / "run", "model")
    assert find_tuned(str(tmp_path / "run" / "model")).name == "run"


def test_run_without_its_model_and_whole_comparison_are_refused(tmp_path):
    (tmp_path / "runs" / "adamw-s0").mkdir(parents=True)
    (tmp_path / "runs" / "adamw-s0" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"kept no model: run its comparison with --save all"):
        find_tuned(str(tmp_path / "runs" / "adamw-s0"))
    with pytest.raises(UserError, match=r"is a whole comparison: give one of its runs"):
        find_tuned(str(tmp_path))
