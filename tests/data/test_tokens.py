import pytest
from transformers import AutoTokenizer

from mofo.data.tokens import IGNORED, encode, has_labels
from mofo.errors import UserError

QUESTION = {"question": "2+2?", "answer": "4"}


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_encode_labels_the_completion_and_its_end_alone(tokenizer):
    example = encode(QUESTION, tokenizer, max_length=100)
    prompt = tokenizer.decode(example["prompt_ids"])
    learned = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != IGNORED]
    assert prompt == "<|user|>2+2?</s><|assistant|>"
    assert tokenizer.decode(learned) == "4</s>"
    assert example["prompt_ids"] + learned == example["input_ids"]
    assert example["answer"] == "4"


def test_encode_ends_every_form_with_the_end_of_sequence_once(tokenizer, form):
    example = encode(form, tokenizer, max_length=100)
    assert example["labels"][-1] == tokenizer.eos_token_id
    assert example["labels"][-2] != tokenizer.eos_token_id
    assert len(example["labels"]) == len(example["input_ids"])


def test_encode_joins_plain_prompt_and_completion_as_they_are(tokenizer):
    example = encode({"prompt": "2+2=", "completion": "4"}, tokenizer, max_length=100)
    assert tokenizer.decode(example["input_ids"]) == "2+2=4</s>"


def test_encode_learns_text_whole_and_truncates_it(tokenizer):
    example = encode({"text": "four is two and two"}, tokenizer, max_length=4)
    assert len(example["input_ids"]) == 4
    assert example["labels"] == example["input_ids"]
    assert example["answer"] == ""


def test_encode_writes_questions_as_text_without_a_chat_template(tokenizer):
    tokenizer.chat_template = None
    example = encode(QUESTION, tokenizer, max_length=100)
    assert tokenizer.decode(example["input_ids"]) == "Question: 2+2?\nAnswer: 4</s>"


def test_encode_refuses_a_template_that_rewrites_the_prompt(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="chat template"):
        encode(QUESTION, tokenizer, max_length=100)


def test_has_labels_is_false_where_truncation_left_no_completion(tokenizer):
    whole = encode(QUESTION, tokenizer, max_length=100)
    assert has_labels(whole)
    assert not has_labels(encode(QUESTION, tokenizer, max_length=len(whole["prompt_ids"])))
