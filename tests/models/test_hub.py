import time

import pytest

from mofo.errors import UserError
from mofo.models import hub
from mofo.models.load import local_folder


@pytest.mark.parametrize("reachable", [True, False])
def test_fetch_takes_old_weights_only_where_there_are_no_others(tmp_path, monkeypatch, reachable):
    """A stand-in for the Hub has a model with weights as safetensors, and one without."""
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((name, "pytorch_model*.bin" in allow_patterns, ignore_patterns, local_files_only))
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir(exist_ok=True)
        if name == "some-org/new":
            (folder / "model.safetensors").touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "is_reachable", lambda: reachable)
    assert hub.fetch("some-org/new") == tmp_path / "some-org-new"
    assert hub.fetch("some-org/old") == tmp_path / "some-org-old"
    assert asked == [
        ("some-org/new", False, "*/*", not reachable),
        ("some-org/old", False, "*/*", not reachable),
        ("some-org/old", True, "*/*", not reachable),
    ]


def test_hub_that_does_not_answer_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(UserError, match="it does not answer, and the model was not fetched before"):
        local_folder("some-org/never-fetched-model")
    assert time.monotonic() - began < 10
