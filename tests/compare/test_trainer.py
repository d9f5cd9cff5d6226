import copy

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainingArguments

from mofo.compare.trainer import MethodTrainer
from mofo.methods.adamw import AdamW
from mofo.methods.method import Method
from mofo.methods.part import Part, Setup

ROWS = [[1, 7, 9, 11, 5], [1, 8, 6, 4, 2], [1, 30, 20, 10, 3], [1, 40, 41, 42, 43]]


class Pull(Part):
    name = "pull"
    label = "Pull"

    def penalty(self, model, step, setup):
        return sum(((p - setup.base[name]) ** 2).sum() for name, p in model.named_parameters())


class Double(Part):
    name = "double"
    label = "Double"

    def after_backward(self, model, step, setup):
        for parameter in model.parameters():
            parameter.grad *= 2


def trainer(model, folder, *extras, batches=1, max_grad_norm=0.0):
    """A trainer of one SGD step on all rows; the penalty's base is zero."""
    setup = Setup(
        base={name: torch.zeros_like(p) for name, p in model.named_parameters()},
        tokenizer=None,
        device=torch.device("cpu"),
        seed=0,
        steps=1,
        batch=len(ROWS),
        rows=[],
        folder=folder / "parts",
        shared=folder / "shared",
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=len(ROWS) // batches,
        gradient_accumulation_steps=batches,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        max_grad_norm=max_grad_norm,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return MethodTrainer(
        Method(AdamW(), extras),
        setup,
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": row, "labels": row} for row in ROWS]),
        optimizers=(torch.optim.SGD(model.parameters(), lr=1.0), None),
    )


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def gradients(model, penalty=0.0):
    """The gradients of the mean loss on all rows and of `penalty` x the squared weights, by torch alone."""
    model = copy.deepcopy(model)
    rows = torch.tensor(ROWS)
    loss = model(input_ids=rows, labels=rows).loss
    (loss + penalty * sum((p**2).sum() for p in model.parameters())).backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("batches", [1, 2, 4])
@pytest.mark.parametrize(("extras", "penalty", "factor"), [((), 0, 1), ((Pull(),), 1, 1), ((Pull(), Double()), 1, 2)])
def test_hooks_act_once_a_step_however_many_batches_it_has(model, tmp_path, batches, extras, penalty, factor):
    loss, expected = gradients(model, penalty)
    before = copy.deepcopy(model.state_dict())
    one = trainer(model, tmp_path, *extras, batches=batches)
    one.train()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(before[name] - parameter, factor * expected[name], rtol=1e-4, atol=1e-6)
    assert one.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-4)


def test_gradients_are_clipped_after_the_hooks(model, tmp_path):
    before = copy.deepcopy(model.state_dict())
    trainer(model, tmp_path, Pull(), Double(), max_grad_norm=0.5).train()
    step = torch.cat([(before[name] - p).flatten() for name, p in model.named_parameters()])
    assert float(step.norm()) == pytest.approx(0.5, rel=1e-4)
