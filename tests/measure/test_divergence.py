import copy

import pytest
import torch

from mofo.measure import write_texts
from mofo.measure.divergence import DivergenceProbe


def naive_divergence(base, tuned, written):
    """Mean over positions of the sum over the vocabulary, one text at a time, in float64."""
    values = []
    for text in written:
        with torch.no_grad():
            log_p, log_q = (
                model(input_ids=torch.tensor([text])).logits[0, :-1].double().log_softmax(dim=-1)
                for model in (base, tuned)
            )
        values.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
    return float(torch.cat(values).mean())


@pytest.fixture(scope="module")
def written(base, tokenizer):
    return write_texts(base, tokenizer, texts=5, tokens=24)


def test_base_has_not_diverged_from_itself(base, written):
    assert DivergenceProbe("divergence", base, written).measure(base) == {"kl": 0.0}


def test_divergence_equals_the_definition(base, tuned, written):
    expected = naive_divergence(base, tuned, written)
    assert expected > 0.01
    assert DivergenceProbe("divergence", base, written).measure(tuned)["kl"] == pytest.approx(expected, rel=1e-4)


def test_divergence_in_bfloat16(base, tuned, written):
    with torch.autocast("cpu", torch.bfloat16):
        probe = DivergenceProbe("divergence", base, written)
        assert probe.measure(base) == {"kl": 0.0}
        measured = probe.measure(tuned)["kl"]
    assert measured == pytest.approx(naive_divergence(base, tuned, written), rel=0.1)


def test_base_may_change_after_the_probe_was_made(base, tuned, written):
    later = copy.deepcopy(base)
    probe = DivergenceProbe("divergence", later, written)
    later.load_state_dict(tuned.state_dict())
    assert probe.measure(later) == DivergenceProbe("divergence", base, written).measure(tuned)


def test_texts_are_seeded_and_leave_the_global_state_alone(base, tokenizer):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = write_texts(base, tokenizer, texts=3, tokens=10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert write_texts(base, tokenizer, texts=3, tokens=10, seed=1) == first
    assert write_texts(base, tokenizer, texts=3, tokens=10, seed=2) != first


def test_texts_start_with_the_start_token_and_have_the_asked_length(base, tokenizer):
    written = write_texts(base, tokenizer, texts=3, tokens=10)
    assert [len(text) for text in written] == [11] * 3
    assert {text[0] for text in written} == {tokenizer.bos_token_id}
    assert len({tuple(text) for text in written}) == 3


def test_texts_follow_the_bases_distribution(base, tokenizer):
    first = torch.tensor([text[1] for text in write_texts(base, tokenizer, texts=20_000, tokens=1)])
    observed = first.bincount(minlength=base.config.vocab_size) / len(first)
    with torch.no_grad():
        expected = base(input_ids=torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(dim=-1)
    # five standard deviations of every frequency, and one count for the rarest
    assert ((observed - expected).abs() < 5 * (expected / len(first)).sqrt() + 1 / len(first)).all()


def test_later_tokens_follow_from_all_earlier_ones(base, tokenizer):
    """The cached keys and values give the same text as plain passes over everything so far."""
    written = write_texts(base, tokenizer, texts=3, tokens=8, seed=3)
    generator = torch.Generator().manual_seed(3)
    texts = torch.full((3, 1), tokenizer.bos_token_id)
    for _ in range(8):
        with torch.no_grad():
            probabilities = base(input_ids=texts).logits[:, -1].softmax(dim=-1)
        texts = torch.cat([texts, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    assert texts.tolist() == written
