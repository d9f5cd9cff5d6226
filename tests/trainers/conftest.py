"""A short training with `mofo sft`."""

import pytest
from trl import SFTTrainer

from reference.workbench import sums, tiny_data, tiny_model  # noqa: F401


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """Caches of the test's own, here and in processes that it starts."""
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def settings(tiny_model, tiny_data, tmp_path, caches):
    """Settings of a short training, by the names that flags and YAML files share."""
    return {
        "model_name_or_path": tiny_model,
        "dataset_name": tiny_data,
        "output_dir": str(tmp_path / "tuned"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "method": "mofo",
        "fraction": 0.1,
    }


@pytest.fixture
def trainers(monkeypatch):
    """The trainers that trained."""
    seen = []
    train = SFTTrainer.train

    def seen_train(trainer, *args, **kwargs):
        seen.append(trainer)
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "train", seen_train)
    return seen
