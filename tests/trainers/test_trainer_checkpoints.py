import os

from mofo.trainers.checkpoints import last_checkpoint


def test_last_checkpoint_passes_over_one_that_was_not_written_to_its_end(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, state in ((2, "{}"), (10, '{"global_step": 1'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_last_checkpoint_passes_over_those_of_another_training(tmp_path):
    for step, written in ((20, 100), (4, 200)):
        file = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        file.parent.mkdir()
        file.write_text("{}")
        os.utime(file, (written, written))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    assert last_checkpoint(tmp_path, since=150) == tmp_path / "checkpoint-4"
    assert last_checkpoint(tmp_path, since=250) is None
