"""The plugins against stand-ins for what calls them; and torchtitan's own container, where it is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

from examples import stand_ins
from mofo import MoFO
from mofo.optim.rule.blocks import selected_count

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example that needs the modules of a stand-in."""

    def imported(name, modules):
        monkeypatch.syspath_prepend(str(EXAMPLES))
        for path, module in modules.items():
            monkeypatch.setitem(sys.modules, path, module)
            for depth in range(1, path.count(".") + 1):
                parent = ".".join(path.split(".")[:depth])
                monkeypatch.setitem(sys.modules, parent, stand_ins.module())
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return imported


@pytest.fixture
def trainer(tiny_model, sums, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    arguments = {"max_steps": 1, "learning_rate": 0.01, "weight_decay": 0.1, "use_cpu": True, "report_to": "none"}
    return stand_ins.AxolotlTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        args=TrainingArguments(str(tmp_path), logging_steps=1, save_strategy="no", **arguments),
        train_dataset=Dataset.from_dict(dict(tokenizer([row["question"] for row in sums]))),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def test_axolotls_trainer_gets_mofo_from_the_plugin(example, trainer):
    example("axolotl_mofo", stand_ins.axolotl())
    plugin = stand_ins.load_plugin("axolotl_mofo.MoFOPlugin")
    keys = plugin.get_input_args().rsplit(".", 1)
    assert getattr(sys.modules[keys[0]], keys[1])().mofo_fraction == 0.15
    plugin.post_trainer_create(SimpleNamespace(optimizer="adamw_torch", mofo_fraction=0.1), trainer)
    base = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert type(trainer.optimizer.optimizer) is MoFO
    moved = {name: int((p != base[name]).sum()) for name, p in trainer.model.named_parameters()}
    assert moved == {name: selected_count(0.1, p.numel()) for name, p in base.items()}
    assert trainer.state.log_history[0]["mofo/moved"] == pytest.approx(0.1, rel=0.01)


def test_an_optimizer_that_axolotl_has_already_chosen_is_not_replaced(example, trainer):
    example("axolotl_mofo", stand_ins.axolotl())
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {})
    with pytest.raises(ValueError, match="MoFO would replace muon: set `optimizer: adamw_torch`"):
        stand_ins.load_plugin("axolotl_mofo.MoFOPlugin").post_trainer_create(
            SimpleNamespace(optimizer="muon", mofo_fraction=0.1), trainer
        )


@pytest.mark.parametrize(
    "real",
    [False, pytest.param(True, marks=pytest.mark.skipif(find_spec("torchtitan") is None, reason="not installed"))],
)
def test_torchtitans_container_steps_with_mofo(example, real):
    mofo_in_torchtitan = example("torchtitan_mofo", {} if real else stand_ins.torchtitan())
    config = mofo_in_torchtitan.debugmodel().optimizer
    model = torch.nn.Linear(64, 32)
    container = config.build(model_parts=[model])
    (optimizer,) = container.optimizers
    assert type(optimizer) is MoFO
    assert [optimizer.param_groups[0][key] for key in ("fused", "foreach", "fraction")] == [None, None, 0.15]
    base = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(5, 64)).square().sum().backward()
    optimizer.step()
    moved = [int((p != old).sum()) for p, old in zip(model.parameters(), base, strict=True)]
    assert moved == [selected_count(0.15, p.numel()) for p in base]
    if real:
        saved = container.state_dict()
        container.load_state_dict(saved)
        assert torch.equal(container.state_dict()["state.weight.exp_avg"], saved["state.weight.exp_avg"])
