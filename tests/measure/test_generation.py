import pytest
import torch

from mofo.measure import answer_accuracy
from mofo.measure.generation import generate, is_correct, normalise, sample_answers


def naive_greedy(model, tokenizer, prompt, max_new_tokens):
    """One prompt, one plain forward pass per token."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = ["the sky", "Question: what is the colour of the sea?\nAnswer:", "king", "an old coat like", "blue sea"]
    return [tokenizer(text).input_ids for text in texts]


def test_generate_in_batches_equals_greedy_search_one_by_one(base, tokenizer, prompts):
    expected = [naive_greedy(base, tokenizer, prompt, 12) for prompt in prompts]
    assert generate(base, tokenizer, prompts, 12) == expected


def test_generate_ignores_the_settings_that_a_model_was_published_with(tuned, tokenizer, prompts):
    expected = [naive_greedy(tuned, tokenizer, prompt, 12) for prompt in prompts]
    tuned.generation_config.update(do_sample=True, temperature=3.0, top_p=0.5, repetition_penalty=5.0, num_beams=3)
    assert generate(tuned, tokenizer, prompts, 12) == expected


def test_generate_stops_at_the_end_token(tuned, tokenizer, prompts):
    # the token that the model writes third for the first prompt is made its published end
    with torch.no_grad():
        written = tuned.generate(torch.tensor([prompts[0]]), do_sample=False, max_new_tokens=12)[0, len(prompts[0]) :]
    end = int(written[2])
    first = written.tolist().index(end)
    tuned.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    (text,) = generate(tuned, tokenizer, prompts[:1], 12)
    assert text == tokenizer.decode(written[: first + 1], skip_special_tokens=True)


def test_sample_answers_follow_the_models_distribution_at_the_temperature(base, tokenizer, prompts):
    answers = sample_answers(
        base, tokenizer, prompts[:1] * 20_000, max_new_tokens=1, temperature=0.7, seed=0, batch_size=10_000
    )
    observed = torch.tensor(answers).squeeze(1).bincount(minlength=base.config.vocab_size) / len(answers)
    with torch.no_grad():
        expected = (base(input_ids=torch.tensor([prompts[0]])).logits[0, -1] / 0.7).softmax(dim=-1)
    assert ((observed - expected).abs() < 5 * (expected / len(answers)).sqrt() + 1 / len(answers)).all()


def test_sample_answers_are_seeded_end_at_end_tokens_and_leave_the_global_state_alone(tuned, tokenizer, prompts):
    how = {"max_new_tokens": 30, "temperature": 1.0, "batch_size": 2}
    whole = sample_answers(tuned, tokenizer, prompts, seed=1, **how)
    assert sample_answers(tuned, tokenizer, prompts, seed=2, **how) != whole
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert sample_answers(tuned, tokenizer, prompts, seed=1, **how) == whole
    assert torch.equal(torch.get_rng_state(), before)
    end = whole[0][5]
    tuned.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    answers = sample_answers(tuned, tokenizer, prompts[:1], seed=1, **how)
    assert all(answer.count(end) == (answer[-1] == end) for answer in answers)


def test_answer_accuracy_counts_the_right_answers_in_the_given_order(base, tokenizer, prompts):
    answers = [naive_greedy(base, tokenizer, prompt, 12) for prompt in prompts]
    answers[1] = "something else"
    answers[3] = "another thing"
    examples = [{"prompt_ids": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    measured = answer_accuracy(base, tokenizer, examples, max_new_tokens=12, batch_size=2)
    assert measured["accuracy"] == 3 / 5
    assert measured["answers"] == 5
    assert [sample["correct"] for sample in measured["samples"]] == [True, False, True, False]
    assert [sample["expected"] for sample in measured["samples"]] == answers[:4]
    assert measured["samples"][0] == {
        "prompt": "the sky",
        "expected": answers[0],
        "generated": answers[0],
        "correct": True,
    }


def test_answer_accuracy_refuses_no_problems(base, tokenizer):
    with pytest.raises(ValueError, match="no problems"):
        answer_accuracy(base, tokenizer, [])


@pytest.mark.parametrize(
    ("generated", "reference", "correct"),
    [
        ("so it is 3 + 4 = 7\n#### 7", "3 + 4 = 7\n#### 7", True),
        ("#### 6\nno:\n#### 7.", "#### 7", True),
        ("#### 7\nQuestion: the next", "#### 7", True),
        ("#### 1,234,567", "#### 1234567", True),
        ("#### 17", "#### 7", False),
        ("the answer is 7", "#### 7", False),
        ("7", "#### 7", False),
        ("####", "#### 7", False),
        ("  The  Blue sky. ", "the blue\nsky", True),
        ("the blue sky", "the blue sea", False),
        ("so it is blue", "blue", False),
        ("", "blue", False),
    ],
)
def test_is_correct(generated, reference, correct):
    assert is_correct(generated, reference) is correct


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", "1000"),
        ("12,345.50", "12345.50"),
        ("1, 2", "1, 2"),
        ("1,2", "1,2"),
        ("3.", "3"),
        ("A B\tC", "a b c"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected
