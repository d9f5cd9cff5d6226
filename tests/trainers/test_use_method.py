"""Methods of the workbench in the trainers of transformers and trl."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer
from trl import SFTTrainer

from mofo import MoFO
from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from mofo.trainers import ForgettingCallback, use_method
from mofo.trainers.trl.training import train
from reference.trainers import make_trainer as make

DISTILL = {"texts": 3, "tokens": 8}


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    """A trainer of transformers or of trl; four steps of two rows."""

    def in_folder(kind=Trainer, folder="out", *, model=tiny_model, **more):
        settings = {"kind": kind, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2}
        return make(model, tmp_path / folder, **settings | more)

    return in_folder


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", [Trainer, SFTTrainer])
def test_trainer_learns_by_the_method_and_resumes_to_the_same_bits(make_trainer, kind, tmp_path):
    whole = make_trainer(kind)
    base = weights(whole)
    method = use_method(whole, "mofo+self-distill", {"fraction": 0.1, **DISTILL})
    assert (method.optimizer.learning_rate, method.optimizer.fraction) == (0.01, 0.1)
    whole.train()
    assert isinstance(whole.optimizer.optimizer, MoFO)
    assert isinstance(whole, kind)
    assert not equal(weights(whole), base)

    plain = make_trainer(kind, folder="plain")
    use_method(plain, "mofo", {"fraction": 0.1})
    plain.train()
    assert not equal(weights(plain), weights(whole))

    resumed = make_trainer(kind)
    use_method(resumed, "mofo+self-distill", {"fraction": 0.1, **DISTILL})
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    "entry",
    ["adamw", "lion", "adamw+l2", "adamw+hft", "adamw+dft", "sgd+l1", {"adamw": {}, "anchor": {"weight": 1}}],
)
def test_methods_train_in_any_trainer(make_trainer, entry):
    trainer = make_trainer()
    base = weights(trainer)
    use_method(trainer, entry)
    trainer.train()
    assert not equal(weights(trainer), base)


def test_another_base_in_the_same_folder_writes_its_own_text(make_trainer, tmp_path):
    first, other = make_trainer(), make_trainer()
    use_method(first, "adamw+self-distill", DISTILL)
    with torch.no_grad():
        other.model.lm_head.weight.mul_(-1)
    use_method(other, "adamw+self-distill", DISTILL)
    assert len(list((tmp_path / "out" / "mofo").glob("*/self-distill-*.safetensors"))) == 2


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_steps": -1, "num_train_epochs": 3},
        {"max_steps": -1, "num_train_epochs": 1.5, "gradient_accumulation_steps": 2},
        {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3},
    ],
)
def test_base_writes_a_text_for_each_place_of_the_steps_that_are_planned(make_trainer, more, tmp_path):
    trainer = make_trainer(SFTTrainer, **more)
    use_method(trainer, "self-distill", {"tokens": 8})
    trainer.train()
    (bank,) = (tmp_path / "out" / "mofo").glob("*/self-distill-*.safetensors")
    assert len(load_file(bank)["ids"]) == 2 * trainer.state.max_steps


def test_weights_are_hashed_once_and_only_where_something_is_kept(make_trainer, monkeypatch):
    hashed = []
    monkeypatch.setattr("mofo.trainers.method.weights_digest", lambda model: hashed.append(model) or "0" * 64)
    use_method(make_trainer(), "adamw+l2")
    assert not hashed
    trainer = make_trainer()
    use_method(trainer, "adamw+self-distill+ewc", {**DISTILL, "ewc.texts": 2, "ewc.tokens": 4})
    assert hashed == [trainer.model]


def test_extras_that_do_not_know_flat_or_sharded_parameters_are_refused(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.is_fsdp_enabled = True  # version 1
    with pytest.raises(UserError, match=r"self-distill does not go with flattened parameters .* DDP or FSDP2"):
        use_method(trainer, "adamw+self-distill")
    monkeypatch.setattr(type(trainer.accelerator), "is_fsdp2", True)
    with pytest.raises(UserError, match=r"^l2, blend does not go with sharded parameters"):
        use_method(trainer, "adamw+l2+self-distill+blend")
    use_method(trainer, "mofo")


def test_checkpoint_that_is_taken_for_the_base_is_named(make_trainer, tmp_path):
    make_trainer().train()
    checkpoint = str(tmp_path / "out" / "checkpoint-2")
    with pytest.warns(UserWarning, match=r"adamw.l2 takes .*checkpoint-2, a checkpoint of a training, for the base"):
        use_method(make_trainer(model=checkpoint), "adamw+l2")


def test_plain_adamw_is_the_trainers_own(make_trainer):
    more = {"adam_beta1": 0.7, "adam_epsilon": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.0}
    own, plain = make_trainer(folder="own", **more), make_trainer(folder="plain", **more)
    own.train()
    use_method(plain, "adamw")
    plain.train()
    assert equal(weights(own), weights(plain))
    assert [group["weight_decay"] for group in plain.optimizer.param_groups] == [0.1, 0.0]

    int8 = make_trainer(folder="int8")
    use_method(int8, {"adamw": {"state_dtype": "int8"}})
    int8.train()
    assert isinstance(int8.optimizer.optimizer, MoFO)


def test_extras_alone_go_with_the_optimizer_that_the_trainer_has(make_trainer):
    sgd = (torch.optim.SGD, {"lr": 0.01, "momentum": 0.5})
    plain, distilled = make_trainer(optimizer=sgd), make_trainer(optimizer=sgd)
    use_method(distilled, "self-distill", DISTILL)
    for trainer in (plain, distilled):
        trainer.train()
        assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert not equal(weights(plain), weights(distilled))


@pytest.mark.parametrize(
    ("more", "name"),
    [({"optimizer": (torch.optim.SGD, {"lr": 0.01})}, "SGD"), ({"optim": "adafactor"}, "adafactor")],
)
def test_two_optimizers_are_refused(make_trainer, more, name):
    message = f"has the optimizer {name}, and the method names mofo: leave one .* out; l2 alone keeps the trainer's"
    with pytest.raises(UserError, match=message):
        use_method(make_trainer(**more), "mofo+l2")


def test_pull_is_towards_the_weights_that_the_trainer_began_with(make_trainer):
    ends = []
    for entry in ("sgd", {"sgd": {}, "l2": {"strength": 20.0}}):
        trainer = make_trainer(folder=str(len(ends)), max_grad_norm=0.0)
        base = weights(trainer)
        use_method(trainer, entry)
        trainer.train()
        ends.append(sum(float((p - base[name]).square().sum()) for name, p in weights(trainer).items()))
    assert ends[1] < 0.7 * ends[0]


@pytest.mark.parametrize("kind", [Trainer, SFTTrainer])
def test_end_is_moved_back_once_and_checkpoints_are_as_trained(make_trainer, kind, tmp_path):
    plain = make_trainer(kind, folder="plain")
    base = weights(plain)
    use_method(plain, "adamw")
    plain.train()
    end = weights(plain)

    moved = make_trainer(kind)
    use_method(moved, "adamw+blend", {"blend.keep": 0.75})
    moved.train()
    wanted = {name: weight.lerp(end[name], 0.75) for name, weight in base.items()}
    assert equal(weights(moved), wanted)
    assert moved.state.log_history[-1]["blend/keep"] == 0.75
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-4")
    assert equal(dict(trained.named_parameters()), end)

    for step in (2, 4):  # 4: there is nothing left to train
        resumed = make_trainer(kind)
        use_method(resumed, "adamw+blend", {"blend.keep": 0.75})
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert equal(weights(resumed), wanted)


def test_end_of_lora_is_moved_back_by_scaling_b(make_trainer):
    def lora(model):
        return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))

    ends = []
    for entry in ("adamw", {"adamw": {}, "blend": {"keep": 0.5}}):
        torch.manual_seed(0)
        trainer = make_trainer(folder=str(len(ends)), wrap=lora)
        use_method(trainer, entry)
        trainer.train()
        ends.append(weights(trainer))
    for name, weight in ends[0].items():
        assert torch.equal(ends[1][name], weight / 2 if ".lora_B." in name else weight), name


@pytest.mark.parametrize("attached_last", [True, False])
def test_what_is_forgotten_is_measured_of_the_end_that_was_moved_back(make_trainer, tmp_path, attached_last):
    def watch(trainer):
        return ForgettingCallback.attach(trainer, probes=["divergence"], every=2)

    trainer = make_trainer()
    if not attached_last:
        watch(trainer)
    use_method(trainer, "adamw+blend", {"blend.keep": 0.25})
    if attached_last:
        watch(trainer)
    trainer.train()
    logged = [log["forgotten/divergence"] for log in trainer.state.log_history if "forgotten/divergence" in log]
    before, after = logged[-2:]
    assert 0 < after < before / 4  # it grows with the square of the change
    end = load_forgetting(tmp_path / "out").marks[-1]
    assert (end.at, end.point.forgotten["divergence"]["kl"]) == (4, pytest.approx(after))


def test_end_is_not_moved_where_no_straight_line_leads_back(make_trainer):
    trainer = make_trainer(
        wrap=lambda model: get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", use_dora=True))
    )
    use_method(trainer, "adamw+blend")
    with pytest.raises(UserError, match="a variant such as DoRA is trained"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("entry", "settings", "message"),
    [
        ("blend", {"blend.keep": [0.9, 0.8]}, "blend makes 2 models of the end of a training"),
        ("blend", {"blend.keep": 1.5}, r"blend.keep is 1.5, expected at most 1"),
        ("blend", {"blend.keep": []}, r"blend.keep"),
        ("mofo+gem", {}, "gem is for mofo compare alone: it keeps what earlier tasks"),
        ("mofo+replay", {}, "replay is for mofo compare alone"),
        ("lora", {}, "lora is for mofo compare alone"),
        ("mofo", {"fraction": [0.1, 0.2]}, "stands for 2 methods, expected one"),
        ("mofoo", {}, r"Unknown method 'mofoo' \(did you mean mofo\?\)"),
    ],
)
def test_methods_that_a_trainer_cannot_use_are_refused(make_trainer, entry, settings, message):
    trainer = make_trainer()
    with pytest.raises(UserError, match=message):
        use_method(trainer, entry, settings)
    assert type(trainer) is Trainer


def test_sft_takes_a_method(tiny_model, tiny_data, tmp_path, capsys):
    def flags(**more):
        settings = {
            "model_name_or_path": tiny_model,
            "dataset_name": tiny_data,
            "output_dir": tmp_path / "tuned",
            "max_steps": 2,
            "report_to": "none",
            **more,
        }
        return [str(word) for name, value in settings.items() for word in (f"--{name}", value)]

    train("sft", flags(method="mofo+self-distill", method_settings="self-distill.texts=3,tokens=8", fraction=0.1))
    assert "Trained with MoFO + self-distillation: fraction 0.1" in capsys.readouterr().out
    train("sft", flags(method="adamw+l2", output_dir=tmp_path / "other"))
    assert "Trained with AdamW + L2." in capsys.readouterr().out
    train("sft", flags(method_settings="self-distill.texts=3,tokens=8", output_dir=tmp_path / "default"))
    assert "Trained with AdamW + self-distillation." in capsys.readouterr().out
    moved = {"method": "adamw+blend", "method_settings": "blend.keep=0.5", "save_strategy": "epoch"}
    train("sft", flags(**moved, output_dir=tmp_path / "moved"))
    assert "Trained with AdamW + blend." in capsys.readouterr().out
    folders = [tiny_model, tmp_path / "moved" / "checkpoint-2", tmp_path / "moved"]
    base, end, saved = (dict(AutoModelForCausalLM.from_pretrained(f).named_parameters()) for f in folders)
    assert equal(saved, {name: weight.lerp(end[name], 0.5) for name, weight in base.items()})
    for more, message in [
        ({"method": "adamw+blend", "method_settings": "blend.keep=2"}, r"blend.keep is .*2.*, expected at most 1"),
        ({"method": "lion", "fraction": 0.1}, "--fraction is a flag of MoFO"),
        ({"fraction": 0.1}, "--method adamw.self-distill does not train with it: leave it out, or give --method mofo"),
        ({"method": "lion", "adam_beta2": 0.99}, "--adam_beta2 is a flag of AdamW and MoFO, and lion does not read it"),
        (
            {"method_settings": "adamw.state_dtype=int8", "adam_beta2": 0.99},
            "--adam_beta2 is a flag of AdamW and MoFO, and adamw-int8.self-distill does not read it",
        ),
        ({"method": "mofo+lora"}, "lora is for mofo compare alone"),
        ({"method_settings": "weight"}, "expected NAME=VALUE"),
        ({"method_settings": "wait=3"}, "No method has a setting 'wait'"),
        ({"method_settings": "learning_rate=0.1"}, "has learning_rate, which is a flag: give --learning_rate 0.1"),
        ({"method": "mofo", "method_settings": "mofo.fraction=0.1"}, "which is a flag: give --fraction 0.1"),
        ({"method": "mofo", "method_settings": "mofo.blocks=row"}, "mofo.blocks, which is for mofo compare alone"),
    ]:
        with pytest.raises(UserError, match=message):
            train("sft", flags(**more))
