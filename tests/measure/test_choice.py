import json
import math

import pytest
import torch

from mofo.errors import UserError
from mofo.measure.choice import ChoiceProbe, Tokenized, choice_log_probabilities, read_questions, tokenize_question

QUESTIONS = [
    {"question": "what is blue?", "choices": ["sky", "the coat", "the sea and the old king", "a"], "answer": 2},
    {"question": "who is old?", "choices": ["king", "sea"], "answer": 0},
    {"question": "what is the colour of the sea?", "choices": ["blue", "the sky", "like"], "answer": 0},
    {"question": "who is blue?", "choices": ["sky", "coat", "the king and the coat of the king"], "answer": 1},
]


def naive_scores(model, tokenizer, question):
    """Log-probability per token of each choice, from one plain forward pass over the whole text for each."""
    prompt = f"Question: {question['question']}\nAnswer:"
    begin = len(tokenizer(prompt).input_ids)
    scores = []
    for choice in question["choices"]:
        ids = torch.tensor(tokenizer(f"{prompt} {choice}").input_ids)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        log_probabilities = logits.double().log_softmax(dim=-1)[:-1].gather(1, ids[1:, None])[:, 0]
        scores.append(float(log_probabilities[begin - 1 :].mean()))
    return scores


def test_choice_probe_equals_one_plain_pass_per_choice(base, tokenizer):
    naive = [naive_scores(base, tokenizer, question) for question in QUESTIONS]
    chosen = [scores[question["answer"]] for scores, question in zip(naive, QUESTIONS, strict=True)]
    hits = [value == max(scores) for value, scores in zip(chosen, naive, strict=True)]
    right = [value - math.log(sum(map(math.exp, scores))) for value, scores in zip(chosen, naive, strict=True)]
    assert ChoiceProbe("mine", QUESTIONS, tokenizer).measure(base) == {
        "accuracy": sum(hits) / len(hits),
        "log_probability": pytest.approx(sum(right) / len(right), rel=1e-5),
    }


def test_choice_log_probabilities_do_not_depend_on_the_batch(base, tokenizer):
    questions = [tokenize_question(question, tokenizer) for question in (QUESTIONS[0], QUESTIONS[3])]
    shortest = min(len(question.prompt) for question in questions)
    questions = [question._replace(prompt=question.prompt[:shortest]) for question in questions]
    with torch.inference_mode():
        together = choice_log_probabilities(base, questions)
        alone = [choice_log_probabilities(base, [question])[0] for question in questions]
    for scores, expected in zip(together, alone, strict=True):
        assert scores == pytest.approx(expected, rel=1e-5)
    assert [len(scores) for scores in together] == [4, 3]


def test_choice_probe_accuracy_is_one_for_the_models_own_answers_and_zero_for_others(base, tokenizer):
    naive = [naive_scores(base, tokenizer, question) for question in QUESTIONS]
    best = [question | {"answer": scores.index(max(scores))} for question, scores in zip(QUESTIONS, naive, strict=True)]
    worst = [
        question | {"answer": scores.index(min(scores))} for question, scores in zip(QUESTIONS, naive, strict=True)
    ]
    assert ChoiceProbe("best", best, tokenizer).measure(base)["accuracy"] == 1
    assert ChoiceProbe("worst", worst, tokenizer).measure(base)["accuracy"] == 0


def test_choice_log_probabilities_of_one_token_need_no_second_pass(base, tokenizer):
    vocabulary = base.config.vocab_size
    with torch.inference_mode():
        (scores,) = choice_log_probabilities(base, [Tokenized([1, 2, 3], [[token] for token in range(vocabulary)])])
    assert sum(math.exp(value) for value in scores) == pytest.approx(1, rel=1e-5)


def test_tokenize_question_splits_where_the_texts_part(tokenizer):
    prompt, choices = tokenize_question(QUESTIONS[0], tokenizer)
    assert tokenizer.decode(prompt) == "Question: what is blue?\nAnswer:"
    assert [tokenizer.decode(choice) for choice in choices] == [" sky", " the coat", " the sea and the old king", " a"]


def test_read_questions_without_a_file_gives_the_projects_own():
    questions = read_questions("")
    assert len(questions) >= 200
    assert len({question["question"] for question in questions}) == len(questions)
    positions = [question["answer"] / (len(question["choices"]) - 1) for question in questions]
    assert 0.4 < sum(positions) / len(positions) < 0.6, "right answers must not gather at one place"


def write_rows(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_read_questions_skips_blank_lines_and_keeps_odd_characters(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('\n{"question": "a\u2028b", "choices": ["x", "y"], "answer": 1}\n\n', encoding="utf-8")
    assert read_questions(str(path)) == [{"question": "a\u2028b", "choices": ["x", "y"], "answer": 1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not JSON"),
        ([1], "must be an object"),
        ({"question": "q", "choices": ["x", "y"]}, "must be an object with"),
        ({"question": " ", "choices": ["x", "y"], "answer": 0}, "`question`"),
        ({"question": "q", "choices": "xy", "answer": 0}, "`choices` must be a list"),
        ({"question": "q", "choices": ["x", ""], "answer": 0}, "`choices` must be a list"),
        ({"question": "q", "choices": ["x", "x "], "answer": 0}, "two different"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "two different"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "0 to 1, not 2"),
        ({"question": "q", "choices": ["x", "y"], "answer": -1}, "0 to 1, not -1"),
        ({"question": "q", "choices": ["x", "y"], "answer": True}, "not True"),
        ({"question": "q", "choices": ["x", "y"], "answer": "x"}, "not 'x'"),
    ],
)
def test_read_questions_names_a_malformed_row_by_its_number(tmp_path, row, message):
    good = {"question": "q", "choices": ["x", "y"], "answer": 0}
    path = write_rows(tmp_path / "mine.jsonl", good, "", row)
    with pytest.raises(UserError, match=r"mine\.jsonl, row 3.*" + message):
        read_questions(path)


def test_read_questions_refuses_a_missing_empty_or_binary_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="is empty"):
        read_questions(write_rows(tmp_path / "empty.jsonl", "", " "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(str(tmp_path / "binary.jsonl"))
