"""The plugins against stand-ins for what calls them; and torchtitan's own container, where it is installed."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

from examples import stand_ins
from mofo import MoFO
from mofo.errors import UserError
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
        return importlib.import_module(name)

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
        processing_class=tokenizer,
    )


def in_axolotl(trainer, **keys):
    """What axolotl does with a trainer, and the keys of its YAML file."""
    plugin = stand_ins.load_plugin("mofo.trainers.axolotl.MoFOPlugin")
    module, name = plugin.get_input_args().rsplit(".", 1)
    plugin.post_trainer_create(getattr(sys.modules[module], name)(**keys), trainer)
    trainer.train()
    return trainer.state.log_history


def test_axolotls_trainer_learns_by_a_method_and_measures_what_it_forgets(example, trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    example("mofo.trainers.axolotl", stand_ins.axolotl())
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.01})
    small = {"self-distill.texts": 3, "self-distill.tokens": 8}
    logs = in_axolotl(trainer, mofo_settings=small, mofo_probes=["divergence"], mofo_budget={"text": 9})
    assert type(trainer.optimizer.optimizer) is torch.optim.SGD
    assert [part.name for part in trainer.method.extras] == ["self-distill"]
    assert {"forgotten/divergence", "forgotten/text", "budget/used"} <= logs[0].keys()


def test_axolotls_trainer_gets_mofo_where_the_method_names_it(example, trainer):
    example("mofo.trainers.axolotl", stand_ins.axolotl())
    base = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    logs = in_axolotl(trainer, mofo_method="mofo", mofo_settings={"fraction": 0.1})
    assert type(trainer.optimizer.optimizer) is MoFO
    moved = {name: int((p != base[name]).sum()) for name, p in trainer.model.named_parameters()}
    assert moved == {name: selected_count(0.1, p.numel()) for name, p in base.items()}
    assert logs[0]["mofo/moved"] == pytest.approx(0.1, rel=0.01)


def test_an_optimizer_that_axolotl_has_already_chosen_is_not_replaced(example, trainer):
    example("mofo.trainers.axolotl", stand_ins.axolotl())
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {})
    with pytest.raises(UserError, match="has the optimizer SGD, and the method names mofo"):
        in_axolotl(trainer, mofo_method="mofo")


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
