"""Models of many architectures, as `save_pretrained` writes them and as the hub has them, held against plain passes."""

import copy
import math

import pytest
import torch

from mofo.measure import held_out_loss, weight_distance, write_texts
from mofo.measure.choice import choice_log_probabilities, tokenize_question
from mofo.measure.generation import answer_accuracy
from mofo.models.load import load_model
from mofo.models.pairing import load_pair
from mofo.models.weights import weights_of
from reference import tiny_llama
from reference.architectures import ARCHITECTURES, make_model, save_as_on_the_hub

IN_EVERY_RUN = ("llama", "gpt2", "mamba")
QUESTIONS = [
    {"question": "what is blue?", "choices": ["sky", "the coat", "the sea and the king", "a"], "answer": 2},
    {"question": "who is blue?", "choices": ["sky", "coat"], "answer": 1},
]
LENGTHS = (9, 30, 60)
START = 1


def move(model):
    """Add a hundredth to every parameter of a copy."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01
    return moved


@pytest.fixture(
    scope="module",
    params=[name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.full) for name in ARCHITECTURES],
)
def case(request, tmp_path_factory):
    """The name, the model and a folder with `hub`, the model as the hub has it, and `saved`, a moved copy in shards."""
    folder = tmp_path_factory.mktemp("architecture")
    model = make_model(request.param)
    (folder / "hub").mkdir()
    save_as_on_the_hub(model, request.param, folder / "hub")
    move(model).save_pretrained(folder / "saved", max_shard_size="20KB")
    for layout in ("hub", "saved"):
        tiny_llama.make_tokenizer().save_pretrained(folder / layout)
    return request.param, model, folder


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_llama.make_tokenizer()


def naive_log_probabilities(model, ids):
    """Log-probability of each token but the first, from one plain pass over one text."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.double().log_softmax(dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_load_model_and_distance_of_both_layouts(case):
    _, model, folder = case
    assert len(list((folder / "saved").glob("model-*-of-*.safetensors"))) > 1
    pair = load_pair(str(folder / "hub"), str(folder / "saved"))
    expected = weights_of(model)
    loaded = weights_of(pair.base)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert pair.notes == []
    same = weight_distance(loaded, expected)
    assert (same.l2, same.moved) == (0, 0)
    moved = weight_distance(loaded, weights_of(pair.tuned))
    squares = sum(
        float((new.double() - expected[key].double()).square().sum()) for key, new in weights_of(move(model)).items()
    )
    assert moved.l2 == pytest.approx(math.sqrt(squares), rel=1e-9)
    assert moved.moved > 0.999


def test_probes_equal_plain_passes(case, tokenizer):
    _, model, folder = case
    loaded, _ = load_model(str(folder / "hub"))
    examples = [
        {"input_ids": list(range(5, 5 + length)), "labels": [-100, -100, *range(7, 5 + length)]} for length in LENGTHS
    ]
    naive = torch.cat([naive_log_probabilities(model, example["input_ids"])[1:] for example in examples])
    assert held_out_loss(loaded, examples)["loss"] == pytest.approx(-float(naive.mean()), rel=1e-5)
    for question in QUESTIONS:
        tokenized = tokenize_question(question, tokenizer)
        with torch.inference_mode():
            (scores,) = choice_log_probabilities(loaded, [tokenized])
        begin = len(tokenized.prompt)
        expected = [
            float(naive_log_probabilities(model, tokenized.prompt + choice)[begin - 1 :].mean())
            for choice in tokenized.choices
        ]
        assert scores == pytest.approx(expected, rel=1e-4)


def test_written_and_generated_text_equals_that_of_plain_passes(case, tokenizer):
    _, model, folder = case
    loaded, _ = load_model(str(folder / "hub"))
    generator = torch.Generator().manual_seed(0)
    texts = torch.full((2, 1), START)
    for _ in range(20):  # longer than the sliding windows
        with torch.no_grad():
            probabilities = model(input_ids=texts, use_cache=False).logits[:, -1].float().softmax(dim=-1)
        texts = torch.cat([texts, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    assert write_texts(loaded, tokenizer, texts=2, tokens=20) == texts.tolist()

    prompts = [[7, 8, 9], [10, 11, 12, 13, 14, 15], list(range(20, 50))]
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        answers.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))
    problems = [{"prompt_ids": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    found = answer_accuracy(loaded, tokenizer, problems, max_new_tokens=6)
    assert [sample["generated"] for sample in found["samples"]] == answers
