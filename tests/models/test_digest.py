"""The SHA-256 of a model's weights."""

import hashlib
import subprocess

import pytest

from mofo.errors import UserError
from mofo.models.digest import stored_digest
from reference.folders import moved, saved


def test_digest_of_one_file_is_what_sha256sum_prints(tiny_model, tmp_path):
    folder = saved(moved(tiny_model), tmp_path / "one", tiny_model)
    weights = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert stored_digest(folder) == hashlib.sha256(weights).hexdigest() != stored_digest(tiny_model)


def test_digest_of_several_files_is_that_of_what_sha256sum_prints(tiny_model, tmp_path):
    folder = saved(moved(tiny_model), tmp_path / "several", tiny_model, max_shard_size="40KB")
    names = sorted(path.name for path in (tmp_path / "several").glob("*.safetensors"))
    assert len(names) > 1
    printed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    assert stored_digest(folder) == hashlib.sha256(printed).hexdigest()


def test_digest_is_of_the_weights_alone_whatever_else_lies_beside_them(tiny_model, tmp_path):
    folder = saved(moved(tiny_model), tmp_path / "several", tiny_model, max_shard_size="40KB")
    before = stored_digest(folder)
    (tmp_path / "several" / "change.safetensors").write_bytes(b"a delta")
    assert stored_digest(folder) == before


def test_digest_of_a_model_without_one_of_its_files_is_refused(tiny_model, tmp_path):
    folder = saved(moved(tiny_model), tmp_path / "several", tiny_model, max_shard_size="40KB")
    next((tmp_path / "several").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"lacks .*, which its index names"):
        stored_digest(folder)


def test_digest_of_old_weights_is_that_of_their_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    assert stored_digest(str(tmp_path)) == hashlib.sha256(b"weights").hexdigest()


def test_digest_of_a_gguf_is_that_of_its_file(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert stored_digest(str(file)) == hashlib.sha256(b"GGUF").hexdigest()


def test_digest_of_a_folder_without_weights_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert stored_digest(str(tmp_path)) is None
