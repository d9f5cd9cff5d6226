from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

from mofo.errors import UserError
from mofo.models.load import load_model
from mofo.models.quantised import quantisation, with_plain_weights


def test_quantisation_is_that_of_the_configuration(tiny_model, tmp_path):
    assert quantisation(Path(tiny_model)) is None
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 4}}')
    assert quantisation(tmp_path) == "gptq"


def test_load_model_makes_quantised_weights_plain(tiny_model, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig

    plan = TorchAoConfig(Int8WeightOnlyConfig())
    model = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=plan, dtype=torch.float32)
    expected = {name: p.dequantize() if hasattr(p, "dequantize") else p for name, p in model.named_parameters()}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    loaded, _ = load_model(str(tmp_path))
    for name, parameter in loaded.named_parameters():
        assert type(parameter) is torch.nn.Parameter
        torch.testing.assert_close(parameter.detach(), expected[name].detach())


def test_with_plain_weights_names_a_model_whose_weights_cannot_be_made_plain(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    layer = model.model.layers[0].mlp.up_proj
    packed = layer.weight.detach().to(torch.int8)
    del layer.weight  # as GPTQ, which keeps integers in buffers
    layer.register_buffer("qweight", packed)
    with pytest.raises(UserError, match=r"The weights of some-model are quantised \(gptq\) and cannot be made plain"):
        with_plain_weights(model, "gptq", "some-model")
