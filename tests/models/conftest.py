import pytest

from reference.workbench import tiny_model  # noqa: F401


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
