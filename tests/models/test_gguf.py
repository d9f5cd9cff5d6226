import pytest

from mofo.errors import UserError
from mofo.models.load import resolve_model


def test_converted_gguf_refuses_another_file_and_leaves_nothing(tmp_path, cache):
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.gguf cannot be read as a GGUF model"):
        resolve_model(str(file))
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]
