import copy
import json

import pytest
import torch

from mofo.errors import UserError
from mofo.measure import check_probe_specs, make_probes, probe_states, write_texts
from mofo.measure.divergence import DivergenceProbe
from mofo.measure.progress import watched
from reference.architectures import make_model


def naive_divergence(base, tuned, base_texts):
    """Mean over positions of the sum over the vocabulary, one text at a time, in float64."""
    values = []
    for text in base_texts:
        with torch.no_grad():
            log_p, log_q = (
                model(input_ids=torch.tensor([text])).logits[0, :-1].double().log_softmax(dim=-1)
                for model in (base, tuned)
            )
        values.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
    return float(torch.cat(values).mean())


@pytest.fixture(scope="module")
def base_texts(base, tokenizer):
    return write_texts(base, tokenizer, texts=5, tokens=24)


def test_divergence_of_the_base_from_itself_is_0(base, base_texts):
    assert DivergenceProbe("divergence", base, base_texts).measure(base) == {"kl": 0.0}


def test_divergence_equals_the_definition(base, tuned, base_texts):
    expected = naive_divergence(base, tuned, base_texts)
    assert expected > 0.01
    assert DivergenceProbe("divergence", base, base_texts).measure(tuned)["kl"] == pytest.approx(expected, rel=1e-4)


def test_divergence_in_bfloat16(base, tuned, base_texts):
    with torch.autocast("cpu", torch.bfloat16):
        probe = DivergenceProbe("divergence", base, base_texts)
        assert probe.measure(base) == {"kl": 0.0}
        measured = probe.measure(tuned)["kl"]
    assert measured == pytest.approx(naive_divergence(base, tuned, base_texts), rel=0.1)


def test_divergence_probe_does_not_notice_a_base_that_changes_later(base, tuned, base_texts):
    later = copy.deepcopy(base)
    probe = DivergenceProbe("divergence", later, base_texts)
    later.load_state_dict(tuned.state_dict())
    assert probe.measure(later) == DivergenceProbe("divergence", base, base_texts).measure(tuned)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_divergence_on_answers_to_prompts_equals_the_definition(base, tuned, tokenizer, prompts):
    (probe,) = make_probes([f"divergence:{prompts}"], base=base, tokenizer=tokenizer)
    assert probe.name == "prompts"
    assert len(probe.texts) == len(probe.starts) == 16
    values = []
    for text, start in zip(probe.texts, probe.starts, strict=True):
        assert tokenizer.decode(text[:start]).count("plus") == 1
        with torch.no_grad():
            log_p, log_q = (
                model(input_ids=torch.tensor([text])).logits[0, start - 1 : -1].double().log_softmax(dim=-1)
                for model in (base, tuned)
            )
        assert len(log_p) == len(text) - start <= 96  # the answer's tokens count, and no others
        values.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
    assert probe.measure(tuned)["kl"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)
    assert probe.measure(base) == {"kl": 0.0}


def test_divergence_on_answers_to_prompts_is_made_again_from_its_state(base, tuned, tokenizer, prompts):
    spec = f"divergence:{prompts}"
    (probe,) = make_probes([spec], base=base, tokenizer=tokenizer, seed=3)
    kept = json.loads(json.dumps(probe_states([probe])))
    (again,) = make_probes([spec], base=base, tokenizer=tokenizer, seed=4, states=kept)
    assert again.measure(tuned) == probe.measure(tuned)
    (other,) = make_probes([spec], base=base, tokenizer=tokenizer, seed=4)
    assert other.texts != probe.texts


def test_divergence_of_plain_text_has_no_prompts(tmp_path):
    (tmp_path / "sea.jsonl").write_text('{"text": "The sea is grey."}\n')
    with pytest.raises(UserError, match=r"sea\.jsonl holds plain text, and .* needs prompts"):
        check_probe_specs([f"divergence:{tmp_path / 'sea.jsonl'}"])


def test_divergence_of_prompts_that_fill_the_models_positions(tokenizer, prompts):
    model = make_model("gpt2", max_position_embeddings=100)
    with pytest.raises(UserError, match=r"No prompt .* leaves room for an answer of 96 tokens: the model has 100"):
        make_probes([f"divergence:{prompts}"], base=model, tokenizer=tokenizer)


def test_write_texts_is_seeded_and_leaves_the_global_state_alone(base, tokenizer):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = write_texts(base, tokenizer, texts=3, tokens=10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert write_texts(base, tokenizer, texts=3, tokens=10, seed=1) == first
    assert write_texts(base, tokenizer, texts=3, tokens=10, seed=2) != first


def test_write_texts_begins_with_the_start_token_and_has_the_asked_length(base, tokenizer):
    base_texts = write_texts(base, tokenizer, texts=3, tokens=10)
    assert [len(text) for text in base_texts] == [11] * 3
    assert {text[0] for text in base_texts} == {tokenizer.bos_token_id}
    assert len({tuple(text) for text in base_texts}) == 3


def test_write_texts_writes_many_in_batches_that_begin_as_fewer_do(base, tokenizer, monkeypatch):
    monkeypatch.setattr("mofo.measure.writing.BATCH", 4)
    sizes, seen = [], []
    with monkeypatch.context() as patched, watched(lambda *report: seen.append(report), every=0):
        forward = base.forward
        patched.setattr(base, "forward", lambda **words: sizes.append(len(words["input_ids"])) or forward(**words))
        texts = write_texts(base, tokenizer, texts=10, tokens=6, seed=1)
    assert (len(texts), set(sizes)) == (10, {4, 2})
    counts = [*range(4, 49, 4), *range(50, 61, 2)]
    assert seen == [("tokens that the base writes", count, 60) for count in counts]
    assert len({tuple(text) for text in texts}) == 10
    assert texts[:4] == write_texts(base, tokenizer, texts=4, tokens=6, seed=1)


def test_write_texts_follows_the_bases_distribution(base, tokenizer):
    first = torch.tensor([text[1] for text in write_texts(base, tokenizer, texts=20_000, tokens=1)])
    observed = first.bincount(minlength=base.config.vocab_size) / len(first)
    with torch.no_grad():
        expected = base(input_ids=torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(dim=-1)
    # five standard deviations of every frequency, and one count for the rarest
    assert ((observed - expected).abs() < 5 * (expected / len(first)).sqrt() + 1 / len(first)).all()


def test_write_texts_draws_later_tokens_given_all_earlier_ones(base, tokenizer):
    """The cached keys and values give the same text as plain passes over everything so far."""
    base_texts = write_texts(base, tokenizer, texts=3, tokens=8, seed=3)
    generator = torch.Generator().manual_seed(3)
    texts = torch.full((3, 1), tokenizer.bos_token_id)
    for _ in range(8):
        with torch.no_grad():
            probabilities = base(input_ids=texts).logits[:, -1].softmax(dim=-1)
        texts = torch.cat([texts, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    assert texts.tolist() == base_texts


def test_write_texts_ends_with_the_models_positions(tokenizer):
    model = make_model("gpt2", max_position_embeddings=24)
    texts = write_texts(model, tokenizer, texts=2, tokens=128)
    assert [len(text) for text in texts] == [25, 25]
    assert DivergenceProbe("divergence", model, texts).measure(model) == {"kl": 0.0}
