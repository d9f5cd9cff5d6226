import re

import pytest
import torch

from mofo.errors import UserError
from mofo.models.load import empty_model, load_model, load_tokenizer, local_folder, resolve_model


def test_load_model_of_a_folder_gives_a_padding_token(tiny_model):
    model, tokenizer = load_model(tiny_model)
    assert model.dtype == torch.float32
    assert tokenizer.pad_token_id is not None


def test_load_model_names_a_folder_that_holds_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"The tokenizer of {re.escape(str(tmp_path))} cannot be loaded"):
        load_model(str(tmp_path))


def test_load_tokenizer_names_a_folder_that_holds_none(tmp_path):
    with pytest.raises(UserError, match=f"The tokenizer of {re.escape(str(tmp_path))} cannot be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("spec", ["./none", "/none/there", "a/b/c", "none.gguf"])
def test_resolve_model_names_one_that_is_not_there(spec):
    with pytest.raises(UserError, match=spec):
        resolve_model(spec)


def test_resolve_model_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_resolve_model_leaves_a_hub_id_alone():
    assert resolve_model("some-org/some-model") == "some-org/some-model"


def test_local_folder_of_a_hub_id_says_so_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not a local folder and could not be fetched from the Hub"):
        local_folder("some-org/some-model")


def test_empty_model_refuses_what_is_no_causal_language_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"\(vit\) is not a causal language model"):
        empty_model(str(tmp_path))
