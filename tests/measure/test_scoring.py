import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofo.data.tokens import IGNORED
from mofo.measure import held_out_loss
from mofo.measure.scoring import batches, inference, pad, token_log_probabilities


def naive_log_probabilities(model, ids):
    """Log-probability of every token but the first, from one plain forward pass of one row."""
    with torch.no_grad():
        log_probabilities = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return [float(log_probabilities[position, token]) for position, token in enumerate(ids[1:])]


def random_examples(vocabulary, seed, count=30):
    draw = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = [draw.randrange(vocabulary) for _ in range(draw.randint(1, 90))]
        prompt = draw.randint(0, len(ids))
        labels = [IGNORED] * prompt + ids[prompt:]
        if draw.random() < 0.3:  # a hole, as between the turns of a conversation
            labels[len(labels) // 2 :] = [IGNORED] * (len(labels) - len(labels) // 2)
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def test_held_out_loss_equals_one_pass_per_example(base):
    examples = random_examples(base.config.vocab_size, seed=0)
    counted = [
        value
        for example in examples
        for value, label in zip(naive_log_probabilities(base, example["input_ids"]), example["labels"][1:], strict=True)
        if label != IGNORED
    ]
    measured = held_out_loss(base, examples)
    assert measured["tokens"] == len(counted) > 100
    assert measured["loss"] == pytest.approx(-sum(counted) / len(counted), rel=1e-5)


def test_held_out_loss_weighs_tokens_not_examples(base):
    long = {"input_ids": list(range(60)), "labels": list(range(60))}
    short = {"input_ids": [5, 6], "labels": [5, 6]}
    both, alone = held_out_loss(base, [long, short]), [held_out_loss(base, [example]) for example in (long, short)]
    assert both["loss"] == pytest.approx((59 * alone[0]["loss"] + alone[1]["loss"]) / 60, rel=1e-6)


def test_held_out_loss_refuses_examples_without_a_label(base):
    with pytest.raises(ValueError, match="no labelled token"):
        held_out_loss(base, [{"input_ids": [1, 2, 3], "labels": [IGNORED] * 3}])


def test_held_out_loss_passes_over_a_batch_without_a_label(base):
    # the first token has nothing before it, so that its label does not count
    silent = {"input_ids": list(range(250)) * 4, "labels": [0] + [IGNORED] * 999}
    loud = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    assert held_out_loss(base, [silent, loud]) == held_out_loss(base, [loud])


def test_token_log_probabilities_of_half_precision_logits_are_float32():
    logits = (torch.randn(3, 7, 50, generator=torch.Generator().manual_seed(0)) * 5).bfloat16()
    targets = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
    targets[1, 2] = IGNORED
    expected = logits.double().log_softmax(dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    expected[1, 2] = 0
    measured = token_log_probabilities(logits, targets)
    assert measured.dtype == torch.float32
    torch.testing.assert_close(measured.double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), max_size=40), st.integers(1, 400))
def test_batches_hold_every_row_once_within_the_budget(lengths, tokens):
    cut = list(batches(lengths, tokens))
    assert sorted(row for batch in cut for row in batch) == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= tokens


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad(side):
    expected = {"right": [[1, 2, 3], [4, 0, 0]], "left": [[1, 2, 3], [0, 0, 4]]}[side]
    assert pad([[1, 2, 3], [4]], 0, side=side).tolist() == expected


@pytest.mark.parametrize("training", [True, False])
def test_inference_returns_the_model_to_its_mode(tuned, training):
    tuned.train(training)
    seen = []

    def measure_and_fail():
        with inference(tuned):
            seen.append((tuned.training, torch.is_grad_enabled()))
            raise KeyError

    with pytest.raises(KeyError):
        measure_and_fail()
    assert seen == [(False, False)]
    assert all(module.training == training for module in tuned.modules())
    assert torch.is_grad_enabled()


def test_inference_returns_each_module_to_its_own_mode(tuned):
    tuned.train()
    tuned.model.norm.eval()
    with inference(tuned):
        assert not tuned.model.layers.training
    assert tuned.model.layers.training
    assert not tuned.model.norm.training
